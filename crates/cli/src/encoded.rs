//! Bytes within JSON: as text when they are text, in base64 otherwise.

use serde::Serialize;

/// Some bytes, and how `value` spells them.
#[derive(Serialize)]
pub(crate) struct Encoded {
    pub(crate) value: String,
    /// `text` or `base64`.
    pub(crate) encoding: &'static str,
}

impl Encoded {
    pub(crate) fn new(bytes: &[u8]) -> Encoded {
        match std::str::from_utf8(bytes) {
            Ok(text) => Encoded { value: text.to_string(), encoding: "text" },
            Err(_) => Encoded { value: base64(bytes), encoding: "base64" },
        }
    }
}

/// RFC 4648 with padding.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let group = chunk.iter().fold(0u32, |n, b| (n << 8) | u32::from(*b)) << (8 * (3 - chunk.len()));
        for digit in 0..4 {
            let used = digit <= chunk.len();
            let six = (group >> (18 - 6 * digit)) & 63;
            text.push(if used { char::from(DIGITS[six as usize]) } else { '=' });
        }
    }
    text
}

/// Bytes for a terminal: text as it is, anything else as `0x…`, cut after `limit` bytes.
pub(crate) fn shown(bytes: &[u8], limit: usize) -> String {
    let text = std::str::from_utf8(bytes).ok().filter(|t| !t.chars().any(|c| c.is_control() && c != '\t'));
    match text {
        Some(text) if text.len() <= limit => text.to_string(),
        Some(text) => text.chars().take(limit).chain(std::iter::once('…')).collect(),
        None => {
            let hex: String = bytes.iter().take(limit / 2).map(|b| format!("{b:02x}")).collect();
            let more = if bytes.len() > limit / 2 { "…" } else { "" };
            format!("0x{hex}{more}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_the_standards() {
        for (bytes, text) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")] {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
        assert_eq!(Encoded::new(&[0xff, 0]).encoding, "base64");
    }
}
