//! Requests to the control service: the system, its pools, its containers.
//!
//! Pools, containers and snapshots are named by text: a label or a UUID.

use types::{Acl, ContainerId, Epoch, Error, Layout, PoolId, Principal, PrincipalName, Rank, TargetIndex};

use crate::encoding::{Bytes, message};

/// A property's name and value, as text.
pub type NamedValue = (String, String);

message! {
    /// Answer to `SystemQuery`.
    pub struct SystemInfo {
        pub name: String,
        pub release: String,
        pub members: Vec<Member>,
        /// Who leads the system's service, and which ranks keep it.
        pub leader: Option<Rank>,
        pub voters: Vec<Rank>,
    }
}

message! {
    pub struct Member {
        pub rank: Rank,
        pub uuid: Bytes,
        pub address: String,
        pub fault_domain: String,
        pub state: MemberState,
        pub targets: u32,
        /// Why it is out, when more is known than that it was taken for dead.
        pub trouble: Option<Error>,
    }
}

message! {
    #[derive(Copy)]
    pub enum MemberState {
        Joined = 1,
        /// An administrator wants its targets to serve no more for now; it answers, and waits to be started.
        Stopped = 2,
        /// It was taken for dead; it is back as soon as it says so.
        Excluded = 3,
        /// An administrator wants it out.
        AdminExcluded = 4,
    }
}

message! {
    /// One server may join with it, once, in the next `seconds`.
    pub struct TokenCreate {
        pub seconds: u64,
    }
}

message! {
    /// Answer to `SystemToken`. The system itself keeps only its hash.
    pub struct Token {
        pub token: String,
        pub seconds: u64,
    }
}

message! {
    /// `exclude`: they serve no more until this is taken back; otherwise takes it back.
    pub struct SystemExclude {
        pub ranks: Vec<Rank>,
        pub exclude: bool,
    }
}

message! {
    /// `stop`: their targets serve no more until this is taken back; their part in the services goes on, so that there is
    /// somebody to take it back. A repeat changes nothing.
    pub struct SystemStop {
        /// Empty: all.
        pub ranks: Vec<Rank>,
        pub stop: bool,
    }
}

message! {
    /// The same as [`PoolChangeTargets`], with all targets of these ranks, in each pool that they are in. Answered with
    /// [`SystemTargetsChanged`]. A repeat changes nothing more.
    pub struct SystemChangeTargets {
        pub ranks: Vec<Rank>,
        pub change: TargetChange,
    }
}

message! {
    /// Answer to `SystemChangeTargets`: one row a pool.
    pub struct SystemTargetsChanged {
        pub pools: Vec<PoolTargetsChanged>,
    }
}

message! {
    pub struct PoolTargetsChanged {
        pub id: PoolId,
        pub label: String,
        /// Those of the ranks that it is on.
        pub ranks: Vec<Rank>,
        /// Why it was not done there.
        pub trouble: Option<Error>,
    }
}

message! {
    /// What servers log: `info,engine=debug`. Empty: what they logged at their start. Lasts until a server ends.
    pub struct SetLogMasks {
        /// Empty: all that take part.
        pub ranks: Vec<Rank>,
        pub masks: String,
    }
}

message! {
    /// Answer to `SetLogMasks`: what became of it on each server.
    pub struct LogMasksSet {
        pub servers: Vec<(Rank, Option<Error>)>,
    }
}

message! {
    pub struct SystemSetProperties {
        pub properties: Vec<NamedValue>,
    }
}

message! {
    /// An empty value removes.
    pub struct SystemSetAttributes {
        pub attributes: Vec<NamedValue>,
    }
}

message! {
    /// Answer to `SystemGetAttributes`.
    pub struct SystemAttributes {
        pub attributes: Vec<NamedValue>,
    }
}

message! {
    /// Answer to `StorageQuery`.
    pub struct StorageInfo {
        pub devices: Vec<DeviceInfo>,
    }
}

message! {
    /// One target's share of a device. Sizes in bytes.
    pub struct DeviceInfo {
        pub rank: Rank,
        pub target: TargetIndex,
        pub path: String,
        pub kind: DeviceKind,
        /// What pools can use.
        pub total: u64,
        /// Of it, reserved by pools.
        pub reserved: u64,
        /// Of it, holding data, metadata or waiting to be reused.
        pub used: u64,
        pub log_bytes: u64,
        /// Absent: healthy. Otherwise what failed.
        pub failure: Option<String>,
        /// Whole scrubs since the start, and values and pages that were read in them.
        pub scrubs: u64,
        pub scrubbed_values: u64,
        pub scrubbed_pages: u64,
        /// Damaged places found, and of these how many were mended.
        pub damaged: u64,
        pub mended: u64,
        /// The first damaged places, in words.
        pub damage: Vec<String>,
        /// Size of the target's data region, and the one that it is to have.
        pub data_bytes: u64,
        pub wanted_bytes: u64,
        /// On the way there: values moved, and what is still to be moved or to be given up by somebody.
        pub moved_bytes: u64,
        pub held_bytes: u64,
        /// Why it does not come to that size, if it does not.
        pub resize_trouble: Option<String>,
    }
}

message! {
    /// Gives the data of all targets `bytes` in all, spread evenly; absent: what their devices have now. A repeat with
    /// the same size does nothing. Answered with [`StorageInfo`] when it is durable what is wanted; the targets get
    /// there in service.
    pub struct StorageResize {
        pub bytes: Option<u64>,
    }
}

message! {
    pub enum DeviceKind {
        File = 1,
        Block = 2,
        Memory = 3,
    }
}

message! {
    /// Reserves `bytes` in all, spread evenly over the targets of some servers.
    pub struct PoolCreate {
        pub label: String,
        pub bytes: u64,
        pub servers: PoolServers,
        pub properties: Vec<NamedValue>,
        /// Absent: the default one.
        pub acl: Option<Acl>,
    }
}

message! {
    /// Which servers a pool is made of.
    pub enum PoolServers {
        /// All that take part.
        All = 1,
        Ranks { ranks: Vec<Rank> } = 2,
        /// So many, in as many fault domains as can be; of equals, those with the fewest pools.
        Count { count: u32 } = 3,
    }
}

message! {
    /// An administrator's word about targets of a pool. Answered with [`PoolInfo`] when all servers of the pool that are up
    /// know. A repeat changes nothing.
    pub struct PoolChangeTargets {
        pub pool: String,
        pub change: TargetChange,
        pub ranks: Vec<Rank>,
        /// Of each of the ranks; empty: all.
        pub targets: Vec<TargetIndex>,
        /// Also when data may be out of reach by it.
        pub force: bool,
    }
}

message! {
    /// What an administrator wants of targets.
    #[derive(Copy)]
    pub enum TargetChange {
        /// Out, now: what they hold is made anew from other copies.
        Exclude = 1,
        /// Out, when what they hold is elsewhere.
        Drain = 2,
        /// In again; of targets that drain: they stay.
        Reintegrate = 3,
        /// They are out, and nobody waits any more for what nobody else has.
        GiveUp = 4,
    }
}

message! {
    /// Servers of the system become part of a pool. Answered with [`PoolInfo`] when their targets are on their way in.
    pub struct PoolExtend {
        pub pool: String,
        pub ranks: Vec<Rank>,
    }
}

message! {
    /// Stops what is on its way in a pool, for whatever reason it is; or has it go on, and what failed made anew, whatever the
    /// pool's policy says. Answered with [`PoolInfo`] when the servers know.
    pub struct PoolRebuild {
        pub pool: String,
        pub start: bool,
    }
}

message! {
    pub struct PoolQueryTargets {
        pub pool: String,
        pub rank: Rank,
        /// Empty: all.
        pub targets: Vec<TargetIndex>,
    }
}

message! {
    /// Answer to `PoolQueryTargets`, in the order in which they were asked for.
    pub struct PoolTargets {
        pub targets: Vec<PoolTarget>,
    }
}

message! {
    /// One target of a pool.
    pub struct PoolTarget {
        pub index: TargetIndex,
        pub state: TargetState,
        /// An administrator excluded or drained it: it does not come back by itself.
        pub is_kept_out: bool,
        /// Absent: the rank does not answer.
        pub space: Option<Space>,
        /// Its device failed.
        pub is_failed: bool,
    }
}

message! {
    pub struct PoolName {
        pub pool: String,
    }
}

message! {
    /// `recursive`: also with containers in it.
    pub struct PoolDestroy {
        pub pool: String,
        pub recursive: bool,
    }
}

message! {
    /// Reserves `bytes` in all, spread evenly over the targets, instead of what the pool has.
    pub struct PoolResize {
        pub pool: String,
        pub bytes: u64,
    }
}

message! {
    pub struct PoolSetProperties {
        pub pool: String,
        pub properties: Vec<NamedValue>,
    }
}

message! {
    /// Answered with [`OwnedAcl`].
    pub struct PoolChangeAcl {
        pub pool: String,
        pub change: AclChange,
    }
}

message! {
    /// What becomes of an access control list.
    pub enum AclChange {
        Overwrite { acl: Acl } = 1,
        /// Entries take the place of those of the same principals; the rest stays.
        Update { acl: Acl } = 2,
        Delete { principal: Principal } = 3,
    }
}

message! {
    /// An access control list, and whom it means by its owner. It is kept, and nothing is refused by it yet.
    pub struct OwnedAcl {
        /// Empty: nobody.
        pub owner: String,
        pub group: String,
        pub acl: Acl,
    }
}

message! {
    pub struct Properties {
        pub values: Vec<NamedValue>,
    }
}

message! {
    pub struct PoolList {
        pub pools: Vec<PoolInfo>,
    }
}

message! {
    /// Sizes in bytes.
    pub struct PoolInfo {
        pub id: PoolId,
        pub label: String,
        /// 0, in a list of pools: its service does not answer, and this is what the system knows ([`PoolInfo::has_answered`]).
        pub map_version: u32,
        pub targets: u32,
        pub disabled_targets: u32,
        /// Its servers, and those of them that do not say what it uses there: their space is not in `space`.
        pub ranks: Vec<Rank>,
        pub silent_ranks: Vec<Rank>,
        pub containers: u32,
        pub space: Space,
        /// Free space of the fullest and the emptiest target.
        pub free_min: u64,
        pub free_max: u64,
        /// Who leads the pool's service, and who votes in it.
        pub leader: Option<Rank>,
        pub voters: Vec<Rank>,
        pub rebuild: Rebuild,
    }
}

impl PoolInfo {
    /// The pool's own service told it. Of one that does not answer nobody knows containers, use and rebuild: they are zero.
    pub fn has_answered(&self) -> bool {
        self.map_version != 0
    }
}

message! {
    /// What is on its way in a pool: for who failed, comes back, drains or is new.
    pub struct Rebuild {
        pub state: RebuildState,
        /// Placement groups that came to where they are to be, and those that are known to be missing there.
        pub groups: u64,
        pub left: u64,
        pub records: u64,
        /// Of their payloads.
        pub bytes: u64,
        /// Records of these groups that were there already: of who was out for a while, most.
        pub same: u64,
        /// How often a group was dropped and copied anew, because sums differed when all had been compared.
        pub anew: u64,
        /// By what it took so far; nothing is known at the beginning.
        pub seconds_left: Option<u64>,
        /// Servers that are out and may have what nobody else has: until they come back, or are given up.
        pub awaited: Vec<Rank>,
    }
}

message! {
    #[derive(Copy)]
    pub enum RebuildState {
        /// Everything is where it is to be.
        Idle = 1,
        Busy = 2,
        /// All that can be had is where it is to be; who is awaited has the rest.
        Waiting = 3,
        /// An administrator stopped it.
        Stopped = 4,
    }
}

message! {
    /// Sizes in bytes. `used` = `metadata` + `data`.
    pub struct Space {
        pub total: u64,
        pub used: u64,
        pub metadata: u64,
        pub data: u64,
    }
}

message! {
    /// Answer to `PoolConnect`: what a client needs to place and address objects. Of this `object::map` makes
    /// placement's map, and the other way round; nothing in it is believed before.
    pub struct PoolMap {
        pub id: PoolId,
        pub label: String,
        pub version: u32,
        /// The oldest version that the map knows about.
        pub floor: u32,
        pub pg_count: u32,
        /// Targets that the pool was made of.
        pub origin: u32,
        /// In the order in which they came: positions of targets count through them.
        pub servers: Vec<MapServer>,
        pub standings: Vec<StandingRun>,
    }
}

message! {
    /// What leads from version `from` of a pool map to version `to`.
    pub struct PoolMapDelta {
        pub from: u32,
        pub to: u32,
        /// Those that came since.
        pub servers: Vec<MapServer>,
        pub standings: Vec<StandingRun>,
    }
}

message! {
    /// A server of a pool, with targets `0 .. targets`.
    pub struct MapServer {
        pub rank: Rank,
        /// Where it answers; empty: nobody knows at the moment.
        pub address: String,
        /// What it fails together with, such as `/rack3/host7`.
        pub fault_path: String,
        pub targets: u32,
        /// The share of each of its targets relative to others.
        pub weight: u32,
    }
}

message! {
    /// What is said of the targets at positions `first .. first + count`, since version `since`. Of one target the
    /// oldest comes first.
    pub struct StandingRun {
        pub first: u32,
        pub count: u32,
        pub since: u32,
        pub state: TargetState,
        /// The version at which they began to leave, and the one at which they were taken in; zero: they did not.
        pub left: u32,
        pub joined: u32,
        /// Of those that do not serve, the last version at which they did; zero: they never did.
        pub served: u32,
    }
}

message! {
    /// What the pool map says of a target.
    #[derive(Copy)]
    pub enum TargetState {
        New = 1,
        UpFromNew = 2,
        UpFromDown = 3,
        UpFromDownOut = 4,
        UpIn = 5,
        Down = 6,
        DownOut = 7,
        Drain = 8,
        Away = 9,
        UpFromAway = 10,
    }
}

message! {
    /// For whoever has a pool map of `version`. Answered with [`PoolMapNews`].
    pub struct PoolMapSince {
        pub pool: String,
        pub version: u32,
    }
}

message! {
    pub enum PoolMapNews {
        /// The version is older than the map looks back, or a server answers elsewhere.
        Whole { map: PoolMap } = 1,
        Delta { delta: PoolMapDelta } = 2,
    }
}

message! {
    pub struct ContainerCreate {
        pub pool: String,
        /// Empty: none.
        pub label: String,
        pub layout: Layout,
        pub properties: Vec<NamedValue>,
        pub attributes: Vec<(String, Bytes)>,
        /// Absent: the default one.
        pub acl: Option<Acl>,
    }
}

message! {
    pub struct ContainerName {
        pub pool: String,
        pub container: String,
    }
}

message! {
    pub struct ContainerList {
        pub containers: Vec<ContainerInfo>,
    }
}

message! {
    pub struct ContainerInfo {
        pub pool: PoolId,
        pub id: ContainerId,
        pub label: String,
        pub layout: Layout,
        pub created: Epoch,
        pub snapshots: u32,
        pub latest_snapshot: Epoch,
        /// Every property, set or by default.
        pub properties: Vec<NamedValue>,
    }
}

message! {
    pub struct ContainerDestroy {
        pub pool: String,
        pub container: String,
    }
}

message! {
    pub struct ContainerSetProperties {
        pub pool: String,
        pub container: String,
        pub properties: Vec<NamedValue>,
    }
}

message! {
    /// Answered with [`OwnedAcl`].
    pub struct ContainerChangeAcl {
        pub pool: String,
        pub container: String,
        pub change: AclChange,
    }
}

message! {
    /// Absent: stays as it is.
    pub struct ContainerSetOwner {
        pub pool: String,
        pub container: String,
        pub user: Option<PrincipalName>,
        pub group: Option<PrincipalName>,
    }
}

message! {
    /// Names of attributes to read or delete; none named: all.
    pub struct AttributeNames {
        pub pool: String,
        pub container: String,
        pub names: Vec<String>,
    }
}

message! {
    pub struct SetAttributes {
        pub pool: String,
        pub container: String,
        pub attributes: Vec<(String, Bytes)>,
    }
}

message! {
    pub struct Attributes {
        pub attributes: Vec<(String, Bytes)>,
    }
}

message! {
    pub struct SnapshotCreate {
        pub pool: String,
        pub container: String,
        /// Empty: none.
        pub name: String,
    }
}

message! {
    /// `snapshot`: a name, or an epoch as text.
    pub struct SnapshotDestroy {
        pub pool: String,
        pub container: String,
        pub snapshot: String,
    }
}

message! {
    /// `snapshot`: a name, or an epoch as text.
    pub struct ContainerRollback {
        pub pool: String,
        pub container: String,
        pub snapshot: String,
    }
}

message! {
    pub struct SnapshotInfo {
        pub epoch: Epoch,
        pub name: String,
    }
}

message! {
    pub struct SnapshotList {
        pub snapshots: Vec<SnapshotInfo>,
    }
}

message! {
    pub struct AllocateObjectIds {
        pub pool: String,
        pub container: String,
        pub count: u64,
    }
}

message! {
    /// Ids `first .. first + count` are the caller's, for the low 64 bits of object ids.
    pub struct ObjectIdRange {
        pub first: u64,
        pub count: u64,
    }
}
