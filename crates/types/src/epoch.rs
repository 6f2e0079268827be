//! Epochs: when, in the order of the whole system, something happened.
//!
//! An epoch is a hybrid logical clock value: wall time in microseconds, and a counter that orders
//! what happens within one. Servers choose epochs (`rt::Hlc`); clients only quote them.

use std::fmt;

/// A point in the version order. 52 bits of microseconds since 1970, then 12 bits of counter.
///
/// `Epoch::MAX` in a read means "the latest committed". `Epoch::ZERO` is before everything.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct Epoch(pub u64);

/// Bits of the counter below the microseconds.
const COUNTER_BITS: u32 = 12;

impl Epoch {
    pub const ZERO: Epoch = Epoch(0);
    pub const MAX: Epoch = Epoch(u64::MAX);

    /// The epoch of `micros` since 1970 with `counter` (only its low 12 bits count).
    pub const fn from_micros(micros: u64, counter: u16) -> Epoch {
        Epoch((micros << COUNTER_BITS) | (counter as u64 & ((1 << COUNTER_BITS) - 1)))
    }

    /// Wall time, in microseconds since 1970.
    pub const fn micros(self) -> u64 {
        self.0 >> COUNTER_BITS
    }

    /// The order within one microsecond.
    pub const fn counter(self) -> u16 {
        (self.0 & ((1 << COUNTER_BITS) - 1)) as u16
    }

    /// The very next epoch; saturates at `MAX`.
    pub const fn next(self) -> Epoch {
        Epoch(self.0.saturating_add(1))
    }
}

impl fmt::Debug for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Epoch({self})")
    }
}

/// As upstream's tools print it: hexadecimal with a prefix.
impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

impl std::str::FromStr for Epoch {
    type Err = std::num::ParseIntError;

    /// Accepts what `Display` prints, and plain decimal.
    fn from_str(text: &str) -> Result<Epoch, Self::Err> {
        match text.strip_prefix("0x") {
            Some(hex) => u64::from_str_radix(hex, 16).map(Epoch),
            None => text.parse().map(Epoch),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_follows_time_then_counter() {
        let a = Epoch::from_micros(5, 7);
        assert!(a < Epoch::from_micros(5, 8));
        assert!(a < Epoch::from_micros(6, 0));
        assert_eq!((a.micros(), a.counter()), (5, 7));
    }

    #[test]
    fn text_round_trips() {
        let a = Epoch::from_micros(1_700_000_000_000_000, 3);
        assert_eq!(a.to_string().parse::<Epoch>().unwrap(), a);
        assert_eq!("17".parse::<Epoch>().unwrap(), Epoch(17));
        assert!("0xzz".parse::<Epoch>().is_err());
    }
}
