//! Keys: the names of values within an object.

use std::fmt;

/// Longest dkey or akey, in bytes. Two of them, encoded, and an inline value must fit one page of
/// the store's tree.
pub const KEY_BYTES_MAX: usize = 1024;

/// A dkey or an akey: 1 to [`KEY_BYTES_MAX`] bytes, or a 64-bit integer.
///
/// Integers order as numbers and before all byte strings; byte strings order lexically.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Key {
    Integer(u64),
    Bytes(Box<[u8]>),
}

/// Why some bytes are not a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    #[error("a key needs at least one byte")]
    Empty,
    #[error("a key of {bytes} bytes is longer than {KEY_BYTES_MAX}: shorten it, or hash it")]
    TooLong { bytes: usize },
}

impl Key {
    /// A byte-string key.
    ///
    /// # Errors
    /// [`KeyError`] when empty or longer than [`KEY_BYTES_MAX`].
    pub fn new(bytes: impl Into<Box<[u8]>>) -> Result<Key, KeyError> {
        let bytes = bytes.into();
        match bytes.len() {
            0 => Err(KeyError::Empty),
            n if n > KEY_BYTES_MAX => Err(KeyError::TooLong { bytes: n }),
            _ => Ok(Key::Bytes(bytes)),
        }
    }

    /// A key from a literal in our own source.
    pub fn literal(text: &'static str) -> Key {
        Key::new(text.as_bytes()).expect("a literal key is short and not empty")
    }

    /// The bytes, or the integer in big-endian: what hashing and placement see.
    pub fn with_bytes<T>(&self, f: impl FnOnce(&[u8]) -> T) -> T {
        match self {
            Key::Integer(n) => f(&n.to_be_bytes()),
            Key::Bytes(bytes) => f(bytes),
        }
    }

    /// Length in bytes (eight for an integer).
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.with_bytes(<[u8]>::len)
    }
}

impl From<u64> for Key {
    fn from(n: u64) -> Key {
        Key::Integer(n)
    }
}

impl TryFrom<&str> for Key {
    type Error = KeyError;
    fn try_from(text: &str) -> Result<Key, KeyError> {
        Key::new(text.as_bytes())
    }
}

/// Text when it is text, `0x…` otherwise; integers in decimal.
impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Key::Integer(n) => write!(f, "{n}"),
            Key::Bytes(bytes) => match std::str::from_utf8(bytes) {
                Ok(text) if !text.chars().any(char::is_control) => f.write_str(text),
                _ => {
                    f.write_str("0x")?;
                    bytes.iter().try_for_each(|b| write!(f, "{b:02x}"))
                }
            },
        }
    }
}
impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_has_a_length_between_one_and_the_limit() {
        assert_eq!(Key::new(*b""), Err(KeyError::Empty));
        assert!(Key::new(vec![1; KEY_BYTES_MAX]).is_ok());
        assert_eq!(Key::new(vec![1; KEY_BYTES_MAX + 1]), Err(KeyError::TooLong { bytes: KEY_BYTES_MAX + 1 }));
    }

    #[test]
    fn integers_come_first_and_order_as_numbers() {
        let mut keys = [Key::try_from("a").unwrap(), Key::from(300), Key::from(2), Key::new([0u8]).unwrap()];
        keys.sort();
        assert_eq!(keys.iter().map(Key::to_string).collect::<Vec<_>>(), ["2", "300", "0x00", "a"]);
    }
}
