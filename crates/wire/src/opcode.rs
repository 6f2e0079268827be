//! Every request there is, in one table.

use types::{Code, Error};

macro_rules! opcodes {
    ($($name:ident = $code:literal, $text:literal, $repeat:ident;)*) => {
        /// What a request asks for. High byte: the service (1 control, 2 target, 3 control, asked by servers).
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u16)]
        pub enum Opcode { $(#[doc = $text] $name = $code,)* }

        impl Opcode {
            pub const ALL: &[Opcode] = &[$(Opcode::$name,)*];

            pub fn from_code(code: u16) -> Option<Opcode> {
                match code { $($code => Some(Opcode::$name),)* _ => None }
            }
            pub const fn name(self) -> &'static str {
                match self { $(Opcode::$name => stringify!($name),)* }
            }
            /// What a second arrival of the same request does.
            pub const fn repeat(self) -> Repeat {
                match self { $(Opcode::$name => Repeat::$repeat,)* }
            }
        }
    };
}

/// What the receiver does with a request it has seen before (same session and sequence).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repeat {
    /// Changes nothing: done again.
    Harmless,
    /// Takes effect once: answered with the first answer.
    Once,
}

opcodes! {
    Echo = 0x0001, "Answers with the body and bulk data it was sent.", Harmless;

    SystemQuery = 0x0101, "Members of the system.", Harmless;
    StorageQuery = 0x0102, "Devices and targets of the server.", Harmless;
    StorageResize = 0x0103, "Gives the targets' data another size.", Once;
    SystemToken = 0x0104, "Makes a token with which one server may join.", Once;
    SystemExclude = 0x0105, "Excludes ranks, or lets them come back.", Once;
    SystemSetAttributes = 0x0106, "Sets or removes attributes of the system.", Once;
    SystemGetAttributes = 0x0107, "Attributes of the system.", Harmless;
    SystemStop = 0x0108, "Has ranks stop serving, or serve again.", Once;
    SystemChangeTargets = 0x0109, "Drains or reintegrates ranks in all pools that they are in.", Once;
    SystemSetProperties = 0x010b, "Changes properties of the system.", Once;
    SystemGetProperties = 0x010c, "Properties of the system.", Harmless;
    SetLogMasks = 0x010a, "What servers log, from now on.", Once;
    PoolCreate = 0x0110, "Reserves space on every target.", Once;
    PoolList = 0x0111, "All pools.", Harmless;
    PoolQuery = 0x0112, "One pool's state and space.", Harmless;
    PoolDestroy = 0x0113, "Frees a pool's space.", Once;
    PoolGetProperties = 0x0114, "A pool's properties.", Harmless;
    PoolSetProperties = 0x0115, "Changes a pool's properties.", Once;
    PoolResize = 0x0117, "Changes the space that a pool reserves.", Once;
    PoolConnect = 0x0116, "A pool's map, to place objects with.", Harmless;
    PoolMapSince = 0x0118, "What has changed in a pool's map.", Harmless;
    PoolGetAcl = 0x0119, "A pool's access control list.", Harmless;
    PoolChangeAcl = 0x011a, "Changes a pool's access control list.", Once;
    PoolChangeTargets = 0x011c, "Excludes, drains or reintegrates targets of a pool.", Once;
    PoolExtend = 0x011d, "Gives a pool more servers.", Once;
    PoolQueryTargets = 0x011e, "How targets of a pool stand, and their space.", Harmless;
    PoolRebuild = 0x011f, "Stops what a pool moves, or has it go on.", Once;
    ContainerCreate = 0x0120, "Makes a container on every target of the pool.", Once;
    ContainerList = 0x0121, "A pool's containers.", Harmless;
    ContainerQuery = 0x0122, "One container's state.", Harmless;
    ContainerDestroy = 0x0123, "Removes a container and its data.", Once;
    ContainerGetProperties = 0x0124, "A container's properties.", Harmless;
    ContainerSetProperties = 0x0125, "Changes a container's properties.", Once;
    ContainerGetAttributes = 0x0126, "Values of user attributes.", Harmless;
    ContainerSetAttributes = 0x0127, "Sets user attributes.", Once;
    ContainerListAttributes = 0x0128, "Names of user attributes.", Harmless;
    ContainerDeleteAttributes = 0x0129, "Removes user attributes.", Once;
    ContainerGetAcl = 0x012a, "A container's access control list.", Harmless;
    ContainerChangeAcl = 0x012b, "Changes a container's access control list.", Once;
    ContainerSetOwner = 0x012c, "Gives a container another owner, or owner's group.", Once;
    SnapshotCreate = 0x0130, "Keeps the container as it is now.", Once;
    SnapshotList = 0x0131, "A container's snapshots.", Harmless;
    SnapshotDestroy = 0x0132, "Lets a snapshot go.", Once;
    ContainerRollback = 0x0134, "Takes a container back to a snapshot.", Once;
    AllocateObjectIds = 0x0133, "A range of object ids nobody else gets.", Once;

    Update = 0x0201, "Writes values under one dkey.", Once;
    Fetch = 0x0202, "Reads values under one dkey.", Harmless;
    Punch = 0x0203, "Removes an object, dkeys, akeys or ranges.", Once;
    ListObjects = 0x0204, "Objects of a container on this target.", Harmless;
    ListDkeys = 0x0205, "Dkeys of an object on this target.", Harmless;
    ListAkeys = 0x0206, "Akeys of a dkey.", Harmless;
    ListExtents = 0x0207, "Extents of an array akey.", Harmless;
    Diff = 0x0209, "What differs on this target between two moments.", Harmless;
    QueryKeys = 0x0208, "Highest and lowest integer keys, and the end of an array.", Harmless;
    Group = 0x0210, "Between members of a placement group: changes, decisions, leases.", Harmless;
    CopyList = 0x0211, "Groups of a pool that a target has records of.", Harmless;
    Copy = 0x0212, "Records of a group, for a target that is to have it.", Harmless;
    CopyDigest = 0x0213, "The sum over a group's records.", Harmless;
    CopyMemory = 0x0214, "Which requests took effect on a target, for one that takes over from it.", Harmless;

    Consensus = 0x0301, "A message between replicas of a service.", Harmless;
    Forward = 0x0302, "A client's request, for who leads the service.", Harmless;
    Propose = 0x0303, "A command of a service, for who leads it.", Harmless;
    Report = 0x0304, "How far a server has done what a service's state wants.", Harmless;
    Join = 0x0305, "A server joins the system, or is back.", Harmless;
    Gossip = 0x0306, "Who lives.", Harmless;
    ServerStorage = 0x0307, "Devices and targets of one server.", Harmless;
    ServerSpace = 0x0308, "What a pool uses of one server's targets.", Harmless;
    Subscribe = 0x0309, "What became of a service's state, for a server that is no voter.", Harmless;
    ServerLog = 0x030c, "What this server logs, from now on.", Harmless;
}

impl Opcode {
    /// The opcode of a request's header.
    ///
    /// # Errors
    /// `Protocol`, for a number this release does not know.
    pub fn parse(code: u16) -> Result<Opcode, Error> {
        Opcode::from_code(code).ok_or_else(|| {
            Error::new(Code::Protocol, format!("request {code:#06x} is unknown to this server"))
                .remedy("use a client of the server's release")
        })
    }
}
