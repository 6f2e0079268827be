//! A replica's files while it does not run: locked, read, given the word of one survivor, removed.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use openraft::EntryPayload;
use rt::disk::{Disk, OpenMode, fs};
use types::Rank;

use super::{Group, check_address};
use crate::error::OpenError;
use crate::kinds::{Address, Entry, GroupId, Membership, Peer, StoredMembership, Vote, log_id};
use crate::log::format::Record;
use crate::log::kept::Kept;
use crate::log::{self, Log};
use crate::machine::{Replicated, StateMachine};
use crate::snapshot;

/// What a forced recovery did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dictated {
    /// Who voted before.
    pub voters: BTreeSet<Rank>,
    /// The last entry that this replica had. Commands behind it, which the others may have answered, are lost.
    pub last: u64,
    /// Entries of this replica that it did not know to be committed: they count now, answered or not.
    pub unconfirmed: u64,
    /// The term in which it speaks. What the others say in this term or an earlier one does not count any more.
    pub term: u64,
}

/// What the files of a replica that does not run say of its group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AtRest {
    pub id: GroupId,
    pub rank: Rank,
    /// Where it was reached, if it was a member as far as it knows.
    pub address: Option<Address>,
    /// Sets of voters, in each of which a majority has to agree: two while they change.
    pub voters: Vec<BTreeSet<Rank>>,
    /// Term and index of its last entry. Of two replicas the one with the higher pair has all that both know to be committed.
    pub last: (u64, u64),
    /// Entries up to here it knows to be committed.
    pub committed: u64,
}

/// A replica's files, locked.
pub(super) struct Files {
    pub(super) directory: PathBuf,
    pub(super) lock: Disk,
}

impl Files {
    pub(super) fn lock(directory: &Path) -> Result<Files, OpenError> {
        let mode = OpenMode { create: true, direct: false, exclusive_lock: true };
        let lock = Disk::open(directory.join("lock"), mode)?;
        Ok(Files { directory: directory.to_owned(), lock })
    }

    /// The log of a replica that is made now. One that was made and never used, before a crash, will do.
    pub(super) fn fresh_log(&self, id: GroupId, rank: Rank) -> Result<Log, OpenError> {
        if !log::exists(&self.directory) {
            // What is left of another life here is not this one's state.
            snapshot::remove(&self.directory)?;
            return Log::create(&self.directory, id, rank);
        }
        let log = Log::open(&self.directory, id, rank)?;
        match log.look(|kept| kept.last().is_none() && kept.vote.is_none()) {
            true => Ok(log),
            false => Err(OpenError::Exists { path: self.directory.clone() }),
        }
    }
}

impl<S: StateMachine> Group<S> {
    /// Forced recovery, when the majority is gone for good: makes this replica, which does not run, the only voter, with the
    /// log that it has. Open it afterwards, and add others.
    ///
    /// What only the others had is lost, answered or not: take the survivor with the longest log ([`Dictated::last`] tells). Of
    /// those others, none may come back with its files: remove them, and let them join anew.
    ///
    /// # Errors
    /// `Missing`, `Foreign`, `Corrupt`, `Disk`; `Config` for a replica that never got anything.
    pub fn dictate(directory: &Path, id: GroupId, me: Peer, machine: S) -> Result<Dictated, OpenError> {
        check_address(&me.address).map_err(OpenError::Config)?;
        if !log::exists(directory) {
            return Err(OpenError::Missing { path: directory.to_owned() });
        }
        let _files = Files::lock(directory)?;
        let (log, state, _) = read_files(directory, id, me.rank, machine)?;
        // A crash may have left the snapshot ahead of the log.
        let ahead = state.applied.filter(|applied| log.look(|kept| kept.last()) < Some(*applied));
        let Some(last) = ahead.or(log.look(|kept| kept.last())) else {
            return Err(OpenError::Config("this replica never got anything: there is nothing to keep".into()));
        };
        let vote = log.look(|kept| kept.vote);
        let committed = log.look(|kept| kept.committed).max(state.applied);
        let term = vote.map_or(0, |vote| vote.leader_id.term).max(last.leader_id.term) + 1;
        let members = Membership::new(vec![BTreeSet::from([me.rank])], BTreeMap::from([(me.rank, me.address)]));
        let members = members.expect("its only voter is a member");
        let dictum = Entry { log_id: log_id(term, last.index + 1), payload: EntryPayload::Membership(members) };
        let report = Dictated {
            voters: last_members(&log, &state.members).voter_ids().collect(),
            last: last.index,
            unconfirmed: last.index - committed.map_or(0, |id| id.index.min(last.index)),
            term,
        };
        let commit = Record::Committed(Some(dictum.log_id));
        let records = [Record::Vote(Vote::new(term, me.rank)), Record::Entry(dictum), commit];
        log.rewrite(ahead.map(Record::Purge).into_iter().chain(records))?;
        Ok(report)
    }

    /// Removes the files of a replica that does not run: it was removed from its group, or the group is no more.
    ///
    /// # Errors
    /// `Disk`; fine if there are none.
    pub fn erase(directory: &Path) -> Result<(), OpenError> {
        if !fs::exists(directory) {
            return Ok(());
        }
        let files = Files::lock(directory)?;
        drop(files);
        Ok(fs::remove_dir_all(directory)?)
    }
}

/// Log, state and snapshot as the last run left them.
pub(super) fn read_files<S: StateMachine>(
    directory: &Path,
    id: GroupId,
    rank: Rank,
    machine: S,
) -> Result<(Log, Replicated<S>, Option<snapshot::Body>), OpenError> {
    let log = Log::open(directory, id, rank)?;
    let (state, body) = match snapshot::load(directory, id)? {
        Some((state, body)) => (state, Some(body)),
        None => (Replicated::new(machine), None),
    };
    let purged = log.look(|kept| kept.purged);
    if purged > state.applied {
        let cause = "it is older than the log needs".to_string();
        return Err(OpenError::Corrupt { path: directory.join("snapshot"), cause });
    }
    Ok((log, state, body))
}

/// How far a replica that does not run has got, and with whom; nothing is changed. For tools.
///
/// # Errors
/// `Missing`, `Corrupt`, `Disk`.
pub fn at_rest<S: StateMachine>(directory: &Path, machine: S) -> Result<AtRest, OpenError> {
    let (id, rank) = log::owner(directory)?;
    let kept = log::read(directory, id, rank)?.kept;
    let state = match snapshot::load(directory, id)? {
        Some((state, _)) => state,
        None => Replicated::new(machine),
    };
    let last = kept.last().max(state.applied);
    let committed = kept.committed.max(state.applied);
    let members = members_of(&kept, &state.members);
    Ok(AtRest {
        id,
        rank,
        address: members.get_node(&rank).cloned(),
        voters: members.get_joint_config().clone(),
        last: last.map_or((0, 0), |last| (last.leader_id.term, last.index)),
        committed: committed.map_or(0, |committed| committed.index),
    })
}

/// The state of a replica that does not run, as far as it knows it to be committed; nothing is changed. For tools.
///
/// # Errors
/// `Missing`, `Corrupt`, `Disk`.
pub fn look_at<S: StateMachine>(directory: &Path, machine: S) -> Result<S, OpenError> {
    let (id, rank) = log::owner(directory)?;
    let found = log::read(directory, id, rank)?;
    let mut state = match snapshot::load(directory, id)? {
        Some((state, _)) => state,
        None => Replicated::new(machine),
    };
    let next = state.applied.map_or(0, |applied| applied.index + 1);
    let committed = found.kept.committed.map_or(0, |committed| committed.index + 1);
    for entry in found.kept.from(next).take_while(|entry| entry.log_id.index < committed) {
        state.apply(entry.clone()).map_err(|error| OpenError::Corrupt {
            path: directory.join("log"),
            cause: format!("a command is none of {}: {error}", S::NAME),
        })?;
    }
    Ok(state.machine)
}

/// The members that the log says last, or else the snapshot.
pub(super) fn last_members(log: &Log, stored: &StoredMembership) -> Membership {
    log.look(|kept| members_of(kept, stored))
}

fn members_of(kept: &Kept, stored: &StoredMembership) -> Membership {
    let in_log = kept.entries().rev().find_map(|entry| match &entry.payload {
        EntryPayload::Membership(members) => Some(members.clone()),
        _ => None,
    });
    in_log.unwrap_or_else(|| stored.membership().clone())
}
