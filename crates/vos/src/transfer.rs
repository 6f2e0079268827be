//! Copying a placement group out of a store and into one, comparing, and dropping: see `copy`.

use std::collections::BTreeSet;

use media::{Lsn, Pages, Reserve};
use types::{ContainerId, Epoch};

use crate::catalog::Catalog;
use crate::copy::{
    Copied, CopiedPayload, CopiedValue, CopyPart, Incoming, Prints, Span, apply_copy, copied, fingerprint,
    first_records,
};
use crate::cursor::Cursor;
use crate::error::{Error, Result};
use crate::intent::SPLIT_PAGES;
use crate::key;
use crate::record::{self, Record, kind};
use crate::request::Origin;
use crate::store::Store;
use crate::view::unreadable;

/// Most records of one [`Store::copy_in`].
pub const COPY_RECORDS_MAX: usize = 256;
/// Records that one call looks at.
const LOOKED_MAX: usize = 4096;
/// Inline bytes, and keys, that one part carries.
const PART_BYTES_MAX: usize = 512 << 10;
/// Records that one step of dropping a group removes.
const DROP_STEP: u32 = 128;

/// Gets a record's key, what it holds, and its fingerprint; false: that was the last.
type Show<'a> = dyn FnMut(&[u8], CopiedValue<CopiedPayload>, u64) -> bool + 'a;

impl Store {
    /// Keeps a container as it is for somebody who copies: nothing is aggregated or joined until it is let go. Not kept
    /// over a restart: who begins again says it again, before anything else is done.
    ///
    /// # Errors
    /// `NoContainer`.
    pub fn hold(&mut self, container: ContainerId, is_held: bool) -> Result<()> {
        self.catalog.with_shard(container, |shard| {
            shard.is_held = is_held;
            Ok(())
        })
    }

    /// Placement groups that a container has records of, ascending, above `after`; at most `most`.
    ///
    /// Cost: a descent for each.
    ///
    /// # Errors
    /// `NoContainer`; `Corrupt`.
    pub fn stored_groups(&mut self, container: ContainerId, after: Option<u32>, most: usize) -> Result<Vec<u32>> {
        let mut pages = self.media.pages();
        let tree = self.catalog.shard(container)?.tree;
        let (mut groups, mut next) = (Vec::new(), after.map_or(Some(0), |after| after.checked_add(1)));
        while let Some(from) = next.filter(|_| groups.len() < most) {
            pages.begin_op();
            let cursor = Cursor::at(&tree, &pages, &from.to_be_bytes())?;
            let Some(found) = cursor.key().after::<4>(0).map(u32::from_be_bytes) else { break };
            groups.push(found);
            next = found.checked_add(1);
        }
        Ok(groups)
    }

    /// Records of a span that whoever asks has not: he has those with the fingerprints `known`. What is undecided is none of
    /// them.
    ///
    /// Cost: a step of a cursor for each record.
    ///
    /// # Errors
    /// `NoContainer`; `RollingBack`; `Invalid`: it is not within its group; `Corrupt`.
    pub fn copy_out(&mut self, container: ContainerId, span: &Span<'_>, known: &BTreeSet<u64>) -> Result<CopyPart> {
        let shard = self.catalog.shard(container)?;
        let (records, same) = (Vec::new(), Vec::new());
        let mut part = CopyPart { records, same, next: None, horizon: shard.horizon, undone: shard.undone };
        let mut bytes = 0;
        part.next = self.each(container, span, &mut |key, value, print| {
            if known.contains(&print) {
                part.same.push(print);
                return true;
            }
            bytes += key.len();
            if let Some(CopiedPayload::Inline { bytes: inline, .. }) = value.payload() {
                bytes += inline.len();
            }
            part.records.push(Copied { key: key.to_vec(), value });
            part.records.len() < COPY_RECORDS_MAX && bytes < PART_BYTES_MAX
        })?;
        Ok(part)
    }

    /// The first `most` records of a span, by their fingerprints.
    ///
    /// # Errors
    /// As [`Store::copy_out`].
    pub fn prints(&mut self, container: ContainerId, span: &Span<'_>, most: usize) -> Result<Prints> {
        let mut found = Vec::new();
        let next = self.each(container, span, &mut |key, _, print| {
            found.push((key.to_vec(), print));
            found.len() < most
        })?;
        Ok(Prints { found, next })
    }

    /// Shows each record of a span and its fingerprint, until it is told to stop or has looked at enough; where to go on.
    fn each(&mut self, container: ContainerId, span: &Span<'_>, show: &mut Show<'_>) -> Result<Option<Vec<u8>>> {
        let prefix = span.prefix()?;
        let mut pages = self.media.pages();
        pages.begin_op();
        let shard = self.catalog.shard(container)?;
        shard.at_rest()?;
        let mut cursor = Cursor::at(&shard.tree, &pages, span.from.unwrap_or(&prefix))?;
        let (mut key, mut scratch, mut looked, mut goes_on) = (Vec::new(), Vec::new(), 0, true);
        while cursor.starts_with(&prefix) {
            cursor.key().copy_to(&mut key);
            if span.is_behind(&key) {
                break;
            }
            if !goes_on || looked >= LOOKED_MAX {
                return Ok(Some(key));
            }
            looked += 1;
            let stored = key::read_record(&key).ok_or_else(|| unreadable("a key"))?;
            // Flags come with the punches that they tell of.
            if span.counts(stored) {
                let value = copied(stored, cursor.value()).ok_or_else(|| unreadable("a value"))?;
                scratch.clone_from(&key);
                let print = fingerprint(&mut scratch, &value);
                goes_on = show(&key, value, print);
            }
            cursor.next()?;
        }
        Ok(None)
    }

    /// Takes in records of a part, whose source knew of the rollback `undone`. Again, it does nothing new.
    ///
    /// # Errors
    /// `NoContainer`, `RollingBack`; `Invalid`: source and target know of different rollbacks, and the
    /// group is to be begun again; or what comes is no record, or too much of it; `NoSpace`, `DeviceFull`; `Media(Busy |
    /// LogFull)`: wait for `relieved`; `Corrupt`: in the way.
    pub fn copy_in(&mut self, container: ContainerId, undone: Epoch, records: &[Incoming<'_>]) -> Result<Lsn> {
        self.running()?;
        let Store { media, catalog, scratch, .. } = self;
        let shard = catalog.shard(container)?;
        shard.at_rest()?;
        if shard.undone != undone {
            return Err(Error::Invalid("source and target of a copy know of different rollbacks: begin again"));
        }
        if records.is_empty() || records.len() > COPY_RECORDS_MAX {
            return Err(Error::Invalid("a part of a copy has between 1 and 256 records"));
        }
        if records.iter().any(|record| record.check().is_none()) {
            return Err(Error::Invalid("a record that is copied has a key and what belongs to it"));
        }
        let reservations = || records.iter().filter_map(Incoming::reservation);
        if reservations().any(|at| at.pool() != shard.pool || at.is_taken()) {
            return Err(Error::Invalid("a bulk payload has a reservation of its own, of the container's pool"));
        }
        let mut firsts: Vec<u32> = reservations().filter_map(|at| Some(at.extents().first()?.block)).collect();
        firsts.sort_unstable();
        if firsts.windows(2).any(|pair| pair[0] == pair[1]) {
            return Err(Error::Invalid("a bulk payload has a reservation of its own, of the container's pool"));
        }
        let mut pages = media.pages();
        pages.begin_op();
        shard.touch(&pages)?;
        for record in records {
            shard.tree.locate(&pages, record.key)?;
            if let Some(flag) = record.flag() {
                shard.tree.locate(&pages, &flag)?;
            }
        }
        let wanted = (records.len() as u64 + SPLIT_PAGES) * media::PAGE_BYTES as u64;
        catalog.pool(shard.pool)?.admit(shard.pool, wanted)?;
        record::copy::encode(&mut scratch.log, container, records);
        let lsn = media.append(kind::COPY, &[&scratch.log], Reserve::Normal)?;
        reservations().for_each(|at| at.take(media));
        let all = records.iter().copied();
        let done = catalog.with_shard(container, |shard| apply_copy(shard, &mut pages, all, scratch));
        drop(pages);
        self.settle(lsn, done)?;
        Ok(lsn)
    }

    /// Takes records out that the source of a copy, which knew of the rollback `undone`, has not. Those that are not there are
    /// none.
    ///
    /// # Errors
    /// `NoContainer`, `RollingBack`; `Invalid`: as of [`Store::copy_in`]; `Media(Busy | LogFull)`: wait for `relieved`;
    /// `Corrupt`.
    pub fn take_out(&mut self, container: ContainerId, undone: Epoch, keys: &[&[u8]]) -> Result<Lsn> {
        let shard = self.catalog.shard(container)?;
        shard.at_rest()?;
        if shard.undone != undone {
            return Err(Error::Invalid("source and target of a copy know of different rollbacks: begin again"));
        }
        if keys.is_empty() || keys.len() > COPY_RECORDS_MAX {
            return Err(Error::Invalid("between 1 and 256 records are taken out at a time"));
        }
        let is_record = |key: &&[u8]| key::read_record(key).is_some_and(|record| record.version().is_some());
        if !keys.iter().all(is_record) {
            return Err(Error::Invalid("only records are taken out"));
        }
        let touch = |catalog: &Catalog, pages: &Pages| {
            let shard = catalog.shard(container)?;
            shard.touch(pages)?;
            keys.iter().try_for_each(|key| shard.tree.locate(pages, key).map(drop))
        };
        let record = Record::TakeOut { container, keys: keys.to_vec() };
        self.change_after(touch, Origin::default(), Reserve::Critical, &record)
    }

    /// A number that two targets have in common exactly when they have the same records of a span: the sum of their
    /// fingerprints, and where to go on. Add the parts up, wrapping.
    ///
    /// # Errors
    /// As [`Store::copy_out`].
    pub fn digest(&mut self, container: ContainerId, span: &Span<'_>) -> Result<(u64, Option<Vec<u8>>)> {
        let mut sum = 0u64;
        let next = self.each(container, span, &mut |_, _, print| {
            sum = sum.wrapping_add(print);
            true
        })?;
        Ok((sum, next))
    }

    /// Removes records of a placement group that this target is no member of any more; false when none is left.
    ///
    /// # Errors
    /// `NoContainer`; `InProgress`: a change of it is undecided; `Media(Busy | LogFull)`: wait for `relieved`; `Corrupt`.
    pub fn drop_group(&mut self, container: ContainerId, group: u32) -> Result<bool> {
        let prefix = group.to_be_bytes();
        let owner = self.catalog.shard(container)?.tree.owner;
        let mut waiting = None;
        self.catalog.intents.any_touch(owner, &prefix, |change, _| {
            waiting = Some(change);
            true
        });
        if let Some(change) = waiting {
            return Err(Error::InProgress { change });
        }
        {
            let mut pages = self.media.pages();
            pages.begin_op();
            if first_records(self.catalog.shard(container)?, &pages, group, 1)?.is_empty() {
                return Ok(false);
            }
        }
        // The records lie side by side: who has looked at them has read every page that changes.
        let touch = |catalog: &Catalog, pages: &Pages| {
            let shard = catalog.shard(container)?;
            shard.touch(pages)?;
            first_records(shard, pages, group, DROP_STEP).map(drop)
        };
        let record = Record::Drop { container, group, limit: DROP_STEP };
        self.change_after(touch, Origin::default(), Reserve::Critical, &record)?;
        Ok(true)
    }
}
