//! What servers ask one another's control services.

use types::{ContainerId, Error, PoolId, Rank, ServerId, SystemId};

use crate::control::{DeviceInfo, Space};
use crate::encoding::{Bytes, message};

/// Most servers that a request passes on its way to the leader. Two are enough when everybody is up to date.
pub const HOPS_MAX: u8 = 4;

/// Which service's group of replicas is meant.
pub type Group = Bytes;

message! {
    /// Answered with the replica's message, as it is. A repeat is as good as the first: consensus is made for that.
    pub struct Consensus {
        pub group: Group,
        pub message: Bytes,
    }
}

message! {
    /// A client's request, with the name the client gave it. Answered as the request would be. A repeat is known by its session
    /// and sequence.
    pub struct Forward {
        pub session: u64,
        pub sequence: u64,
        pub opcode: u16,
        /// Servers that it has passed.
        pub hops: u8,
        pub body: Bytes,
    }
}

message! {
    /// A command, encoded; with a request's name, a repeat takes effect once. Answered with the machine's response.
    pub struct Propose {
        pub group: Group,
        pub request: Option<(u64, u64)>,
        pub command: Bytes,
    }
}

message! {
    /// To the leader: the sender has done what the state wants, up to `version`. A later one replaces what was said before.
    pub struct Report {
        pub group: Group,
        pub rank: Rank,
        /// The sender's incarnation, and the moment of its monotonic clock, in microseconds: which of two is the later.
        pub said: (u64, u64),
        pub version: u64,
        /// Of a pool: by what its targets place.
        pub placing: Placing,
        /// Of a pool: how far each of its targets has got with what it is to have. Empty: nothing is on its way.
        pub filling: Vec<Filling>,
        /// Of a pool: widths of groups that its targets are to write, and that the pool does not have in use yet.
        pub widths: Vec<u32>,
        /// Why it got no further, if something stood in the way: with a container, or with the pool itself.
        pub trouble: Vec<(Option<ContainerId>, Error)>,
    }
}

message! {
    /// By what a server places the data of a pool: two that go by the same version have the same digest.
    #[derive(Copy, Default)]
    pub struct Placing {
        /// The version of the pool's map; zero for none.
        pub version: u32,
        pub digest: u64,
    }
}

message! {
    /// How far a target has got with what it is to have.
    #[derive(Copy, Default)]
    pub struct Filling {
        /// The version of the pool's map for which all is there; zero for none.
        pub version: u32,
        /// Groups that came since the last time that nothing was missing, and those that are known to be missing.
        pub groups: u64,
        pub left: u64,
        pub records: u64,
        /// Of their payloads.
        pub bytes: u64,
        /// Records of these groups that were there already.
        pub same: u64,
        /// How often a group was dropped and copied anew, because sums differed.
        pub anew: u64,
        /// What that took, in milliseconds.
        pub spent_ms: u64,
    }
}

message! {
    /// Answer to `Report`: what the leader had committed by then. Who has applied as much knows of everything before.
    pub struct Reported {
        pub applied: u64,
    }
}

message! {
    /// From a server that is new, or has started again, or found that it was taken for dead. A repeat changes nothing.
    pub struct Join {
        pub server: ServerId,
        /// A new server has none yet.
        pub rank: Option<Rank>,
        pub token: String,
        pub address: String,
        /// Empty: it fails by itself.
        pub fault_path: String,
        pub targets: u32,
        /// Grows with every start.
        pub incarnation: u64,
    }
}

message! {
    /// Answer to `Join`.
    pub struct Joined {
        pub system: SystemId,
        pub name: String,
        pub rank: Rank,
        /// What the leader had committed by then.
        pub applied: u64,
        /// Where each server is, since which incarnation.
        pub addresses: Vec<(Rank, u64, String)>,
    }
}

message! {
    /// One message of the membership protocol; empty: the sender wants to know the time, and no more.
    pub struct Gossip {
        pub from: Rank,
        /// Where the sender answers, and since which incarnation: said to whom it does not hear of, who may know it elsewhere.
        pub address: Option<(u64, String)>,
        pub message: Bytes,
    }
}

message! {
    /// Answer to `Gossip`: when it came and when it was answered, by the calendar of who answers, in microseconds since 1970.
    pub struct Gossiped {
        pub received: u64,
        pub answered: u64,
    }
}

message! {
    /// An entry of a group's log, by the term in which it was proposed and its place: of two, the later has the larger. A state is
    /// named by the last entry that it includes.
    #[derive(Copy, Default, PartialOrd, Ord)]
    pub struct LogId {
        pub term: u64,
        pub index: u64,
    }
}

message! {
    /// To a member of a group, from a server that is to have its state and is no voter: what is new? Answered when there is
    /// something, or after a while. A repeat changes nothing.
    pub struct Subscribe {
        pub group: Group,
        /// The state that the sender has.
        pub have: Option<LogId>,
        /// Who leads, as far as it knows.
        pub leader: Option<Rank>,
        /// It has the first so many bytes of this state, and wants what follows.
        pub part: Option<(LogId, u64)>,
    }
}

message! {
    /// Answer to `Subscribe`.
    pub struct Told {
        /// Who votes, and where each is, since which incarnation.
        pub voters: Vec<(Rank, u64, String)>,
        pub leader: Option<Rank>,
        /// In which it leads, as far as is known.
        pub term: u64,
        pub newer: Newer,
    }
}

message! {
    /// What became of a state.
    pub enum Newer {
        /// Nothing is known here: the voters are to be asked.
        Unknown = 1,
        /// The commands that took effect since, in their order; the state is the one of `to` then. Possibly none.
        Commands { to: LogId, commands: Vec<Bytes> } = 2,
        /// Bytes of a whole state, from one offset on, and how many it has in all.
        Whole { of: LogId, total: u64, offset: u64, bytes: Bytes } = 3,
    }
}

message! {
    /// Answer to `ServerStorage`.
    pub struct ServerStorage {
        pub devices: Vec<DeviceInfo>,
    }
}

message! {
    /// What a pool uses of the asked server's targets.
    pub struct ServerSpaceQuery {
        pub pool: PoolId,
    }
}

message! {
    /// Answer to `ServerSpace`: by target; absent for one that does not take changes any more.
    pub struct ServerSpace {
        pub targets: Vec<(Space, bool)>,
    }
}

message! {
    /// What the asked server logs from now on; empty: what it logged at its start. A repeat changes nothing.
    pub struct ServerLog {
        pub masks: String,
    }
}
