//! Copying a placement group out of a store and into one, comparing, and dropping: see `copy`.

use media::{Lsn, Pages, Reserve};
use types::{ContainerId, Epoch};

use crate::catalog::Catalog;
use crate::copy::{Copied, CopiedPayload, CopyPart, Incoming, apply_copy, copied, first_records, push_identity};
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

    /// Records of a placement group written after `since`, in the order of their keys, from where the last part ended; what
    /// is undecided is none of them.
    ///
    /// Cost: a step of a cursor for each record; of a page that has nothing newer than `since`, none.
    ///
    /// # Errors
    /// `NoContainer`; `RollingBack`; `Invalid`: `after` is of another group; `Corrupt`.
    pub fn copy_out(
        &mut self,
        container: ContainerId,
        group: u32,
        since: Epoch,
        after: Option<&[u8]>,
    ) -> Result<CopyPart> {
        let mut pages = self.media.pages();
        pages.begin_op();
        let shard = self.catalog.shard(container)?;
        shard.at_rest()?;
        let prefix = prefix_of(group, after)?;
        let mut part = CopyPart { records: Vec::new(), next: None, horizon: shard.horizon, undone: shard.undone };
        let mut cursor = Cursor::at(&shard.tree, &pages, after.unwrap_or(&prefix))?;
        cursor.seek_changed(since.0)?;
        let (mut key, mut looked, mut bytes) = (Vec::new(), 0, 0);
        while cursor.starts_with(&prefix) {
            cursor.key().copy_to(&mut key);
            if looked >= LOOKED_MAX || part.records.len() >= COPY_RECORDS_MAX || bytes >= PART_BYTES_MAX {
                part.next = Some(key);
                break;
            }
            looked += 1;
            let stored = key::read_record(&key).ok_or_else(|| unreadable("a key"))?;
            // Flags come with the punches that they tell of.
            if stored.version().is_some_and(|version| version.epoch > since) {
                let value = copied(stored, cursor.value()).ok_or_else(|| unreadable("a value"))?;
                bytes += key.len();
                if let Some(CopiedPayload::Inline { bytes: inline, .. }) = value.payload() {
                    bytes += inline.len();
                }
                part.records.push(Copied { key: key.clone(), value });
            }
            cursor.next_changed(since.0)?;
        }
        Ok(part)
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

    /// A number that two targets have in common exactly when they have the same records of a group, from behind `since` up
    /// to the epoch `upto`: what it is for the records after `after`, and where to go on. Add the parts up, wrapping.
    ///
    /// # Errors
    /// As [`Store::copy_out`].
    pub fn digest(
        &mut self,
        container: ContainerId,
        group: u32,
        (since, upto): (Epoch, Epoch),
        after: Option<&[u8]>,
    ) -> Result<(u64, Option<Vec<u8>>)> {
        let mut pages = self.media.pages();
        pages.begin_op();
        let shard = self.catalog.shard(container)?;
        shard.at_rest()?;
        let prefix = prefix_of(group, after)?;
        let mut cursor = Cursor::at(&shard.tree, &pages, after.unwrap_or(&prefix))?;
        let (mut sum, mut bytes) = (0u64, Vec::new());
        for _ in 0..LOOKED_MAX {
            if !cursor.starts_with(&prefix) {
                return Ok((sum, None));
            }
            cursor.key().copy_to(&mut bytes);
            let stored = key::read_record(&bytes).ok_or_else(|| unreadable("a key"))?;
            if stored.version().is_some_and(|version| since < version.epoch && version.epoch <= upto) {
                let value = copied(stored, cursor.value()).ok_or_else(|| unreadable("a value"))?;
                push_identity(&mut bytes, &value);
                sum = sum.wrapping_add(codec::checksum::crc64(&bytes));
            }
            cursor.next()?;
        }
        if !cursor.starts_with(&prefix) {
            return Ok((sum, None));
        }
        cursor.key().copy_to(&mut bytes);
        Ok((sum, Some(bytes)))
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

/// What the keys of a group begin with.
///
/// # Errors
/// `Invalid`: it does not go on where the group is.
fn prefix_of(group: u32, after: Option<&[u8]>) -> Result<[u8; 4]> {
    let prefix = group.to_be_bytes();
    match after.is_none_or(|after| after.starts_with(&prefix)) {
        true => Ok(prefix),
        false => Err(Error::Invalid("a copy goes on in the group in which it began")),
    }
}
