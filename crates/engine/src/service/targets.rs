//! An administrator's word about a pool's targets: what it makes of the state. Pure.
//!
//! # Shape
//! A command names ranks, and numbers of their targets; here they become positions of the map, and the word an event for
//! each of them. Beside the map the state has the positions that are *kept out*: excluded or drained by an administrator,
//! they come back when he says so, and not because their server lives ([`PoolState::may_return`]).
//!
//! # Always true
//! 1. A word that means something to some of the targets is carried out for these; one that means nothing to any is refused,
//!    with the first reason.
//! 2. A repeat changes nothing.
//! 3. Some target stays in service.
//!
//! # Not here
//! What follows for the data (`placement`, and whoever fills targets); asking servers for room (`administer`).

use std::collections::BTreeSet;

use placement::{CameFrom, Change, Event, FaultPath, MapError, PoolMap, Server, Target, TargetState};
use types::{Code, ContainerProperty, Error, Rank, SelfHeal, TargetIndex};
use wire::control::TargetChange;

use super::healing;
use super::pool::{Container, Map, PoolServer, PoolState, RebuildWord, server_of};
use crate::target::order::Heal;

impl PoolState {
    /// Whether a target that is out, and whose server is there, comes back by itself.
    pub(super) fn may_return(&self, position: u32) -> bool {
        !self.kept_out.contains(&position)
    }

    /// Whether a server has anything of the pool, or is to have: it follows the pool's service then. One all of whose targets
    /// are out for good has not, unless an administrator wants one back.
    pub(super) fn has_part(&self, rank: Rank) -> bool {
        let Some(map) = self.map() else { return true };
        let is_out = |position: u32| map.targets()[position as usize].state() == TargetState::DownOut;
        let mut positions = map.positions_of(rank).peekable();
        // One that the map does not know is about to come.
        positions.peek().is_none() || positions.any(|p| !is_out(p) || self.wanted_back.contains(&p))
    }

    /// What the pool does by itself when a server dies.
    pub fn self_heal(&self) -> SelfHeal {
        // Whatever is in the state was checked when it came.
        self.property("self_heal").parse().unwrap_or(SelfHeal { exclude: true, rebuild: true })
    }

    /// What targets do about what they are to have: by an administrator's word, by the pool's policy, or because somebody has
    /// given up what is out.
    pub(super) fn heal(&self) -> Heal {
        match self.rebuild {
            RebuildWord::Stop => Heal::Nothing,
            RebuildWord::Start => Heal::All,
            RebuildWord::None if self.self_heal().rebuild && !self.is_rebuild_off => Heal::All,
            RebuildWord::None if !self.given_up.is_empty() => Heal::All,
            RebuildWord::None => Heal::Wanted,
        }
    }

    /// Carries out what an administrator wants of targets: all of `ranks`, or, if `indices` names some, these of each.
    ///
    /// # Errors
    /// `NotFound`: the pool has no such rank or target. `Invalid`: the word means nothing to them, none would be left in
    /// service, or too few for the redundancy of the data (`force` makes an exclusion go on all the same).
    pub(super) fn change_targets(
        &mut self,
        change: TargetChange,
        ranks: &[Rank],
        indices: &[TargetIndex],
        force: bool,
    ) -> Result<(), Error> {
        let positions = self.positions(ranks, indices)?;
        let Some(Map(map)) = &self.map else { return Ok(()) };
        if change == TargetChange::GiveUp {
            let given_up = given_up(map, &self.given_up, positions)?;
            let before = self.given_up.len();
            self.given_up.extend(given_up);
            // Targets are told that they need not spare the pool a rebuild.
            self.version += u64::from(self.given_up.len() != before);
            return Ok(());
        }
        let mut events = Vec::new();
        // What the word means something to; to some of these no more than that it stays so.
        let (mut refusal, mut meant) = (None, BTreeSet::new());
        for &position in &positions {
            let target = &map.targets()[position as usize];
            let is_kept = self.kept_out.contains(&position) || self.drained.contains(&position);
            match event_of(change, target.state()).map(|event| (event, target.state().after(event))) {
                None => drop(meant.insert(position)),
                Some((event, Ok(Some(_)))) => {
                    meant.insert(position);
                    events.push((position, event));
                }
                // It is so already. Of one that fails to come back by itself, this is the hold that makes it so.
                Some((_, Ok(None))) => drop(meant.insert(position)),
                // A target that is out and was kept out may come back by itself from now on.
                Some((_, Err(_))) if change == TargetChange::Reintegrate && is_kept => drop(meant.insert(position)),
                Some((_, Err(_))) => refusal = refusal.or_else(|| Some(meaningless(change, target))),
            }
        }
        if let Some(refusal) = refusal.filter(|_| meant.is_empty()) {
            return Err(refusal);
        }
        let leaving: BTreeSet<u32> = events.iter().map(|(position, _)| *position).collect();
        match change {
            TargetChange::Exclude => self.check_exclusion(map, &leaving, force)?,
            TargetChange::Drain => self.check_drain(map, &leaving)?,
            TargetChange::Reintegrate | TargetChange::GiveUp => {}
        }
        // Whether it could be, if it were at once; but its server may have no share of the pool any more, and makes one first.
        map.clone().apply(&Change::Happen(events.clone())).map_err(impossible)?;
        let is_for_good = |position: &u32| map.targets()[*position as usize].state() == TargetState::DownOut;
        let for_good: BTreeSet<u32> = positions.iter().copied().filter(is_for_good).collect();
        if change == TargetChange::Reintegrate {
            events.retain(|(position, _)| !for_good.contains(position));
        }
        self.change(&Change::Happen(events))?;
        match change {
            TargetChange::Exclude => {
                self.wanted_back.retain(|position| !meant.contains(position));
                self.drained.retain(|position| !meant.contains(position));
                self.kept_out.extend(meant);
            }
            TargetChange::Drain => {
                self.wanted_back.retain(|position| !meant.contains(position));
                self.drained.extend(meant);
            }
            TargetChange::Reintegrate => {
                let before = self.wanted_back.len();
                self.wanted_back.extend(for_good);
                // Servers must hear of it.
                self.version += u64::from(self.wanted_back.len() != before);
                self.kept_out.retain(|position| !positions.contains(position));
                self.drained.retain(|position| !positions.contains(position));
            }
            TargetChange::GiveUp => {}
        }
        Ok(())
    }

    /// Makes servers known to the map that it does not have yet; their targets are new, and hold nothing.
    ///
    /// # Errors
    /// `Invalid`: they do not fit the map.
    pub(super) fn add_servers(&mut self, servers: Vec<PoolServer>) -> Result<(), Error> {
        let known: BTreeSet<Rank> = self.servers().iter().map(|server| server.rank).collect();
        let new = servers.into_iter().filter(|server| !known.contains(&server.rank)).map(server_of);
        let new = new.collect::<Result<Vec<Server>, Error>>()?;
        self.change(&Change::Add(new))
    }

    /// Lets something happen to targets, by position.
    pub(super) fn happen(&mut self, events: Vec<(u32, Event)>) -> Result<(), Error> {
        self.change(&Change::Happen(events))
    }

    /// Changes the map.
    ///
    /// # Errors
    /// `Invalid`: there is no such map; nothing has changed.
    fn change(&mut self, change: &Change) -> Result<(), Error> {
        let Some(Map(map)) = &mut self.map else { return Ok(()) };
        let before = map.version();
        let after = map.apply(change).map_err(impossible)?;
        self.version += u64::from(after != before);
        // Who comes back is waited for the next time that it is out.
        let is_out = |position: &u32| map.targets().get(*position as usize).is_some_and(|t| healing::is_out(t.state()));
        self.given_up.retain(is_out);
        let state = |position: &u32| map.targets().get(*position as usize).map(Target::state);
        let is_coming = |state| matches!(state, TargetState::DownOut | TargetState::Up(CameFrom::DownOut));
        self.wanted_back.retain(|position| state(position).is_some_and(is_coming));
        if !map.targets().iter().any(|target| target.state().in_change()) {
            self.rebuild = RebuildWord::None;
        }
        Ok(())
    }

    /// Stops what is on its way, for whatever reason it is, or has it go on.
    ///
    /// # Errors
    /// `NotFound`: nothing is on its way that could be stopped.
    pub(super) fn order_rebuild(&mut self, start: bool) -> Result<(), Error> {
        let is_under_way = self.map().is_some_and(|map| map.targets().iter().any(|target| target.state().in_change()));
        let word = match (start, is_under_way) {
            (true, true) => RebuildWord::Start,
            (false, true) => RebuildWord::Stop,
            // It has all that it could be started for.
            (true, false) => return Ok(()),
            (false, false) => {
                let text = format!("nothing is being rebuilt in pool '{}'", self.label);
                let remedy = format!(
                    "`dmg pool set-prop {} self_heal:exclude` leaves what fails from now on as it is",
                    self.label
                );
                return Err(Error::new(Code::NotFound, text).remedy(remedy));
            }
        };
        self.version += u64::from(word != self.rebuild);
        self.rebuild = word;
        Ok(())
    }

    /// Positions of the targets that an administrator names.
    ///
    /// # Errors
    /// `NotFound`: there is no such target; `Invalid`: no rank is named.
    pub(super) fn positions(&self, ranks: &[Rank], indices: &[TargetIndex]) -> Result<BTreeSet<u32>, Error> {
        let label = &self.label;
        if ranks.is_empty() {
            return Err(Error::new(Code::Invalid, "no rank is named").remedy("name some: `--ranks 1,3`"));
        }
        let mut positions = BTreeSet::new();
        // Each once, however often it is named.
        let (ranks, indices): (BTreeSet<Rank>, BTreeSet<TargetIndex>) =
            (ranks.iter().copied().collect(), indices.iter().copied().collect());
        for rank in &ranks {
            let server = self.servers().iter().find(|server| server.rank == *rank).ok_or_else(|| {
                let text = format!("rank {rank} is not in pool '{label}'");
                Error::new(Code::NotFound, text)
                    .remedy(format!("see `dmg pool query {label}`; `dmg pool extend {label} --ranks {rank}` adds it"))
            })?;
            let first = self.map().and_then(|map| map.position(*rank, TargetIndex(0))).unwrap_or(0);
            if let Some(unknown) = indices.iter().find(|index| index.0 >= server.targets) {
                let text = format!("rank {rank} has no target {unknown}: it has {}", server.targets);
                return Err(Error::new(Code::NotFound, text)
                    .remedy(format!("see `dmg pool query-targets {label} --rank {rank}`")));
            }
            match indices.is_empty() {
                true => positions.extend(first..first + server.targets),
                false => positions.extend(indices.iter().map(|index| first + index.0)),
            }
        }
        Ok(positions)
    }

    /// Whether what these targets hold can still be read elsewhere when they are out.
    fn check_exclusion(&self, map: &PoolMap, leaving: &BTreeSet<u32>, force: bool) -> Result<(), Error> {
        let stays = |(position, target): &(u32, &Target)| target.state().serves() && !leaving.contains(position);
        if !leaving.is_empty() && !numbered(map).any(|target| stays(&target)) {
            return Err(none_left(&self.label));
        }
        // Who holds data that it does not serve, and those that are to join them.
        let is_out = |(position, target): &(u32, &Target)| match target.state() {
            TargetState::UpIn | TargetState::Drain => leaving.contains(position),
            TargetState::Down | TargetState::Up(CameFrom::Down) => true,
            // What they had copies of is elsewhere by now.
            TargetState::New | TargetState::Away | TargetState::DownOut => false,
            TargetState::Up(CameFrom::New | CameFrom::Away | CameFrom::DownOut) => false,
        };
        let out = domains(map, is_out).len();
        match self.redundancies().min_by_key(|(_, factor)| *factor) {
            Some((name, factor)) if !force && !leaving.is_empty() && out > factor => {
                let text = format!(
                    "data would be out of reach: container '{name}' bears the loss of {factor} fault domains (`rd_fac`), \
                     and of {out} some targets would be out"
                );
                Err(Error::new(Code::Invalid, text)
                    .remedy("drain them instead, or add --force if it may be out of reach, or has copies all the same"))
            }
            _ => Ok(()),
        }
    }

    /// Whether there are places for what these targets hold.
    fn check_drain(&self, map: &PoolMap, leaving: &BTreeSet<u32>) -> Result<(), Error> {
        let left =
            domains(map, |(position, target)| target.state() == TargetState::UpIn && !leaving.contains(position));
        if leaving.is_empty() {
            return Ok(());
        }
        if left.is_empty() {
            return Err(none_left(&self.label));
        }
        match self.redundancies().max_by_key(|(_, factor)| *factor) {
            Some((name, factor)) if left.len() < factor + 1 => {
                let (text, needed) = (left.len(), factor + 1);
                let text = format!(
                    "there would be too few places for the copies: {text} fault domains are left in service, and \
                     container '{name}' needs {needed} (`rd_fac` {factor})"
                );
                let remedy = format!("extend the pool first (`dmg pool extend {}`), or drain fewer", self.label);
                Err(Error::new(Code::Invalid, text).remedy(remedy))
            }
            _ => Ok(()),
        }
    }

    /// Containers, and how many failures the data of each is to survive.
    fn redundancies(&self) -> impl Iterator<Item = (String, usize)> {
        let name = |(id, container): (_, &Container)| container.label.clone().unwrap_or_else(|| format!("{id}"));
        self.containers.iter().map(move |(id, container)| (name((id, container)), redundancy(container)))
    }
}

/// Of some targets those that are out: nobody waits for them any more.
///
/// # Errors
/// `Invalid`: none of them is.
fn given_up(map: &PoolMap, before: &BTreeSet<u32>, positions: BTreeSet<u32>) -> Result<BTreeSet<u32>, Error> {
    let target = |position: &u32| &map.targets()[*position as usize];
    let is_out = |position: &u32| healing::is_out(target(position).state()) || before.contains(position);
    let out: BTreeSet<u32> = positions.iter().copied().filter(is_out).collect();
    match positions.first().filter(|_| out.is_empty()) {
        Some(first) => Err(meaningless(TargetChange::GiveUp, target(first))),
        None => Ok(out),
    }
}

/// What an administrator's word is to a target; `None`: nothing but that it is kept out, or is not any more.
fn event_of(change: TargetChange, state: TargetState) -> Option<Event> {
    match (change, state) {
        (TargetChange::Exclude, TargetState::New) => None,
        (TargetChange::Exclude, _) => Some(Event::Exclude),
        (TargetChange::Drain, _) => Some(Event::Drain),
        (TargetChange::Reintegrate, TargetState::Drain) => Some(Event::Cancel),
        // The leader has it come in when its share is made.
        (TargetChange::Reintegrate, TargetState::New) => None,
        (TargetChange::Reintegrate, _) => Some(Event::Reintegrate),
        (TargetChange::GiveUp, _) => None,
    }
}

fn meaningless(change: TargetChange, target: &Target) -> Error {
    let Target { rank, index, .. } = target;
    let (what, remedy) = match (change, target.state()) {
        (TargetChange::Drain, TargetState::New) => ("drain: it holds nothing yet", "exclude it instead"),
        (TargetChange::Drain, TargetState::Up(_)) => {
            ("drain: it is on its way in", "wait until it is in service, or exclude it")
        }
        (TargetChange::Drain, TargetState::DownOut) => ("drain: it holds nothing any more", "there is nothing to do"),
        (TargetChange::Drain, _) => {
            ("drain: it does not serve", "what it held is made anew from other copies; exclude it to keep it out")
        }
        (TargetChange::Reintegrate, _) => ("come back: it is in service", "there is nothing to do"),
        (TargetChange::GiveUp, TargetState::DownOut) => ("be given up: nobody waits for it", "there is nothing to do"),
        (TargetChange::GiveUp, _) => ("be given up: it is not out", "exclude it first, if it is lost"),
        (TargetChange::Exclude, _) => ("be excluded", "wait until what is under way is done"),
    };
    let text = format!("target {index} of rank {rank} is {} and cannot {what}", target.state());
    Error::new(Code::Invalid, text).remedy(remedy)
}

/// Why there is no such map, as an administrator hears it.
fn impossible(error: MapError) -> Error {
    let remedy = match &error {
        MapError::Awaited { rank, .. } => {
            format!("bring rank {rank} back first, or give up what only it has (`dmg pool give-up`)")
        }
        MapError::FailureFirst { .. } | MapError::Together { .. } => {
            "wait until what is under way is done: see `dmg pool query`".to_string()
        }
        MapError::Last { .. } => "extend the pool first, or drain fewer".to_string(),
        MapError::Depth { .. } => "give all servers fault paths of as many names (`fault_path`)".to_string(),
        _ => "see `dmg pool query` and `dmg pool query-targets`".to_string(),
    };
    Error::new(Code::Invalid, error.to_string()).remedy(remedy)
}

fn none_left(label: &str) -> Error {
    Error::new(Code::Invalid, format!("no target of pool '{label}' would be left in service"))
        .remedy("leave some in, or extend the pool first")
}

fn numbered(map: &PoolMap) -> impl Iterator<Item = (u32, &Target)> {
    (0..).zip(map.targets())
}

/// Fault domains of servers with a target that is so.
fn domains(map: &PoolMap, is_so: impl Fn(&(u32, &Target)) -> bool) -> BTreeSet<&FaultPath> {
    let so = numbered(map).filter(|target| is_so(target));
    so.map(|(_, target)| &map.servers()[target.server as usize].path).collect()
}

fn redundancy(container: &Container) -> usize {
    let default = ContainerProperty::TABLE.iter().find(|row| row.name == "rd_fac").map_or("0", |row| row.default);
    container.properties.get("rd_fac").map_or(default, String::as_str).parse().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::pool::{Finished, PoolCommand};
    use crate::target::order::Heal;
    use placement::TargetState::{Down, DownOut, Drain, New, Up, UpIn};
    use raft::StateMachine;
    use types::{ContainerId, Epoch, Layout, PoolId};
    use wire::Wire;
    use wire::control::TargetChange::{Exclude, Reintegrate};

    fn server(rank: u32) -> PoolServer {
        PoolServer { rank: Rank(rank), fault_path: format!("/server{rank}"), targets: 2, weight: 1 }
    }

    /// A pool of three servers with two targets each, and a container of this redundancy.
    fn pool(factor: u32) -> PoolState {
        let mut pool = PoolState::empty(PoolId::from_bytes([9; 16]));
        let servers = (0..3).map(server).collect();
        pool.apply(PoolCommand::Create {
            label: "tank".into(),
            bytes_per_target: 1,
            servers,
            properties: vec![],
            acl: None,
        })
        .unwrap();
        let container = PoolCommand::CreateContainer {
            id: ContainerId::from_bytes([1; 16]),
            label: None,
            layout: Layout::Posix,
            created: Epoch(5),
            properties: vec![("rd_fac".into(), factor.to_string())],
            attributes: vec![],
            acl: None,
        };
        pool.apply(container).unwrap();
        pool
    }

    fn command(change: TargetChange, ranks: &[u32], indices: &[u32], force: bool) -> PoolCommand {
        let ranks = ranks.iter().copied().map(Rank).collect();
        let indices = indices.iter().copied().map(TargetIndex).collect();
        PoolCommand::ChangeTargets { change, ranks, indices, force }
    }

    fn states(pool: &PoolState) -> Vec<TargetState> {
        pool.map().unwrap().targets().iter().map(Target::state).collect()
    }

    fn kept_out(pool: &PoolState) -> Vec<u32> {
        pool.kept_out.union(&pool.drained).copied().collect()
    }

    #[test]
    fn a_word_is_about_single_targets_or_all_of_a_rank() {
        let mut pool = pool(1);
        pool.apply(command(Exclude, &[2], &[1], false)).unwrap();
        assert_eq!((states(&pool), kept_out(&pool)), (vec![UpIn, UpIn, UpIn, UpIn, UpIn, Down], vec![5]));
        // Of a rank, one is out already; the other drains.
        pool.apply(command(TargetChange::Drain, &[2], &[], false)).unwrap();
        assert_eq!((states(&pool), kept_out(&pool)), (vec![UpIn, UpIn, UpIn, UpIn, Drain, Down], vec![4, 5]));
        // Back: the one stays where it is, the other is on its way in.
        pool.apply(command(Reintegrate, &[2], &[], false)).unwrap();
        let back = Up(CameFrom::Down);
        assert_eq!((states(&pool), kept_out(&pool)), (vec![UpIn, UpIn, UpIn, UpIn, UpIn, back], vec![]));
    }

    #[test]
    fn a_repeat_changes_nothing() {
        let mut pool = pool(1);
        for change in [Exclude, TargetChange::Drain] {
            let command = command(change, &[if change == Exclude { 0 } else { 1 }], &[0], true);
            pool.apply(command.clone()).unwrap();
            let once = pool.clone();
            pool.apply(command).unwrap();
            assert_eq!(pool, once, "{change:?}");
        }
    }

    /// A server that died while it drained stayed out though it was back: what only it had was out of reach.
    #[test]
    fn a_target_that_fails_while_it_drains_comes_back_and_goes_on() {
        let mut pool = pool(1);
        pool.apply(command(TargetChange::Drain, &[2], &[], false)).unwrap();
        let version = |pool: &PoolState| pool.map().unwrap().version();
        pool.apply(PoolCommand::Exclude { version: version(&pool), ranks: vec![Rank(2)] }).unwrap();
        assert_eq!(states(&pool)[4..], [Down; 2]);
        pool.apply(PoolCommand::Reintegrate { version: version(&pool), ranks: vec![Rank(2)] }).unwrap();
        pool.apply(PoolCommand::Reintegrated { version: version(&pool), ranks: vec![Rank(2)] }).unwrap();
        assert_eq!(states(&pool)[4..], [UpIn; 2]);
        let what = healing::finished(pool.map().unwrap(), &pool.given_up, &pool.drained, |_| true, true);
        assert_eq!(what, Some(Finished::Resumed));
        pool.apply(PoolCommand::Finish { version: version(&pool), what: Finished::Resumed }).unwrap();
        assert_eq!(states(&pool)[4..], [Drain; 2]);
    }

    /// Its server is dead, so that it is down by itself; the administrator wants it out also when that is back.
    #[test]
    fn a_target_that_is_down_can_be_kept_out_without_a_new_map() {
        let mut pool = pool(1);
        pool.apply(PoolCommand::Exclude { version: 1, ranks: vec![Rank(2)] }).unwrap();
        let (map, version) = (pool.map.clone(), pool.version);
        pool.apply(command(Exclude, &[2], &[], false)).unwrap();
        assert_eq!((&pool.map, pool.version, kept_out(&pool)), (&map, version, vec![4, 5]));
        assert!(!pool.may_return(4) && pool.may_return(3));
    }

    #[test]
    fn what_cannot_be_is_refused_with_cause_and_remedy_and_changes_nothing() {
        type Case<'a> = (&'a str, TargetChange, &'a [u32], &'a [u32], bool, Code, &'a str, &'a str);
        let cases: [Case; 11] = [
            ("no rank", Exclude, &[], &[], false, Code::Invalid, "no rank is named", "--ranks"),
            (
                "a rank elsewhere",
                Exclude,
                &[0, 7],
                &[],
                false,
                Code::NotFound,
                "rank 7 is not in pool 'tank'",
                "extend",
            ),
            (
                "no such target",
                Exclude,
                &[0],
                &[1, 2],
                false,
                Code::NotFound,
                "rank 0 has no target 2",
                "query-targets",
            ),
            ("all of them", Exclude, &[0, 1, 2], &[], true, Code::Invalid, "no target of pool 'tank'", "leave some in"),
            ("too many", Exclude, &[0, 1], &[], false, Code::Invalid, "bears the loss of 1", "--force"),
            ("one of each", Exclude, &[0, 1], &[0], false, Code::Invalid, "of 2 some targets", "--force"),
            (
                "too few places",
                TargetChange::Drain,
                &[1, 2],
                &[],
                true,
                Code::Invalid,
                "1 fault domains",
                "pool extend",
            ),
            ("drain all", TargetChange::Drain, &[0, 1, 2], &[], true, Code::Invalid, "no target of pool", "extend"),
            ("drain what fails", TargetChange::Drain, &[2], &[1], false, Code::Invalid, "is down", "exclude it"),
            ("it serves", Reintegrate, &[0], &[], false, Code::Invalid, "it is in service", "nothing to do"),
            ("it is not lost", TargetChange::GiveUp, &[0], &[], false, Code::Invalid, "it is not out", "exclude it"),
        ];
        for (case, change, ranks, indices, force, code, cause, remedy) in cases {
            let mut pool = pool(1);
            if case == "drain what fails" {
                pool.apply(PoolCommand::Exclude { version: 1, ranks: vec![Rank(2)] }).unwrap();
            }
            let before = pool.clone();
            let error = pool.apply(command(change, ranks, indices, force)).unwrap_err();
            assert_eq!(error.code, code, "{case}");
            assert!(error.message.contains(cause), "{case}: {error}");
            assert!(error.remedy.as_ref().is_some_and(|text| text.contains(remedy)), "{case}: {error:?}");
            assert_eq!(pool, before, "{case}");
        }
    }

    #[test]
    fn what_is_out_can_be_given_up_until_it_comes_back() {
        let mut pool = pool(1);
        pool.apply(command(Exclude, &[2], &[1], false)).unwrap();
        pool.apply(command(TargetChange::GiveUp, &[2], &[], false)).unwrap();
        assert_eq!(pool.given_up, BTreeSet::from([5]), "the other one serves");
        assert_eq!(PoolState::from_bytes(&pool.to_bytes()).as_ref(), Ok(&pool));
        pool.apply(command(Reintegrate, &[2], &[1], false)).unwrap();
        assert_eq!(pool.given_up, BTreeSet::new());
    }

    /// A drained server is wanted back, and on its way in; another fails, and may get places back from it. So it waits
    /// outside until that one is there, and nobody has to say it again.
    #[test]
    fn what_is_wanted_back_and_was_put_off_comes_by_itself() {
        let mut pool = pool(1);
        let act = |pool: &mut PoolState, command| pool.apply(command).map(drop).unwrap();
        let finish = |pool: &mut PoolState, what| {
            let version = pool.map().unwrap().version();
            act(pool, PoolCommand::Finish { version, what });
        };
        let by_version = |pool: &mut PoolState, command: fn(u32, Vec<Rank>) -> PoolCommand, rank| {
            let version = pool.map().unwrap().version();
            act(pool, command(version, vec![Rank(rank)]));
        };
        let exclude = |version, ranks| PoolCommand::Exclude { version, ranks };
        let back = |version, ranks| PoolCommand::Reintegrate { version, ranks };
        act(&mut pool, command(TargetChange::Drain, &[2], &[], false));
        finish(&mut pool, Finished::Arrived);
        by_version(&mut pool, back, 2);
        assert_eq!(states(&pool)[4..], [DownOut; 2], "nobody wants it");
        assert!(!pool.has_part(Rank(2)) && pool.has_part(Rank(1)) && pool.has_part(Rank(9)));
        let version = pool.version;
        act(&mut pool, command(Reintegrate, &[2], &[], false));
        assert!(pool.has_part(Rank(2)) && pool.version > version, "it is to make its share first");
        // A pool that was watched from here on was called idle, and the watching ended, before anything had come back.
        assert!(healing::is_expected(&pool, |_| true) && !healing::is_expected(&pool, |rank| rank != Rank(2)));
        by_version(&mut pool, back, 2);
        assert_eq!(states(&pool)[4..], [Up(CameFrom::DownOut); 2]);
        by_version(&mut pool, exclude, 1);
        finish(&mut pool, Finished::Rebuilt);
        finish(&mut pool, Finished::PutOff);
        by_version(&mut pool, back, 2);
        assert_eq!(states(&pool)[4..], [DownOut; 2], "who failed comes first");
        assert!(!healing::is_expected(&pool, |_| true), "nothing happens until that one is there");
        assert_eq!(PoolState::from_bytes(&pool.to_bytes()).as_ref(), Ok(&pool));
        by_version(&mut pool, back, 1);
        finish(&mut pool, Finished::Arrived);
        by_version(&mut pool, back, 2);
        assert_eq!(states(&pool)[4..], [Up(CameFrom::DownOut); 2]);
        // Its server dies on its way in, and is there again.
        by_version(&mut pool, exclude, 2);
        assert_eq!(states(&pool)[4..], [DownOut; 2]);
        by_version(&mut pool, back, 2);
        finish(&mut pool, Finished::Arrived);
        assert_eq!((states(&pool), &pool.wanted_back), (vec![UpIn; 6], &BTreeSet::new()));
        // Who drains it again has changed his mind.
        act(&mut pool, command(TargetChange::Drain, &[2], &[], false));
        finish(&mut pool, Finished::Arrived);
        act(&mut pool, command(Reintegrate, &[2], &[], false));
        act(&mut pool, command(Exclude, &[2], &[], false));
        by_version(&mut pool, back, 2);
        assert_eq!(states(&pool)[4..], [DownOut; 2]);
    }

    #[test]
    fn what_is_stopped_stays_so_until_it_is_started_or_there_is_nothing_to_stop() {
        let mut pool = pool(1);
        let rebuild = |start| PoolCommand::Rebuild { start };
        let refused = pool.apply(rebuild(false)).unwrap_err();
        assert_eq!(refused.message, "nothing is being rebuilt in pool 'tank'");
        assert!(refused.remedy.is_some_and(|remedy| remedy.contains("self_heal")));
        pool.apply(rebuild(true)).unwrap();
        assert_eq!(pool.rebuild, RebuildWord::None, "everything is where it is to be");
        pool.apply(PoolCommand::Exclude { version: 1, ranks: vec![Rank(2)] }).unwrap();
        let mut heals = |command, expected, more| {
            let before = pool.version;
            pool.apply(command).unwrap();
            assert_eq!((pool.heal(), pool.version - before), (expected, more), "targets must hear of it");
        };
        heals(rebuild(false), Heal::Nothing, 1);
        heals(rebuild(false), Heal::Nothing, 0);
        heals(rebuild(true), Heal::All, 1);
        let policy = |text: &str| PoolCommand::SetProperties { values: vec![("self_heal".into(), text.into())] };
        heals(policy("exclude;delay_rebuild"), Heal::All, 0);
        heals(rebuild(false), Heal::Nothing, 1);
        let back = PoolCommand::Reintegrate { version: 2, ranks: vec![Rank(2)] };
        heals(back, Heal::Nothing, 1);
        heals(PoolCommand::Reintegrated { version: 3, ranks: vec![Rank(2)] }, Heal::Wanted, 1);
        heals(PoolCommand::Exclude { version: 4, ranks: vec![Rank(2)] }, Heal::Wanted, 1);
        heals(rebuild(true), Heal::All, 1);
    }

    /// Failures that the data bears are not refused; one more is, unless it is meant.
    #[test]
    fn an_exclusion_may_take_as_many_domains_as_the_data_bears() {
        for (factor, ranks, is_taken) in
            [(0, &[1][..], false), (1, &[1], true), (1, &[1, 2], false), (2, &[1, 2], true)]
        {
            let mut pool = pool(factor);
            let taken = pool.apply(command(Exclude, ranks, &[], false));
            assert_eq!(taken.is_ok(), is_taken, "{factor} {ranks:?}: {taken:?}");
            assert!(pool.apply(command(Exclude, ranks, &[], true)).is_ok());
        }
        // What is out already counts.
        let mut pool = pool(1);
        pool.apply(PoolCommand::Exclude { version: 1, ranks: vec![Rank(0)] }).unwrap();
        assert!(pool.apply(command(Exclude, &[1], &[0], false)).is_err());
        // Without a container there is nothing to lose.
        pool.containers.clear();
        assert!(pool.apply(command(Exclude, &[1], &[0], false)).is_ok());
    }

    #[test]
    fn new_targets_that_are_excluded_go_back_and_come_when_they_are_wanted_again() {
        let mut pool = pool(1);
        pool.apply(PoolCommand::AddServers { servers: vec![server(3), server(0)] }).unwrap();
        assert_eq!(states(&pool)[6..], [New; 2]);
        assert_eq!(pool.servers().len(), 4, "one that it has is passed by");
        pool.apply(PoolCommand::Extend { version: 2, ranks: vec![Rank(3)] }).unwrap();
        assert_eq!(states(&pool)[6..], [Up(CameFrom::New); 2]);
        pool.apply(command(Exclude, &[3], &[1], false)).unwrap();
        assert_eq!((states(&pool)[6..].to_vec(), kept_out(&pool)), (vec![Up(CameFrom::New), New], vec![7]));
        pool.apply(PoolCommand::Extend { version: 4, ranks: vec![Rank(3)] }).unwrap();
        assert_eq!(states(&pool)[7], New, "not by itself");
        pool.apply(command(Reintegrate, &[3], &[1], false)).unwrap();
        // A share that could not be made would hold up all writes: the leader looks at that first.
        assert_eq!((states(&pool)[6..].to_vec(), kept_out(&pool)), (vec![Up(CameFrom::New), New], vec![]));
        pool.apply(PoolCommand::Extend { version: 4, ranks: vec![Rank(3)] }).unwrap();
        assert_eq!(states(&pool)[6..], [Up(CameFrom::New); 2]);
        assert_eq!(PoolState::from_bytes(&pool.to_bytes()), Ok(pool));
    }
}
