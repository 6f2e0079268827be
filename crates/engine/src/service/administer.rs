//! What an administrator does to servers and targets: a pool's, as its leader; all pools', as the system's.

use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

use futures_util::future::{join_all, select};
use placement::TargetState;
use types::{ByteSize, Code, Error, PoolId, Rank};
use wire::control::{self as msg, TargetChange};
use wire::peer::{ServerSpace, ServerSpaceQuery};
use wire::{Opcode, Wire};

use super::driver::{Heard, Progress};
use super::pool::{PoolCommand, PoolDone, PoolState};
use super::route::Call;
use super::slot::Slot;
use super::system::{Phase, SystemCommand};
use super::{Service, healing};

/// How often to look how far an extension has come, unless something is reported.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// How long a server that is to come into a pool may not answer: long enough to be asked again after an answer was lost.
const SILENCE_MAX: Duration = Duration::from_secs(15);
/// How long a server may take to change what it logs.
const LOG_MAX: Duration = Duration::from_secs(5);

impl Service {
    /// Excludes, drains or reintegrates targets; done when all servers of the pool that are up know.
    pub(super) async fn pool_change_targets(
        self: &Rc<Self>,
        call: &Call,
        id: PoolId,
        slot: &Slot<PoolState>,
        term: u64,
        request: msg::PoolChangeTargets,
    ) -> Result<msg::PoolInfo, Error> {
        let msg::PoolChangeTargets { change, ranks, targets: indices, force, .. } = request;
        let turn = slot.changes.lock().await;
        if change == TargetChange::Reintegrate {
            slot.group.local(|pool| pool.positions(&ranks, &indices))?;
            // Its targets would be taken for lost again in the same moment.
            self.system.group.local(|system| system.check_joined(&ranks))?;
        }
        let command = PoolCommand::ChangeTargets { change, ranks, indices, force };
        let done = slot.propose(Some(term), call.name(), &command).await??;
        // It is decided: whoever is slow to do it is in nobody's way.
        drop(turn);
        self.all_know(call, id, slot, done).await
    }

    /// Stops what is on its way in the pool, or has it go on; done when all servers of the pool that are up know.
    pub(super) async fn pool_rebuild(
        self: &Rc<Self>,
        call: &Call,
        id: PoolId,
        slot: &Slot<PoolState>,
        term: u64,
        request: msg::PoolRebuild,
    ) -> Result<msg::PoolInfo, Error> {
        let turn = slot.changes.lock().await;
        let command = PoolCommand::Rebuild { start: request.start };
        let done = slot.propose(Some(term), call.name(), &command).await??;
        drop(turn);
        self.all_know(call, id, slot, done).await
    }

    /// How the pool stands, when all of its servers that are up know what was decided.
    async fn all_know(
        &self,
        call: &Call,
        id: PoolId,
        slot: &Slot<PoolState>,
        decided: PoolDone,
    ) -> Result<msg::PoolInfo, Error> {
        if let PoolDone::Version { version } = decided {
            self.done(slot, version, None, call.until).await?;
        }
        self.pool_info(id, slot).await
    }

    /// Gives the pool more servers. Three steps: the system's state says which servers the pool is to have, so that they
    /// open replicas; the pool's map gets to know them, so that their targets make their shares; when they have, the
    /// targets are on their way in. The second and third are the driver's: they go on whoever dies.
    pub(super) async fn pool_extend(
        self: &Rc<Self>,
        call: &Call,
        id: PoolId,
        slot: &Slot<PoolState>,
        request: msg::PoolExtend,
    ) -> Result<msg::PoolInfo, Error> {
        let turn = slot.changes.lock().await;
        // Each once, however often it is named.
        let ranks: BTreeSet<Rank> = request.ranks.into_iter().collect();
        let ranks: Vec<Rank> = ranks.into_iter().collect();
        let known = self.system.group.local(|system| system.pools.get(&id).map(|row| row.servers.clone()));
        let known = known.unwrap_or_default();
        let new: Vec<Rank> = ranks.iter().copied().filter(|rank| !known.contains(rank)).collect();
        // Of a repeat, the system remembers what was done; there is nothing to be looked for.
        if new.len() == ranks.len() {
            self.system.group.local(|system| system.check_joined(&new))?;
            nobody_left(slot, &new)?;
            nobody_is_awaited(slot)?;
            let until = call.until.min(rt::now() + SILENCE_MAX);
            while let Err(error) = self.check_room(id, slot, &new).await {
                // Who is just starting answers in a moment.
                if error.code != Code::Busy || rt::now() >= until {
                    return Err(error);
                }
                rt::sleep(LOOK_EVERY).await;
            }
        }
        self.tell_system(call.name(), SystemCommand::ExtendPool { id, servers: ranks.clone() }).await?;
        drop(turn);
        self.on_their_way(slot, &ranks, call.until).await?;
        self.pool_info(id, slot).await
    }

    /// Whether servers that are to come have room for their shares of a pool.
    ///
    /// # Errors
    /// `Busy`: one does not answer; `NoSpace`; `Io`: a target there has failed.
    async fn check_room(&self, id: PoolId, slot: &Slot<PoolState>, ranks: &[Rank]) -> Result<(), Error> {
        let (label, share) = slot.group.local(|pool| (pool.label.clone(), pool.bytes_per_target));
        for (rank, devices) in self.all_storage(ranks).await {
            let devices = devices.map_err(|error| {
                let text = format!("rank {rank} does not say how much room it has: {}", error.message);
                Error::new(Code::Busy, text).remedy("see `dmg system query`, and try again when it answers")
            })?;
            // Of a request that comes again, the shares may be made before this server hears that they are to be.
            let made = match devices.iter().any(|device| device.total.saturating_sub(device.reserved) < share) {
                true => match self.space_on(id, rank).await {
                    Ok(space) => space.targets,
                    Err(error) if error.code == Code::NotFound => Vec::new(),
                    // That nothing is heard of the shares does not mean that there are none.
                    Err(error) => return Err(Error::new(Code::Again, error.to_string()).remedy("try again")),
                },
                false => Vec::new(),
            };
            for device in devices {
                if let Some(failure) = device.failure {
                    return Err(Error::new(Code::Io, format!("target {} of rank {rank}: {failure}", device.target))
                        .remedy("look after its device, then restart the server"));
                }
                let free = device.total.saturating_sub(device.reserved);
                let has_share = made.get(device.target.0 as usize).is_some_and(|(space, _)| space.total >= share);
                if free < share && !has_share {
                    let text = format!(
                        "target {} of rank {rank} has {} free, and a share of pool '{label}' is {}",
                        device.target,
                        ByteSize(free),
                        ByteSize(share)
                    );
                    return Err(Error::new(Code::NoSpace, text)
                        .remedy("give it more storage, destroy a pool there, or make this one smaller"));
                }
            }
        }
        Ok(())
    }

    /// Waits until the targets of servers that a pool was given are on their way in, or what stands in the way is known.
    async fn on_their_way(&self, slot: &Slot<PoolState>, ranks: &[Rank], until: rt::Instant) -> Result<(), Error> {
        let mut watch = slot.group.watch();
        loop {
            let reported = slot.reported.notified();
            let left: Vec<Rank> = slot.group.local(|pool| {
                let is_there = |rank: &Rank| {
                    let mut targets = pool.map().into_iter().flat_map(|map| map.targets());
                    let is_known = pool.servers().iter().any(|server| server.rank == *rank);
                    is_known && !targets.any(|target| target.rank == *rank && target.state() == TargetState::New)
                };
                ranks.iter().copied().filter(|rank| !is_there(rank)).collect()
            });
            if left.is_empty() {
                return Ok(());
            }
            let progress =
                Heard { up: &left.iter().copied().collect(), reports: &slot.reports.borrow() }.progress(1, None);
            if let Progress::Stuck(rank, error) = progress {
                let text = format!("rank {rank} cannot make its share of the pool: {}", error.message);
                return Err(Error::new(error.code, text)
                    .remedy("it is taken in as soon as it can; see its log, and `dmg storage query`"));
            }
            if rt::now() >= until {
                let text = format!("it is decided, but ranks {} have not made their shares yet", listed(&left));
                return Err(
                    Error::new(Code::TimedOut, text).remedy("they are taken in when they have; see `dmg pool query`")
                );
            }
            let changed = std::pin::pin!(watch.changed());
            let reported = std::pin::pin!(reported);
            let _ = rt::timeout(LOOK_EVERY.min(until - rt::now()), select(changed, reported)).await;
        }
    }

    /// How targets of one rank stand, and what the pool uses of them if it says so.
    pub(super) async fn pool_query_targets(
        &self,
        id: PoolId,
        slot: &Slot<PoolState>,
        request: msg::PoolQueryTargets,
    ) -> Result<msg::PoolTargets, Error> {
        let msg::PoolQueryTargets { rank, targets: indices, .. } = request;
        let mut targets = slot.group.local(|pool| {
            pool.positions(&[rank], &indices)?;
            let map = pool.map().ok_or_else(|| Error::new(Code::Again, "the pool is being made"))?;
            let target = |position: u32| {
                let target = &map.targets()[position as usize];
                msg::PoolTarget {
                    index: target.index,
                    state: object::map::state_to_message(target.state()),
                    is_kept_out: !pool.may_return(position) || pool.drained.contains(&position),
                    space: None,
                    is_failed: false,
                }
            };
            let of_it =
                |position: &u32| indices.is_empty() || indices.contains(&map.targets()[*position as usize].index);
            Ok::<_, Error>(map.positions_of(rank).filter(of_it).map(target).collect::<Vec<_>>())
        })?;
        match self.space_on(id, rank).await {
            Ok(spaces) => {
                for target in &mut targets {
                    if let Some((space, is_failed)) = spaces.targets.get(target.index.0 as usize) {
                        (target.space, target.is_failed) = (Some(space.clone()), *is_failed);
                    }
                }
            }
            Err(error) => tracing::debug!(%rank, %error, "it does not say what a pool uses"),
        }
        Ok(msg::PoolTargets { targets })
    }

    /// Has ranks stop serving, or serve again; done when they have.
    ///
    /// Nobody is to be pulled out of the services by it: a system that is stopped as a whole still has them, to be started by.
    pub(super) async fn system_stop(&self, call: &Call, term: u64, request: msg::SystemStop) -> Result<(), Error> {
        let msg::SystemStop { ranks, stop } = request;
        self.system.propose(Some(term), call.name(), &SystemCommand::Stop { ranks: ranks.clone(), stop }).await??;
        loop {
            let reported = self.system.reported.notified();
            let (version, wanted) = self.system.group.local(|system| {
                let is_meant = |rank: &Rank| ranks.is_empty() || ranks.contains(rank);
                let has_to = |rank: &Rank| if stop { system.is_stopped(*rank) } else { system.is_joined(*rank) };
                let wanted = system.members.keys().copied().filter(|rank| is_meant(rank) && has_to(rank));
                (system.version, wanted.collect::<BTreeSet<Rank>>())
            });
            // Of who is dead there is nothing to wait for.
            let wanted = wanted.intersection(&self.living()).copied().collect();
            let progress = Heard { up: &wanted, reports: &self.system.reports.borrow() }.progress(version, None);
            match progress {
                Progress::Done => return Ok(()),
                Progress::Stuck(rank, error) => {
                    let text = format!("rank {rank}: {}", error.message);
                    return Err(Error::new(error.code, text).remedy("look at its log"));
                }
                Progress::Waiting(ranks) if rt::now() >= call.until => {
                    let text = format!("it is decided, but ranks {} have not done it yet", listed(&ranks));
                    return Err(Error::new(Code::TimedOut, text)
                        .remedy("see `dmg system query`; it is done when they answer again"));
                }
                Progress::Waiting(_) => {}
            }
            let _ = rt::timeout(LOOK_EVERY.min(call.until - rt::now()), reported).await;
        }
    }

    /// What a pool uses of one server's targets.
    async fn space_on(&self, id: PoolId, rank: Rank) -> Result<ServerSpace, Error> {
        match rank == self.rank {
            true => self.server_space(id).await,
            // Nobody waits for who is known to be gone.
            false if !self.system.group.local(|system| system.is_joined(rank)) => {
                Err(Error::new(Code::Unreachable, "it does not take part"))
            }
            false => self.ask_server(rank, Opcode::ServerSpace, &ServerSpaceQuery { pool: id }).await,
        }
    }

    /// Drains or reintegrates ranks in every pool that they are in: one after the other, each as `dmg pool` does it.
    pub(super) async fn system_change_targets(
        self: &Rc<Self>,
        call: &Call,
        request: msg::SystemChangeTargets,
    ) -> Result<msg::SystemTargetsChanged, Error> {
        let msg::SystemChangeTargets { ranks, change } = request;
        if ranks.is_empty() {
            return Err(Error::new(Code::Invalid, "no rank is named").remedy("name some: `--ranks 1,3`"));
        }
        let rows: Vec<(PoolId, String, Vec<Rank>)> = self.system.group.local(|system| {
            system.check_ranks(&ranks)?;
            let ready = system.pools.iter().filter(|(_, row)| row.phase == Phase::Ready);
            let ranks: BTreeSet<Rank> = ranks.iter().copied().collect();
            let here = |servers: &[Rank]| ranks.iter().copied().filter(|rank| servers.contains(rank)).collect();
            let rows = ready.map(|(id, row)| (*id, row.label.clone(), here(&row.servers)));
            Ok::<_, Error>(rows.filter(|(_, _, ranks): &(_, _, Vec<Rank>)| !ranks.is_empty()).collect())
        })?;
        let mut pools = Vec::with_capacity(rows.len());
        for (id, label, ranks) in rows {
            let (targets, force) = (Vec::new(), false);
            let request = msg::PoolChangeTargets { pool: id.to_string(), change, ranks: ranks.clone(), targets, force };
            let own = Call::own(Opcode::PoolChangeTargets, request.to_bytes(), call.until);
            let trouble = Box::pin(self.route(own)).await.err();
            // Destroyed while the others were asked.
            if trouble.is_some() && !self.system.group.local(|system| system.pools.contains_key(&id)) {
                continue;
            }
            pools.push(msg::PoolTargetsChanged { id, label, ranks, trouble });
        }
        Ok(msg::SystemTargetsChanged { pools })
    }

    /// Changes what servers log. Whoever is asked tells the others: it needs no leader, for it may be one's trouble that is
    /// looked into.
    pub(super) async fn set_log_masks(&self, request: msg::SetLogMasks) -> Result<msg::LogMasksSet, Error> {
        let msg::SetLogMasks { ranks, masks } = request;
        check_log_masks(&masks)?;
        let ranks = self.system.group.local(|system| {
            system.check_ranks(&ranks)?;
            // Each once, however often it is named.
            Ok::<BTreeSet<Rank>, Error>(match ranks.is_empty() {
                true => system.joined().map(|(rank, _)| rank).collect(),
                false => ranks.into_iter().collect(),
            })
        })?;
        let asked = ranks.into_iter().map(async |rank| {
            if rank == self.rank {
                return (rank, log_masks(&masks).err());
            }
            let body = wire::peer::ServerLog { masks: masks.clone() }.to_bytes();
            let answer = self.peers.ask(rank, Opcode::ServerLog, body, LOG_MAX).await;
            (rank, answer.err().map(Error::from))
        });
        Ok(msg::LogMasksSet { servers: join_all(asked).await })
    }
}

/// # Errors
/// `Exists`: a server was in the pool before: the map knows its targets, which are out.
fn nobody_left(slot: &Slot<PoolState>, ranks: &[Rank]) -> Result<(), Error> {
    let (label, known) =
        slot.group.local(|pool| (pool.label.clone(), ranks.iter().copied().find(|rank| !pool.has_part(*rank))));
    match known {
        Some(rank) => Err(Error::new(Code::Exists, format!("rank {rank} was in pool '{label}' before, and left it"))
            .remedy(format!("take it back: `dmg pool reintegrate {label} --ranks {rank}`"))),
        None => Ok(()),
    }
}

/// # Errors
/// `Busy`: a server that is new might take the places of one that is out, and what only that one has.
fn nobody_is_awaited(slot: &Slot<PoolState>) -> Result<(), Error> {
    let awaited: Vec<Rank> = slot.group.local(|pool| pool.map().map(healing::awaited)).into_iter().flatten().collect();
    match awaited.is_empty() {
        true => Ok(()),
        false => {
            let text = format!("ranks {} are out, and may have what nobody else has", listed(&awaited));
            Err(Error::new(Code::Busy, text).remedy(
                "bring them back (`dmg pool reintegrate`), or give up what only they have (`dmg pool give-up`), before the pool grows",
            ))
        }
    }
}

fn listed(ranks: &[Rank]) -> String {
    ranks.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// Longest text of log masks, in bytes; more than names every module that there is.
const LOG_MASKS_BYTES_MAX: usize = 1024;
/// Masks in one text.
const LOG_MASKS_MAX: usize = 32;

/// Whether a text from outside is `LEVEL[,module=LEVEL...]`, and short; empty: as at the start. The log's own language is much
/// wider, and has expressions that take long to be matched.
///
/// # Errors
/// `Invalid`, with the mask that is none.
fn check_log_masks(masks: &str) -> Result<(), Error> {
    let refused = |text: String| {
        let remedy = "write LEVEL[,module=LEVEL...]; levels are error, warn, info, debug, trace and off";
        Err(Error::new(Code::Invalid, text).remedy(remedy))
    };
    let (bytes, count) = (masks.len(), masks.split(',').count());
    if bytes > LOG_MASKS_BYTES_MAX || count > LOG_MASKS_MAX {
        return refused(format!(
            "{count} log masks of {bytes} bytes: {LOG_MASKS_MAX} of {LOG_MASKS_BYTES_MAX} bytes are the most"
        ));
    }
    let is_level = |word: &str| ["error", "warn", "info", "debug", "trace", "off"].contains(&word);
    let is_module =
        |name: &str| !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == ':');
    let is_mask = |mask: &str| match mask.split_once('=') {
        None => is_level(mask),
        Some((module, level)) => is_module(module) && is_level(level),
    };
    match masks.split(',').find(|mask| !masks.is_empty() && !is_mask(mask)) {
        Some(mask) => refused(format!("'{mask}' is no log mask")),
        None => Ok(()),
    }
}

/// Changes what this server logs; nothing named: what it logged at its start.
///
/// # Errors
/// `Invalid`: the masks cannot be read. `NotSupported`: the program that this server runs in has its own log.
pub(super) fn log_masks(masks: &str) -> Result<(), Error> {
    check_log_masks(masks)?;
    match rt::log::set_filter(masks) {
        Ok(()) => {
            tracing::info!(masks, "the log's masks were changed");
            Ok(())
        }
        Err(rt::log::SetError::Unreadable { cause }) => {
            Err(Error::new(Code::Invalid, format!("log masks '{masks}': {cause}"))
                .remedy("write LEVEL[,module=LEVEL...]; levels are error, warn, info, debug and trace"))
        }
        Err(rt::log::SetError::NotOurs) => {
            Err(Error::new(Code::NotSupported, "the log belongs to the program that this server runs in")
                .remedy("set it there; DAOS_LOG sets it for commands"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_masks_from_outside_are_levels_of_modules_and_few() {
        for fine in ["", "info", "error,engine=debug", "warn,engine::service=trace,raft=off"] {
            assert_eq!(check_log_masks(fine), Ok(()), "{fine}");
        }
        let long = format!("info,{}=debug", "m".repeat(LOG_MASKS_BYTES_MAX));
        let many = vec!["info"; LOG_MASKS_MAX + 1].join(",");
        let cases = [
            ("loud", "'loud' is no log mask"),
            ("info,", "'' is no log mask"),
            ("engine=", "'engine=' is no log mask"),
            ("[span{field=(a+)+$}]=debug", "'[span{field=(a+)+$}]=debug' is no log mask"),
            (&long, "2 log masks of 1035 bytes"),
            (&many, "33 log masks of"),
        ];
        for (masks, why) in cases {
            let error = check_log_masks(masks).unwrap_err();
            assert!(error.code == Code::Invalid && error.to_string().contains(why), "{masks}: {error}");
        }
    }
}
