//! One page of the tree: a sorted set of records within a page body.
//!
//! Body of a node: 8160 bytes, little-endian. Ours.
//!
//! | offset | bytes | field       | meaning                                                          |
//! |-------:|------:|-------------|------------------------------------------------------------------|
//! |      0 |     1 | version     | 1                                                                |
//! |      1 |     1 | level       | 0 for a leaf                                                     |
//! |      2 |     2 | count       | slots                                                            |
//! |      4 |     2 | heap        | offset of the lowest record                                      |
//! |      6 |     2 | garbage     | bytes of removed records in the heap                             |
//! |      8 |     2 | prefix      | length of the prefix, which fills the end of the body            |
//! |     10 |     2 | last        | position of the latest insertion                                 |
//! |     12 |     2 | run         | length of the run of insertions, each right after the one before |
//! |     14 |     2 | reserved    | zero                                                             |
//! |     16 |     8 | max epoch   | leaf: no record in it was written later; inner: zero             |
//! |     24 |     4 | owner       | number of the tree                                               |
//! |     28 |     4 | reserved    | zero                                                             |
//! |     32 |   8 n | slots       | in key order                                                     |
//! |  heap  |       | records     | in any order                                                     |
//!
//! A slot is one number, so that a search compares numbers: the first four bytes of the key's suffix
//! (big-endian, zeros where it is shorter) in the high half, then suffix length 16, offset 16.
//! A record is suffix | value length 16 | value. An inner value is child page 4 | max epoch below 8.
//!
//! # Always true
//! 1. Every key is the prefix followed by the record's suffix; keys strictly increase.
//! 2. The prefix is common to the keys *present*, so that heads tell keys apart. Prefixes of the keys
//!    that might come would leave edge pages, whose every head is then the same object id, without any.
//! 3. Slot 0 of an inner node has no key (its suffix is empty) and stands for minus infinity: keys
//!    below the first separator have a place without lowering it.
//!
//! Bytes that are no node never cause a panic: accessors answer with empty slices, and [`verify`] says
//! what is wrong.

use media::PAGE_BODY_BYTES;

/// Body of a page.
pub(crate) type Body = [u8; PAGE_BODY_BYTES];

/// Page kind of a node.
pub(crate) const KIND_NODE: u16 = 1;
/// Page kind of a shard's head.
pub(crate) const KIND_HEAD: u16 = 2;
/// Page kind of what a session did.
pub(crate) const KIND_SESSION: u16 = 3;
/// Version of the layout above.
const NODE_VERSION: u8 = 1;
/// Slots begin here.
const SLOTS: usize = 32;
const SLOT_BYTES: usize = 8;
/// Bytes of an inner value.
pub(crate) const CHILD_BYTES: usize = 12;
/// What a record costs beyond suffix and value.
const RECORD_OVERHEAD: usize = SLOT_BYTES + 2;
/// Room for slots, records and prefix.
const CAPACITY: usize = PAGE_BODY_BYTES - SLOTS;
/// Of a value, what is asked for ahead of its use.
const PREFETCHED_VALUE: usize = 32;
/// Longest key and value of one record together.
pub(crate) const RECORD_BYTES_MAX: usize = CAPACITY - RECORD_OVERHEAD;
/// After this many insertions in a row a page splits where they happen, and stays full behind them.
const RUN_MIN: u16 = 8;
/// A page that uses less is merged with a neighbour, when both fill at most [`MERGE_MAX`].
const MERGE_BELOW: usize = CAPACITY / 4;
/// Leaves room, so that the next insertion does not split what was just merged.
const MERGE_MAX: usize = CAPACITY * 3 / 4;

const LEVEL: usize = 1;
const COUNT: usize = 2;
const HEAP: usize = 4;
const GARBAGE: usize = 6;
const PREFIX: usize = 8;
const LAST: usize = 10;
const RUN: usize = 12;
const MAX_EPOCH: usize = 16;
const OWNER: usize = 24;

/// A value in two parts, so that a header and a payload need no copy to lie together.
#[derive(Clone, Copy)]
pub(crate) struct Value<'a> {
    pub(crate) head: &'a [u8],
    pub(crate) tail: &'a [u8],
}

impl Value<'_> {
    pub(crate) fn len(&self) -> usize {
        self.head.len() + self.tail.len()
    }
}

/// A key within its page.
#[derive(Clone, Copy)]
pub(crate) struct KeyRef<'a> {
    pub(crate) prefix: &'a [u8],
    pub(crate) suffix: &'a [u8],
}

impl KeyRef<'_> {
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.prefix.len() + self.suffix.len()
    }

    #[inline]
    pub(crate) fn starts_with(&self, want: &[u8]) -> bool {
        let n = self.prefix.len();
        if want.len() <= n {
            self.prefix.starts_with(want)
        } else {
            let (head, tail) = want.split_at(n);
            self.suffix.starts_with(tail) && head == self.prefix
        }
    }

    /// Whether the key sorts before `other`.
    #[inline]
    pub(crate) fn is_below(&self, other: &[u8]) -> bool {
        match other.split_at_checked(self.prefix.len()) {
            Some((head, tail)) => (self.prefix, self.suffix) < (head, tail),
            None => self.prefix < other,
        }
    }

    /// Replaces `out` by the whole key.
    #[inline]
    pub(crate) fn copy_to(&self, out: &mut Vec<u8>) {
        out.clear();
        out.extend_from_slice(self.prefix);
        out.extend_from_slice(self.suffix);
    }

    /// `N` bytes from position `from`, when there are as many.
    #[inline]
    pub(crate) fn after<const N: usize>(&self, from: usize) -> Option<[u8; N]> {
        let byte = |at: usize| match at.checked_sub(self.prefix.len()) {
            None => Some(self.prefix[at]),
            Some(at) => self.suffix.get(at).copied(),
        };
        let mut out = [0; N];
        for (i, slot) in out.iter_mut().enumerate() {
            *slot = byte(from + i)?;
        }
        Some(out)
    }

    /// The last `N` bytes, when there are as many.
    #[inline]
    pub(crate) fn last<const N: usize>(&self) -> Option<[u8; N]> {
        if let Some(tail) = self.suffix.last_chunk::<N>() {
            return Some(*tail);
        }
        let mut out = [0; N];
        let missing = N - self.suffix.len();
        let from = self.prefix.len().checked_sub(missing)?;
        out[..missing].copy_from_slice(&self.prefix[from..]);
        out[missing..].copy_from_slice(self.suffix);
        Some(out)
    }
}

#[inline]
fn get16(body: &Body, at: usize) -> usize {
    usize::from(u16::from_le_bytes([body[at], body[at + 1]]))
}

#[inline]
fn put16(body: &mut Body, at: usize, value: usize) {
    debug_assert!(value <= usize::from(u16::MAX));
    body[at..at + 2].copy_from_slice(&(value as u16).to_le_bytes());
}

/// Makes `body` an empty node whose keys will share `prefix`.
pub(crate) fn init(body: &mut Body, level: u8, owner: u32, prefix: &[u8]) {
    body[..SLOTS].fill(0);
    body[0] = NODE_VERSION;
    body[LEVEL] = level;
    body[OWNER..OWNER + 4].copy_from_slice(&owner.to_le_bytes());
    put16(body, PREFIX, prefix.len());
    put16(body, HEAP, PAGE_BODY_BYTES - prefix.len());
    body[PAGE_BODY_BYTES - prefix.len()..].copy_from_slice(prefix);
}

#[inline]
pub(crate) fn level(body: &Body) -> u8 {
    body[LEVEL]
}

#[inline]
pub(crate) fn is_leaf(body: &Body) -> bool {
    body[LEVEL] == 0
}

/// Number of records. Never more than fit, whatever the bytes.
#[inline]
pub(crate) fn count(body: &Body) -> usize {
    get16(body, COUNT).min(CAPACITY / SLOT_BYTES)
}

pub(crate) fn owner(body: &Body) -> u32 {
    u32::from_le_bytes(*body[OWNER..].first_chunk().expect("within the header"))
}

#[inline]
pub(crate) fn max_epoch(body: &Body) -> u64 {
    u64::from_le_bytes(*body[MAX_EPOCH..].first_chunk().expect("within the header"))
}

/// Raises the highest epoch of the node.
#[inline]
pub(crate) fn raise_max_epoch(body: &mut Body, epoch: u64) {
    if max_epoch(body) < epoch {
        set_max_epoch(body, epoch);
    }
}

fn set_max_epoch(body: &mut Body, epoch: u64) {
    body[MAX_EPOCH..MAX_EPOCH + 8].copy_from_slice(&epoch.to_le_bytes());
}

#[inline]
pub(crate) fn prefix(body: &Body) -> &[u8] {
    body.get(PAGE_BODY_BYTES.saturating_sub(get16(body, PREFIX))..).unwrap_or_default()
}

#[inline]
fn slots(body: &Body) -> &[[u8; SLOT_BYTES]] {
    body[SLOTS..SLOTS + count(body) * SLOT_BYTES].as_chunks().0
}

#[inline]
fn slot(body: &Body, index: usize) -> u64 {
    slots(body).get(index).map_or(0, |s| u64::from_le_bytes(*s))
}

fn set_slot(body: &mut Body, index: usize, value: u64) {
    let at = SLOTS + index * SLOT_BYTES;
    body[at..at + SLOT_BYTES].copy_from_slice(&value.to_le_bytes());
}

#[inline]
fn slot_parts(slot: u64) -> (usize, usize) {
    ((slot & 0xffff) as usize, (slot >> 16 & 0xffff) as usize)
}

/// First four bytes, big-endian, zeros where there are fewer.
#[inline]
fn head_of(suffix: &[u8]) -> u32 {
    match suffix.first_chunk::<4>() {
        Some(first) => u32::from_be_bytes(*first),
        None => {
            let mut bytes = [0; 4];
            bytes[..suffix.len()].copy_from_slice(suffix);
            u32::from_be_bytes(bytes)
        }
    }
}

#[inline]
fn suffix(body: &Body, slot: u64) -> &[u8] {
    let (at, len) = slot_parts(slot);
    body.get(at..at + len).unwrap_or_default()
}

/// The key of record `index`.
#[inline]
pub(crate) fn key(body: &Body, index: usize) -> KeyRef<'_> {
    KeyRef { prefix: prefix(body), suffix: suffix(body, slot(body, index)) }
}

/// The value of record `index`.
#[inline]
pub(crate) fn value(body: &Body, index: usize) -> &[u8] {
    let (at, len) = slot_parts(slot(body, index));
    let at = at + len;
    match body.get(at..at + 2) {
        Some(n) => body.get(at + 2..at + 2 + usize::from(u16::from_le_bytes([n[0], n[1]]))).unwrap_or_default(),
        None => &[],
    }
}

/// A record of a page: what a slot leads to.
#[derive(Clone, Copy)]
pub(crate) struct RecordRef<'a> {
    /// First bytes of the suffix: when they differ, the keys do.
    pub(crate) head: u32,
    pub(crate) suffix: &'a [u8],
    pub(crate) value: &'a [u8],
}

/// The records from `first` on, in order. Cheaper than to ask for each.
pub(crate) fn records(body: &Body, first: usize) -> impl Iterator<Item = RecordRef<'_>> {
    slots(body).get(first..).unwrap_or_default().iter().map(|slot| {
        let slot = u64::from_le_bytes(*slot);
        let (at, len) = slot_parts(slot);
        let value = || {
            let (length, rest) = body.get(at + len..)?.split_first_chunk::<2>()?;
            rest.get(..usize::from(u16::from_le_bytes(*length)))
        };
        let suffix = body.get(at..at + len).unwrap_or_default();
        RecordRef { head: (slot >> 32) as u32, suffix, value: value().unwrap_or_default() }
    })
}

/// Asks the processor for record `index`, if there is one: records lie in no order that it could guess.
#[inline]
pub(crate) fn prefetch_record(body: &Body, index: usize) {
    let Some(slot) = slots(body).get(index) else { return };
    let (at, len) = slot_parts(u64::from_le_bytes(*slot));
    // The key, and the head of the value or all of a small one.
    if let Some(record) = body.get(at..at + len + PREFETCHED_VALUE) {
        media::prefetch(record);
    }
}

/// Where the value of record `index` lies in the body.
pub(crate) fn value_at(body: &Body, index: usize) -> usize {
    let (at, len) = slot_parts(slot(body, index));
    at + len + 2
}

/// Child page and highest epoch below it, of record `index` of an inner node.
#[inline]
pub(crate) fn child(body: &Body, index: usize) -> Option<(u32, u64)> {
    let value = value(body, index);
    let page = value.first_chunk::<4>()?;
    let epoch = value.get(4..)?.first_chunk::<8>()?;
    (value.len() == CHILD_BYTES).then(|| (u32::from_le_bytes(*page), u64::from_le_bytes(*epoch)))
}

/// The bytes of an inner value.
pub(crate) fn child_value(page: u32, epoch: u64) -> [u8; CHILD_BYTES] {
    let mut value = [0; CHILD_BYTES];
    value[..4].copy_from_slice(&page.to_le_bytes());
    value[4..].copy_from_slice(&epoch.to_le_bytes());
    value
}

/// Raises the highest epoch noted for child `index`.
#[inline]
pub(crate) fn raise_child_epoch(body: &mut Body, index: usize, epoch: u64) {
    let at = value_at(body, index) + 4;
    if let Some(stored) = body.get_mut(at..at + 8)
        && u64::from_le_bytes(*stored.first_chunk().expect("eight bytes")) < epoch
    {
        stored.copy_from_slice(&epoch.to_le_bytes());
    }
}

/// Where `key` is (`Ok`) or would be inserted (`Err`), among the records from `first` on.
#[inline]
fn search_from(body: &Body, key: &[u8], first: usize) -> Result<usize, usize> {
    let prefix = prefix(body);
    let Some(wanted) = key.strip_prefix(prefix) else {
        return Err(if key < prefix { first } else { count(body).max(first) });
    };
    let head = head_of(wanted);
    let slots = slots(body);
    let slots = slots.get(first..).unwrap_or_default();
    let low = slots.partition_point(|s| ((u64::from_le_bytes(*s) >> 32) as u32) < head);
    let head_at = |i: usize| slots.get(i).map(|s| (u64::from_le_bytes(*s) >> 32) as u32);
    if head_at(low) != Some(head) {
        return Err(first + low);
    }
    // Equal heads say nothing: compare whole suffixes, by bisection when the run of them is long.
    let high = match head_at(low + 1) {
        Some(next) if next == head => {
            low + 2 + slots[low + 2..].partition_point(|s| ((u64::from_le_bytes(*s) >> 32) as u32) == head)
        }
        _ => low + 1,
    };
    slots[low..high]
        .binary_search_by(|s| suffix(body, u64::from_le_bytes(*s)).cmp(wanted))
        .map(|i| first + low + i)
        .map_err(|i| first + low + i)
}

/// Where `key` is (`Ok`) or would be inserted (`Err`) in a leaf.
#[inline]
pub(crate) fn search(body: &Body, key: &[u8]) -> Result<usize, usize> {
    search_from(body, key, 0)
}

/// Which child of an inner node holds `key`.
#[inline]
pub(crate) fn search_child(body: &Body, key: &[u8]) -> usize {
    match search_from(body, key, 1) {
        Ok(index) => index,
        Err(index) => index - 1,
    }
}

/// Bytes in use: slots, records and prefix.
pub(crate) fn used(body: &Body) -> usize {
    let heap = PAGE_BODY_BYTES - get16(body, HEAP).min(PAGE_BODY_BYTES);
    count(body) * SLOT_BYTES + heap.saturating_sub(get16(body, GARBAGE))
}

/// Length of the common prefix.
pub(crate) fn common(a: &[u8], b: &[u8]) -> usize {
    a.iter().zip(b).take_while(|(x, y)| x == y).count()
}

fn common_keys(a: KeyRef<'_>, b: &[u8]) -> usize {
    let n = common(a.prefix, b);
    if n < a.prefix.len() { n } else { n + common(a.suffix, &b[n..]) }
}

/// The first record of a node that has a key.
fn first_keyed(body: &Body) -> usize {
    usize::from(!is_leaf(body))
}

/// Length of the longest prefix that all keys, and `extra`, share.
fn best_prefix(body: &Body, extra: Option<&[u8]>) -> usize {
    let (first, count) = (first_keyed(body), count(body));
    if count <= first {
        return extra.map_or(0, <[u8]>::len);
    }
    let inside = prefix(body).len() + common(key(body, first).suffix, key(body, count - 1).suffix);
    // Keys are sorted, so what the extra key shares with one end and the ends share, all share.
    extra.map_or(inside, |extra| inside.min(common_keys(key(body, first), extra)))
}

/// Makes room for a record of `key` with a value of `value_len` bytes, by dropping garbage and by
/// choosing the prefix anew; false when there is none, and the page must split.
pub(crate) fn make_room(body: &mut Body, key: &[u8], value_len: usize) -> bool {
    let prefix_len = prefix(body).len();
    if key.starts_with(prefix(body)) {
        let need = RECORD_OVERHEAD + key.len() - prefix_len + value_len;
        let free = get16(body, HEAP).saturating_sub(SLOTS + count(body) * SLOT_BYTES);
        if need <= free {
            return true;
        }
    }
    let best = best_prefix(body, Some(key));
    let keyed = count(body) - first_keyed(body).min(count(body));
    let records = used(body) - prefix_len;
    let rebuilt = records + keyed * prefix_len - keyed * best + best;
    if rebuilt + RECORD_OVERHEAD + key.len() - best + value_len > CAPACITY {
        return false;
    }
    let old = *body;
    let whole = &key[..best];
    restart(body, &old, whole);
    copy_records(body, &old, 0..count(&old));
    put16(body, LAST, get16(&old, LAST));
    put16(body, RUN, get16(&old, RUN));
    true
}

/// Makes `body` an empty node like `old`, with another prefix.
fn restart(body: &mut Body, old: &Body, prefix: &[u8]) {
    init(body, level(old), owner(old), prefix);
    set_max_epoch(body, max_epoch(old));
}

/// Appends records of `old`; the prefix of `body` must be one of each of their keys. The first record
/// of an inner node loses its key.
fn copy_records(body: &mut Body, old: &Body, records: std::ops::Range<usize>) {
    let prefix_len = prefix(body).len();
    let old_prefix = prefix(old);
    let inner = !is_leaf(old);
    let mut heap = get16(body, HEAP);
    let mut index = count(body);
    for from in records {
        let stored = slot(old, from);
        let (at, len) = slot_parts(stored);
        let value_len = value(old, from).len();
        let tail = &old[at + len..at + len + 2 + value_len];
        let (lead, suffix): (&[u8], &[u8]) = if inner && index == 0 {
            (&[], &[])
        } else if inner && from == 0 {
            unreachable!("a record without a key can only come first")
        } else if prefix_len <= old_prefix.len() {
            (&old_prefix[prefix_len..], &old[at..at + len])
        } else {
            (&[], &old[at + prefix_len - old_prefix.len()..at + len])
        };
        heap -= lead.len() + suffix.len() + tail.len();
        let start = heap;
        let suffix_at = start + lead.len();
        let tail_at = suffix_at + suffix.len();
        body[start..suffix_at].copy_from_slice(lead);
        body[suffix_at..tail_at].copy_from_slice(suffix);
        body[tail_at..tail_at + tail.len()].copy_from_slice(tail);
        let head = head_of(&body[start..tail_at]);
        set_slot(body, index, u64::from(head) << 32 | ((tail_at - start) as u64) << 16 | start as u64);
        index += 1;
    }
    put16(body, COUNT, index);
    put16(body, HEAP, heap);
}

/// Inserts a record at `index`, its place in the order. [`make_room`] must have found room for it.
#[inline]
pub(crate) fn insert(body: &mut Body, index: usize, key: &[u8], value: Value<'_>) {
    let keyless = !is_leaf(body) && index == 0;
    let suffix: &[u8] = if keyless { &[] } else { &key[prefix(body).len()..] };
    let count = count(body);
    let value_len = value.len();
    let start = get16(body, HEAP) - suffix.len() - 2 - value_len;
    debug_assert!(start >= SLOTS + (count + 1) * SLOT_BYTES);
    let mut at = start;
    for part in [suffix, &(value_len as u16).to_le_bytes(), value.head, value.tail] {
        body[at..at + part.len()].copy_from_slice(part);
        at += part.len();
    }
    put16(body, HEAP, start);
    let from = SLOTS + index * SLOT_BYTES;
    body.copy_within(from..SLOTS + count * SLOT_BYTES, from + SLOT_BYTES);
    set_slot(body, index, u64::from(head_of(suffix)) << 32 | (suffix.len() as u64) << 16 | start as u64);
    put16(body, COUNT, count + 1);
    let run = get16(body, RUN);
    let follows = index > 0 && get16(body, LAST) == index - 1;
    put16(body, RUN, if follows { (run + 1).min(usize::from(u16::MAX)) } else { 0 });
    put16(body, LAST, index);
}

/// Removes record `index`.
pub(crate) fn remove(body: &mut Body, index: usize) {
    let count = count(body);
    assert!(index < count, "no record {index} of {count}");
    let (_, len) = slot_parts(slot(body, index));
    let gone = len + 2 + value(body, index).len();
    put16(body, GARBAGE, get16(body, GARBAGE) + gone);
    let from = SLOTS + index * SLOT_BYTES;
    body.copy_within(from + SLOT_BYTES..SLOTS + count * SLOT_BYTES, from);
    put16(body, COUNT, count - 1);
    put16(body, RUN, 0);
    if !is_leaf(body) && index == 0 && count > 1 {
        // What was second now stands for minus infinity: its key goes.
        let (at, len) = slot_parts(slot(body, 0));
        put16(body, GARBAGE, get16(body, GARBAGE) + len);
        set_slot(body, 0, (at + len) as u64);
    }
}

/// Overwrites the value of record `index` when the new one is as long; else false.
pub(crate) fn overwrite(body: &mut Body, index: usize, new: Value<'_>) -> bool {
    if value(body, index).len() != new.len() {
        return false;
    }
    let at = value_at(body, index);
    let middle = at + new.head.len();
    body[at..middle].copy_from_slice(new.head);
    body[middle..middle + new.tail.len()].copy_from_slice(new.tail);
    true
}

/// Where to split a full leaf that is to get `key` at `index`, and the shortest key that keeps the
/// halves apart. Records from the position on move to the right.
pub(crate) fn split_point(body: &Body, index: usize, key: &[u8], separator: &mut Vec<u8>) -> usize {
    let count = count(body);
    let in_run = get16(body, RUN) >= usize::from(RUN_MIN) && index > 0 && get16(body, LAST) == index - 1;
    let at = if in_run || count < 2 { index } else { balanced_point(body, 0) };
    let (mut left, mut right) = (Vec::new(), Vec::new());
    if at > 0 {
        self::key(body, at - 1).copy_to(&mut left);
    }
    if at < count {
        self::key(body, at).copy_to(&mut right);
    }
    // The new key lies between the halves only when the split is at its place.
    if at == count {
        right.extend_from_slice(key);
    } else if at == 0 {
        left.extend_from_slice(key);
    }
    separator.clear();
    separator.extend_from_slice(&right[..common(&left, &right) + 1]);
    at
}

/// The separator that a split of a full inner node moves up, and its position.
pub(crate) fn split_point_inner(body: &Body, separator: &mut Vec<u8>) -> usize {
    let in_run = get16(body, RUN) >= usize::from(RUN_MIN) && get16(body, LAST) == count(body) - 1;
    let at = if in_run { count(body) - 1 } else { balanced_point(body, 1) };
    key(body, at).copy_to(separator);
    at
}

/// The position in the middle half, by bytes, whose separator is shortest; the nearest to the middle
/// among equals. `skip`: 1 when the key at the position itself moves up.
fn balanced_point(body: &Body, skip: usize) -> usize {
    let count = count(body);
    let total: usize = (0..count).map(|i| record_len(body, i)).sum();
    let mut left = 0;
    let mut best = (true, usize::MAX, usize::MAX, 1);
    for at in 1..count {
        left += record_len(body, at - 1);
        let inside = left * 4 >= total && left * 4 <= total * 3;
        let off_middle = (left * 2).abs_diff(total);
        let separator =
            if skip == 1 { key(body, at).suffix.len() } else { common(key(body, at - 1).suffix, key(body, at).suffix) };
        let candidate = if inside { (false, separator, off_middle, at) } else { (true, off_middle, 0, at) };
        best = best.min(candidate);
    }
    best.3
}

fn record_len(body: &Body, index: usize) -> usize {
    RECORD_OVERHEAD + slot_parts(slot(body, index)).1 + value(body, index).len()
}

/// Moves the records from `at` on to the empty page `right`; both get the prefixes of what they hold.
/// An emptied side is ready for `coming`.
pub(crate) fn split(left: &mut Body, right: &mut Body, at: usize, coming: &[u8]) {
    let old = *left;
    let count = count(&old);
    let inner = !is_leaf(&old);
    let mut whole = Vec::new();
    for (half, records) in [(&mut *left, 0..at), (right, at..count)] {
        let keyed = if inner { records.start + 1..records.end } else { records.clone() };
        if keyed.is_empty() {
            // Nothing with a key here yet. Guess that what comes resembles the neighbour.
            let neighbour = if at == 0 { 0 } else { at - 1 };
            let guess = if inner || !records.is_empty() { 0 } else { common_keys(key(&old, neighbour), coming) };
            restart(half, &old, &coming[..guess]);
        } else {
            key(&old, keyed.start).copy_to(&mut whole);
            let shared = prefix(&old).len() + common(key(&old, keyed.start).suffix, key(&old, keyed.end - 1).suffix);
            restart(half, &old, &whole[..shared]);
        }
        copy_records(half, &old, records);
    }
}

/// Whether `left` and `right`, neighbours, should become one page.
pub(crate) fn should_merge(left: &Body, right: &Body, separator_len: usize) -> bool {
    let (a, b) = (used(left), used(right));
    if a.min(b) >= MERGE_BELOW {
        return false;
    }
    // Worst case: the page to be has no prefix.
    let grown = |body: &Body| prefix(body).len() * count(body);
    a + b + grown(left) + grown(right) + separator_len <= MERGE_MAX
}

/// Appends all of `right` to `left`. `separator` is the key between them; inner nodes need it, because
/// the first record of `right` has none.
pub(crate) fn merge(left: &mut Body, right: &Body, separator: &[u8]) {
    let old = *left;
    let inner = !is_leaf(&old);
    restart(left, &old, &[]);
    set_max_epoch(left, max_epoch(&old).max(max_epoch(right)));
    copy_records(left, &old, 0..count(&old));
    if inner && count(right) > 0 {
        let value = Value { head: value(right, 0), tail: &[] };
        let end = count(left);
        insert(left, end, separator, value);
        copy_records(left, right, 1..count(right));
    } else {
        copy_records(left, right, 0..count(right));
    }
    compact(left);
}

/// Drops garbage and gives the node the best prefix for what it holds.
fn compact(body: &mut Body) {
    let old = *body;
    let best = best_prefix(&old, None);
    let mut whole = Vec::new();
    if count(&old) > first_keyed(&old) {
        key(&old, first_keyed(&old)).copy_to(&mut whole);
    }
    restart(body, &old, &whole[..best]);
    copy_records(body, &old, 0..count(&old));
}

/// Highest epoch of a node: its own for a leaf, the highest noted of a child for an inner node.
pub(crate) fn highest_epoch(body: &Body) -> u64 {
    if is_leaf(body) {
        max_epoch(body)
    } else {
        (0..count(body)).filter_map(|i| child(body, i)).map(|(_, epoch)| epoch).max().unwrap_or(0)
    }
}

/// Whether so little is used that a merge is worth a look.
pub(crate) fn is_sparse(body: &Body) -> bool {
    used(body) < MERGE_BELOW
}

/// Whether a page read from the device is one of ours: a node that the functions of this file may trust, or
/// the head of a container or the page of a session, which say for themselves when they are loaded.
pub(crate) fn is_whole(page: &media::Page) -> bool {
    match page.kind() {
        KIND_NODE => verify(page.body()).is_none(),
        kind => kind == KIND_HEAD || kind == KIND_SESSION,
    }
}

/// Says what makes `body` no node; `None` when it is one. For `check` and for decoding foreign bytes.
pub(crate) fn verify(body: &Body) -> Option<String> {
    if body[0] != NODE_VERSION {
        return Some(format!("node version {}", body[0]));
    }
    let stated = get16(body, COUNT);
    let (heap, prefix_len) = (get16(body, HEAP), get16(body, PREFIX));
    let slots_end = SLOTS + stated * SLOT_BYTES;
    if slots_end > heap || heap + prefix_len > PAGE_BODY_BYTES {
        return Some(format!("slots to {slots_end}, heap from {heap}, prefix of {prefix_len}"));
    }
    if body[14..16].iter().chain(&body[28..32]).any(|&b| b != 0) {
        return Some("reserved bytes are set".into());
    }
    let heap_end = PAGE_BODY_BYTES - prefix_len;
    let mut spans = Vec::with_capacity(stated);
    let mut previous: Option<&[u8]> = None;
    for index in 0..stated {
        let stored = slot(body, index);
        let (at, len) = slot_parts(stored);
        if at < heap || at + len + 2 > heap_end {
            return Some(format!("record {index} at {at}, suffix of {len}, outside the heap"));
        }
        let end = at + len + 2 + usize::from(u16::from_le_bytes([body[at + len], body[at + len + 1]]));
        if end > heap_end {
            return Some(format!("record {index} ends at {end}, outside the heap"));
        }
        spans.push((at, end));
        let suffix = suffix(body, stored);
        if (stored >> 32) as u32 != head_of(suffix) {
            return Some(format!("record {index}: the head is not that of its key"));
        }
        if !is_leaf(body) {
            if child(body, index).is_none() {
                return Some(format!("record {index}: an inner value of the wrong size"));
            }
            if index == 0 {
                if len != 0 {
                    return Some("the first separator has a key".into());
                }
                continue;
            }
        }
        if previous.is_some_and(|previous| previous >= suffix) {
            return Some(format!("record {index}: keys do not increase"));
        }
        previous = Some(suffix);
    }
    spans.sort_unstable();
    if spans.windows(2).any(|pair| pair[0].1 > pair[1].0) {
        return Some("records overlap".into());
    }
    let live: usize = spans.iter().map(|(at, end)| end - at).sum();
    (live + get16(body, GARBAGE) != heap_end - heap).then(|| {
        format!("{live} bytes of records and {} of garbage in a heap of {}", get16(body, GARBAGE), heap_end - heap)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A leaf with three keys, put in out of order, written down by hand from the table above.
    #[test]
    fn a_leaf_has_its_golden_bytes() {
        let mut body = [0xaa; PAGE_BODY_BYTES];
        init(&mut body, 0, 0x0102, b"pre");
        for (index, key, value) in [(0, &b"prefab"[..], &b"1"[..]), (0, b"preen", b""), (2, b"prefect", b"three")] {
            insert(&mut body, index, key, Value { head: value, tail: b"" });
        }
        raise_max_epoch(&mut body, 0x77);
        let end = PAGE_BODY_BYTES - 3;
        let (fab, en, fect) = (end - 6, end - 6 - 4, end - 6 - 4 - 11);
        let mut golden = [0; PAGE_BODY_BYTES];
        golden[..2].copy_from_slice(&[1, 0]);
        golden[2..4].copy_from_slice(&3u16.to_le_bytes());
        golden[4..6].copy_from_slice(&(fect as u16).to_le_bytes());
        golden[8..10].copy_from_slice(&3u16.to_le_bytes());
        golden[10..12].copy_from_slice(&2u16.to_le_bytes());
        golden[16] = 0x77;
        golden[24..26].copy_from_slice(&[2, 1]);
        // Offset, suffix length, head read backwards.
        golden[32..40].copy_from_slice(&[&(en as u16).to_le_bytes()[..], &[2, 0], b"\0\0ne"].concat());
        golden[40..48].copy_from_slice(&[&(fab as u16).to_le_bytes()[..], &[3, 0], b"\0baf"].concat());
        golden[48..56].copy_from_slice(&[&(fect as u16).to_le_bytes()[..], &[4, 0], b"tcef"].concat());
        golden[fect..].copy_from_slice(b"fect\x05\0threeen\0\0fab\x01\x001pre");
        let differs: Vec<usize> = (0..PAGE_BODY_BYTES).filter(|&at| body[at] != golden[at]).collect();
        // What lies between slots and heap is nobody's.
        assert!(differs.iter().all(|at| (56..fect).contains(at)), "{differs:?}");
        assert_eq!(verify(&body), None);
    }

    #[test]
    fn an_inner_value_has_its_golden_bytes() {
        assert_eq!(child_value(0x0102, 0x0304), [2, 1, 0, 0, 4, 3, 0, 0, 0, 0, 0, 0]);
    }
}
