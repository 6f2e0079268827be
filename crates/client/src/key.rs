//! What users write where a key is wanted.

use types::{Code, Error, Key, KeyError, Result};

/// Text, bytes or an integer as a key.
pub trait IntoKey {
    /// # Errors
    /// `Invalid`: empty. `KeyTooBig`: longer than 1024 bytes.
    fn into_key(self) -> Result<Key>;
}

impl IntoKey for Key {
    fn into_key(self) -> Result<Key> {
        Ok(self)
    }
}
impl IntoKey for &Key {
    fn into_key(self) -> Result<Key> {
        Ok(self.clone())
    }
}
impl IntoKey for u64 {
    fn into_key(self) -> Result<Key> {
        Ok(Key::Integer(self))
    }
}
impl IntoKey for &[u8] {
    fn into_key(self) -> Result<Key> {
        Key::new(self).map_err(|error| {
            let code = match error {
                KeyError::Empty => Code::Invalid,
                KeyError::TooLong { .. } => Code::KeyTooBig,
            };
            Error::new(code, error.to_string())
        })
    }
}
impl<const N: usize> IntoKey for &[u8; N] {
    fn into_key(self) -> Result<Key> {
        self[..].into_key()
    }
}
impl IntoKey for &Vec<u8> {
    fn into_key(self) -> Result<Key> {
        self[..].into_key()
    }
}
impl IntoKey for Vec<u8> {
    fn into_key(self) -> Result<Key> {
        self[..].into_key()
    }
}
impl IntoKey for &str {
    fn into_key(self) -> Result<Key> {
        self.as_bytes().into_key()
    }
}
impl IntoKey for &String {
    fn into_key(self) -> Result<Key> {
        self.as_bytes().into_key()
    }
}
impl IntoKey for String {
    fn into_key(self) -> Result<Key> {
        self.as_bytes().into_key()
    }
}
