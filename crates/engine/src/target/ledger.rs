//! A placement group's member on a target: its steps done to the target's store.
//!
//! What a leader wants to find again beside a change, and the store keeps as its note (little-endian, ours): for each
//! target that was to prepare it, rank 4 and target 4.

use std::marker::PhantomData;

use media::Lsn;
use types::{ContainerId, Epoch, PoolId, Rank, TargetIndex};
use vos::{ChangeState, Op, Origin, Prepare, Store, Term};

use crate::replication::{Change, Ledger, Member, Outcome, Peer, Report, Unprepared};

const PEER_BYTES: usize = 8;
/// Most targets that prepare one change: the widest replication that there is a class for.
pub const MEMBERS_MAX: usize = vos::NOTE_BYTES_MAX / PEER_BYTES;

/// Who judges a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judge {
    /// The leader's own member, for all: by conditions, record sizes, and the order of epochs.
    Leader(vos::Party),
    /// Nobody: the leader has.
    Member,
}

/// What a change does, on any of its members.
#[derive(Clone, Copy)]
pub struct Work<'a> {
    pub judge: Judge,
    pub container: ContainerId,
    /// Chosen by the leader, the same everywhere.
    pub epoch: Epoch,
    /// Whose request it is.
    pub origin: Origin,
    pub ops: &'a [Op<'a>],
}

/// A group's part of a store, for one step.
pub struct GroupLedger<'s, 'w> {
    store: &'s mut Store,
    pool: PoolId,
    group: u32,
    /// The answer leaves when the log is durable up to here.
    lsn: Lsn,
    work: PhantomData<Work<'w>>,
}

impl<'s, 'w> GroupLedger<'s, 'w> {
    pub fn new(store: &'s mut Store, pool: PoolId, group: u32) -> GroupLedger<'s, 'w> {
        let lsn = store.last_lsn();
        GroupLedger { store, pool, group, lsn, work: PhantomData }
    }

    /// Where the log has to be durable before anybody hears of what was done. What was known before may have been said
    /// by a step whose record is still on its way, so that it is never before the log's end at the step's begin.
    pub fn lsn(&self) -> Lsn {
        self.lsn
    }

    /// Takes steps until one says that there are no more. They are few: a store has a bounded number of changes.
    fn steps(&mut self, one: impl Fn(&mut Store, PoolId, u32) -> vos::Result<(Lsn, bool)>) -> vos::Result<()> {
        loop {
            let (lsn, has_more) = one(self.store, self.pool, self.group)?;
            self.lsn = self.lsn.max(lsn);
            if !has_more {
                return Ok(());
            }
        }
    }

    fn note(&mut self, done: vos::Result<Lsn>) -> vos::Result<()> {
        self.lsn = self.lsn.max(done?);
        Ok(())
    }
}

impl<'w> Ledger for GroupLedger<'_, 'w> {
    type Work = Work<'w>;
    type Refusal = vos::Error;
    type Failure = vos::Error;

    fn adopt(&mut self, term: Term) -> vos::Result<()> {
        let done = self.store.adopt(self.pool, self.group, term);
        self.note(done)
    }

    fn prepare(
        &mut self,
        change: Change,
        members: &[Peer],
        work: &Work<'w>,
    ) -> Result<(), Unprepared<vos::Error, vos::Error>> {
        let Work { judge, container, epoch, origin, ops } = *work;
        let note = encode_members(members);
        let wanted = Prepare { change: change.in_group(self.group), container, origin, note: &note, ops };
        let done = match judge {
            Judge::Leader(party) => self.store.prepare_in(&party, &wanted),
            Judge::Member => self.store.prepare_judged(&wanted, epoch),
        };
        self.note(done).map_err(|why| match is_failure(&why) {
            true => Unprepared::Failed(why),
            false => Unprepared::Refused(why),
        })
    }

    fn decide(&mut self, change: Change, outcome: Outcome) -> vos::Result<()> {
        let id = change.in_group(self.group);
        let done = match outcome {
            Outcome::Committed => self.store.commit(self.pool, id),
            Outcome::Aborted => self.store.abort(self.pool, id),
        };
        self.note(done)
    }

    fn forget(&mut self, change: Change) -> vos::Result<()> {
        self.steps(|store, pool, group| store.forget_upto(pool, change.in_group(group)))
    }

    fn leave(&mut self) -> vos::Result<()> {
        self.steps(Store::leave_group)
    }

    fn settle(&mut self, change: Change) -> vos::Result<()> {
        let done = self.store.settle_upto(self.pool, change.in_group(self.group));
        self.note(done)
    }
}

/// Whether the store refuses for reasons of its own, so that the same may succeed later or never will for anybody:
/// nothing that says something about the change. What is too large for this target is said of the change.
fn is_failure(error: &vos::Error) -> bool {
    match error {
        vos::Error::Stopped | vos::Error::Corrupt { .. } | vos::Error::IntentsFull | vos::Error::InProgress { .. } => {
            true
        }
        vos::Error::Media(
            media::Error::TooLarge { .. } | media::Error::NoMemory { .. } | media::Error::DiskFull { .. },
        ) => false,
        vos::Error::Media(_) => true,
        _ => false,
    }
}

/// The member that a target's store has of a group.
///
/// # Errors
/// `NoPool`; `Corrupt`, when a note names no members.
pub fn restore(store: &Store, pool: PoolId, group: u32) -> vos::Result<Member> {
    let standing = store.standing(pool, group)?;
    let mut report = Report { settled: standing.settled.into(), ..Report::default() };
    for undecided in standing.prepared {
        let members = decode_members(&undecided.note).ok_or_else(|| vos::Error::Corrupt {
            place: format!("the note of change {}", undecided.change),
            fault: "it does not say who prepares it".into(),
        })?;
        report.prepared.push((undecided.change.into(), members));
    }
    for (change, state) in standing.decided {
        let outcome = match state {
            ChangeState::Committed { .. } => Outcome::Committed,
            _ => Outcome::Aborted,
        };
        report.decided.push((change.into(), outcome));
    }
    Ok(Member::restore(standing.term, report))
}

fn encode_members(members: &[Peer]) -> Vec<u8> {
    let words = members.iter().flat_map(|peer| [peer.rank.0, peer.target.0]);
    words.flat_map(u32::to_le_bytes).collect()
}

fn decode_members(note: &[u8]) -> Option<Vec<Peer>> {
    let (peers, []) = note.as_chunks::<PEER_BYTES>() else { return None };
    let word = |bytes: &[u8]| Some(u32::from_le_bytes(*bytes.first_chunk()?));
    let peer = |bytes: &[u8; PEER_BYTES]| {
        Some(Peer { rank: Rank(word(&bytes[..4])?), target: TargetIndex(word(&bytes[4..])?) })
    };
    peers.iter().map(peer).collect::<Option<Vec<_>>>().filter(|peers| !peers.is_empty())
}

#[cfg(test)]
mod tests {
    use rt::sim::{Sim, SimConfig};
    use types::{Conditions, Key, ObjectId};
    use vos::{AkeyWrite, Party, Payload, TxId, Update, ValueWrite};

    use super::*;
    use crate::replication::Decisions;

    const POOL: PoolId = PoolId::from_bytes([1; 16]);
    const CONTAINER: ContainerId = ContainerId::from_bytes([2; 16]);
    const GROUP: u32 = 5;

    fn peer(rank: u32) -> Peer {
        Peer { rank: Rank(rank), target: TargetIndex(0) }
    }

    #[test]
    fn the_note_of_a_change_has_these_bytes() {
        let members = [Peer { rank: Rank(0x0102), target: TargetIndex(3) }, peer(4)];
        let note = encode_members(&members);
        assert_eq!(note, [2, 1, 0, 0, 3, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(decode_members(&note).as_deref(), Some(&members[..]));
        assert_eq!(decode_members(&note[..15]), None);
        assert_eq!(decode_members(&[]), None);
        assert_eq!(encode_members(&vec![peer(1); MEMBERS_MAX]).len(), vos::NOTE_BYTES_MAX);
    }

    fn regions() -> media::Regions {
        let mode = rt::disk::OpenMode { create: true, ..Default::default() };
        let region = |path: &str, bytes| media::Region::new(rt::disk::Disk::open(path, mode).unwrap(), 0, bytes);
        media::Regions { log: region("/log", 1 << 20), metadata: None, data: region("/data", 16 << 20) }
    }

    fn open() -> Store {
        let (media, recovery) = media::Store::open(regions(), 4 << 20).unwrap();
        Store::recover(media, recovery, &mut |_, _| ()).unwrap().0
    }

    /// One step of a member that a leader might ask for, or an old one, or nobody in his right mind.
    fn step(member: &mut Member, store: &mut Store, next: &mut impl FnMut(u64) -> u64, epoch: u64) {
        let term = |n: u64| Term { interval: 1 + (n / 3) as u32, round: (n % 3) as u32 };
        let change = Change { term: member.term(), number: 1 + next(12) };
        let mut ledger = GroupLedger::new(store, POOL, GROUP);
        match next(8) {
            0 => drop(member.recover(term(next(9)), next(4) as u32, &mut ledger)),
            7 if next(20) == 0 => member.leave(&mut ledger).unwrap(),
            1..=4 if next(8) == 0 => drop(member.refuse(change, &mut ledger)),
            1..=4 => {
                let (dkey, akey) = (Key::from(next(4)), Key::literal("a"));
                let bytes = vec![7; next(600) as usize];
                let checksums = codec::checksum::of_chunks(&bytes);
                // Some do not go together: an array and a value of other record sizes.
                let extents = [(
                    types::Extent::new(0, bytes.len() as u64),
                    Payload::Inline { bytes: &bytes, checksums: &checksums },
                )];
                let value = match next(3) {
                    0 if !bytes.is_empty() => ValueWrite::Array { record_bytes: 1, extents: &extents },
                    _ => ValueWrite::Single(extents[0].1),
                };
                let akeys = [AkeyWrite { akey: &akey, value }];
                let conditions = if next(4) == 0 { Conditions::DkeyInsert } else { Conditions::None };
                let update =
                    Update { group: GROUP, oid: ObjectId { hi: 1, lo: 1 }, dkey: &dkey, conditions, akeys: &akeys };
                let ops = [Op::Update(update)];
                let judge = match next(2) {
                    0 => Judge::Member,
                    _ => Judge::Leader(Party::certain(TxId { session: types::SessionId(1), seq: epoch }, Epoch(epoch))),
                };
                let work =
                    Work { judge, container: CONTAINER, epoch: Epoch(epoch), origin: Origin::default(), ops: &ops };
                let members: Vec<Peer> = (0..1 + next(3) as u32).map(peer).collect();
                drop(member.prepare(change, &members, &work, &mut ledger));
            }
            _ => {
                let outcome = if next(3) == 0 { Outcome::Aborted } else { Outcome::Committed };
                let settled = if next(3) == 0 { Change { number: next(10), ..change } } else { Change::default() };
                let decisions = Decisions { decided: vec![(change, outcome)], settled };
                drop(member.decide(member.term(), &decisions, &mut ledger));
            }
        }
    }

    /// K2, K10: what a member knows is what its store has, after every step, refused ones included; across restarts too.
    #[test]
    fn a_member_is_what_its_store_says() {
        for seed in 0..20u64 {
            let sim = Sim::new(SimConfig::seeded(seed));
            let node = sim.node("target");
            let body = async move {
                let identity = media::Identity { store: *b"0123456789abcdef", target: 0 };
                let media = media::Store::format(regions(), identity, 4 << 20, media::Existing::Refuse).unwrap();
                let mut store = Store::format(media).unwrap();
                store.create_pool(POOL, 8 << 20, Origin::default()).unwrap();
                store.create_container(POOL, CONTAINER, Origin::default()).unwrap();
                store.start_clock(Epoch(0));
                let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
                let mut next = move |below: u64| {
                    state ^= state << 13;
                    state ^= state >> 7;
                    state ^= state << 17;
                    (state >> 11) % below
                };
                let mut member = restore(&store, POOL, GROUP).unwrap();
                let mut known = 0;
                for epoch in 1..300 {
                    step(&mut member, &mut store, &mut next, epoch);
                    assert_eq!(restore(&store, POOL, GROUP).unwrap(), member, "seed {seed}, step {epoch}");
                    known += member.report().prepared.len() + member.report().decided.len();
                    if next(40) == 0 {
                        store.media().flush_now().unwrap();
                        drop(store);
                        store = open();
                        store.start_clock(Epoch(epoch));
                        assert_eq!(restore(&store, POOL, GROUP).unwrap(), member, "seed {seed}, restart");
                    }
                }
                assert!(known > 300, "members knew something most of the time: {known}");
                store.check().expect_clean();
            };
            sim.run(async move { rt::sim::current().spawn_on(node, body).await.unwrap() });
        }
    }
}
