//! What the tree remembers of writes: the newest in a window of epochs, at, below and above a place.
//!
//! Nodes carry the highest epoch they hold, so a window in the present costs a look at a few nodes.

use media::{PageId, Pages};
use types::Epoch;

use crate::cursor::Cursor;
use crate::error::Result;
use crate::intent::ends;
use crate::key::{self, LIFE, OBJECT_BYTES, OBJECT_PUNCH, VERSION_BYTES, Version};
use crate::node;
use crate::shard::Shard;
use crate::tree::{self, child_of};
use crate::update::beyond;
use crate::view::unreadable;

/// Records that one search looks at. Beyond it the answer is the highest epoch that can be there: somebody
/// may start over without need, and nobody holds the target's thread.
const RECORDS_MAX: u32 = 4096;

/// Epochs from `low` to `high`, both included.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Window {
    pub(crate) low: Epoch,
    pub(crate) high: Epoch,
}

impl Window {
    pub(crate) fn contains(&self, epoch: Epoch) -> bool {
        self.low <= epoch && epoch <= self.high
    }
}

/// Which records count, by key and value.
pub(crate) type Matters<'a> = &'a mut dyn FnMut(&[u8], key::Record, &[u8]) -> bool;

/// The newest write within `window` at or below `place` (a key prefix; empty for everything).
pub(crate) fn newest(
    shard: &Shard,
    pages: &Pages,
    place: &[u8],
    window: Window,
    matters: Matters<'_>,
) -> Result<Option<Epoch>> {
    if window.low > window.high || window.low > shard.max_epoch() {
        return Ok(None);
    }
    let to = if place.is_empty() { vec![0xff; OBJECT_BYTES + 1] } else { beyond(place) };
    let mut search = Search { pages, from: place, to: &to, window, matters, best: None, left: RECORDS_MAX };
    search.look(shard.tree.root, None)?;
    if search.left == 0 {
        return Ok(Some(window.high.min(shard.max_epoch())));
    }
    Ok(search.best)
}

struct Search<'a> {
    pages: &'a Pages,
    from: &'a [u8],
    to: &'a [u8],
    window: Window,
    matters: Matters<'a>,
    best: Option<Epoch>,
    left: u32,
}

impl Search<'_> {
    fn look(&mut self, id: PageId, promised: Option<u64>) -> Result<()> {
        let useless =
            |promised: u64| Epoch(promised) < self.window.low || self.best.is_some_and(|best| promised <= best.0);
        if self.left == 0 || promised.is_some_and(useless) {
            return Ok(());
        }
        let body = tree::body(self.pages, id)?;
        if !node::is_leaf(body) {
            let last = node::search_child(body, self.to);
            for index in (node::search_child(body, self.from)..=last).rev() {
                let promised = node::child(body, index).map(|(_, epoch)| epoch);
                let (child, _) = child_of(self.pages, id, body, index)?;
                self.look(child, promised)?;
            }
            return Ok(());
        }
        let (Ok(first) | Err(first)) = node::search(body, self.from);
        let (Ok(last) | Err(last)) = node::search(body, self.to);
        let mut key = Vec::new();
        for index in first..last {
            if self.left == 0 {
                break;
            }
            self.left -= 1;
            node::key(body, index).copy_to(&mut key);
            let record = key::read_record(&key).ok_or_else(|| unreadable("a key"))?;
            let Some(Version { epoch, .. }) = record.version() else { continue };
            let is_newer = self.window.contains(epoch) && self.best.is_none_or(|best| best < epoch);
            if is_newer && (self.matters)(&key, record, node::value(body, index)) {
                self.best = Some(epoch);
            }
        }
        Ok(())
    }
}

/// The newest punch within `window` of something that `place` is in.
pub(crate) fn newest_above(shard: &Shard, pages: &Pages, place: &[u8], window: Window) -> Result<Option<Epoch>> {
    if window.low > window.high || place.len() <= OBJECT_BYTES || !shard.is_flagged(pages, place)? {
        return Ok(None);
    }
    let mut best = None;
    for end in ends(place).filter(|end| *end < place.len()) {
        let mut probe = place[..end].to_vec();
        probe.push(LIFE);
        if end == OBJECT_BYTES {
            probe.push(OBJECT_PUNCH);
        }
        let len = probe.len();
        key::push_version(&mut probe, Version::latest(window.high));
        let cursor = Cursor::at(&shard.tree, pages, &probe)?;
        let key = cursor.key();
        if key.len() == len + VERSION_BYTES
            && key.starts_with(&probe[..len])
            && let Some(version) = key.last::<VERSION_BYTES>().map(Version::from_bytes)
            && window.contains(version.epoch)
        {
            best = best.max(Some(version.epoch));
        }
    }
    Ok(best)
}
