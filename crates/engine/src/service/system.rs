//! The system's state: its servers, and which pools there are.

use std::collections::{BTreeMap, BTreeSet};

use types::{Acl, AclOf, Code, Error, Label, PoolId, Rank, ServerId, SystemHeal, SystemId, SystemProperty};
use wire::control::MemberState;
use wire::message;

use super::pool::checked;
use super::state::Format;

/// Most pools in a system; each has a group of replicas and a row on every target.
const POOLS_MAX: usize = 1024;
/// Most servers; bounds what the state holds. A few vote; all others subscribe.
const MEMBERS_MAX: usize = 16 << 10;
/// Tokens that nobody used yet.
const TOKENS_MAX: usize = 256;
const ATTRIBUTES_MAX: usize = 1024;
const ATTRIBUTE_BYTES_MAX: usize = 4096;
const ADDRESS_BYTES_MAX: usize = 255;

message! {
    /// All that the system as a whole knows.
    pub struct SystemState {
        pub format: Format,
        pub name: String,
        /// Nil until the system is formed.
        pub id: SystemId,
        /// Grows with every change that servers act upon.
        pub version: u64,
        pub next_rank: u32,
        pub members: BTreeMap<Rank, Member>,
        /// By the hash of what the administrator was given.
        pub tokens: BTreeMap<Hash, Token>,
        pub attributes: BTreeMap<String, String>,
        pub pools: BTreeMap<PoolId, PoolRow>,
        /// Only those that were set; the table has the defaults.
        pub properties: BTreeMap<String, String>,
    }
}

message! {
    /// A server.
    pub struct Member {
        pub id: ServerId,
        pub address: String,
        pub fault_path: String,
        pub targets: u32,
        pub state: MemberState,
        /// Which start of the server this is about.
        pub incarnation: u64,
        /// Why it is out, if it said so itself.
        pub trouble: Option<Error>,
    }
}

message! {
    /// One server may join with it.
    pub struct Token {
        /// Microseconds since 1970.
        pub expires: u64,
        pub used_by: Option<ServerId>,
    }
}

/// SHA-256 of a token.
pub type Hash = wire::encoding::Bytes32;

message! {
    /// One pool, as the system sees it; the rest is in the pool's own state.
    pub struct PoolRow {
        pub label: String,
        pub bytes_per_target: u64,
        pub phase: Phase,
        /// Version of the system's state that brought the phase.
        pub since: u64,
        /// Whose targets it has.
        pub servers: Vec<Rank>,
        /// Who makes the first replica of its service.
        pub maker: Rank,
        /// What it is made with.
        pub properties: Vec<(String, String)>,
        /// Why it is taken away again.
        pub trouble: Option<Error>,
        /// What it is made with, until the pool's own state has it.
        pub acl: Option<Acl>,
    }
}

message! {
    /// Where a thing made on several targets stands. A restart carries on from here.
    ///
    /// ```text
    ///  (none) --create--> Creating --done--> Ready --destroy--> Destroying --done--> (none)
    ///                         \_______________destroy______________/
    /// ```
    #[derive(Copy)]
    pub enum Phase {
        Creating = 1,
        Ready = 2,
        Destroying = 3,
    }
}

message! {
    /// A change of the system. What it needs of the outside (ids, the time) its proposer put into it.
    pub enum SystemCommand {
        /// The first server makes the system.
        Form { name: String, id: SystemId } = 1,
        /// A server joins, or is back. `token`: the hash of what it showed.
        Join { server: ServerId, token: Option<Hash>, address: String, fault_path: String, targets: u32, incarnation: u64, now: u64 } = 2,
        AddToken { hash: Hash, expires: u64, now: u64 } = 3,
        /// A rank is taken for dead in this incarnation.
        Lost { rank: Rank, incarnation: u64 } = 4,
        /// An administrator's word.
        Exclude { ranks: Vec<Rank>, exclude: bool } = 5,
        /// An empty value removes.
        SetAttributes { attributes: Vec<(String, String)> } = 6,
        CreatePool { id: PoolId, label: Label, bytes_per_target: u64, servers: Vec<Rank>, maker: Rank, properties: Vec<(String, String)>, acl: Option<Acl> } = 7,
        PoolCreated { id: PoolId } = 8,
        DestroyPool { id: PoolId, trouble: Option<Error> } = 9,
        PoolDestroyed { id: PoolId } = 10,
        RelabelPool { id: PoolId, label: Label } = 11,
        ResizePool { id: PoolId, bytes_per_target: u64 } = 12,
        /// A pool is to have these servers, too.
        ExtendPool { id: PoolId, servers: Vec<Rank> } = 13,
        /// An administrator has ranks serve no more for now, or serve again. None named: all.
        Stop { ranks: Vec<Rank>, stop: bool } = 14,
        /// A server finds that it cannot take part in this incarnation, and says why; it says hello when it can again.
        Withdraw { rank: Rank, incarnation: u64, trouble: Error } = 15,
        /// Servers have no part in a pool any more.
        ShrinkPool { id: PoolId, servers: Vec<Rank> } = 16,
        SetProperties { values: Vec<(String, String)> } = 17,
    }
}

message! {
    /// What a command says when it was done.
    #[derive(Copy)]
    pub enum SystemDone {
        Nothing = 1,
        Rank { rank: Rank } = 2,
        Pool { id: PoolId } = 3,
    }
}

impl raft::StateMachine for SystemState {
    const NAME: &'static str = "system";
    type Command = SystemCommand;
    type Response = Result<SystemDone, Error>;

    fn apply(&mut self, command: SystemCommand) -> Result<SystemDone, Error> {
        // Every refusal comes before the first change.
        match command {
            SystemCommand::Form { name, id } => {
                if self.id == SystemState::empty().id {
                    (self.name, self.id) = (name, id);
                }
            }
            SystemCommand::Join { server, token, address, fault_path, targets, incarnation, now } => {
                let (state, trouble) = (MemberState::Joined, None);
                let member = Member { id: server, address, fault_path, targets, state, incarnation, trouble };
                return self.join(member, token, now).map(|rank| SystemDone::Rank { rank });
            }
            SystemCommand::AddToken { hash, expires, now } => {
                self.tokens.retain(|_, token| token.expires > now);
                if self.tokens.len() >= TOKENS_MAX {
                    let text = format!("{TOKENS_MAX} tokens wait to be used or to expire, the limit");
                    return Err(Error::new(Code::Quota, text).remedy("use them, or wait until they expire"));
                }
                self.tokens.insert(hash, Token { expires, used_by: None });
            }
            SystemCommand::Lost { rank, incarnation } => {
                // Who has come back meanwhile is another life.
                if let Some(member) = self.members.get_mut(&rank).filter(|m| m.incarnation == incarnation)
                    && member.state == MemberState::Joined
                {
                    (member.state, member.trouble) = (MemberState::Excluded, None);
                    self.version += 1;
                }
            }
            SystemCommand::Withdraw { rank, incarnation, trouble } => self.withdraw(rank, incarnation, trouble),
            SystemCommand::Exclude { ranks, exclude } => self.exclude(&ranks, exclude)?,
            SystemCommand::SetAttributes { attributes } => self.set_attributes(attributes)?,
            SystemCommand::CreatePool { id, label, bytes_per_target, servers, maker, properties, acl } => {
                self.check_label(&label, None)?;
                acl.iter().try_for_each(|acl| acl.check(AclOf::Pool))?;
                if self.pools.len() >= POOLS_MAX {
                    return Err(Error::new(Code::Quota, format!("the system has {POOLS_MAX} pools, its limit"))
                        .remedy("destroy a pool first"));
                }
                self.version += 1;
                let (label, phase, since) = (label.to_string(), Phase::Creating, self.version);
                let row =
                    PoolRow { label, bytes_per_target, phase, since, servers, maker, properties, trouble: None, acl };
                self.pools.insert(id, row);
                return Ok(SystemDone::Pool { id });
            }
            SystemCommand::PoolCreated { id } => {
                // A creation that was given up meanwhile stays so.
                if self.row(id)?.phase == Phase::Creating {
                    self.enter(id, Phase::Ready)?;
                    self.row(id)?.acl = None;
                }
            }
            SystemCommand::DestroyPool { id, trouble } => {
                if self.row(id)?.phase != Phase::Destroying {
                    self.row(id)?.trouble = trouble;
                    self.enter(id, Phase::Destroying)?;
                }
            }
            SystemCommand::PoolDestroyed { id } => {
                if self.pools.get(&id).is_some_and(|row| row.phase == Phase::Destroying) {
                    self.pools.remove(&id);
                }
            }
            SystemCommand::RelabelPool { id, label } => {
                self.check_label(&label, Some(id))?;
                self.row(id)?.label = label.to_string();
            }
            SystemCommand::ResizePool { id, bytes_per_target } => self.row(id)?.bytes_per_target = bytes_per_target,
            SystemCommand::ExtendPool { id, servers } => {
                self.extend_pool(id, servers)?;
                return Ok(SystemDone::Pool { id });
            }
            SystemCommand::Stop { ranks, stop } => self.stop(&ranks, stop)?,
            SystemCommand::ShrinkPool { id, servers } => self.shrink_pool(id, &servers)?,
            SystemCommand::SetProperties { values } => self.set_properties(values)?,
        }
        Ok(SystemDone::Nothing)
    }
}

impl SystemState {
    /// Before the first command: the same on every replica.
    pub fn empty() -> SystemState {
        SystemState {
            format: Format,
            name: String::new(),
            id: SystemId::from_bytes([0; 16]),
            version: 0,
            next_rank: 0,
            members: BTreeMap::new(),
            tokens: BTreeMap::new(),
            attributes: BTreeMap::new(),
            pools: BTreeMap::new(),
            properties: BTreeMap::new(),
        }
    }

    /// What it does by itself when a server dies.
    pub fn self_heal(&self) -> SystemHeal {
        // Whatever is in the state was checked when it came.
        let set = self.properties.get("self_heal").and_then(|text| text.parse().ok());
        set.unwrap_or(SystemHeal { exclude: true, pool_exclude: true, pool_rebuild: true })
    }

    fn set_properties(&mut self, values: Vec<(String, String)>) -> Result<(), Error> {
        for (name, value) in &values {
            checked(SystemProperty::TABLE, name, value, false)?;
        }
        self.properties.extend(values);
        // Pools' leaders act upon it.
        self.version += 1;
        Ok(())
    }

    /// The ready pool called `name`, a label or a UUID.
    ///
    /// # Errors
    /// `NotFound`, with the nearest label.
    pub fn find(&self, name: &str) -> Result<PoolId, Error> {
        let ready = || self.pools.iter().filter(|(_, row)| row.phase == Phase::Ready);
        let found = match name.parse::<PoolId>() {
            Ok(id) => ready().find(|(known, _)| **known == id),
            Err(_) => ready().find(|(_, row)| row.label == name),
        };
        found.map(|(id, _)| *id).ok_or_else(|| {
            let nearest = types::nearest(name, ready().map(|(_, row)| row.label.as_str()));
            unknown("pool", name, nearest, "list pools with `dmg pool list`")
        })
    }

    /// Servers that take part.
    pub fn joined(&self) -> impl Iterator<Item = (Rank, &Member)> {
        self.members.iter().filter(|(_, m)| m.state == MemberState::Joined).map(|(rank, m)| (*rank, m))
    }

    /// Whether an administrator stopped it.
    pub fn is_stopped(&self, rank: Rank) -> bool {
        self.members.get(&rank).is_some_and(|m| m.state == MemberState::Stopped)
    }

    pub fn is_joined(&self, rank: Rank) -> bool {
        self.members.get(&rank).is_some_and(|m| m.state == MemberState::Joined)
    }

    /// The rank of a server that has joined before.
    pub fn rank_of(&self, server: ServerId) -> Option<Rank> {
        self.members.iter().find(|(_, m)| m.id == server).map(|(rank, _)| *rank)
    }

    fn row(&mut self, id: PoolId) -> Result<&mut PoolRow, Error> {
        self.pools.get_mut(&id).ok_or_else(|| Error::new(Code::NotFound, format!("no pool {id}")))
    }

    fn enter(&mut self, id: PoolId, phase: Phase) -> Result<(), Error> {
        let version = self.version + 1;
        let row = self.row(id)?;
        (row.phase, row.since) = (phase, version);
        self.version = version;
        Ok(())
    }

    /// Whether a pool may be called `label`. `except`: the pool that is to be renamed.
    ///
    /// # Errors
    /// `Exists`.
    pub fn check_label(&self, label: &Label, except: Option<PoolId>) -> Result<(), Error> {
        match self.pools.iter().find(|(id, row)| row.label == label.as_str() && Some(**id) != except) {
            Some((id, _)) => Err(Error::new(Code::Exists, format!("a pool labelled '{label}' exists already ({id})"))
                .remedy("choose another label")),
            None => Ok(()),
        }
    }

    fn join(&mut self, member: Member, token: Option<Hash>, now: u64) -> Result<Rank, Error> {
        if member.address.len() > ADDRESS_BYTES_MAX {
            let text = format!("an address of {} bytes is longer than {ADDRESS_BYTES_MAX}", member.address.len());
            return Err(Error::new(Code::Invalid, text));
        }
        match self.rank_of(member.id) {
            Some(rank) => self.come_back(rank, member),
            None => self.take_in(member, token, now),
        }
    }

    fn come_back(&mut self, rank: Rank, member: Member) -> Result<Rank, Error> {
        let fault_path = self.path_of_back(rank, &member.fault_path);
        let Some(known) = self.members.get_mut(&rank) else { return Ok(rank) };
        if known.state == MemberState::AdminExcluded {
            let text = format!("rank {rank} was excluded by an administrator");
            return Err(Error::new(Code::NoPermission, text)
                .remedy(format!("let it come back with `dmg system clear-exclude --ranks {rank}`")));
        }
        if known.targets != member.targets {
            let text = format!("rank {rank} has {} targets, not {}", known.targets, member.targets);
            return Err(Error::new(Code::Mismatch, text).remedy("start it with the storage that it joined with"));
        }
        // A process that was started since is meant to serve; one that goes on waits to be told so.
        if known.state == MemberState::Stopped && member.incarnation <= known.incarnation {
            let text = format!("rank {rank} was stopped by an administrator");
            return Err(Error::new(Code::NoPermission, text)
                .remedy(format!("let it serve again with `dmg system start --ranks {rank}`")));
        }
        // A message of an earlier start that came late.
        if member.incarnation < known.incarnation {
            return Ok(rank);
        }
        let member = Member { fault_path, ..member };
        if *known != member {
            *known = member;
            self.version += 1;
        }
        Ok(rank)
    }

    fn take_in(&mut self, mut member: Member, token: Option<Hash>, now: u64) -> Result<Rank, Error> {
        // The first server is the system: there is nobody who could have made it a token.
        let is_first = self.members.is_empty();
        if !is_first {
            self.check_token(token.as_ref(), member.id, now)?;
        }
        if self.members.len() >= MEMBERS_MAX {
            let text = format!("the system has {} servers, as many as this release can have", self.members.len());
            return Err(Error::new(Code::Quota, text));
        }
        let rank = Rank(self.next_rank);
        member.fault_path = self.fault_path(rank, &member.fault_path)?;
        if let Some(used) = token.and_then(|hash| self.tokens.get_mut(&hash)) {
            used.used_by = Some(member.id);
        }
        self.members.insert(rank, member);
        self.next_rank += 1;
        self.version += 1;
        Ok(rank)
    }

    fn check_token(&self, token: Option<&Hash>, server: ServerId, now: u64) -> Result<(), Error> {
        const REMEDY: &str =
            "make one with `dmg system token`, and start the server with `--join ADDRESS --token TOKEN`";
        let refused = |why: &str| Err(Error::new(Code::NoPermission, why.to_string()).remedy(REMEDY));
        match token.map(|hash| self.tokens.get(hash)) {
            None => refused("a server needs a token to join"),
            Some(None) => refused("the token is unknown to this system, or expired long ago"),
            Some(Some(known)) if known.used_by.is_some_and(|by| by != server) => {
                refused("the token was used by another server; each lets in one")
            }
            Some(Some(known)) if known.expires <= now => refused("the token has expired"),
            Some(Some(_)) => Ok(()),
        }
    }

    /// Where a server that is back stands: where its data lies, if pools have any there; else where it says, if that can be.
    fn path_of_back(&self, rank: Rank, wanted: &str) -> String {
        let known = self.members.get(&rank).map_or("", |member| &member.fault_path);
        let has_data = self.pools.values().any(|row| row.servers.contains(&rank));
        let other = Some(wanted).filter(|wanted| !wanted.is_empty() && !has_data);
        other.and_then(|wanted| self.fault_path(rank, wanted).ok()).unwrap_or_else(|| known.to_string())
    }

    /// Where a new server stands. One that says nothing fails by itself.
    fn fault_path(&self, rank: Rank, wanted: &str) -> Result<String, Error> {
        if wanted.is_empty() {
            let depth = self.members.values().next().map_or(1, |first| first.fault_path.matches('/').count());
            return Ok(format!("/server{rank}").repeat(depth.max(1)));
        }
        let path: placement::FaultPath =
            wanted.parse().map_err(|e: placement::PathError| Error::new(Code::Invalid, e.to_string()))?;
        let depth = path.parts().count();
        let mut others = self.members.iter().filter(|(other, _)| **other != rank);
        match others.find(|(_, m)| m.fault_path.matches('/').count() != depth) {
            Some((other, m)) => {
                let text = format!("the fault path {path} is not as deep as {} of rank {other}", m.fault_path);
                Err(Error::new(Code::Invalid, text).remedy("give all servers paths of as many names (`fault_path`)"))
            }
            None => Ok(path.to_string()),
        }
    }

    /// # Errors
    /// `NotFound`: the system has no such rank.
    pub(super) fn check_ranks(&self, ranks: &[Rank]) -> Result<(), Error> {
        match ranks.iter().find(|rank| !self.members.contains_key(rank)) {
            Some(rank) => Err(Error::new(Code::NotFound, format!("no rank {rank}")).remedy("see `dmg system query`")),
            None => Ok(()),
        }
    }

    /// # Errors
    /// `NotFound`: a rank is unknown; `Invalid`: one does not take part, so that its targets could not serve a pool.
    pub(super) fn check_joined(&self, ranks: &[Rank]) -> Result<(), Error> {
        self.check_ranks(ranks)?;
        match ranks.iter().find(|rank| !self.is_joined(**rank)) {
            Some(rank) => {
                let remedy = match self.members.get(rank).map(|member| member.state) {
                    Some(MemberState::Stopped) => format!("start it with `dmg system start --ranks {rank}`"),
                    Some(MemberState::AdminExcluded) => {
                        format!("let it come back with `dmg system clear-exclude --ranks {rank}`")
                    }
                    _ => "start its server; `dmg system query` shows when it is there".to_string(),
                };
                Err(Error::new(Code::Invalid, format!("rank {rank} does not take part at the moment")).remedy(remedy))
            }
            None => Ok(()),
        }
    }

    fn extend_pool(&mut self, id: PoolId, servers: Vec<Rank>) -> Result<(), Error> {
        self.check_joined(&servers)?;
        let version = self.version + 1;
        let row = self.row(id)?;
        if row.phase != Phase::Ready {
            return Err(Error::new(Code::Busy, format!("pool '{}' is being made or destroyed", row.label))
                .remedy("try again when that is done"));
        }
        if servers.is_empty() {
            return Err(Error::new(Code::Invalid, "no rank is named").remedy("name some: `--ranks 1,3`"));
        }
        if let Some(known) = servers.iter().find(|rank| row.servers.contains(rank)) {
            let text = format!("rank {known} is in pool '{}' already", row.label);
            return Err(Error::new(Code::Exists, text)
                .remedy("name new ones only; targets that are out come back by `dmg pool reintegrate`"));
        }
        let new: BTreeSet<Rank> = servers.into_iter().collect();
        row.servers.extend(new);
        self.version = version;
        Ok(())
    }

    /// Takes servers out of a pool's row; a repeat changes nothing.
    fn shrink_pool(&mut self, id: PoolId, servers: &[Rank]) -> Result<(), Error> {
        let version = self.version + 1;
        let row = self.row(id)?;
        let left: Vec<Rank> = row.servers.iter().copied().filter(|rank| !servers.contains(rank)).collect();
        if left.is_empty() {
            let text = format!("no server of pool '{}' would be left", row.label);
            return Err(Error::new(Code::Invalid, text).remedy("destroy it instead"));
        }
        if left.len() != row.servers.len() {
            row.servers = left;
            self.version = version;
        }
        Ok(())
    }

    fn stop(&mut self, ranks: &[Rank], stop: bool) -> Result<(), Error> {
        self.check_ranks(ranks)?;
        let mut has_changed = false;
        for (_, member) in self.members.iter_mut().filter(|(rank, _)| ranks.is_empty() || ranks.contains(rank)) {
            let after = match (stop, member.state) {
                (true, MemberState::Joined | MemberState::Excluded) => MemberState::Stopped,
                // It waits for this. One that has died meanwhile is found out like any other.
                (false, MemberState::Stopped) => MemberState::Joined,
                (_, other) => other,
            };
            if after != member.state {
                has_changed = true;
                (member.state, member.trouble) = (after, None);
            }
        }
        self.version += u64::from(has_changed);
        Ok(())
    }

    /// An earlier start of the server is over, and what a later one says counts.
    fn withdraw(&mut self, rank: Rank, incarnation: u64, trouble: Error) {
        let Some(member) = self.members.get_mut(&rank).filter(|member| member.incarnation <= incarnation) else {
            return;
        };
        if !matches!(member.state, MemberState::Joined | MemberState::Excluded) {
            return;
        }
        let has_changed = member.state == MemberState::Joined;
        (member.state, member.trouble) = (MemberState::Excluded, Some(trouble));
        self.version += u64::from(has_changed);
    }

    fn exclude(&mut self, ranks: &[Rank], exclude: bool) -> Result<(), Error> {
        self.check_ranks(ranks)?;
        let left = self.joined().filter(|(rank, _)| !ranks.contains(rank)).count();
        if exclude && left == 0 {
            return Err(Error::new(Code::Invalid, "no server would be left").remedy("leave one in"));
        }
        for rank in ranks {
            let Some(member) = self.members.get_mut(rank) else { continue };
            let after = match (exclude, member.state) {
                (true, _) => MemberState::AdminExcluded,
                // It is in again when it says that it is there.
                (false, MemberState::AdminExcluded) => MemberState::Excluded,
                (false, other) => other,
            };
            if after != member.state {
                // What was wrong before is not why it is out now.
                (member.state, member.trouble) = (after, None);
            }
        }
        self.version += 1;
        Ok(())
    }

    fn set_attributes(&mut self, attributes: Vec<(String, String)>) -> Result<(), Error> {
        for (name, value) in &attributes {
            if name.is_empty() || name.len() + value.len() > ATTRIBUTE_BYTES_MAX {
                let text = format!("an attribute has a name, and at most {ATTRIBUTE_BYTES_MAX} bytes with its value");
                return Err(Error::new(Code::Invalid, text));
            }
        }
        if self.attributes.len() + attributes.len() > ATTRIBUTES_MAX {
            return Err(Error::new(Code::Quota, format!("the system has at most {ATTRIBUTES_MAX} attributes")));
        }
        for (name, value) in attributes {
            match value.is_empty() {
                true => drop(self.attributes.remove(&name)),
                false => drop(self.attributes.insert(name, value)),
            }
        }
        Ok(())
    }
}

/// "No such thing", with the nearest name or the command that lists the names.
pub(super) fn unknown(what: &str, name: &str, nearest: Option<&str>, list: &str) -> Error {
    let error = Error::new(Code::NotFound, format!("no {what} '{name}'"));
    match nearest {
        Some(nearest) => error.remedy(format!("did you mean '{nearest}'?")),
        None => error.remedy(list),
    }
}

#[cfg(test)]
mod tests;
