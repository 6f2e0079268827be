//! An object as it stood at an epoch: what is visible, and what punches hide.
//!
//! Most objects were never punched. They have no flag in the tree, and then no life log is looked for:
//! one descent answers a fetch. For the others the newest punches of object, dkey and akey are looked up;
//! they lie beside the values.

use media::Pages;
use types::{Epoch, Key, ObjectId};

use crate::cursor::Cursor;
use crate::error::{Error, Result};
use crate::extents::{Merge, Sweep};
use crate::key::{
    self, BEYOND, HOLE, INTEGER, LIFE, OBJECT_BYTES, OBJECT_PUNCH, Place, SINGLE, VERSION_BYTES, Version,
};
use crate::shard::Shard;
use crate::tree::Tree;
use crate::value;

/// One object at one epoch.
pub(crate) struct View<'a> {
    pub(crate) tree: &'a Tree,
    pub(crate) pages: &'a Pages,
    pub(crate) at: Epoch,
    /// Something in the object was punched at some time.
    flagged: bool,
    /// Newest version that a punch of the object hides.
    pub(crate) hidden: Version,
}

impl<'a> View<'a> {
    /// The object with key prefix `object`, at `at`.
    pub(crate) fn open(shard: &'a Shard, pages: &'a Pages, object: &[u8], at: Epoch) -> Result<View<'a>> {
        let flagged = shard.is_flagged(pages, object)?;
        let mut view = View { tree: &shard.tree, pages, at, flagged, hidden: Version::NEVER };
        if flagged {
            let mut probe = object[..OBJECT_BYTES].to_vec();
            probe.extend_from_slice(&[LIFE, OBJECT_PUNCH]);
            view.hidden = view.newest(probe)?;
        }
        Ok(view)
    }

    /// Whether something in the object was punched at some time: then its punches have to be looked for.
    #[inline]
    pub(crate) fn is_flagged(&self) -> bool {
        self.flagged
    }

    /// Newest version that a punch of `owner` (a dkey or akey, by its key prefix) hides; `above` is what
    /// punches of its owners hide.
    pub(crate) fn hidden_below(&self, owner: &[u8], above: Version) -> Result<Version> {
        if !self.flagged {
            return Ok(above);
        }
        let mut probe = owner.to_vec();
        probe.push(LIFE);
        Ok(self.newest(probe)?.max(above))
    }

    /// What is hidden of an akey, given its key prefix and that of its dkey.
    pub(crate) fn hidden_akey(&self, dkey: &[u8], akey: &[u8]) -> Result<Version> {
        self.hidden_below(akey, self.hidden_below(dkey, self.hidden)?)
    }

    /// Newest version at or below the epoch among records whose keys are `probe` and a version.
    fn newest(&self, mut probe: Vec<u8>) -> Result<Version> {
        let len = probe.len();
        key::push_version(&mut probe, Version::latest(self.at));
        let cursor = Cursor::at(self.tree, self.pages, &probe)?;
        Ok(version_under(&cursor, &probe[..len]).unwrap_or(Version::NEVER))
    }

    /// The visible single value of an akey.
    pub(crate) fn single(&self, akey: &[u8], hidden: Version) -> Result<Option<(Version, &'a [u8])>> {
        let mut probe = akey.to_vec();
        probe.push(SINGLE);
        let len = probe.len();
        key::push_version(&mut probe, Version::latest(self.at));
        let cursor = Cursor::at(self.tree, self.pages, &probe)?;
        let version = version_under(&cursor, &probe[..len]);
        Ok(version.filter(|version| *version > hidden).map(|version| (version, cursor.value())))
    }

    /// Walks the array of an akey over `from..until`.
    pub(crate) fn sweep(&self, akey: &[u8], hidden: Version, from: u64, until: u64) -> Result<Sweep<'a>> {
        Ok(Sweep::new(Merge::new(self.tree, self.pages, akey, from, until, self.at, hidden)?))
    }

    /// As [`View::sweep`], with runs in parts: see [`Sweep::in_parts`].
    pub(crate) fn sweep_in_parts(
        &self,
        akey: &[u8],
        hidden: Version,
        from: u64,
        until: u64,
        patience: u32,
    ) -> Result<Sweep<'a>> {
        let merge = Merge::patient(self.tree, self.pages, akey, from..until, self.at, hidden, patience)?;
        Ok(Sweep::in_parts(merge))
    }

    /// Record size of the array of an akey; 0 when no record is visible.
    pub(crate) fn record_bytes(&self, akey: &[u8], hidden: Version) -> Result<u32> {
        let mut merge = Merge::new(self.tree, self.pages, akey, 0, u64::MAX, self.at, hidden)?;
        let value = if merge.has_holes() {
            Sweep::new(merge).next_data()?.map(|(_, _, top)| top.value)
        } else {
            merge.take()?.map(|candidate| candidate.value)
        };
        value.map_or(Ok(0), |value| Ok(value::read_data(value).ok_or_else(|| unreadable("array data"))?.1))
    }

    /// Whether an akey has anything visible.
    pub(crate) fn akey_visible(&self, akey: &[u8], above: Version) -> Result<bool> {
        let hidden = self.hidden_below(akey, above)?;
        Ok(self.single(akey, hidden)?.is_some() || self.record_bytes(akey, hidden)? > 0)
    }

    /// Whether a dkey has anything visible.
    pub(crate) fn dkey_visible(&self, dkey: &[u8]) -> Result<bool> {
        let hidden = self.hidden_below(dkey, self.hidden)?;
        let mut children = Children::below(self, dkey, None)?;
        while children.read()? {
            // The first record under the cursor mostly answers: a single value, old enough, never punched.
            if children.shows_akey(self) || self.akey_visible(children.key(), hidden)? {
                return Ok(true);
            }
            children.pass()?;
        }
        Ok(false)
    }

    /// Whether the object has anything visible.
    pub(crate) fn object_visible(&self, object: &[u8]) -> Result<bool> {
        let mut children = Children::below(self, object, None)?;
        while children.read()? {
            if children.shows_dkey(self) || self.dkey_visible(children.key())? {
                return Ok(true);
            }
            children.pass()?;
        }
        Ok(false)
    }

    /// Record size of the data written to the akey between the punches before and after the epoch, if any:
    /// all of it has one. `hidden` is the punch before.
    pub(crate) fn size_in_life(&self, dkey: &[u8], akey: &[u8], hidden: Version) -> Result<Option<u32>> {
        let next = self.next_punch(dkey, akey)?;
        let mut probe = akey.to_vec();
        probe.push(key::DATA);
        let len = probe.len();
        let mut cursor = Cursor::at(self.tree, self.pages, &probe)?;
        while cursor.starts_with(&probe[..len]) {
            let version = cursor.key().last::<VERSION_BYTES>().map(Version::from_bytes).unwrap_or_default();
            if version > hidden && next.is_none_or(|next| version < next) {
                return match value::read_data(cursor.value()) {
                    Some((_, record_bytes, _)) => Ok(Some(record_bytes)),
                    None => Err(unreadable("array data")),
                };
            }
            cursor.next()?;
        }
        Ok(None)
    }

    /// The first punch of the akey, dkey or object after the epoch.
    fn next_punch(&self, dkey: &[u8], akey: &[u8]) -> Result<Option<Version>> {
        if !self.flagged {
            return Ok(None);
        }
        let mut next: Option<Version> = None;
        for (owner, life) in [(&dkey[..OBJECT_BYTES], &[LIFE, OBJECT_PUNCH][..]), (dkey, &[LIFE]), (akey, &[LIFE])] {
            let mut probe = [owner, life].concat();
            let len = probe.len();
            key::push_version(&mut probe, Version::latest(self.at));
            let mut cursor = Cursor::at(self.tree, self.pages, &probe)?;
            // Newest first: the one just before is the first after.
            if cursor.seek_before(&probe)?
                && let Some(version) = version_under(&cursor, &probe[..len])
            {
                next = Some(next.map_or(version, |next| next.min(version)));
            }
        }
        Ok(next)
    }

    /// Key prefix that ends the data of an akey, for searches from its end.
    pub(crate) fn data_end(akey: &[u8]) -> Vec<u8> {
        let mut probe = akey.to_vec();
        probe.push(HOLE);
        probe
    }
}

/// The version of the record under the cursor, when its key is `prefix` and a version.
fn version_under(cursor: &Cursor<'_>, prefix: &[u8]) -> Option<Version> {
    let key = cursor.key();
    (key.len() == prefix.len() + VERSION_BYTES && key.starts_with(prefix))
        .then(|| key.last::<VERSION_BYTES>().map(Version::from_bytes))
        .flatten()
}

/// Records of one child that are passed one by one before a new descent is cheaper.
const STEPS_MAX: u32 = 4;

/// The children (dkeys of an object, akeys of a dkey) that have records, in order.
pub(crate) struct Children<'a> {
    cursor: Cursor<'a>,
    /// Length of the owner's key prefix.
    owner: usize,
    /// Key of a record of the child; begins with the owner's.
    probe: Vec<u8>,
    /// Length of the child's key prefix.
    child: usize,
}

impl<'a> Children<'a> {
    /// Children of `owner`, a key prefix, from the one after `after` on.
    pub(crate) fn below(view: &View<'a>, owner: &[u8], after: Option<&Key>) -> Result<Children<'a>> {
        let mut probe = owner.to_vec();
        match after {
            None => probe.push(INTEGER),
            Some(after) => {
                key::push_key(&mut probe, after);
                probe.push(BEYOND);
            }
        }
        let cursor = Cursor::at(view.tree, view.pages, &probe)?;
        Ok(Children { cursor, owner: owner.len(), child: owner.len(), probe })
    }

    /// Children of `owner`, from the last one before `before` down.
    pub(crate) fn down(view: &View<'a>, owner: &[u8], before: Option<&Key>) -> Result<Children<'a>> {
        let mut probe = owner.to_vec();
        match before {
            None => probe.push(BEYOND),
            Some(before) => key::push_key(&mut probe, before),
        }
        let cursor = Cursor::before(view.tree, view.pages, &probe)?;
        Ok(Children { cursor, owner: owner.len(), child: owner.len(), probe })
    }

    /// Learns the child under the cursor; false when there is none.
    pub(crate) fn read(&mut self) -> Result<bool> {
        // An owner's punches lie before its children.
        let owner = &self.probe[..self.owner];
        let first = self.cursor.starts_with(owner).then(|| self.cursor.key().after::<1>(self.owner));
        if matches!(first, None | Some(Some([LIFE]))) {
            return Ok(false);
        }
        self.cursor.key().copy_to(&mut self.probe);
        let len = key::key_len(&self.probe[self.owner..]).ok_or_else(|| unreadable("a key"))?;
        self.child = self.owner + len;
        Ok(true)
    }

    /// As [`Children::read`], but only a child whose key is of `kind`.
    pub(crate) fn read_of_kind(&mut self, kind: u8) -> Result<bool> {
        Ok(self.cursor.key().after::<1>(self.owner) == Some([kind]) && self.read()?)
    }

    /// Key prefix of the child that was read last.
    pub(crate) fn key(&self) -> &[u8] {
        &self.probe[..self.child]
    }

    /// Moves beyond the child that was read, which the cursor is in.
    pub(crate) fn pass(&mut self) -> Result<()> {
        // Most children have few records.
        for _ in 0..STEPS_MAX {
            self.cursor.next()?;
            if !self.cursor.starts_with(&self.probe[..self.child]) {
                return Ok(());
            }
        }
        self.probe.truncate(self.child);
        self.probe.push(BEYOND);
        self.cursor.seek(&self.probe)
    }

    /// Moves to the last child before the one that was read; false when there is none.
    pub(crate) fn back(&mut self) -> Result<bool> {
        Ok(self.cursor.seek_before(&self.probe[..self.child])? && self.cursor.starts_with(&self.probe[..self.owner]))
    }

    /// Moves to the last child below `end`, a key prefix that begins as the owner's; false when there is none.
    pub(crate) fn back_from(&mut self, end: &[u8]) -> Result<bool> {
        Ok(self.cursor.seek_before(end)? && self.cursor.starts_with(&self.probe[..self.owner]))
    }

    /// Whether the record under the cursor shows by itself that its child, a dkey, is visible.
    pub(crate) fn shows_dkey(&self, view: &View<'_>) -> bool {
        let akey = key::key_len(&self.probe[self.child..]);
        !view.flagged && akey.is_some_and(|len| self.is_on_single(self.child + len, view.at))
    }

    /// Whether the record under the cursor shows by itself that its child, an akey, is visible.
    fn shows_akey(&self, view: &View<'_>) -> bool {
        !view.flagged && self.is_on_single(self.child, view.at)
    }

    /// Whether the record under the cursor is a single value not newer than `at`, of the akey whose key prefix has
    /// this length.
    fn is_on_single(&self, akey: usize, at: Epoch) -> bool {
        self.probe.get(akey) == Some(&SINGLE)
            && self.probe.last_chunk().is_some_and(|version| Version::from_bytes(*version).epoch <= at)
    }
}

/// The dkey or akey at the end of `prefix`, of which `owner` bytes are its owner's.
pub(crate) fn decode_child(prefix: &[u8], owner: usize) -> Result<Key> {
    Ok(key::read_key(&prefix[owner..]).ok_or_else(|| unreadable("a key"))?.0)
}

/// A key of the tree, with its owners.
pub(crate) fn read_place(key: &[u8]) -> Result<Place> {
    Place::read(key).ok_or_else(|| unreadable("a key"))
}

/// Replaces `out` by the key prefixes of object, dkey and akey, and says where the last two end.
pub(crate) fn compose(out: &mut Vec<u8>, group: u32, oid: ObjectId, dkey: &Key, akey: &Key) -> (usize, usize) {
    out.clear();
    key::push_object(out, group, oid);
    key::push_key(out, dkey);
    let dkey_end = out.len();
    key::push_key(out, akey);
    (dkey_end, out.len())
}

#[cold]
pub(crate) fn unreadable(what: &str) -> Error {
    Error::Corrupt { place: "a record of the tree".into(), fault: format!("{what} that cannot be read") }
}
