//! A store in memory, for this crate's tests: the same requests, and a power cut on demand.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use types::{Code, Conditions, Epoch, Error, Key, ObjectClass, ObjectId, ObjectType, Result};

use crate::store::{Measure, Read, Write};

/// Cheap to clone; clones are the same store.
#[derive(Clone, Default)]
pub(crate) struct Memory {
    state: Arc<Mutex<State>>,
    /// Read-only view of a moment.
    frozen: bool,
}

#[derive(Clone, Default)]
struct State {
    objects: BTreeMap<ObjectId, Object>,
    clock: u64,
    last_id: u64,
    /// Changes still carried out before the power goes; `None`: it stays on.
    power: Option<u64>,
    changes: u64,
}

#[derive(Clone, Default)]
struct Object {
    dkeys: BTreeMap<Key, BTreeMap<Key, Value>>,
    content: Vec<u8>,
    last_write: Epoch,
}

#[derive(Clone)]
enum Value {
    Single(Bytes),
    Array(Vec<u8>),
}

fn condition_failed(code: Code) -> Error {
    Error::new(code, "the condition does not hold")
}

impl Memory {
    pub(crate) fn snapshot(&self) -> Memory {
        Memory { state: Arc::new(Mutex::new(self.state.lock().unwrap().clone())), frozen: true }
    }

    /// A copy that goes its own way.
    pub(crate) fn fork(&self) -> Memory {
        Memory { frozen: false, ..self.snapshot() }
    }

    /// After `changes` more changes the power goes.
    pub(crate) fn cut_power_after(&self, changes: u64) {
        self.state.lock().unwrap().power = Some(changes);
    }

    pub(crate) fn restore_power(&self) {
        self.state.lock().unwrap().power = None;
    }

    /// Changes carried out so far.
    pub(crate) fn changes(&self) -> u64 {
        self.state.lock().unwrap().changes
    }

    /// Objects with anything in them.
    pub(crate) fn objects(&self) -> Vec<ObjectId> {
        let state = self.state.lock().unwrap();
        let full = state.objects.iter().filter(|(_, o)| !o.dkeys.is_empty() || !o.content.is_empty());
        full.map(|(oid, _)| *oid).collect()
    }

    pub(crate) fn is_read_only(&self) -> bool {
        self.frozen
    }

    pub(crate) fn new_object(&self, kind: ObjectType, class: ObjectClass) -> ObjectId {
        let mut state = self.state.lock().unwrap();
        state.last_id += 1;
        ObjectId::new(kind, class, 0, state.last_id)
    }

    pub(crate) fn fetch(&self, oid: ObjectId, dkey: &Key, reads: Vec<(Key, Read)>) -> Vec<Option<Bytes>> {
        let state = self.state.lock().unwrap();
        let akeys = state.objects.get(&oid).and_then(|object| object.dkeys.get(dkey));
        let answer = |(akey, read): (Key, Read)| match (akeys?.get(&akey)?, read) {
            (Value::Single(bytes), Read::Single) => Some(bytes.clone()),
            (Value::Array(stored), Read::Range { bytes }) => {
                let mut value = stored.clone();
                value.resize(bytes, 0);
                Some(value.into())
            }
            _ => panic!("an akey is read as it was written"),
        };
        reads.into_iter().map(answer).collect()
    }

    pub(crate) fn update(
        &self,
        oid: ObjectId,
        dkey: &Key,
        conditions: Conditions,
        writes: Vec<(Key, Write)>,
    ) -> Result<Epoch> {
        self.change(oid, |object| {
            check(object, dkey, conditions)?;
            let akeys = object.dkeys.entry(dkey.clone()).or_default();
            for (akey, write) in writes {
                match write {
                    Write::Single(bytes) => {
                        assert!(!bytes.is_empty(), "no value is empty");
                        akeys.insert(akey, Value::Single(bytes));
                    }
                    Write::Ranges(pieces) => {
                        let Value::Array(stored) = akeys.entry(akey).or_insert(Value::Array(Vec::new())) else {
                            panic!("an akey is written as it was before")
                        };
                        for (offset, bytes) in pieces {
                            overlay(stored, offset as usize, &bytes);
                        }
                    }
                }
            }
            Ok(())
        })
    }

    pub(crate) fn punch_dkey(&self, oid: ObjectId, dkey: &Key, conditions: Conditions) -> Result<Epoch> {
        self.change(oid, |object| {
            check(object, dkey, conditions)?;
            object.dkeys.remove(dkey);
            Ok(())
        })
    }

    pub(crate) fn punch_akeys(&self, oid: ObjectId, dkey: &Key, akeys: Vec<Key>) -> Result<Epoch> {
        self.change(oid, |object| {
            if let Some(there) = object.dkeys.get_mut(dkey) {
                there.retain(|akey, _| !akeys.contains(akey));
            }
            Ok(())
        })
    }

    pub(crate) fn punch_object(&self, oid: ObjectId) -> Result<Epoch> {
        self.change(oid, |object| {
            object.dkeys.clear();
            object.content.clear();
            Ok(())
        })
    }

    pub(crate) fn list_dkeys(&self, oid: ObjectId, after: Option<Key>, limit: usize) -> (Vec<Key>, bool) {
        let state = self.state.lock().unwrap();
        let Some(object) = state.objects.get(&oid) else { return (Vec::new(), false) };
        let mut rest = object.dkeys.keys().filter(|key| after.as_ref().is_none_or(|after| *key > after));
        let page: Vec<Key> = rest.by_ref().take(limit).cloned().collect();
        (page, rest.next().is_some())
    }

    pub(crate) fn list_akeys(&self, oid: ObjectId, dkey: &Key) -> Vec<Key> {
        let state = self.state.lock().unwrap();
        let akeys = state.objects.get(&oid).and_then(|object| object.dkeys.get(dkey));
        akeys.map(|akeys| akeys.keys().cloned().collect()).unwrap_or_default()
    }

    pub(crate) fn measure(&self, oid: ObjectId) -> Measure {
        let state = self.state.lock().unwrap();
        let object = state.objects.get(&oid);
        object.map(|o| Measure { bytes: o.content.len() as u64, last_write: o.last_write }).unwrap_or_default()
    }

    pub(crate) fn read(&self, oid: ObjectId, offset: u64, len: usize) -> Bytes {
        let state = self.state.lock().unwrap();
        let Some(object) = state.objects.get(&oid) else { return Bytes::new() };
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(object.content.len());
        let end = start.saturating_add(len).min(object.content.len());
        Bytes::copy_from_slice(&object.content[start..end])
    }

    pub(crate) fn write(&self, oid: ObjectId, offset: u64, data: &[u8]) -> Result<Epoch> {
        self.change(oid, |object| {
            overlay(&mut object.content, offset as usize, data);
            Ok(())
        })
    }

    pub(crate) fn set_size(&self, oid: ObjectId, bytes: u64) -> Result<Epoch> {
        self.change(oid, |object| {
            object.content.resize(bytes as usize, 0);
            Ok(())
        })
    }

    fn change(&self, oid: ObjectId, change: impl FnOnce(&mut Object) -> Result<()>) -> Result<Epoch> {
        assert!(!self.frozen, "a snapshot is never written");
        let mut state = self.state.lock().unwrap();
        match &mut state.power {
            Some(0) => return Err(Error::new(Code::Unreachable, "the power is gone")),
            Some(left) => *left -= 1,
            None => {}
        }
        state.clock = (state.clock + 1).max(Epoch::from_micros(rt::wall_micros(), 0).0);
        let epoch = Epoch(state.clock);
        state.changes += 1;
        let object = state.objects.entry(oid).or_default();
        change(object)?;
        object.last_write = epoch;
        Ok(epoch)
    }
}

fn check(object: &Object, dkey: &Key, conditions: Conditions) -> Result<()> {
    match (conditions, object.dkeys.contains_key(dkey)) {
        (Conditions::DkeyInsert, true) => Err(condition_failed(Code::Exists)),
        (Conditions::DkeyExists, false) => Err(condition_failed(Code::NotFound)),
        (Conditions::AkeyInsert | Conditions::AkeyExists, _) => panic!("not asked for by this crate"),
        _ => Ok(()),
    }
}

fn overlay(stored: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    let end = offset + bytes.len();
    if stored.len() < end {
        stored.resize(end, 0);
    }
    stored[offset..end].copy_from_slice(bytes);
}
