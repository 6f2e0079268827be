//! Forced recovery: most replicas of a service are gone for good, and one that is left speaks for it from now on.
//!
//! # Shape
//! [`Offline::replicas`] says what a server has; an operator who knows which servers are lost compares what all survivors
//! have ([`AtRest::last`]), has the one that got furthest dictate, and the others forget.
//!
//! # Always true
//! 1. A replica whose group has a majority without the lost neither dictates nor is forgotten: that group needs no help.
//! 2. The only voter that is left is not forgotten, nor, where none is, whoever has the log beside.
//!
//! # Not here
//! How it is done to a log (`raft`). Data: what targets have is not touched; what survives of each object its pool's map says, once
//! there is a service again that excludes the lost.

use std::collections::BTreeSet;
use std::path::PathBuf;

use engine::service::pool::PoolState;
use engine::service::system::SystemState;
use engine::service::{book, identity};
use raft::{AtRest, Dictated, Group, OpenError, Peer};
use rt::disk::fs;
use types::{Code, Error, PoolId, Rank};

use crate::offline::Offline;
use crate::storage::io;

/// What a replica is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Service {
    System,
    Pool(PoolId),
}

/// A replica of a service, in storage at rest.
#[derive(Clone, Debug)]
pub struct Replica {
    pub service: Service,
    pub at_rest: AtRest,
    directory: PathBuf,
}

impl Replica {
    /// Who votes, as far as it knows.
    pub fn voters(&self) -> BTreeSet<Rank> {
        self.at_rest.voters.iter().flatten().copied().collect()
    }

    /// Whether it has anything: most servers' replicas lie there empty, and are given the log when they are to vote.
    pub fn is_empty(&self) -> bool {
        self.at_rest.voters.is_empty()
    }

    /// Voters that are left when some are lost, if they are no majority. `None`, too, of a replica that knows no voters.
    pub fn without(&self, lost: &BTreeSet<Rank>) -> Option<BTreeSet<Rank>> {
        let has_lost = |voters: &BTreeSet<Rank>| voters.difference(lost).count() * 2 <= voters.len();
        let left = &self.voters() - lost;
        self.at_rest.voters.iter().any(has_lost).then_some(left)
    }

    /// # Errors
    /// `Invalid`: it is empty. `Busy`: a majority is left.
    fn has_lost(&self, lost: &BTreeSet<Rank>) -> Result<BTreeSet<Rank>, Error> {
        if self.is_empty() {
            return Err(Error::new(Code::Invalid, "this replica is empty").remedy("have another server's dictate"));
        }
        self.without(lost).ok_or_else(|| {
            Error::new(Code::Busy, "the service has a majority without those servers")
                .remedy("start the servers that are left: it goes on by itself")
        })
    }
}

impl Offline {
    /// The replicas of services here, and why others cannot be read.
    ///
    /// # Errors
    /// `Io`.
    pub fn replicas(&self) -> Result<(Vec<Replica>, Vec<String>), Error> {
        let service = self.service_directory();
        let mut of = vec![(Service::System, service.join("system"))];
        let pools = service.join("pools");
        if fs::exists(&pools) {
            for directory in fs::read_dir(&pools).map_err(io)? {
                let name = directory.file_name().and_then(|name| name.to_str()?.parse().ok());
                of.extend(name.map(|id| (Service::Pool(id), directory)));
            }
        }
        let (mut replicas, mut faults) = (Vec::new(), Vec::new());
        for (service, directory) in of {
            let found = match service {
                Service::System => raft::at_rest(&directory, SystemState::empty()),
                Service::Pool(id) => raft::at_rest(&directory, PoolState::empty(id)),
            };
            match found {
                Ok(at_rest) => replicas.push(Replica { service, at_rest, directory }),
                // Most servers have no replica of it.
                Err(OpenError::Missing { .. }) => {}
                Err(fault) => faults.push(fault.to_string()),
            }
        }
        replicas.sort_by_key(|replica| replica.service);
        Ok((replicas, faults))
    }

    /// A replica speaks for its service from now on, alone; what only the `lost` had of it is lost, answered or not. When this
    /// server has started, others get replicas again. None of the other voters may come back with its own.
    ///
    /// # Errors
    /// `Busy`: a majority is left. `Invalid`: it has no vote, and others that have are left. `Io`, `BadFormat`.
    pub fn dictate(&self, replica: &Replica, lost: &BTreeSet<Rank>) -> Result<Dictated, Error> {
        let (left, me) = (replica.has_lost(lost)?, replica.at_rest.rank);
        if !left.is_empty() && !left.contains(&me) {
            return Err(Error::new(Code::Invalid, format!("rank {me} is none of the voters that are left"))
                .remedy("have one of those dictate"));
        }
        let Replica { service, at_rest, directory } = replica;
        let Some(address) = at_rest.address.clone() else {
            return Err(Error::new(Code::Invalid, "this replica never was a member of its group"));
        };
        let me = Peer { rank: at_rest.rank, address };
        let dictated = match *service {
            Service::System => Group::dictate(directory, at_rest.id, me, SystemState::empty()),
            Service::Pool(id) => Group::dictate(directory, at_rest.id, me, PoolState::empty(id)),
        };
        dictated.map_err(unopened)
    }

    /// Removes a replica, since another one dictates: it gets the other's state when this server has started.
    ///
    /// # Errors
    /// `Busy`: a majority is left. `Invalid`: it may be the only one that is left. `Io`.
    pub fn forget(&self, replica: &Replica, lost: &BTreeSet<Rank>) -> Result<(), Error> {
        let (left, me) = (replica.has_lost(lost)?, replica.at_rest.rank);
        if left.is_empty() {
            return Err(Error::new(Code::Invalid, "no voter is left, and this may be the last that has the log")
                .remedy("have it dictate"));
        }
        if left == BTreeSet::from([me]) {
            return Err(Error::new(Code::Invalid, format!("rank {me} is the only voter that is left"))
                .remedy("have it dictate"));
        }
        match replica.service {
            Service::System => {
                let directory = self.service_directory();
                // It is to find the one that goes on, and perhaps nothing else here says where that is.
                if let Ok(known) = raft::look_at(&replica.directory, SystemState::empty()) {
                    book::keep_members(&directory, &known)?;
                }
                // First: else this server would make the system anew, beside the one that goes on.
                identity::renounce(&directory)?;
                Group::<SystemState>::erase(&replica.directory)
            }
            Service::Pool(_) => Group::<PoolState>::erase(&replica.directory),
        }
        .map_err(unopened)
    }
}

fn unopened(error: OpenError) -> Error {
    match error {
        OpenError::Corrupt { .. } | OpenError::Foreign { .. } => Error::new(Code::BadFormat, error.to_string()),
        OpenError::Config(why) => Error::new(Code::Invalid, why),
        _ => Error::new(Code::Io, error.to_string()),
    }
}
