//! What a store means, in a page: the same operations over sorted maps. The specification, and the
//! oracle of the tests. No pages, no log, no space.
//!
//! An *op* carries a version: its epoch, and a number that rises with every op at that epoch. A value is
//! visible at epoch `e` when it is the newest at or below `e` and newer than every punch, at or below
//! `e`, of its akey, dkey and object. Something exists when something below it is visible. Epoch 0 is
//! before everything: nothing is written then. Records of an array have one size from punch to punch, as
//! far as it is remembered: a size is forgotten with the last record that has it.
//!
//! A prepared change has its versions, and nobody sees what it will do; committed, it is as if it had
//! been done when it was prepared. Only record sizes are promised at once.

use std::collections::BTreeMap;

use types::{Conditions, Epoch, Extent, Key, ObjectId};

use crate::key::Version;
use crate::request::ChangeId;

/// What went wrong: the reactions a caller can tell apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    Exists,
    NotFound,
    RecordSize {
        stored: u32,
        given: u32,
    },
    /// Depends on how an undecided change ends.
    InProgress,
    /// The change is not in a state for it.
    ChangeState,
}

/// An object within its group.
pub type Object = (u32, ObjectId);

/// One container.
#[derive(Clone, Debug, Default)]
pub struct Container {
    objects: BTreeMap<Object, Branch<Branch<Akey>>>,
    minors: BTreeMap<Epoch, u16>,
    pub snapshots: Vec<Epoch>,
    pub horizon: Epoch,
    pub prepared: BTreeMap<ChangeId, (Version, Vec<Step>)>,
}

/// One operation of a change.
#[derive(Clone, Debug)]
pub enum Step {
    Update { object: Object, dkey: Key, conditions: Conditions, akeys: Vec<(Key, Write)> },
    Punch { object: Object, scope: Scope, conditions: Conditions },
}

/// Children by key, and when all of them were punched.
#[derive(Clone, Debug)]
struct Branch<T> {
    punches: Vec<Version>,
    children: BTreeMap<Key, T>,
}

impl<T> Default for Branch<T> {
    fn default() -> Self {
        Branch { punches: Vec::new(), children: BTreeMap::new() }
    }
}

/// Record size and bytes; a hole has none.
type Records = (u32, Vec<u8>);

#[derive(Clone, Debug, Default)]
struct Akey {
    punches: Vec<Version>,
    singles: BTreeMap<Version, Vec<u8>>,
    extents: Vec<(Version, Extent, Option<Records>)>,
}

/// A write to one akey.
#[derive(Clone, Debug)]
pub enum Write {
    Single(Vec<u8>),
    Array(u32, Vec<(Extent, Vec<u8>)>),
}

/// How much a punch hides.
#[derive(Clone, Debug)]
pub enum Scope {
    Object,
    Dkey(Key),
    Akeys(Key, Vec<Key>),
    Extents(Key, Key, Vec<Extent>),
}

impl Container {
    fn next_minor(&mut self, epoch: Epoch) -> Version {
        let minor = self.minors.entry(epoch).and_modify(|m| *m += 1).or_insert(0);
        Version { epoch, minor: *minor }
    }

    /// All or none of `akeys`.
    pub fn update(
        &mut self,
        epoch: Epoch,
        object: Object,
        dkey: &Key,
        conditions: Conditions,
        akeys: &[(Key, Write)],
    ) -> Result<(), Refusal> {
        self.condition(epoch, object, Some(dkey), akeys.iter().map(|(key, _)| key), conditions)?;
        self.sizes(epoch, object, dkey, akeys).map_or_else(
            |refused| Err(if self.is_promised(object, dkey, akeys, false) { Refusal::InProgress } else { refused }),
            |()| if self.is_promised(object, dkey, akeys, true) { Err(Refusal::InProgress) } else { Ok(()) },
        )?;
        let version = self.next_minor(epoch);
        self.put(version, object, dkey, akeys);
        Ok(())
    }

    fn sizes(&self, epoch: Epoch, object: Object, dkey: &Key, akeys: &[(Key, Write)]) -> Result<(), Refusal> {
        for (akey, write) in akeys {
            if let Write::Array(given, _) = write {
                let hidden = self.hidden(epoch, object, dkey, akey);
                let punches = self.punches(object, dkey, akey);
                let next = punches.into_iter().filter(|v| v.epoch > epoch).min();
                let extents = self.akey(object, dkey, akey).map_or(&[][..], |a| &a.extents[..]);
                let life = extents.iter().filter(|(v, _, _)| *v > hidden && next.is_none_or(|next| *v < next));
                let mut sizes = life.filter_map(|(_, _, data)| data.as_ref().map(|(size, _)| *size));
                if let Some(stored) = sizes.find(|size| size != given) {
                    return Err(Refusal::RecordSize { stored, given: *given });
                }
            }
        }
        Ok(())
    }

    /// Whether an undecided transaction makes the record sizes of an update wrong (`writes`), or may make
    /// wrong ones right, with a punch.
    fn is_promised(&self, object: Object, dkey: &Key, akeys: &[(Key, Write)], writes: bool) -> bool {
        let steps: Vec<&Step> = self.prepared.values().flat_map(|(_, steps)| steps).collect();
        akeys.iter().any(|(akey, write)| {
            let Write::Array(given, _) = write else { return false };
            steps.iter().any(|step| match step {
                Step::Update { object: o, dkey: d, akeys, .. } if writes => {
                    let differs = |write: &Write| matches!(write, Write::Array(size, _) if size != given);
                    *o == object && d == dkey && akeys.iter().any(|(a, write)| a == akey && differs(write))
                }
                Step::Punch { object: o, scope, .. } if !writes => {
                    let covers = match scope {
                        Scope::Object => true,
                        Scope::Dkey(d) => d == dkey,
                        Scope::Akeys(d, all) => d == dkey && all.contains(akey),
                        Scope::Extents(..) => false,
                    };
                    *o == object && covers
                }
                _ => false,
            })
        })
    }

    fn put(&mut self, version: Version, object: Object, dkey: &Key, akeys: &[(Key, Write)]) {
        let dkey = self.objects.entry(object).or_default().children.entry(dkey.clone()).or_default();
        for (akey, write) in akeys {
            let akey = dkey.children.entry(akey.clone()).or_default();
            match write {
                Write::Single(bytes) => drop(akey.singles.insert(version, bytes.clone())),
                Write::Array(size, extents) => {
                    akey.extents.extend(extents.iter().map(|(e, b)| (version, *e, Some((*size, b.clone())))));
                }
            }
        }
    }

    pub fn punch(
        &mut self,
        epoch: Epoch,
        object: Object,
        scope: &Scope,
        conditions: Conditions,
    ) -> Result<(), Refusal> {
        let (dkey, akeys): (Option<&Key>, &[Key]) = match scope {
            Scope::Object => (None, &[]),
            Scope::Dkey(dkey) => (Some(dkey), &[]),
            Scope::Akeys(dkey, akeys) => (Some(dkey), akeys),
            Scope::Extents(dkey, akey, _) => (Some(dkey), std::slice::from_ref(akey)),
        };
        self.condition(epoch, object, dkey, akeys.iter(), conditions)?;
        let version = self.next_minor(epoch);
        self.hide(version, object, scope);
        Ok(())
    }

    fn hide(&mut self, version: Version, object: Object, scope: &Scope) {
        let branch = self.objects.entry(object).or_default();
        let (Scope::Dkey(dkey) | Scope::Akeys(dkey, _) | Scope::Extents(dkey, ..)) = scope else {
            branch.punches.push(version);
            return;
        };
        let branch = branch.children.entry(dkey.clone()).or_default();
        match scope {
            Scope::Extents(_, akey, extents) => {
                let akey = branch.children.entry(akey.clone()).or_default();
                akey.extents.extend(extents.iter().map(|e| (version, *e, None)));
            }
            Scope::Akeys(_, akeys) => {
                akeys.iter().for_each(|k| branch.children.entry(k.clone()).or_default().punches.push(version))
            }
            _ => branch.punches.push(version),
        }
    }

    /// All or none of `steps`: each is checked as if those before it were done.
    pub fn prepare(&mut self, change: ChangeId, epoch: Epoch, steps: &[Step]) -> Result<(), Refusal> {
        let mut trial = self.clone();
        for step in steps {
            match step {
                Step::Update { object, dkey, conditions, akeys } => {
                    trial.update(epoch, *object, dkey, *conditions, akeys)?
                }
                Step::Punch { object, scope, conditions } => trial.punch(epoch, *object, scope, *conditions)?,
            }
        }
        let first = self.next_minor(epoch);
        self.minors = trial.minors;
        self.prepared.insert(change, (first, steps.to_vec()));
        Ok(())
    }

    /// Does what was prepared here under this name, if anything.
    pub fn commit(&mut self, change: ChangeId) {
        let Some((first, steps)) = self.prepared.remove(&change) else { return };
        for (version, step) in (first.minor..).map(|minor| Version { minor, ..first }).zip(&steps) {
            match step {
                Step::Update { object, dkey, akeys, .. } => self.put(version, *object, dkey, akeys),
                Step::Punch { object, scope, .. } => self.hide(version, *object, scope),
            }
        }
    }

    pub fn abort(&mut self, change: ChangeId) {
        self.prepared.remove(&change);
    }

    pub fn single(&self, at: Epoch, object: Object, dkey: &Key, akey: &Key) -> Option<&[u8]> {
        let hidden = self.hidden(at, object, dkey, akey);
        let (version, bytes) = self.akey(object, dkey, akey)?.singles.range(..=Version::latest(at)).next_back()?;
        (*version > hidden).then_some(bytes)
    }

    /// Version of the visible single value.
    pub fn single_version(&self, at: Epoch, object: Object, dkey: &Key, akey: &Key) -> Option<Version> {
        let hidden = self.hidden(at, object, dkey, akey);
        let newest = self.akey(object, dkey, akey)?.singles.range(..=Version::latest(at)).next_back();
        newest.map(|(version, _)| *version).filter(|version| *version > hidden)
    }

    /// Version, record size and bytes of what is visible at one index; `None` for a hole.
    pub fn record(&self, at: Epoch, object: Object, dkey: &Key, akey: &Key, i: u64) -> Option<(Version, u32, &[u8])> {
        let hidden = self.hidden(at, object, dkey, akey);
        let covers =
            |(v, e, _): &&(Version, Extent, Option<_>)| v.epoch <= at && *v > hidden && e.start <= i && i < e.end();
        let (version, extent, data) =
            self.akey(object, dkey, akey)?.extents.iter().filter(covers).max_by_key(|(v, _, _)| *v)?;
        let (size, bytes) = data.as_ref()?;
        let from = ((i - extent.start) * u64::from(*size)) as usize;
        Some((*version, *size, &bytes[from..from + *size as usize]))
    }

    /// Indices at which the visible array may change, ascending: enough to look at.
    pub fn edges(&self, object: Object, dkey: &Key, akey: &Key) -> Vec<u64> {
        let extents = self.akey(object, dkey, akey).map_or(&[][..], |a| &a.extents[..]);
        let mut edges: Vec<u64> = extents.iter().flat_map(|(_, e, _)| [e.start, e.end()]).collect();
        edges.sort_unstable();
        edges.dedup();
        edges
    }

    /// Highest visible record + 1, and the record size.
    pub fn array_end(&self, at: Epoch, object: Object, dkey: &Key, akey: &Key) -> (u64, u32) {
        let edges = self.edges(object, dkey, akey);
        let last = edges.windows(2).rev().find_map(|w| Some((w[1], self.record(at, object, dkey, akey, w[0])?.1)));
        last.unwrap_or_default()
    }

    pub fn objects(&self, at: Epoch) -> Vec<Object> {
        self.objects.keys().copied().filter(|o| !self.dkeys(at, *o).is_empty()).collect()
    }

    pub fn dkeys(&self, at: Epoch, object: Object) -> Vec<Key> {
        let keys = self.objects.get(&object).into_iter().flat_map(|o| o.children.keys());
        keys.filter(|dkey| !self.akeys(at, object, dkey).is_empty()).cloned().collect()
    }

    /// Visible akeys: whether each has a single value, and the record size of its array.
    pub fn akeys(&self, at: Epoch, object: Object, dkey: &Key) -> Vec<(Key, bool, u32)> {
        let keys = self.objects.get(&object).and_then(|o| o.children.get(dkey)).into_iter();
        let kinds =
            |akey: &Key| (self.single(at, object, dkey, akey).is_some(), self.array_end(at, object, dkey, akey).1);
        let all = keys.flat_map(|d| d.children.keys()).map(|k| (k.clone(), kinds(k)));
        all.filter(|(_, (single, size))| *single || *size > 0).map(|(k, (single, size))| (k, single, size)).collect()
    }

    /// Highest epoch of anything stored of the object.
    pub fn max_write(&self, object: Object) -> Option<Epoch> {
        let object = self.objects.get(&object)?;
        let akeys = object.children.values().flat_map(|d| d.children.values());
        let values = akeys.flat_map(|a| {
            a.punches.iter().chain(a.singles.keys()).copied().chain(a.extents.iter().map(|(v, _, _)| *v))
        });
        let punches = object.children.values().flat_map(|d| d.punches.iter()).chain(&object.punches).copied();
        values.chain(punches).map(|v| v.epoch).max()
    }

    /// Forgets values that can be seen at no snapshot before `horizon`, and at no moment from there on; the
    /// horizon stays below transactions that are not decided, and never goes back. A
    /// version is needed when it is visible at the first of these at or after its epoch. Returns the number
    /// of values left.
    pub fn forget(&mut self, horizon: Epoch) -> usize {
        let oldest = self.prepared.values().map(|(version, _)| version.epoch).min();
        let horizon = oldest.map_or(horizon, |epoch| horizon.min(Epoch(epoch.0 - 1))).max(self.horizon);
        self.horizon = horizon;
        let before = self.clone();
        let moment = |v: Version| {
            let held = before.snapshots.iter().filter(|s| **s >= v.epoch).min().copied();
            held.map_or(horizon, |held| held.min(horizon))
        };
        let mut left = 0;
        for (object, branch) in &mut self.objects {
            for (dkey, branch) in &mut branch.children {
                for (akey, stored) in &mut branch.children {
                    let edges = before.edges(*object, dkey, akey);
                    stored.singles.retain(|v, _| {
                        let hidden = before.hidden(moment(*v), *object, dkey, akey);
                        let known = before.akey(*object, dkey, akey).map(|a| &a.singles);
                        let newest = known.and_then(|s| s.keys().rfind(|n| n.epoch <= moment(*v)));
                        v.epoch > horizon || newest == Some(v) && *v > hidden
                    });
                    stored.extents.retain(|(v, extent, data)| {
                        let top = |i: u64| before.record(moment(*v), *object, dkey, akey, i).map(|(top, _, _)| top);
                        let mut inside = edges.iter().filter(|i| extent.start <= **i && **i < extent.end());
                        data.is_none() || v.epoch > horizon || inside.any(|i| top(*i) == Some(*v))
                    });
                    left += stored.singles.len() + stored.extents.iter().filter(|(_, _, data)| data.is_some()).count();
                }
            }
        }
        left
    }

    /// Undoes everything after `to`.
    pub fn rollback(&mut self, to: Epoch) {
        let keep = |punches: &mut Vec<Version>| punches.retain(|v| v.epoch <= to);
        for object in self.objects.values_mut() {
            keep(&mut object.punches);
            for dkey in object.children.values_mut() {
                keep(&mut dkey.punches);
                for akey in dkey.children.values_mut() {
                    keep(&mut akey.punches);
                    akey.singles.retain(|v, _| v.epoch <= to);
                    akey.extents.retain(|(v, _, _)| v.epoch <= to);
                }
            }
        }
        self.snapshots.retain(|snapshot| *snapshot <= to);
    }

    fn akey(&self, object: Object, dkey: &Key, akey: &Key) -> Option<&Akey> {
        self.objects.get(&object)?.children.get(dkey)?.children.get(akey)
    }

    /// Every punch that an akey is under.
    fn punches(&self, object: Object, dkey: &Key, akey: &Key) -> Vec<Version> {
        let Some(object) = self.objects.get(&object) else { return Vec::new() };
        let dkey = object.children.get(dkey);
        let akey = dkey.and_then(|d| d.children.get(akey));
        let lists = [Some(&object.punches), dkey.map(|d| &d.punches), akey.map(|a| &a.punches)];
        lists.into_iter().flatten().flatten().copied().collect()
    }

    /// The newest punch at or below `at`: it hides what is older.
    fn hidden(&self, at: Epoch, object: Object, dkey: &Key, akey: &Key) -> Version {
        self.punches(object, dkey, akey).into_iter().filter(|v| v.epoch <= at).max().unwrap_or_default()
    }

    fn condition<'k>(
        &self,
        at: Epoch,
        object: Object,
        dkey: Option<&Key>,
        mut akeys: impl Iterator<Item = &'k Key>,
        conditions: Conditions,
    ) -> Result<(), Refusal> {
        let exists = match dkey {
            None => !self.dkeys(at, object).is_empty(),
            Some(dkey) => !self.akeys(at, object, dkey).is_empty(),
        };
        let found: Vec<Key> =
            dkey.map_or(vec![], |d| self.akeys(at, object, d).into_iter().map(|(k, _, _)| k).collect());
        match conditions {
            Conditions::DkeyInsert if exists => Err(Refusal::Exists),
            Conditions::DkeyExists if !exists => Err(Refusal::NotFound),
            Conditions::AkeyInsert if akeys.any(|k| found.contains(k)) => Err(Refusal::Exists),
            Conditions::AkeyExists if !akeys.all(|k| found.contains(k)) => Err(Refusal::NotFound),
            _ => Ok(()),
        }
    }
}
