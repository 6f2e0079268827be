//! What a server's storage holds, read without the server: so each copy of a value is seen for itself, and not only the one
//! that the system chose to give to a client.

use std::collections::BTreeMap;
use std::path::Path;

use control::offline::{Offline, OfflineTarget, RegionConfig};
use rt::disk::Disk;
use vos::{Branch, Child, LIST_MAX, Store, Stored};

/// For the pages of a target while it is looked at.
const MEMORY: usize = 64 << 20;

/// The storage of one server, all its targets together.
#[derive(Default)]
pub struct AtRest {
    /// By dkey: the newest value.
    pub values: BTreeMap<String, Vec<u8>>,
    /// Changes that its targets have prepared, and not heard the end of.
    pub undecided: usize,
}

impl AtRest {
    /// Reads the storage of a server that does not run, which stays as it is.
    ///
    /// # Panics
    /// If it cannot be read, anything in it is damaged, or two of its targets have the same dkey.
    pub fn read(storage: &Path) -> AtRest {
        let offline = Offline::take(storage).expect("the server has ended, and was formatted");
        let mut all = AtRest::default();
        for target in offline.targets(None).expect("all are meant") {
            all.add(&target);
        }
        all
    }

    fn add(&mut self, target: &OfflineTarget) {
        let region = |config: &RegionConfig| {
            let disk = Disk::open_read_only(&config.path).expect("what the layout names is there");
            media::Region::from_base(disk, config.base).expect("what the layout names is there")
        };
        let metadata = target.metadata.as_ref().map(region);
        let regions = media::Regions { log: region(&target.log), metadata, data: region(&target.data) };
        let (media, recovery, damaged) =
            media::Store::open_damaged(regions, MEMORY).expect("a store that was formatted");
        let opened = vos::Store::inspect(media, recovery).expect("a store that was formatted");
        assert!(damaged.is_empty() && opened.findings.is_empty(), "{damaged:?} {:?}", opened.findings);
        let mut store = opened.store;
        for pool in store.pools() {
            for group in store.groups(pool).expect("it is in the list") {
                self.undecided += store.standing(pool, group).expect("it is in the list").prepared.len();
            }
            for container in store.containers(pool) {
                self.add_values(&mut store, container, &Branch::default());
            }
        }
    }

    /// What lies below a branch.
    fn add_values(&mut self, store: &mut Store, container: types::ContainerId, branch: &Branch) {
        let Branch { object, dkey, akey } = branch.clone();
        if let (Some(dkey), Some(_)) = (&dkey, &akey) {
            let name = dkey.to_string();
            let records = store.stored_records(container, branch, None, LIST_MAX).expect("it is whole");
            assert!(records.next.is_none(), "{name} has more than {LIST_MAX} versions");
            let singles = records.entries.into_iter().filter(|record| matches!(record.what, Stored::Single(_)));
            let Some(newest) =
                singles.max_by_key(|record| record.version.map(|version| (version.epoch, version.minor)))
            else {
                return;
            };
            let stored = store.stored_bytes(container, &newest.key).expect("it is whole");
            let (bytes, verified) = stored.expect("it was listed");
            verified.unwrap_or_else(|fault| panic!("{}: {fault}", newest.place));
            assert!(self.values.insert(name, bytes).is_none(), "{} is stored twice in one place", newest.place);
            return;
        }
        let mut last = None;
        loop {
            let part = store.stored_children(container, branch, last.as_ref(), LIST_MAX).expect("it is whole");
            for child in part.entries {
                let below = match child {
                    Child::Object(object) => Branch { object: Some(object), ..Branch::default() },
                    Child::Key(key) if dkey.is_none() => Branch { object, dkey: Some(key), akey: None },
                    Child::Key(key) => Branch { object, dkey: dkey.clone(), akey: Some(key) },
                };
                self.add_values(store, container, &below);
            }
            last = part.next;
            if last.is_none() {
                return;
            }
        }
    }
}
