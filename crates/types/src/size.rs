//! Sizes as people write them: `10GB`, `5TiB`, `512 MiB`.

use std::fmt;
use std::str::FromStr;

/// A number of bytes, read from and shown as text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ByteSize(pub u64);

/// The text is not a size.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{text}' is not a size: write bytes, or a number with kB, MB, GB, TB, KiB, MiB, GiB or TiB")]
pub struct SizeError {
    pub text: String,
}

const UNITS: &[(&str, u64)] = &[
    ("", 1),
    ("B", 1),
    ("K", 1000),
    ("KB", 1000),
    ("M", 1_000_000),
    ("MB", 1_000_000),
    ("G", 1_000_000_000),
    ("GB", 1_000_000_000),
    ("T", 1_000_000_000_000),
    ("TB", 1_000_000_000_000),
    ("P", 1_000_000_000_000_000),
    ("PB", 1_000_000_000_000_000),
    ("KIB", 1 << 10),
    ("MIB", 1 << 20),
    ("GIB", 1 << 30),
    ("TIB", 1 << 40),
    ("PIB", 1 << 50),
];

impl FromStr for ByteSize {
    type Err = SizeError;

    fn from_str(text: &str) -> Result<ByteSize, SizeError> {
        let error = || SizeError { text: text.to_string() };
        let trimmed = text.trim();
        let digits = trimmed.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(trimmed.len());
        let (number, unit) = trimmed.split_at(digits);
        let unit = unit.trim().to_ascii_uppercase();
        let (_, factor) = UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(error)?;
        let bytes = match number.parse::<u64>() {
            Ok(whole) => whole.checked_mul(*factor).ok_or_else(error)?,
            Err(_) => {
                let fraction: f64 = number.parse().map_err(|_| error())?;
                let bytes = fraction * *factor as f64;
                if !(0.0..1.8e19).contains(&bytes) {
                    return Err(error());
                }
                bytes as u64
            }
        };
        Ok(ByteSize(bytes))
    }
}

/// Three significant digits with a decimal unit, as upstream's tools print.
impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: [&str; 7] = ["B", "kB", "MB", "GB", "TB", "PB", "EB"];
        let mut value = self.0 as f64;
        let mut unit = 0;
        while value >= 999.5 && unit + 1 < SHOWN.len() {
            value /= 1000.0;
            unit += 1;
        }
        let text = match (unit, value) {
            (0, v) => format!("{v:.0} B"),
            (u, v) if v >= 100.0 => format!("{v:.0} {}", SHOWN[u]),
            (u, v) if v >= 10.0 => format!("{v:.1} {}", SHOWN[u]),
            (u, v) => format!("{v:.2} {}", SHOWN[u]),
        };
        f.pad(&text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_people_write() {
        for (text, bytes) in
            [("0", 0), ("17", 17), ("10GB", 10_000_000_000), ("5TiB", 5 << 40), ("1.5 MiB", 3 << 19), ("64k", 64_000)]
        {
            assert_eq!(text.parse::<ByteSize>().unwrap().0, bytes, "{text}");
        }
        for text in ["", "GB", "1.2.3M", "10 bananas", "-5", "99999999TB", "1e9"] {
            assert!(text.parse::<ByteSize>().is_err(), "{text}");
        }
    }

    #[test]
    fn shows_three_digits() {
        for (bytes, text) in
            [(0, "0 B"), (999, "999 B"), (1000, "1.00 kB"), (999_950, "1.00 MB"), (12_345_678, "12.3 MB")]
        {
            assert_eq!(ByteSize(bytes).to_string(), text);
        }
    }
}
