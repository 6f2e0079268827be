//! A key-value store: an object seen as a map from keys to byte strings.
//!
//! A key is a dkey; its value is the single value of akey `"0"`.

use ::object::array::akey;
use ::object::{AkeyQuery, AkeyUpdate};
use bytes::Bytes;
use types::{Conditions, Epoch, Key, Result};
use wire::data::Direction;

use crate::{IntoKey, KeyCursor, Object};

/// A handle on a key-value store.
#[derive(Clone)]
pub struct Kv {
    object: Object,
}

impl Kv {
    pub(crate) fn new(object: Object) -> Kv {
        Kv { object }
    }

    pub fn object(&self) -> &Object {
        &self.object
    }

    /// Sets a key's value.
    ///
    /// # Errors
    /// `KeyTooBig`, `ValueTooBig` (over 16 MiB), `NoSpace`, `NoPermission` on a view of the past.
    pub async fn put(&self, key: impl IntoKey, value: &[u8]) -> Result<Epoch> {
        self.put_if(Conditions::None, key, value).await
    }

    /// Sets a key's value if a condition holds: `DkeyInsert`: it is new; `DkeyExists`: it is there.
    ///
    /// # Errors
    /// `Exists`, `NotFound`: the condition does not hold. As [`Kv::put`].
    pub async fn put_if(&self, conditions: Conditions, key: impl IntoKey, value: &[u8]) -> Result<Epoch> {
        let (key, value) = (key.into_key()?, Bytes::copy_from_slice(value));
        self.object.update(&key, conditions, vec![AkeyUpdate::single(akey(), value)]).await
    }

    /// A key's value; `None` if it is not there.
    pub async fn get(&self, key: impl IntoKey) -> Result<Option<Bytes>> {
        let key = key.into_key()?;
        let results = self.object.fetch(&key, Conditions::None, vec![AkeyQuery::single(akey())]).await?;
        Ok(results.first().and_then(|result| result.value().cloned()))
    }

    /// Removes a key, there or not.
    pub async fn remove(&self, key: impl IntoKey) -> Result<()> {
        self.remove_if(Conditions::None, key).await
    }

    /// Removes a key if a condition holds.
    ///
    /// # Errors
    /// `NotFound`: with `DkeyExists`, when it is not there.
    pub async fn remove_if(&self, conditions: Conditions, key: impl IntoKey) -> Result<()> {
        self.object.punch_dkeys(&[key.into_key()?], conditions).await
    }

    /// Up to `limit` keys after `after`, in key order.
    pub async fn list(&self, after: Option<&Key>, limit: usize) -> Result<Vec<Key>> {
        self.object.list_dkeys(after, limit).await
    }

    /// Walks over all keys, in key order.
    pub fn cursor(&self) -> Result<KeyCursor> {
        self.object.dkeys()
    }

    /// A position from which to walk over the keys after `after`; backwards, over those before it, from the
    /// highest down.
    pub fn cursor_from(&self, after: Option<&Key>, direction: Direction) -> Result<KeyCursor> {
        self.object.dkeys_from(after, direction)
    }

    /// All keys, in key order.
    pub async fn keys(&self) -> Result<Vec<Key>> {
        self.object.dkeys()?.collect().await
    }

    /// Removes the store with all its keys.
    pub async fn destroy(&self) -> Result<()> {
        self.object.punch().await
    }
}
