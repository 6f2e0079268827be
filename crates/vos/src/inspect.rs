//! Looking at a store that nobody runs: opening it without writing, and listing all that it holds.
//!
//! Lists here show what is stored, every version and every punch, where [`Store::list_dkeys`] and its kin
//! show what is visible at an epoch. They go on after any entry, and bound what they return.

use media::{Lsn, Recovery};
use types::{ContainerId, Epoch, Extent, Key};

use crate::catalog::{Catalog, Unread};
use crate::check::{self, CheckOptions, Report, payload_of, read_payload};
use crate::commit;
use crate::cursor::Cursor;
use crate::error::{Error, Result};
use crate::finding::{Finding, FindingKind, Findings};
use crate::key::{self, INTEGER, LIFE, Version};
use crate::list::LIST_MAX;
use crate::node;
use crate::record;
use crate::request::{BulkList, Checksums, ContainerInfo, ListedObject, Listing};
use crate::salvage;
use crate::store::Store;
use crate::update::beyond;
use crate::value;

/// Findings of an opening that are listed.
const FINDINGS_MAX: usize = 256;

/// A store opened as far as it can be read.
#[derive(Debug)]
pub struct Opened {
    pub store: Store,
    /// What could not be read or done again on the way.
    pub findings: Vec<Finding>,
    pub findings_total: u64,
    /// Log records applied again, and those that could not be.
    pub records: u64,
    pub failed: u64,
    /// Where reading the log ended.
    pub end: Lsn,
    /// The log could be read to its end.
    pub is_log_whole: bool,
    /// A container's head or an entry of the catalog could not be read: what it refers to is unknown.
    pub is_blind: bool,
}

/// What a repair must know before the log is replayed.
pub(crate) struct Known {
    /// Trees of the containers whose heads were made anew.
    pub(crate) rebuilt: Vec<u32>,
    /// There are entries of the catalog that could not be read.
    pub(crate) is_blind: bool,
}

pub(crate) type Mend<'a> = &'a mut dyn FnMut(&mut Store, Known) -> Result<()>;

/// Where in a container: everywhere, or in an object, a dkey of it, an akey of that.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Branch {
    pub object: Option<ListedObject>,
    pub dkey: Option<Key>,
    pub akey: Option<Key>,
}

/// What lies directly below a branch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Child {
    Object(ListedObject),
    Key(Key),
}

/// A record as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredRecord {
    /// Its composite key, to go on after it.
    pub key: Vec<u8>,
    /// Path and kind, in words.
    pub place: String,
    /// When it was written; a flag has no time.
    pub version: Option<Version>,
    pub what: Stored,
}

/// What a record holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stored {
    /// Something in the object was punched.
    Flag,
    Punch,
    Single(StoredValue),
    Array {
        extent: Extent,
        record_bytes: u32,
        value: StoredValue,
    },
    /// Records of an array that were punched.
    Hole(Extent),
    Unreadable,
}

/// Where the bytes of a value are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredValue {
    pub bytes: u64,
    /// None when the bytes are in the tree.
    pub blocks: BulkList,
    pub checksums: Checksums,
}

impl Store {
    /// Opens a store to look at it: replays its log in memory, as far as it can, and writes nothing. The
    /// store answers reads and refuses everything else. `media` should be on disks opened for reading only.
    ///
    /// # Errors
    /// `Corrupt`: the catalog itself cannot be read, so nothing can; `Media`.
    pub fn inspect(media: media::Store, mut recovery: Recovery) -> Result<Opened> {
        let (opened, _) = Store::open_leniently(media, &mut recovery, None)?;
        opened.store.media().rest(recovery);
        Ok(opened)
    }

    /// Opens a store and replays its log, and goes on after what cannot be read or applied. With `mend`, heads that
    /// cannot be read are made anew, and it is called before the replay. Also returns the fault that ended the log too
    /// early.
    pub(crate) fn open_leniently(
        media: media::Store,
        recovery: &mut Recovery,
        mend: Option<Mend<'_>>,
    ) -> Result<(Opened, Option<media::Error>)> {
        let mut found = Findings::up_to(FINDINGS_MAX);
        let (mut is_blind, mut unread, mut rebuilt) = (false, Vec::new(), Vec::new());
        let mut store = if recovery.root.is_empty() {
            Store::format(media)?
        } else {
            let mut pages = media.pages();
            pages.set_judge(node::is_whole);
            pages.begin_op();
            let mut catalog = Catalog::load_judged(&mut pages, &recovery.root, &mut |entry, error| {
                found.add_error(FindingKind::Catalog, entry.container, "the catalog", &error);
                let is_lost = matches!(error, Error::Corrupt { .. } | Error::Media(media::Error::Read { .. }));
                unread.push(Unread { site: entry.site.filter(|_| is_lost), ..entry });
                Ok(())
            })?;
            for entry in unread {
                let owner = match mend {
                    Some(_) => salvage::rebuild(&mut catalog, &mut pages, &entry)?,
                    None => None,
                };
                match owner {
                    Some(owner) => rebuilt.push(owner),
                    None => is_blind = true,
                }
            }
            if let Err(error) = commit::load(&mut catalog, &mut pages) {
                is_blind = true;
                found.add_error(FindingKind::Catalog, None, "transactions", &error);
            }
            catalog.sessions.load(&catalog.own, &mut pages, &mut |name, _, error| {
                found.add_error(FindingKind::Session, None, &name, &error);
                Ok(())
            })?;
            drop(pages);
            Store::assemble(media, catalog, Epoch::MAX)
        };
        if let Some(mend) = mend {
            mend(&mut store, Known { rebuilt, is_blind })?;
        }
        let (mut records, mut failed, mut cut) = (0, 0, None);
        loop {
            let next = match recovery.next_record() {
                Ok(Some(next)) => next,
                Ok(None) => break,
                Err(error) => {
                    match &error {
                        media::Error::Corrupt(bad) => {
                            found.add(FindingKind::Log, None, bad.place.to_string(), bad.fault.to_string());
                        }
                        other => found.add(FindingKind::Log, None, "the log", other.to_string()),
                    }
                    cut = Some(error);
                    break;
                }
            };
            let place = format!("log position {}", next.lsn);
            let done = match record::decode(next.kind, next.payload) {
                Some((origin, record)) => store.replay(next.lsn, origin, &record),
                None => Err(Error::Corrupt {
                    place: place.clone(),
                    fault: format!("a record of kind {} that cannot be read", next.kind),
                }),
            };
            match done {
                Ok(()) => records += 1,
                Err(error) => {
                    failed += 1;
                    found.add_error(FindingKind::Replay, None, &place, &error);
                }
            }
        }
        let is_log_whole = cut.is_none();
        if !is_log_whole {
            recovery.give_up();
        }
        let end = recovery.end().unwrap_or_default();
        let (findings, findings_total) = (found.listed, found.total);
        let opened = Opened { store, findings, findings_total, records, failed, end, is_log_whole, is_blind };
        Ok((opened, cut))
    }

    /// Walks everything, as [`Store::check`], and looks as closely as `options` say.
    pub fn check_with(&self, options: CheckOptions) -> Report {
        let (media, catalog) = self.parts_ref();
        check::store(media, catalog, options)
    }

    /// Containers being destroyed: what is left of them. Their ids may be those of living ones.
    pub fn remains(&self) -> Vec<ContainerInfo> {
        let (_, catalog) = self.parts_ref();
        let info = |shard: &crate::shard::Shard| ContainerInfo {
            id: shard.id,
            pool: shard.pool,
            pages: shard.pages(),
            blocks: shard.blocks,
            snapshots: Vec::new(),
            max_epoch: shard.max_epoch(),
            horizon: shard.horizon,
        };
        catalog.garbage.values().map(info).collect()
    }

    /// What lies directly below `branch`, whatever its age, visible or not, in key order.
    ///
    /// # Errors
    /// `NoContainer`, `Corrupt`.
    pub fn stored_children(
        &mut self,
        container: ContainerId,
        branch: &Branch,
        after: Option<&Child>,
        limit: usize,
    ) -> Result<Listing<Child>> {
        let prefix = branch.prefix();
        let mut listing = Listing { entries: Vec::new(), next: None };
        if branch.akey.is_some() {
            return Ok(listing);
        }
        let start = after.map_or(prefix.clone(), |child| beyond(&child.key(&prefix)));
        let (media, catalog) = self.parts_ref();
        let mut pages = media.pages();
        pages.begin_op();
        let shard = catalog.shard(container)?;
        let mut cursor = Cursor::at(&shard.tree, &pages, &start)?;
        let mut found = Vec::new();
        while cursor.starts_with(&prefix) {
            cursor.key().copy_to(&mut found);
            let rest = &found[prefix.len()..];
            let child = match branch.object {
                None => key::read_object(rest).map(|(group, oid)| Child::Object(ListedObject { group, oid })),
                Some(_) if rest.first() == Some(&LIFE) => {
                    cursor.seek(&[&prefix[..], &[INTEGER]].concat())?;
                    continue;
                }
                Some(_) => key::read_key(rest).map(|(key, _)| Child::Key(key)),
            };
            let Some(child) = child else {
                // `check` tells of it.
                cursor.next()?;
                continue;
            };
            if listing.entries.len() >= limit.clamp(1, LIST_MAX) {
                listing.next = listing.entries.last().cloned();
                break;
            }
            let skip = beyond(&child.key(&prefix));
            listing.entries.push(child);
            cursor.seek(&skip)?;
        }
        Ok(listing)
    }

    /// Records of `branch` in key order, newest versions first: those of an akey, or the punches of what is
    /// above one; `after` is the key of the record to go on after.
    ///
    /// # Errors
    /// `NoContainer`, `Corrupt`.
    pub fn stored_records(
        &mut self,
        container: ContainerId,
        branch: &Branch,
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Listing<StoredRecord, Vec<u8>>> {
        let mut prefix = branch.prefix();
        let mut listing: Listing<StoredRecord, _> = Listing { entries: Vec::new(), next: None };
        match (&branch.object, &branch.akey) {
            (None, _) => return Ok(listing),
            (Some(_), None) => prefix.push(LIFE),
            (Some(_), Some(_)) => {}
        }
        let start = after.map_or(prefix.clone(), |key| [key, &[0]].concat());
        let (media, catalog) = self.parts_ref();
        let mut pages = media.pages();
        pages.begin_op();
        let shard = catalog.shard(container)?;
        let mut cursor = Cursor::at(&shard.tree, &pages, &start)?;
        let mut found = Vec::new();
        while cursor.starts_with(&prefix) {
            if listing.entries.len() >= limit.clamp(1, LIST_MAX) {
                listing.next = listing.entries.last().map(|record| record.key.clone());
                break;
            }
            cursor.key().copy_to(&mut found);
            listing.entries.push(StoredRecord::read(&found, cursor.value()));
            cursor.next()?;
        }
        Ok(listing)
    }

    /// The bytes of the record with exactly this composite key, and whether its checksums hold; `None` when
    /// there is no such record with bytes.
    ///
    /// # Errors
    /// `NoContainer`, `Corrupt`, `Media`.
    #[allow(clippy::type_complexity)]
    pub fn stored_bytes(
        &mut self,
        container: ContainerId,
        composite: &[u8],
    ) -> Result<Option<(Vec<u8>, std::result::Result<(), codec::checksum::Mismatch>)>> {
        let (media, catalog) = self.parts_ref();
        let mut pages = media.pages();
        pages.begin_op();
        let shard = catalog.shard(container)?;
        let stored = shard.tree.get(&pages, composite)?.unwrap_or_default();
        let Some(payload) = key::read_record(composite).and_then(|record| payload_of(record, stored)) else {
            return Ok(None);
        };
        let (bytes, checksums) = match payload {
            value::Stored::Inline { bytes, checksums } => (bytes.to_vec(), checksums),
            value::Stored::Bulk { bytes, checksums, .. } => {
                (read_payload(media, &payload.blocks(), bytes).map_err(Error::from)?, checksums)
            }
        };
        let verified = codec::checksum::verify_chunks(&bytes, &value::read_checksums(checksums));
        Ok(Some((bytes, verified)))
    }
}

impl Branch {
    fn prefix(&self) -> Vec<u8> {
        let mut prefix = Vec::new();
        if let Some(object) = self.object {
            key::push_object(&mut prefix, object.group, object.oid);
            if let Some(dkey) = &self.dkey {
                key::push_key(&mut prefix, dkey);
                if let Some(akey) = &self.akey {
                    key::push_key(&mut prefix, akey);
                }
            }
        }
        prefix
    }
}

impl Child {
    /// Its composite key, below `prefix`.
    fn key(&self, prefix: &[u8]) -> Vec<u8> {
        let mut bytes = prefix.to_vec();
        match self {
            Child::Object(object) => key::push_object(&mut bytes, object.group, object.oid),
            Child::Key(key) => key::push_key(&mut bytes, key),
        }
        bytes
    }
}

impl StoredRecord {
    fn read(composite: &[u8], bytes: &[u8]) -> StoredRecord {
        let record = key::read_record(composite);
        let extent_of = |start, count| Some(Extent::new(start, count)).filter(|extent| extent.is_valid());
        let value_of = |payload: value::Stored<'_>| StoredValue {
            bytes: payload.len(),
            blocks: payload.blocks(),
            checksums: match payload {
                value::Stored::Inline { checksums, .. } | value::Stored::Bulk { checksums, .. } => {
                    value::read_checksums(checksums)
                }
            },
        };
        let what = match record {
            None => None,
            Some(key::Record::ObjectFlag) => Some(Stored::Flag),
            Some(key::Record::ObjectPunch(_) | key::Record::DkeyPunch(_) | key::Record::AkeyPunch(_)) => {
                Some(Stored::Punch)
            }
            Some(key::Record::Single(_)) => value::read_payload(bytes).map(|payload| Stored::Single(value_of(payload))),
            Some(key::Record::Array { hole: true, start, .. }) => {
                value::read_count(bytes).and_then(|count| extent_of(start, count)).map(Stored::Hole)
            }
            Some(key::Record::Array { start, .. }) => {
                value::read_data(bytes).and_then(|(count, record_bytes, payload)| {
                    let extent = extent_of(start, count)?;
                    Some(Stored::Array { extent, record_bytes, value: value_of(payload) })
                })
            }
        };
        StoredRecord {
            key: composite.to_vec(),
            place: crate::naming::place_of(composite),
            version: record.and_then(key::Record::version),
            what: what.unwrap_or(Stored::Unreadable),
        }
    }
}
