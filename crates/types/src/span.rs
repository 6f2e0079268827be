//! Spans of time as people write them: `90s`, `30m`, `7d`, `forever`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// A span of whole seconds, read from and shown as text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Span {
    seconds: u64,
}

/// The text is not a span.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{text}' is not a span of time: write seconds, or a number with s, m, h, d or w, or 'forever'")]
pub struct SpanError {
    pub text: String,
}

const UNITS: [(&str, u64); 5] = [("w", 604_800), ("d", 86_400), ("h", 3600), ("m", 60), ("s", 1)];

impl Span {
    pub const ZERO: Span = Span { seconds: 0 };
    pub const FOREVER: Span = Span { seconds: u64::MAX };

    /// `None`: forever.
    pub fn duration(self) -> Option<Duration> {
        (self != Span::FOREVER).then(|| Duration::from_secs(self.seconds))
    }
}

impl FromStr for Span {
    type Err = SpanError;

    fn from_str(text: &str) -> Result<Span, SpanError> {
        let trimmed = text.trim();
        if trimmed == "forever" {
            return Ok(Span::FOREVER);
        }
        let digits = trimmed.find(|c: char| !c.is_ascii_digit()).unwrap_or(trimmed.len());
        let (number, unit) = trimmed.split_at(digits);
        let unit = unit.trim();
        let factor = UNITS.iter().find(|(name, _)| *name == unit).map(|(_, factor)| *factor);
        let factor = factor.or_else(|| unit.is_empty().then_some(1));
        let seconds = number.parse::<u64>().ok().zip(factor).and_then(|(number, factor)| number.checked_mul(factor));
        let seconds = seconds.filter(|seconds| *seconds < u64::MAX / 1_000_000);
        seconds.map(|seconds| Span { seconds }).ok_or_else(|| SpanError { text: text.to_string() })
    }
}

/// In the largest unit that divides it.
impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Span::FOREVER {
            return f.pad("forever");
        }
        let (name, factor) =
            UNITS.into_iter().find(|(_, factor)| self.seconds.is_multiple_of(*factor)).unwrap_or(("s", 1));
        match self.seconds {
            0 => f.pad("0"),
            seconds => f.pad(&format!("{}{name}", seconds / factor)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_read_and_shown() {
        let cases = [("0", "0"), ("90", "90s"), ("90s", "90s"), ("120 s", "2m"), ("24h", "1d"), ("14d", "2w")];
        for (text, shown) in cases.into_iter().chain([("forever", "forever")]) {
            assert_eq!(text.parse::<Span>().unwrap().to_string(), shown);
        }
        for bad in ["", "-1", "1y", "d", "99999999999999999999", "18446744073709551615", "1.5h"] {
            assert!(bad.parse::<Span>().is_err(), "{bad}");
        }
        assert_eq!("30m".parse::<Span>().unwrap().duration(), Some(Duration::from_secs(1800)));
        assert_eq!(Span::FOREVER.duration(), None);
    }
}
