//! Claims: weighted rendezvous among few, where draws would take long.
//!
//! A claim is `-log2(hash) / weight`: the first of exponential arrivals at the rate of the weight. The
//! smallest wins, in proportion to its weight, and does not depend on who else there is.

use crate::hash::{self, Purpose};

/// The claim of a domain (or, below the lowest, of a target) to a slot; the smallest wins.
pub(crate) fn of_domain(pg: u32, slot: usize, level: usize, child: u32, weight: u32) -> u64 {
    let place = (slot as u64) << 32 | (level as u64);
    minus_log2(hash::of_words(Purpose::Claim, &[pg.into(), place, child.into()])) / u64::from(weight.max(1))
}

/// Bits after the point of [`minus_log2`]: 2^-40 of a bit is below what a million targets of different weights can
/// tell apart.
const FRACTION_BITS: u32 = 40;

/// `-log2((hash + 1) / 2^64)` in fixed point, rounded down; decreasing in `hash`. Integer arithmetic, because
/// two machines' floating-point logarithms may differ in the last bit.
fn minus_log2(hash: u64) -> u64 {
    let value = u128::from(hash) + 1;
    let whole = 127 - value.leading_zeros();
    // The mantissa in 1.63; squaring it doubles its logarithm, so each carry is the next binary digit.
    let mut mantissa = (value << (127 - whole) >> 64) as u64;
    let mut fraction = 0u64;
    for _ in 0..FRACTION_BITS {
        let square = u128::from(mantissa) * u128::from(mantissa);
        let carry = (square >> 127) as u64;
        mantissa = (square >> (63 + carry)) as u64;
        fraction = fraction << 1 | carry;
    }
    (64 << FRACTION_BITS) - ((u64::from(whole) << FRACTION_BITS) | fraction)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_logarithm_is_right_and_monotonic() {
        let scale = (1u64 << FRACTION_BITS) as f64;
        for hash in [0, 1, 2, 1000, 1 << 40, u64::MAX / 3, u64::MAX / 2, u64::MAX - 1, u64::MAX] {
            let exact = 64.0 - (hash as f64 + 1.0).log2();
            assert!((minus_log2(hash) as f64 / scale - exact).abs() < 1e-6, "{hash}");
        }
        for i in 0..10_000u64 {
            let (a, b) = (i << 50, (i + 1) << 50);
            assert!(minus_log2(a) >= minus_log2(b));
        }
    }

    #[test]
    fn claims_are_won_by_weight() {
        let wins = (0..6000).filter(|&pg| of_domain(pg, 0, 0, 1, 1) < of_domain(pg, 0, 0, 2, 2)).count();
        assert!(wins.abs_diff(2000) < 120, "a third expected: {wins}");
    }
}
