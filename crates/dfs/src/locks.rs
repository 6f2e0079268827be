//! Order among the calls of one mount that change names.
//!
//! Until the store has transactions, a change of the namespace is several requests. Calls of other
//! clients may fall between them (the crate's header says what then happens); calls of this mount
//! may not, because they take these locks first.
//!
//! # Shape
//! Two rows of striped locks. A directory's lock is shared by those who add or replace names in it,
//! and held alone by the one that removes the directory itself. A name's lock is always held alone.
//!
//! # Always true
//! One call takes all its locks at once, directories before names, each row in the order of its
//! stripes and no stripe twice: so no two calls wait for each other.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Mutex;

use tokio::sync::{Mutex as AsyncMutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard};
use types::ObjectId;

/// Stripes of either row. With some hundred calls in flight few wait without cause.
const STRIPES: usize = 512;
/// Removed directories remembered, so that a handle opened before cannot make files in them.
const REMOVED_MAX: usize = 4096;

/// What a call does to a directory's lock.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Hold {
    Shared,
    Alone,
}

pub(crate) struct Locks {
    directories: Vec<RwLock<()>>,
    names: Vec<AsyncMutex<()>>,
    /// One at a time: two directories moved into each other would leave the tree.
    moves: AsyncMutex<()>,
    removed: Mutex<Removed>,
}

#[derive(Default)]
struct Removed {
    known: BTreeSet<ObjectId>,
    order: VecDeque<ObjectId>,
}

/// Released on drop.
pub(crate) struct Guards<'a> {
    _shared: Vec<RwLockReadGuard<'a, ()>>,
    _alone: Vec<RwLockWriteGuard<'a, ()>>,
    _names: Vec<MutexGuard<'a, ()>>,
}

impl Locks {
    pub(crate) fn new() -> Locks {
        Locks {
            directories: (0..STRIPES).map(|_| RwLock::new(())).collect(),
            names: (0..STRIPES).map(|_| AsyncMutex::new(())).collect(),
            moves: AsyncMutex::new(()),
            removed: Mutex::default(),
        }
    }

    /// Waits for all of them.
    pub(crate) async fn take(&self, directories: &[(ObjectId, Hold)], names: &[(ObjectId, &[u8])]) -> Guards<'_> {
        let mut wanted: Vec<(usize, Hold)> = directories.iter().map(|(oid, hold)| (stripe(*oid, b""), *hold)).collect();
        // A stripe wanted both ways is held alone: the stronger sorts last and survives.
        wanted.sort_unstable();
        let (mut shared, mut alone) = (Vec::new(), Vec::new());
        for (i, &(at, hold)) in wanted.iter().enumerate() {
            if wanted.get(i + 1).is_some_and(|next| next.0 == at) {
                continue;
            }
            match hold {
                Hold::Shared => shared.push(self.directories[at].read().await),
                Hold::Alone => alone.push(self.directories[at].write().await),
            }
        }
        let stripes: BTreeSet<usize> = names.iter().map(|(oid, name)| stripe(*oid, name)).collect();
        let mut held = Vec::with_capacity(stripes.len());
        for at in stripes {
            held.push(self.names[at].lock().await);
        }
        Guards { _shared: shared, _alone: alone, _names: held }
    }

    /// The right to move a directory to another parent. Taken before [`Self::take`].
    pub(crate) async fn moves(&self) -> MutexGuard<'_, ()> {
        self.moves.lock().await
    }

    /// Remembers that a directory is no more. Its lock is held alone.
    pub(crate) fn note_removed(&self, directory: ObjectId) {
        let mut removed = self.removed.lock().expect("no panic while held");
        if removed.known.insert(directory) {
            removed.order.push_back(directory);
        }
        if removed.order.len() > REMOVED_MAX
            && let Some(oldest) = removed.order.pop_front()
        {
            removed.known.remove(&oldest);
        }
    }

    /// A removal that was undone, because the directory turned out not to be empty.
    pub(crate) fn note_restored(&self, directory: ObjectId) {
        let mut removed = self.removed.lock().expect("no panic while held");
        removed.known.remove(&directory);
        removed.order.retain(|oid| *oid != directory);
    }

    /// Whether this mount removed the directory, as far back as it remembers.
    pub(crate) fn is_removed(&self, directory: ObjectId) -> bool {
        self.removed.lock().expect("no panic while held").known.contains(&directory)
    }
}

/// FNV-1a, so that the same run takes the same stripes.
fn stripe(oid: ObjectId, name: &[u8]) -> usize {
    let bytes = oid.to_bytes();
    let hash = bytes
        .iter()
        .chain(name)
        .fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3));
    (hash >> 32) as usize % STRIPES
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_may_name_one_lock_twice() {
        rt::block_on(async {
            let locks = Locks::new();
            let oid = ObjectId { hi: 1, lo: 2 };
            let both = [(oid, Hold::Shared), (oid, Hold::Alone)];
            let guards = locks.take(&both, &[(oid, b"a"), (oid, b"a")]).await;
            assert_eq!((guards._shared.len(), guards._alone.len(), guards._names.len()), (0, 1, 1));
        });
    }

    #[test]
    fn only_the_latest_removals_are_remembered() {
        let locks = Locks::new();
        let oid = |lo| ObjectId { hi: 0, lo };
        (0..=REMOVED_MAX as u64).for_each(|lo| locks.note_removed(oid(lo)));
        assert!(!locks.is_removed(oid(0)) && locks.is_removed(oid(1)));
        locks.note_restored(oid(1));
        assert!(!locks.is_removed(oid(1)));
    }
}
