//! What a store at rest holds: every version of every value, and what is known of changes.

use std::collections::BTreeMap;

use engine::target::open::TargetConfig;
use types::{Epoch, PoolId};
use vos::{Branch, ChangeId, ChangeState, Child, Stored, Undecided};

/// Where a version of a value stands: placement group's number, dkey, akey, epoch.
pub type Place = (u32, String, String, Epoch);

/// Of one target's store.
#[derive(Debug, Default)]
pub struct Contents {
    /// `None`: a punch of the akey.
    pub values: BTreeMap<Place, Option<Vec<u8>>>,
    /// Changes that wait for a decision.
    pub undecided: Vec<(PoolId, Undecided)>,
    /// How changes ended that are not settled.
    pub decided: BTreeMap<(PoolId, ChangeId), ChangeState>,
    /// Up to where everything is settled, by group.
    pub settled: BTreeMap<(PoolId, u32), ChangeId>,
}

impl Contents {
    /// Opens the store, with its recovery, and walks all of it. Panics when it is not whole.
    pub(crate) fn read(target: TargetConfig) -> Contents {
        let index = target.index;
        let (mut store, _) = engine::target::open::open_store(target).expect("a store opens whatever a crash left");
        let findings = store.check().findings;
        assert!(findings.is_empty(), "target {index}: {findings:#?}");
        let mut found = Contents::default();
        for pool in store.pools() {
            for group in store.groups(pool).expect("a pool that was listed") {
                let standing = store.standing(pool, group).expect("a group that was listed");
                found.undecided.extend(standing.prepared.into_iter().map(|change| (pool, change)));
                found.decided.extend(standing.decided.into_iter().map(|(change, state)| ((pool, change), state)));
                found.settled.insert((pool, group), standing.settled);
            }
            for container in store.containers(pool) {
                found.read_container(&mut store, container);
            }
        }
        found
    }

    fn read_container(&mut self, store: &mut vos::Store, container: types::ContainerId) {
        let mut branches = vec![Branch::default()];
        while let Some(branch) = branches.pop() {
            let (Some(object), Some(dkey), Some(akey)) = (&branch.object, &branch.dkey, &branch.akey) else {
                let mut after = None;
                loop {
                    let page = store.stored_children(container, &branch, after.as_ref(), vos::LIST_MAX);
                    let page = page.expect("it is whole");
                    branches.extend(page.entries.into_iter().map(|child| below(&branch, child)));
                    after = page.next;
                    if after.is_none() {
                        break;
                    }
                }
                continue;
            };
            let records = store.stored_records(container, &branch, None, vos::LIST_MAX).expect("it is whole");
            assert!(records.next.is_none(), "few enough versions to list at once");
            for record in records.entries {
                let Some(version) = record.version else { continue };
                let value = match &record.what {
                    Stored::Single(_) => {
                        let bytes = store.stored_bytes(container, &record.key).expect("it is whole");
                        Some(bytes.expect("it is a value").0)
                    }
                    Stored::Punch => None,
                    _ => continue,
                };
                self.values.insert((object.group, dkey.to_string(), akey.to_string(), version.epoch), value);
            }
        }
    }
}

fn below(branch: &Branch, child: Child) -> Branch {
    match child {
        Child::Object(object) => Branch { object: Some(object), ..Branch::default() },
        Child::Key(key) if branch.dkey.is_none() => Branch { dkey: Some(key), ..branch.clone() },
        Child::Key(key) => Branch { akey: Some(key), ..branch.clone() },
    }
}
