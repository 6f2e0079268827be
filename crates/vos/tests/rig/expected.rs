//! What a target should hold: the model of each container, and what is known of changes.

use std::collections::BTreeMap;

use types::{ContainerId, Epoch, PoolId};
use vos::model::{self, Refusal, Step};
use vos::{ChangeId, ChangeState, Term};

use super::{Op, change, container, object, pool};

/// What a target should hold.
#[derive(Clone, Default)]
pub struct Model {
    pub pools: BTreeMap<PoolId, u64>,
    pub containers: BTreeMap<ContainerId, (PoolId, model::Container)>,
    /// Changes of pool 0 that are not settled; prepared ones of destroyed containers too.
    pub changes: BTreeMap<ChangeId, ChangeState>,
    /// By group of pool 0.
    pub terms: BTreeMap<u32, Term>,
    pub settled: BTreeMap<u32, ChangeId>,
}

/// How an operation ended, as far as a caller can tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Done,
    Refused(Refusal),
    Missing,
    Present,
}

impl Model {
    pub fn state(&self, change: ChangeId) -> ChangeState {
        // Before the first mark, only what comes before every change.
        let fresh = ChangeId { group: change.group, ..ChangeId::default() };
        let settled = self.settled.get(&change.group).copied().unwrap_or(fresh);
        let unknown = if change <= settled { ChangeState::Settled } else { ChangeState::Unknown };
        self.changes.get(&change).copied().unwrap_or(unknown)
    }

    fn prepare(&mut self, change: ChangeId, id: ContainerId, epoch: Epoch, steps: &[Step]) -> Outcome {
        let is_old = self.terms.get(&change.group).is_some_and(|term| change.term < *term);
        let is_known = self.state(change) != ChangeState::Unknown;
        match self.containers.get_mut(&id) {
            None => Outcome::Missing,
            Some(_) if is_known || is_old => Outcome::Refused(Refusal::ChangeState),
            Some((_, model)) => match model.prepare(change, epoch, steps) {
                Ok(()) => {
                    self.changes.insert(change, ChangeState::Prepared { epoch });
                    Outcome::Done
                }
                Err(refusal) => Outcome::Refused(refusal),
            },
        }
    }

    fn decide(&mut self, change: ChangeId, commit: bool) -> Outcome {
        if !self.pools.contains_key(&pool(0)) {
            return Outcome::Missing;
        }
        let end = match (self.state(change), commit) {
            (ChangeState::Prepared { epoch }, true) => ChangeState::Committed { epoch },
            (ChangeState::Prepared { .. } | ChangeState::Unknown, false) => ChangeState::Aborted,
            (ChangeState::Committed { .. }, true) => return Outcome::Done,
            (ChangeState::Aborted | ChangeState::Settled, false) => return Outcome::Done,
            _ => return Outcome::Refused(Refusal::ChangeState),
        };
        for (_, model) in self.containers.values_mut() {
            if commit { model.commit(change) } else { model.abort(change) }
        }
        self.changes.insert(change, end);
        Outcome::Done
    }

    fn settle(&mut self, to: ChangeId) -> Outcome {
        if !self.pools.contains_key(&pool(0)) {
            return Outcome::Missing;
        }
        let passed = |change: &ChangeId| change.group == to.group && *change <= to;
        let mut all = self.changes.iter();
        if self.state(to) == ChangeState::Settled {
            return Outcome::Done;
        }
        if all.any(|(change, state)| passed(change) && matches!(state, ChangeState::Prepared { .. })) {
            return Outcome::Refused(Refusal::ChangeState);
        }
        self.changes.retain(|change, _| !passed(change));
        let mark = self.settled.entry(to.group).or_default();
        *mark = to.max(*mark);
        Outcome::Done
    }

    fn adopt(&mut self, group: u32, term: Term) -> Outcome {
        if !self.pools.contains_key(&pool(0)) {
            return Outcome::Missing;
        }
        let known = self.terms.entry(group).or_default();
        if term < *known {
            return Outcome::Refused(Refusal::ChangeState);
        }
        *known = term;
        Outcome::Done
    }

    pub fn apply(&mut self, op: &Op) -> Outcome {
        let done = |result: Result<(), Refusal>| result.map_or_else(Outcome::Refused, |()| Outcome::Done);
        match op {
            Op::CreatePool(n, quota) if self.pools.contains_key(&pool(*n)) => {
                let _ = quota;
                Outcome::Present
            }
            Op::CreatePool(n, quota) => {
                self.pools.insert(pool(*n), *quota);
                Outcome::Done
            }
            Op::SetQuota(n, quota) => match self.pools.get_mut(&pool(*n)) {
                Some(stored) => {
                    *stored = *quota;
                    Outcome::Done
                }
                None => Outcome::Missing,
            },
            Op::DestroyPool(n) => {
                if self.pools.remove(&pool(*n)).is_none() {
                    return Outcome::Missing;
                }
                self.containers.retain(|_, (owner, _)| *owner != pool(*n));
                if *n == 0 {
                    (self.changes, self.terms, self.settled) = Default::default();
                }
                Outcome::Done
            }
            Op::CreateContainer(p, c) => {
                if !self.pools.contains_key(&pool(*p)) {
                    return Outcome::Missing;
                }
                if self.containers.contains_key(&container(*c)) {
                    return Outcome::Present;
                }
                self.containers.insert(container(*c), (pool(*p), model::Container::default()));
                Outcome::Done
            }
            Op::DestroyContainer(c) => match self.containers.remove(&container(*c)) {
                Some(_) => Outcome::Done,
                None => Outcome::Missing,
            },
            Op::Snapshots(c, epochs) => match self.containers.get_mut(&container(*c)) {
                Some((_, model)) => {
                    model.snapshots = epochs.clone();
                    model.snapshots.sort();
                    model.snapshots.dedup();
                    Outcome::Done
                }
                None => Outcome::Missing,
            },
            Op::Update { container: c, epoch, object: o, dkey, conditions, akeys } => {
                match self.containers.get_mut(&container(*c)) {
                    Some((_, model)) => done(model.update(*epoch, object(*o), dkey, *conditions, akeys)),
                    None => Outcome::Missing,
                }
            }
            Op::Punch { container: c, epoch, object: o, scope, conditions } => {
                match self.containers.get_mut(&container(*c)) {
                    Some((_, model)) => done(model.punch(*epoch, object(*o), scope, *conditions)),
                    None => Outcome::Missing,
                }
            }
            Op::Rollback { container: c, to, .. } => match self.containers.get_mut(&container(*c)) {
                Some((_, model)) => {
                    model.rollback(*to);
                    Outcome::Done
                }
                None => Outcome::Missing,
            },
            Op::Maintain(horizon) => {
                self.containers.values_mut().for_each(|(_, model)| {
                    model.forget(*horizon);
                });
                Outcome::Done
            }
            // It changes nothing that can be seen.
            Op::Coalesce | Op::Resize(_) => Outcome::Done,
            Op::Prepare { change: n, container: c, epoch, steps } => {
                self.prepare(change(*n), container(*c), *epoch, steps)
            }
            Op::Commit(n) => self.decide(change(*n), true),
            Op::Abort(n) => self.decide(change(*n), false),
            Op::Settle(n) => self.settle(change(*n)),
            Op::Adopt(n) => self.adopt(change(*n).group, change(*n).term),
        }
    }
}
