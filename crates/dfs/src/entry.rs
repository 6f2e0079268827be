//! Directory entries as they lie in the store: one dkey per name, a few akeys under it.
//!
//! | akey         | value                                                                        |
//! |--------------|------------------------------------------------------------------------------|
//! | `i`          | byte array: the [`Inode`] record                                              |
//! | `s`          | single value: a symlink's target                                              |
//! | `x:`+name    | single value: 16 bytes object id of the file, then the extended attribute     |
//! | `m`          | single value: where a rename in progress leads: 16 bytes directory, then name |
//! | `f`          | single value: where the entry came from by a rename: likewise                 |
//!
//! The object id before an attribute's value says whose it is. An entry is replaced by one update,
//! which cannot also remove the attributes of the file that was there; those are told by their id,
//! and swept later.
//!
//! # Names that are being moved
//! `rename` writes `m` at the source, then the whole entry at the destination, then removes the
//! source. The second step is what moves the file: an entry marked as moving is dead once its
//! destination holds the same object. [`Mount::inode`] looks there, so everyone sees the move
//! happen at that step, and a crash before or after leaves one living name.

use bytes::Bytes;
use std::time::Duration;
use types::{Code, Conditions, Epoch, Key, ObjectId};

use crate::Mount;
use crate::error::Reason;
use crate::inode::{ARRIVED, INODE_BYTES, Inode, Kind, MOVING, Patch};
use crate::store::{Read, Write};

/// Most extended attributes of one entry: with the record they fit one request to the store.
pub const XATTRS_MAX: usize = 128;
/// Most akeys looked at under one name: its own, and those of a file that stood there before and
/// is not yet swept.
pub(crate) const AKEYS_MAX: usize = 2 * XATTRS_MAX;
/// Longest name of an extended attribute, in bytes, as in Linux.
pub const XATTR_NAME_BYTES_MAX: usize = 255;
/// Longest value of an extended attribute, in bytes, as in Linux.
pub const XATTR_VALUE_BYTES_MAX: usize = 65_536;

/// How often and how long a call waits for a rename of another client to remove its dead source,
/// before it takes the other for crashed and removes it itself.
const DEAD_NAME_PATIENCE: (u32, Duration) = (10, Duration::from_millis(50));

/// A place for an entry: a directory's object, and a name in it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Spot<'a> {
    pub directory: ObjectId,
    pub name: &'a [u8],
}

/// All that an entry says of its file.
#[derive(Clone, Debug)]
pub(crate) struct Whole {
    pub inode: Inode,
    pub target: Option<Bytes>,
    pub xattrs: Vec<(Box<[u8]>, Bytes)>,
}

pub(crate) fn inode_akey() -> Key {
    Key::literal("i")
}

fn target_akey() -> Key {
    Key::literal("s")
}

fn moving_akey() -> Key {
    Key::literal("m")
}

fn origin_akey() -> Key {
    Key::literal("f")
}

const XATTR_PREFIX: &[u8] = b"x:";

pub(crate) fn xattr_akey(name: &[u8]) -> Key {
    Key::new([XATTR_PREFIX, name].concat()).expect("attribute names are far shorter than keys")
}

pub(crate) fn xattr_value(owner: ObjectId, value: &[u8]) -> Bytes {
    [&owner.to_bytes()[..], value].concat().into()
}

/// The attribute's value, if it belongs to `owner`.
pub(crate) fn xattr_of(owner: ObjectId, stored: &Bytes) -> Option<Bytes> {
    (stored.get(..16)? == owner.to_bytes()).then(|| stored.slice(16..))
}

/// The attribute's name, if the akey is one.
pub(crate) fn xattr_name(akey: &Key) -> Option<&[u8]> {
    match akey {
        Key::Bytes(bytes) => bytes.strip_prefix(XATTR_PREFIX),
        Key::Integer(_) => None,
    }
}

impl Spot<'_> {
    pub(crate) fn dkey(&self) -> Key {
        Key::new(self.name).expect("names have 1 to 255 bytes")
    }

    /// As akeys `m` and `f` write it.
    fn encode(&self) -> Bytes {
        [&self.directory.to_bytes()[..], self.name].concat().into()
    }
}

/// Reads what [`Spot::encode`] wrote; `None` for anything else.
fn decode_spot(bytes: &[u8]) -> Option<Spot<'_>> {
    let (directory, name) = bytes.split_first_chunk::<16>()?;
    crate::path::is_name(name).then(|| Spot { directory: ObjectId::from_bytes(*directory), name })
}

fn decode_inode(bytes: Option<&Bytes>) -> Result<Option<Inode>, Reason> {
    let inode = bytes.map(|bytes| Inode::decode(bytes)).transpose();
    inode.map_err(|error| Reason::Damaged(format!("the entry's inode: {error}")))
}

const INODE: Read = Read::Range { bytes: INODE_BYTES };

impl Mount {
    /// The living entry at `spot`. Cost: one request; for a name in the midst of a rename, three.
    pub(crate) async fn inode(&self, spot: Spot<'_>) -> Result<Option<Inode>, Reason> {
        let inode = self.stored_inode(spot).await?;
        match inode {
            Some(inode) if inode.flags & MOVING != 0 => Ok(match self.is_dead(spot, &inode).await? {
                true => None,
                false => Some(inode),
            }),
            inode => Ok(inode),
        }
    }

    /// The record at `spot`, of a living or a dead name.
    async fn stored_inode(&self, spot: Spot<'_>) -> Result<Option<Inode>, Reason> {
        let values = self.store.fetch(spot.directory, &spot.dkey(), vec![(inode_akey(), INODE)]).await?;
        decode_inode(values[0].as_ref())
    }

    /// Whether the entry marked as moving has arrived where it was going.
    async fn is_dead(&self, spot: Spot<'_>, inode: &Inode) -> Result<bool, Reason> {
        let reads = vec![(inode_akey(), INODE), (moving_akey(), Read::Single)];
        let values = self.store.fetch(spot.directory, &spot.dkey(), reads).await?;
        if values[0].is_none() {
            return Ok(true);
        }
        let Some(destination) = values[1].as_deref().and_then(decode_spot) else { return Ok(false) };
        if self.stored_inode(destination).await?.is_some_and(|there| there.oid == inode.oid) {
            return Ok(true);
        }
        // It may have arrived and gone on between the two looks; then it left here before.
        Ok(self.stored_inode(spot).await?.is_none())
    }

    /// The living entry with all it carries. Cost: one request; with extended attributes, three.
    pub(crate) async fn whole(&self, spot: Spot<'_>) -> Result<Option<Whole>, Reason> {
        let reads = vec![(inode_akey(), INODE), (target_akey(), Read::Single)];
        let values = self.store.fetch(spot.directory, &spot.dkey(), reads).await?;
        let Some(inode) = decode_inode(values[0].as_ref())? else { return Ok(None) };
        if inode.flags & MOVING != 0 && self.is_dead(spot, &inode).await? {
            return Ok(None);
        }
        let target = values[1].clone().filter(|_| inode.kind == Kind::Symlink);
        let xattrs = self.xattrs(spot, &inode).await?;
        Ok(Some(Whole { inode, target, xattrs }))
    }

    /// All extended attributes of an entry. Cost: two requests; nothing for an entry without any.
    pub(crate) async fn xattrs(&self, spot: Spot<'_>, inode: &Inode) -> Result<Vec<(Box<[u8]>, Bytes)>, Reason> {
        if !inode.has_xattrs {
            return Ok(Vec::new());
        }
        let mut akeys = self.store.list_akeys(spot.directory, &spot.dkey(), AKEYS_MAX).await?;
        akeys.retain(|akey| xattr_name(akey).is_some());
        if akeys.is_empty() {
            return Ok(Vec::new());
        }
        let reads = akeys.iter().map(|akey| (akey.clone(), Read::Single)).collect();
        let values = self.store.fetch(spot.directory, &spot.dkey(), reads).await?;
        let named = akeys.iter().zip(&values);
        let own =
            named.filter_map(|(akey, value)| Some((xattr_name(akey)?.into(), xattr_of(inode.oid, value.as_ref()?)?)));
        Ok(own.collect())
    }

    /// A symlink's target.
    pub(crate) async fn target(&self, spot: Spot<'_>) -> Result<Bytes, Reason> {
        let values = self.store.fetch(spot.directory, &spot.dkey(), vec![(target_akey(), Read::Single)]).await?;
        values[0].clone().ok_or_else(|| Reason::Damaged("a symlink without its target".into()))
    }

    /// Writes the whole entry in one update. Under `Conditions::DkeyInsert` a dead name left by a
    /// crashed rename does not count as there: it is removed first.
    ///
    /// # Errors
    /// `Exists` or `NotFound` when the condition fails; the store's.
    pub(crate) async fn write(
        &self,
        spot: Spot<'_>,
        entry: &Whole,
        origin: Option<Spot<'_>>,
        conditions: Conditions,
    ) -> Result<Epoch, Reason> {
        let flags = if origin.is_some() { ARRIVED } else { 0 };
        let record = Inode { flags, ..entry.inode.clone() }.encode();
        let mut writes = vec![(inode_akey(), Write::Ranges(vec![(0, Bytes::copy_from_slice(&record))]))];
        writes.extend(entry.target.iter().map(|target| (target_akey(), Write::Single(target.clone()))));
        writes.extend(origin.iter().map(|origin| (origin_akey(), Write::Single(origin.encode()))));
        let owner = entry.inode.oid;
        let xattrs = entry.xattrs.iter();
        writes.extend(xattrs.map(|(name, value)| (xattr_akey(name), Write::Single(xattr_value(owner, value)))));
        let (mut patience, mut evicted) = (0..DEAD_NAME_PATIENCE.0, false);
        loop {
            let outcome = self.store.update(spot.directory, &spot.dkey(), conditions, writes.clone()).await;
            match outcome {
                Ok(epoch) => return Ok(epoch),
                Err(error) if error.code == Code::Exists => {
                    if self.inode(spot).await?.is_some() {
                        return Err(Reason::Exists);
                    }
                    // A dead name, or one just removed. Its owner may be about to remove it, and
                    // would then remove ours: give it time.
                    match patience.next() {
                        Some(_) => rt::sleep(DEAD_NAME_PATIENCE.1).await,
                        None if evicted => return Err(Reason::Contended),
                        None => {
                            self.store.punch_dkey(spot.directory, &spot.dkey(), Conditions::None).await?;
                            evicted = true;
                        }
                    }
                }
                Err(error) if error.code == Code::NotFound => return Err(Reason::NotFound),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Changes fields of an entry that exists.
    pub(crate) async fn patch(&self, spot: Spot<'_>, patch: Patch) -> Result<(), Reason> {
        self.update_existing(spot, vec![(inode_akey(), patch.into())]).await
    }

    /// Marks the entry as on its way to `destination`.
    pub(crate) async fn mark_moving(&self, spot: Spot<'_>, flags: u8, destination: Spot<'_>) -> Result<(), Reason> {
        let patch = Patch::default().flags(flags | MOVING).into();
        let mark = Write::Single(destination.encode());
        self.update_existing(spot, vec![(inode_akey(), patch), (moving_akey(), mark)]).await
    }

    pub(crate) async fn update_existing(&self, spot: Spot<'_>, writes: Vec<(Key, Write)>) -> Result<(), Reason> {
        match self.store.update(spot.directory, &spot.dkey(), Conditions::DkeyExists, writes).await {
            Ok(_) => Ok(()),
            Err(error) if error.code == Code::NotFound => Err(Reason::NotFound),
            Err(error) => Err(error.into()),
        }
    }

    /// Removes the name with all it carries.
    ///
    /// # Errors
    /// `NotFound` when it is gone already.
    pub(crate) async fn erase(&self, spot: Spot<'_>) -> Result<(), Reason> {
        match self.store.punch_dkey(spot.directory, &spot.dkey(), Conditions::DkeyExists).await {
            Ok(()) => Ok(()),
            Err(error) if error.code == Code::NotFound => Err(Reason::NotFound),
            Err(error) => Err(error.into()),
        }
    }

    /// Makes sure that a file which came by a rename has left where it came from. To be called
    /// before its entry changes place or goes: else the dead name there would come to life again.
    ///
    /// Cost: nothing for an entry that was never renamed, else two requests.
    pub(crate) async fn settle(&self, spot: Spot<'_>, inode: &Inode) -> Result<(), Reason> {
        if inode.flags & ARRIVED == 0 {
            return Ok(());
        }
        let origin = self.store.fetch(spot.directory, &spot.dkey(), vec![(origin_akey(), Read::Single)]).await?;
        let Some(origin) = origin[0].as_deref().and_then(decode_spot) else { return Ok(()) };
        match self.stored_inode(origin).await? {
            Some(left) if left.oid == inode.oid && left.flags & MOVING != 0 => match self.erase(origin).await {
                Err(Reason::NotFound) => Ok(()),
                outcome => outcome,
            },
            _ => Ok(()),
        }
    }

    /// Removes the akeys of files that stood at `spot` before `owner` did: space, nothing else.
    pub(crate) async fn sweep(&self, spot: Spot<'_>, owner: &Inode) -> Result<(), Reason> {
        let mut stale = self.store.list_akeys(spot.directory, &spot.dkey(), AKEYS_MAX).await?;
        stale.retain(|akey| xattr_name(akey).is_some());
        if stale.is_empty() {
            return Ok(());
        }
        let reads = stale.iter().map(|akey| (akey.clone(), Read::Single)).collect();
        let values = self.store.fetch(spot.directory, &spot.dkey(), reads).await?;
        let mut values = values.iter();
        stale.retain(|_| {
            let value = values.next().expect("an answer for each akey asked").as_ref();
            value.is_some_and(|value| xattr_of(owner.oid, value).is_none())
        });
        match stale.is_empty() {
            true => Ok(()),
            false => Ok(self.store.punch_akeys(spot.directory, &spot.dkey(), stale).await?),
        }
    }
}
