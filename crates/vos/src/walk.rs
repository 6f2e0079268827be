//! A walk over all that can be seen of a container at a moment, record by record: what copies it reads.
//!
//! # Shape
//! One cursor goes through the tree in the order of keys: objects, dkeys, akeys; of an akey the single value,
//! then the array. Of a single value the newest version that can be seen is handed out and the older ones are
//! stepped over; an array is swept. Nothing is allocated for a record: keys and values are lent.
//!
//! Most records are single values of objects that were never punched. Of these, a page is walked at once
//! ([`Walk::page`]), without a look at what its keys have in common; the rest goes record by record.
//!
//! # Always true
//! 1. A call looks at a bounded number of things, visible or not; when it stops early, it says where to go on.
//! 2. Where it goes on is a place in the order: what is written meanwhile does not move it, and what stays is
//!    met once.
//!
//! # Not here
//! Bulk data: a record names its blocks. They stay as they are while a pin lives that was taken before the call.

use std::ops::ControlFlow;

use media::Pages;
use types::{Epoch, Extent, Key, ObjectId};

use crate::cursor::Cursor;
use crate::error::{Error, Result};
use crate::extents::Candidate;
use crate::key::{self, BEYOND, BYTES, DATA, HOLE, LIFE, OBJECT_BYTES, SINGLE, VERSION_BYTES, Version};
use crate::node::{self, KeyRef};
use crate::request::{BulkList, Checksums};
use crate::shard::Shard;
use crate::value::{self, Stored};
use crate::view::{View, unreadable};

/// Records that one call looks at: bounds the time on the target's thread, when few of many are visible.
const LOOKED_MAX: usize = 16 << 10;
/// Covered or invisible extents that one step of a sweep goes past.
const PATIENCE: u32 = 64;
/// Records that the processor is asked for ahead of the one at hand.
const AHEAD: usize = 8;
/// Records passed one by one before a new descent is cheaper.
const STEPS_MAX: u32 = 4;

/// A key that is lent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum KeyView<'a> {
    Integer(u64),
    Bytes(&'a [u8]),
}

impl KeyView<'_> {
    /// The key itself; `None` for bytes that are too long for one, as only a damaged store has them.
    pub fn to_key(self) -> Option<Key> {
        match self {
            KeyView::Integer(n) => Some(Key::Integer(n)),
            KeyView::Bytes(bytes) => Key::new(bytes).ok(),
        }
    }
}

/// A stored value that is lent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ValueView<'a>(Stored<'a>);

impl<'a> ValueView<'a> {
    /// Bytes of the value.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> u64 {
        self.0.len()
    }

    /// The bytes, when they lie in the tree; `None`: in blocks.
    pub fn inline(&self) -> Option<&'a [u8]> {
        match self.0 {
            Stored::Inline { bytes, .. } => Some(bytes),
            Stored::Bulk { .. } => None,
        }
    }

    /// The blocks it lies in; none when it is inline.
    pub fn blocks(&self) -> BulkList {
        self.0.blocks()
    }

    /// One for each chunk of the value.
    pub fn checksums(&self) -> Checksums {
        self.0.checksums()
    }
}

/// What a walk meets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WalkedValue<'a> {
    Single(ValueView<'a>),
    /// Records of an array that lie together. A run may come in several pieces.
    Array {
        extent: Extent,
        record_bytes: u32,
        value: ValueView<'a>,
        /// Bytes of the value before the first of these records.
        skip: u64,
    },
}

/// A single value, or a piece of an array. Lent for the time of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WalkedRecord<'a> {
    pub group: u32,
    pub oid: ObjectId,
    pub dkey: KeyView<'a>,
    pub akey: KeyView<'a>,
    /// When it was written. Of joined extents: the newest of them.
    pub version: Version,
    pub value: WalkedValue<'a>,
}

/// Where a walk goes on. Stays good whatever is written meanwhile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WalkAnchor {
    /// First composite key to look at.
    key: Vec<u8>,
    /// When the key is where an akey's array begins: first index of it.
    from: u64,
}

impl WalkAnchor {
    /// As bytes, for a message.
    pub fn to_bytes(&self) -> Vec<u8> {
        [&self.from.to_le_bytes()[..], &self.key].concat()
    }

    /// `None` when the bytes are no anchor.
    pub fn from_bytes(bytes: &[u8]) -> Option<WalkAnchor> {
        let (from, key) = bytes.split_first_chunk::<8>()?;
        (key.len() <= key::COMPOSITE_BYTES_MAX + 1)
            .then(|| WalkAnchor { key: key.to_vec(), from: u64::from_le_bytes(*from) })
    }
}

/// Gets each record; says whether it wants more.
pub type Visitor<'v> = &'v mut dyn FnMut(&WalkedRecord<'_>) -> ControlFlow<()>;

/// Hands at most `limit` records out, and says where to go on; `None` at the end.
pub(crate) fn walk(
    shard: &Shard,
    pages: &Pages,
    at: Epoch,
    after: Option<&WalkAnchor>,
    limit: usize,
    each: Visitor<'_>,
) -> Result<Option<WalkAnchor>> {
    if limit == 0 {
        return Err(Error::Invalid("a walk has room for at least one record"));
    }
    let object = Object { group: 0, oid: ObjectId { hi: 0, lo: 0 }, view: None };
    let owner = Owner { key: Vec::new(), dkey_end: 0, akey_end: 0, dkey: Name::default(), akey: Name::default() };
    let hidden = [Version::NEVER; 2];
    Walk { shard, pages, at, after, limit, each, looked: 0, object, owner, hidden }.run()
}

/// A dkey or akey, decoded.
#[derive(Default)]
struct Name {
    /// `None`: the bytes.
    integer: Option<u64>,
    bytes: Vec<u8>,
}

impl Name {
    fn read(&mut self, encoded: &[u8]) -> Option<()> {
        let (&kind, rest) = encoded.split_first()?;
        if kind != BYTES {
            self.integer = Some(u64::from_be_bytes(rest.try_into().ok()?));
            return Some(());
        }
        self.integer = None;
        self.bytes.clear();
        match key::unescaped(rest) {
            Some(plain) => self.bytes.extend_from_slice(plain),
            None => key::unescape(rest, &mut self.bytes)?,
        }
        Some(())
    }

    fn view(&self) -> KeyView<'_> {
        self.integer.map_or(KeyView::Bytes(&self.bytes), KeyView::Integer)
    }
}

struct Object<'a> {
    group: u32,
    oid: ObjectId,
    /// `None` before the first.
    view: Option<View<'a>>,
}

/// The akey at hand.
struct Owner {
    /// Composite key of the record looked at last.
    key: Vec<u8>,
    /// Where its dkey and its akey end; zero where it has none.
    dkey_end: usize,
    akey_end: usize,
    dkey: Name,
    akey: Name,
}

impl Owner {
    fn akey(&self) -> &[u8] {
        &self.key[..self.akey_end]
    }

    /// Whether a record is of the same owner, whose key prefix ends at `end`.
    #[inline]
    fn has(&self, end: usize, found: KeyRef<'_>) -> bool {
        end > 0 && found.starts_with(&self.key[..end])
    }
}

struct Walk<'a, 'v> {
    shard: &'a Shard,
    pages: &'a Pages,
    at: Epoch,
    after: Option<&'a WalkAnchor>,
    /// Records that may still be handed out.
    limit: usize,
    each: Visitor<'v>,
    looked: usize,
    object: Object<'a>,
    owner: Owner,
    /// Newest versions that punches hide: of the dkey, of the akey.
    hidden: [Version; 2],
}

/// How far a page was walked.
enum Page {
    /// Go on at the cursor.
    Walked,
    Stopped(WalkAnchor),
    /// The record under the cursor is none of the usual ones.
    Other,
}

/// Whether a walk goes on.
type Flow = ControlFlow<WalkAnchor>;

impl<'a> Walk<'a, '_> {
    fn run(&mut self) -> Result<Option<WalkAnchor>> {
        let start = self.after.map_or(&[][..], |after| &after.key);
        let mut cursor = Cursor::at(&self.shard.tree, self.pages, start)?;
        while cursor.is_valid() {
            if self.is_full() {
                let mut key = Vec::new();
                cursor.key().copy_to(&mut key);
                return Ok(Some(WalkAnchor { key, from: 0 }));
            }
            match self.page(&mut cursor)? {
                Page::Walked => continue,
                Page::Stopped(anchor) => return Ok(Some(anchor)),
                Page::Other => {}
            }
            self.looked += 1;
            self.enter(cursor.key())?;
            let flow = match self.owner.key.get(self.owner.akey_end) {
                // Of an object, a dkey or an akey: what it hides is known.
                _ if self.owner.akey_end == 0 => cursor.next().map(Flow::Continue)?,
                Some(&LIFE) => cursor.next().map(Flow::Continue)?,
                Some(&SINGLE) => self.single(&mut cursor)?,
                Some(&(DATA | HOLE)) => self.array(&mut cursor)?,
                _ => return Err(unreadable("a key")),
            };
            if let ControlFlow::Break(anchor) = flow {
                return Ok(Some(anchor));
            }
        }
        Ok(None)
    }

    fn is_full(&self) -> bool {
        self.limit == 0 || self.looked >= LOOKED_MAX
    }

    /// Comes to a record: learns of its owners, as far as they are others than before.
    #[inline]
    fn enter(&mut self, found: KeyRef<'_>) -> Result<()> {
        let Owner { dkey_end, akey_end, .. } = self.owner;
        if self.owner.has(akey_end, found) {
            found.copy_to(&mut self.owner.key);
            return Ok(());
        }
        let same_dkey = self.owner.has(dkey_end, found);
        let same_object = same_dkey || self.object.view.is_some() && self.owner.has(OBJECT_BYTES, found);
        found.copy_to(&mut self.owner.key);
        let Owner { key, dkey_end, akey_end, dkey, akey } = &mut self.owner;
        *akey_end = 0;
        if !same_object {
            *dkey_end = 0;
            (self.object.group, self.object.oid) = key::read_object(key).ok_or_else(|| unreadable("an object id"))?;
            self.object.view = Some(View::open(self.shard, self.pages, key, self.at)?);
        }
        let Some(view) = &self.object.view else { unreachable!("opened with the first object") };
        if !same_dkey {
            *dkey_end = 0;
            let rest = &key[OBJECT_BYTES..];
            if rest.first() == Some(&LIFE) {
                return Ok(());
            }
            let len = key::key_len(rest).ok_or_else(|| unreadable("a dkey"))?;
            dkey.read(&rest[..len]).ok_or_else(|| unreadable("a dkey"))?;
            *dkey_end = OBJECT_BYTES + len;
            self.hidden[0] = view.hidden_below(&key[..*dkey_end], view.hidden)?;
        }
        let rest = &key[*dkey_end..];
        if rest.first() == Some(&LIFE) {
            return Ok(());
        }
        let len = key::key_len(rest).ok_or_else(|| unreadable("an akey"))?;
        akey.read(&rest[..len]).ok_or_else(|| unreadable("an akey"))?;
        *akey_end = *dkey_end + len;
        self.hidden[1] = view.hidden_below(&key[..*akey_end], self.hidden[0])?;
        Ok(())
    }

    /// Walks single values as far as the page goes. What it does not know is left to the others, with the cursor
    /// there.
    fn page(&mut self, cursor: &mut Cursor<'a>) -> Result<Page> {
        let (leaf, first) = cursor.leaf();
        let prefix = node::prefix(leaf);
        let is_plain = self.object.view.as_ref().is_some_and(|view| !view.is_flagged())
            && self.owner.key.first_chunk::<OBJECT_BYTES>() == prefix.first_chunk()
            && prefix.len() >= OBJECT_BYTES;
        let shared = prefix.get(OBJECT_BYTES..).unwrap_or_default();
        if !is_plain || !matches!(shared.first(), None | Some(&BYTES)) || key::find_zero(shared).is_some() {
            return Ok(Page::Other);
        }
        // Behind the kind of the dkey, which is shared or the first byte of each suffix.
        let begins = usize::from(shared.is_empty());
        let Object { group, oid, .. } = self.object;
        let common = shared.get(1..).unwrap_or_default();
        // The akey whose single value is done: head and suffix of the record, up to the kind behind its key. The
        // records of its array begin with the same key.
        let mut done: Option<(u32, &[u8])> = None;
        let (mut index, mut stopped, mut steps, mut is_newer) = (first, false, 0, false);
        (first..first + AHEAD).for_each(|ahead| node::prefetch_record(leaf, ahead));
        for record in node::records(leaf, first) {
            node::prefetch_record(leaf, index + AHEAD);
            if self.looked >= LOOKED_MAX || self.limit == 0 || steps > STEPS_MAX {
                break;
            }
            let suffix = record.suffix;
            if let Some((head, single)) = done
                && head == record.head
                && suffix.starts_with(single)
            {
                (index, steps) = (index + 1, steps + 1);
                self.looked += 1;
                continue;
            }
            if shared.is_empty() && suffix.first() != Some(&BYTES) {
                break;
            }
            let Some((dkey_end, akey_end, is_plain)) = string_keys(suffix, begins) else { break };
            let version = suffix.last_chunk().map(|bytes| Version::from_bytes(*bytes)).unwrap_or_default();
            self.looked += 1;
            is_newer = version.epoch > self.at;
            if is_newer {
                (index, steps) = (index + 1, steps + 1);
                continue;
            }
            let stored = value::read_payload(record.value).ok_or_else(|| unreadable("a single value"))?;
            let dkey = &mut self.owner.dkey.bytes;
            if done.is_none() {
                dkey.clear();
                dkey.extend_from_slice(common);
            }
            // What the page's dkeys have in common stays; each record's own part goes behind it.
            dkey.truncate(common.len());
            if is_plain {
                dkey.extend_from_slice(&suffix[begins..dkey_end - 2]);
            } else {
                key::unescape(&suffix[begins..dkey_end], dkey).ok_or_else(|| unreadable("a dkey"))?;
            }
            let akey = KeyView::Bytes(&suffix[dkey_end + 1..akey_end - 2]);
            let value = WalkedValue::Single(ValueView(stored));
            (index, steps) = (index + 1, 0);
            done = Some((record.head, &suffix[..akey_end + 1]));
            self.limit -= 1;
            let lent = WalkedRecord { group, oid, dkey: KeyView::Bytes(dkey), akey, version, value };
            if (self.each)(&lent).is_break() {
                stopped = true;
                break;
            }
        }
        if index == first {
            return Ok(Page::Other);
        }
        cursor.move_within(index - 1);
        (self.owner.dkey_end, self.owner.akey_end) = (0, 0);
        // Newer than the moment, and more of them may follow: then a descent is cheaper.
        let many_newer = is_newer && steps > STEPS_MAX;
        let Some((_, [akey @ .., _])) = done else {
            cursor.next()?;
            return Ok(if many_newer && cursor.is_valid() { Page::Other } else { Page::Walked });
        };
        let key = &mut self.owner.key;
        key.clear();
        key.extend_from_slice(prefix);
        key.extend_from_slice(akey);
        let end = key.len();
        key.push(DATA);
        if stopped {
            return Ok(Page::Stopped(WalkAnchor { key: key.clone(), from: 0 }));
        }
        pass(cursor, key, end)?;
        Ok(if many_newer && cursor.is_valid() { Page::Other } else { Page::Walked })
    }

    /// Where the akey's array begins: all of its single values are done.
    fn anchor(&self, from: u64) -> WalkAnchor {
        WalkAnchor { key: [self.owner.akey(), &[DATA]].concat(), from }
    }

    /// Hands the single value out, if it is this version that is seen, and goes beyond it.
    #[inline]
    fn single(&mut self, cursor: &mut Cursor<'a>) -> Result<Flow> {
        let end = self.owner.akey_end + 1;
        let version = self.owner.key.get(end..).and_then(key::read_version).ok_or_else(|| unreadable("a key"))?;
        if version.epoch > self.at {
            self.owner.key.truncate(end);
            key::push_version(&mut self.owner.key, Version::latest(self.at));
            return pass(cursor, &self.owner.key, end).map(Flow::Continue);
        }
        let mut flow = ControlFlow::Continue(());
        if version > self.hidden[1] {
            let stored = value::read_payload(cursor.value()).ok_or_else(|| unreadable("a single value"))?;
            flow = self.give(version, WalkedValue::Single(ValueView(stored)));
        }
        if flow.is_break() {
            return Ok(Flow::Break(self.anchor(0)));
        }
        let end = self.owner.akey_end;
        self.owner.key.truncate(end);
        self.owner.key.push(DATA);
        pass(cursor, &self.owner.key, end).map(Flow::Continue)
    }

    /// Hands the pieces of the array out, and goes beyond it.
    fn array(&mut self, cursor: &mut Cursor<'a>) -> Result<Flow> {
        let Some(view) = &self.object.view else { unreachable!("an object was entered") };
        let akey = self.owner.akey();
        let is_resumed = |after: &&WalkAnchor| after.key.split_last() == Some((&DATA, akey));
        let from = self.after.filter(is_resumed).map_or(0, |after| after.from);
        let mut sweep = view.sweep_in_parts(akey, self.hidden[1], from, u64::MAX, PATIENCE)?;
        while let Some((start, end, top)) = sweep.next()? {
            if self.is_full() {
                return Ok(Flow::Break(self.anchor(start)));
            }
            self.looked += 1;
            if !top.hole && self.give(top.version, piece(start, end, top)?).is_break() {
                return Ok(Flow::Break(self.anchor(end)));
            }
        }
        if let Some(stalled) = sweep.stalled() {
            return Ok(Flow::Break(self.anchor(stalled)));
        }
        self.owner.key.truncate(self.owner.akey_end);
        self.owner.key.push(BEYOND);
        cursor.seek(&self.owner.key).map(Flow::Continue)
    }

    #[inline]
    fn give(&mut self, version: Version, value: WalkedValue<'_>) -> ControlFlow<()> {
        self.limit -= 1;
        let Object { group, oid, .. } = self.object;
        let Owner { dkey, akey, .. } = &self.owner;
        (self.each)(&WalkedRecord { group, oid, dkey: dkey.view(), akey: akey.view(), version, value })
    }
}

/// Moves to the first record at or behind `target`, or that does not begin as its first `len` bytes do.
#[inline]
fn pass(cursor: &mut Cursor<'_>, target: &[u8], len: usize) -> Result<()> {
    for _ in 0..STEPS_MAX {
        cursor.next()?;
        if !cursor.starts_with(&target[..len]) || !cursor.key().is_below(target) {
            return Ok(());
        }
    }
    cursor.seek(target)
}

fn piece(start: u64, end: u64, top: Candidate<'_>) -> Result<WalkedValue<'_>> {
    let (_, record_bytes, stored) = value::read_data(top.value).ok_or_else(|| unreadable("array data"))?;
    let skip = (start - top.start).saturating_mul(record_bytes.into());
    let extent = Extent::new(start, end - start);
    Ok(WalkedValue::Array { extent, record_bytes, value: ValueView(stored), skip })
}

/// Where the dkey ends in the suffix of a single value's key, and the akey; and whether the dkey has no zeros. The
/// dkey is a string, the akey one without zeros. `first`: where the dkey's bytes go on in the suffix.
#[inline]
fn string_keys(suffix: &[u8], first: usize) -> Option<(usize, usize, bool)> {
    let zero = first + key::find_zero(suffix.get(first..)?)?;
    let is_plain = suffix.get(zero + 1) == Some(&0);
    let dkey_end = if is_plain { zero + 2 } else { zero + key::string_len(suffix.get(zero..)?)? };
    let (&BYTES, rest) = suffix.get(dkey_end..)?.split_first()? else { return None };
    let akey_zero = key::find_zero(rest)?;
    match rest.get(akey_zero + 1..)? {
        [0, SINGLE, version @ ..] if version.len() == VERSION_BYTES => {
            Some((dkey_end, dkey_end + 1 + akey_zero + 2, is_plain))
        }
        _ => None,
    }
}
