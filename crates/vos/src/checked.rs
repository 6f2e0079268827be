//! Calls that keep the order of epochs: what a transaction reads and writes, against everybody else's.
//!
//! A read is admitted first, then made with the ordinary calls at the same epoch, without a wait in between.
//! Writes are admitted and made in one call. What was read is noted when the answer is given, a refused
//! condition included: it told something too.

use media::{Lsn, Pages};
use types::{Conditions, ContainerId, Epoch, Extent, Key, ObjectId};

use crate::conflict::table::{Clash, Class, Doing, Level, Predicate, class_of};
use crate::conflict::timestamps::{Stamp, Timestamps};
use crate::conflict::{Facts, Party, Verdict, decide};
use crate::error::{Error, Result};
use crate::history::{self, Window};
use crate::intent::{Change, Intent, Table, Touch, touches};
use crate::key::{self, OBJECT_BYTES, Record, Version};
use crate::prepare::{named_akeys, own_existence};
use crate::request::{AkeyRead, ChangeId, Op, Origin, Prepare, Punch, PunchScope, ReadWhat, Update};
use crate::shard::Shard;
use crate::store::Store;
use crate::transaction::validate;
use crate::value;
use crate::view::View;

/// What a transaction is about to read.
#[derive(Clone, Copy, Debug)]
pub enum ReadScope<'a> {
    /// A list of objects, or a snapshot.
    Container,
    /// A list or query of dkeys, or whether the object exists.
    Object { group: u32, oid: ObjectId },
    /// A list or query of akeys, or whether the dkey exists.
    Dkey { group: u32, oid: ObjectId, dkey: &'a Key },
    /// A fetch; or a list or query of an array's extents, of all its indices.
    Akeys { group: u32, oid: ObjectId, dkey: &'a Key, akeys: &'a [AkeyRead<'a>] },
}

/// Which of a place's records an operation is about.
#[derive(Clone, Copy, Debug)]
enum Part<'a> {
    Whole,
    Single,
    Extents(&'a [Extent]),
}

impl<'a> Part<'a> {
    fn of(change: &'a Change) -> Part<'a> {
        match change {
            Change::Punch => Part::Whole,
            Change::Single => Part::Single,
            Change::Array { extents, .. } | Change::Holes(extents) => Part::Extents(extents),
        }
    }

    /// Whether a record of the tree is in it. Punches always are.
    fn has(&self, record: Record, stored: &[u8]) -> bool {
        match (self, record) {
            (Part::Whole, _) | (Part::Single, Record::Single(_)) => true,
            (Part::Extents(extents), Record::Array { hole, start, .. }) => {
                let count = if hole { value::read_count(stored) } else { value::read_data(stored).map(|(n, _, _)| n) };
                // A record that cannot be read is not this call's to report; it is in the way all the same.
                count.is_none_or(|count| overlap(extents, &[Extent::new(start, count)]))
            }
            (_, record) => !record.is_value(),
        }
    }

    /// Whether a change of an intent is in it.
    fn meets(&self, change: &Change) -> bool {
        match (self, Part::of(change)) {
            (Part::Whole, _) | (_, Part::Whole) | (Part::Single, Part::Single) => true,
            (Part::Extents(extents), Part::Extents(others)) => overlap(extents, others),
            _ => false,
        }
    }
}

fn overlap(extents: &[Extent], others: &[Extent]) -> bool {
    let meets = |extent: &Extent, other: &Extent| extent.start < other.end() && other.start < extent.end();
    extents.iter().any(|extent| others.iter().any(|other| meets(extent, other)))
}

/// Where facts are looked up.
struct Ground<'a> {
    shard: &'a Shard,
    pages: &'a Pages,
    table: &'a Table,
    party: &'a Party,
}

impl Ground<'_> {
    /// An intent at, above or below a place, at an epoch that `counts`.
    fn intent(&self, place: &[u8], mut counts: impl FnMut(&Touch) -> bool) -> Option<(ChangeId, Epoch)> {
        let mut found = None;
        self.table.any_touch(self.shard.tree.owner, place, |change, touch| {
            if counts(touch) {
                found = Some((change, touch.version.epoch));
            }
            found.is_some()
        });
        found
    }

    /// The newest write, committed or not, that the clock cannot tell from an earlier one.
    fn uncertain(&self, place: &[u8], part: Part<'_>) -> Result<Option<Epoch>> {
        let window = Window { low: self.party.epoch.next(), high: self.party.bound };
        if window.low > window.high {
            return Ok(None);
        }
        let mut matters = |_: &[u8], record: Record, stored: &[u8]| part.has(record, stored);
        let within = history::newest(self.shard, self.pages, place, window, &mut matters)?;
        let above = history::newest_above(self.shard, self.pages, place, window)?;
        let intent = self.intent(place, |touch| window.contains(touch.version.epoch) && part.meets(&touch.change));
        Ok(within.max(above).max(intent.map(|(_, epoch)| epoch)))
    }

    /// For a punch: the newest write after it, at or below its place.
    fn covered(&self, place: &[u8]) -> Result<Option<Epoch>> {
        let window = Window { low: self.party.epoch.next(), high: Epoch::MAX };
        let within = history::newest(self.shard, self.pages, place, window, &mut |_, _, _| true)?;
        let below = |touch: &Touch| window.contains(touch.version.epoch) && touch.place.starts_with(place);
        Ok(within.max(self.intent(place, below).map(|(_, epoch)| epoch)))
    }

    /// The worst clash of a write with another at the same epoch.
    fn clash(&self, touch: &Touch) -> Result<Option<Clash>> {
        let epoch = self.party.epoch;
        let (part, now) = (Part::of(&touch.change), Window { low: epoch, high: epoch });
        let intent = |other: &Touch| other.version.epoch == epoch && part.meets(&other.change);
        if self.intent(&touch.place, intent).is_some()
            || history::newest_above(self.shard, self.pages, &touch.place, now)?.is_some()
        {
            return Ok(Some(Clash::SameEpoch));
        }
        let (mut same_punch, place) = (false, &touch.place);
        let mut matters = |key: &[u8], record: Record, stored: &[u8]| {
            let is_own_life = !record.is_value() && key.len() <= place.len() + 2 + key::VERSION_BYTES;
            if touch.change == Change::Punch && is_own_life && is_punch_of(place, key) {
                same_punch = true;
                return false;
            }
            part.has(record, stored)
        };
        let other = history::newest(self.shard, self.pages, place, now, &mut matters)?;
        Ok(other.map(|_| Clash::SameEpoch).or(same_punch.then_some(Clash::SamePunch)))
    }

    /// Whether anything is visible at a place.
    fn exists(&self, place: &[u8]) -> Result<bool> {
        let view = View::open(self.shard, self.pages, place, self.party.epoch)?;
        let mut ends = crate::intent::ends(place).skip(1);
        match (ends.next(), ends.next()) {
            (None, _) => view.object_visible(place),
            (Some(_), None) => view.dkey_visible(place),
            (Some(dkey), Some(_)) => view.akey_visible(place, view.hidden_below(&place[..dkey], view.hidden)?),
        }
    }
}

/// Whether `key` is that of a punch of exactly `place`.
fn is_punch_of(place: &[u8], key: &[u8]) -> bool {
    let life: &[u8] = if place.len() == OBJECT_BYTES { &[key::LIFE, key::OBJECT_PUNCH] } else { &[key::LIFE] };
    let rest = key.strip_prefix(place).and_then(|rest| rest.strip_prefix(life));
    rest.is_some_and(|rest| rest.len() == key::VERSION_BYTES)
}

impl Store {
    /// After recovery, with the clock's epoch: whatever happened before may have been read. Until then,
    /// every checked write of a recovered store starts over.
    pub fn start_clock(&mut self, now: Epoch) {
        self.reads.start(now);
    }

    /// Bounds the read marks kept for each pool. For tests: few marks are dropped often.
    #[doc(hidden)]
    pub fn set_read_marks(&mut self, marks_max: usize) {
        self.reads.set_marks_max(marks_max);
    }

    /// Notes that `party` reads `scope` at its epoch, now: read it before anything else is done to the store.
    ///
    /// # Errors
    /// `InProgress`: an intent at or below the epoch decides what is there. `Restart`: a write may have been
    /// before it for all the clock knows. `NoContainer`, `Invalid`, `Corrupt`.
    pub fn admit_read(&mut self, party: &Party, container: ContainerId, scope: &ReadScope<'_>) -> Result<()> {
        let mut place = Vec::new();
        let (doing, parts): (Doing, Vec<(Vec<u8>, Part<'_>)>) = match *scope {
            ReadScope::Container => (Doing::ReadContainer, vec![(place, Part::Whole)]),
            ReadScope::Object { group, oid } => {
                key::push_object(&mut place, group, oid);
                (Doing::ReadObject, vec![(place, Part::Whole)])
            }
            ReadScope::Dkey { group, oid, dkey } => {
                key::push_object(&mut place, group, oid);
                key::push_key(&mut place, dkey);
                (Doing::ReadDkey, vec![(place, Part::Whole)])
            }
            ReadScope::Akeys { group, oid, dkey, akeys } => {
                key::push_object(&mut place, group, oid);
                key::push_key(&mut place, dkey);
                let part = |read: &AkeyRead<'_>| {
                    let mut place = place.clone();
                    key::push_key(&mut place, read.akey);
                    place
                };
                let what = |what| match what {
                    ReadWhat::Single => Part::Single,
                    ReadWhat::Array(extents) => Part::Extents(extents),
                };
                (Doing::ReadAkeys, akeys.iter().map(|read| (part(read), what(read.what))).collect())
            }
        };
        let class = class_of(doing, Conditions::None);
        self.on_ground(party, container, |ground, reads| {
            for (place, part) in &parts {
                let seen = |touch: &Touch| touch.version.epoch <= party.epoch && part.meets(&touch.change);
                let undecided = ground.intent(place, seen).map(|(change, _)| change);
                let uncertain = ground.uncertain(place, *part)?;
                settle(decide(class, party, &Facts { uncertain, undecided, ..Facts::default() }))?;
            }
            let stamp = Stamp { epoch: party.epoch, tx: Some(party.tx) };
            parts.iter().for_each(|(place, _)| reads.note(container, place, stamp));
            Ok(())
        })
    }

    /// As [`Store::update`], unless the order of epochs forbids it. A transaction of its own: committed at
    /// once.
    ///
    /// # Errors
    /// Of [`Store::update`] and [`Store::prepare_in`].
    pub fn update_in(
        &mut self,
        party: &Party,
        container: ContainerId,
        origin: Origin,
        update: &Update<'_>,
    ) -> Result<Lsn> {
        crate::update::validate(update)?;
        self.admit(party, container, &[Op::Update(*update)])?;
        self.update(container, party.epoch, origin, update)
    }

    /// As [`Store::punch`], unless the order of epochs forbids it.
    ///
    /// # Errors
    /// Of [`Store::punch`] and [`Store::prepare_in`].
    pub fn punch_in(
        &mut self,
        party: &Party,
        container: ContainerId,
        origin: Origin,
        punch: &Punch<'_>,
    ) -> Result<Lsn> {
        crate::punch::validate(punch)?;
        self.admit(party, container, &[Op::Punch(*punch)])?;
        self.punch(container, party.epoch, origin, punch)
    }

    /// As [`Store::prepare`], unless the order of epochs forbids it.
    ///
    /// # Errors
    /// `Restart`: start over at a higher epoch; `InProgress`: learn how the other ends, then retry at the
    /// same; of [`Store::prepare`].
    pub fn prepare_in(&mut self, party: &Party, wanted: &Prepare<'_>) -> Result<Lsn> {
        validate(wanted)?;
        self.admit(party, wanted.container, wanted.ops)?;
        self.prepare(wanted, party.epoch)
    }

    fn admit(&mut self, party: &Party, container: ContainerId, ops: &[Op<'_>]) -> Result<()> {
        self.on_ground(party, container, |ground, reads| {
            let version = Version { epoch: party.epoch, minor: 0 };
            let mut own = Intent::new(container, version, Origin::default(), &[]);
            for op in ops {
                let (class, seen, facts) = facts(ground, reads, container, &own, op)?;
                let verdict = decide(class, party, &facts);
                if class.predicate.is_some() && matches!(verdict, Verdict::Ok | Verdict::Exists | Verdict::NotFound) {
                    let stamp = Stamp { epoch: party.epoch, tx: Some(party.tx) };
                    seen.iter().for_each(|place| reads.note(container, place, stamp));
                }
                settle(verdict)?;
                own.add(op);
            }
            Ok(())
        })
    }

    fn on_ground(
        &mut self,
        party: &Party,
        container: ContainerId,
        look: impl FnOnce(&Ground<'_>, &mut Timestamps) -> Result<()>,
    ) -> Result<()> {
        if party.epoch == Epoch::ZERO || party.epoch == Epoch::MAX || party.bound < party.epoch {
            return Err(Error::Invalid("a checked call has an epoch of its own, and a bound not below it"));
        }
        let Store { media, catalog, reads, .. } = self;
        let shard = catalog.shard(container)?;
        let mut pages = media.pages();
        pages.begin_op();
        let reads = reads.pool(shard.pool, |pool| catalog.pools.contains_key(pool));
        look(&Ground { shard, pages: &pages, table: &catalog.intents, party }, reads)
    }
}

/// What is known of an operation's places; and those that its predicate reads.
fn facts(
    ground: &Ground<'_>,
    reads: &Timestamps,
    container: ContainerId,
    own: &Intent,
    op: &Op<'_>,
) -> Result<(Class, Vec<Vec<u8>>, Facts)> {
    let party = ground.party;
    let class = Class::of(op);
    let mut facts = Facts::default();
    let seen = predicate_places(class, op);
    if let Some(predicate) = class.predicate {
        let (mut any, mut all) = (false, true);
        for place in &seen {
            facts.uncertain = facts.uncertain.max(ground.uncertain(place, Part::Whole)?);
            if let Some(exists) = own_existence(own, place)? {
                (any, all) = (any || exists, all && exists);
                continue;
            }
            let exists = ground.exists(place)?;
            (any, all) = (any || exists, all && exists);
            // Only what would turn the answer round matters.
            let turns = |touch: &Touch| touch.version.epoch <= party.epoch && touch.is_removal() == exists;
            facts.undecided = facts.undecided.or(ground.intent(place, turns).map(|(change, _)| change));
        }
        facts.exists = Some(if predicate == Predicate::Empty { any } else { all });
    }
    let mut written = Vec::new();
    touches(op, Version { epoch: party.epoch, minor: 0 }, &mut written);
    for touch in &written {
        facts.read = facts.read.join(reads.newest(container, &touch.place));
        facts.uncertain = facts.uncertain.max(ground.uncertain(&touch.place, Part::of(&touch.change))?);
        facts.clash = match (facts.clash, ground.clash(touch)?) {
            (Some(Clash::SameEpoch), _) => facts.clash,
            (before, clash) => clash.or(before),
        };
        if class.punches {
            facts.covered = facts.covered.max(ground.covered(&touch.place)?);
        }
    }
    Ok((class, seen, facts))
}

/// The places that an operation's predicate is about.
fn predicate_places(class: Class, op: &Op<'_>) -> Vec<Vec<u8>> {
    let Some(level) = class.read else { return Vec::new() };
    let (group, oid, dkey, conditions) = match op {
        Op::Update(update) => (update.group, update.oid, Some(update.dkey), update.conditions),
        Op::Punch(punch) => {
            let dkey = match punch.scope {
                PunchScope::Object => None,
                PunchScope::Dkey(dkey) | PunchScope::Akeys(dkey, _) | PunchScope::Extents { dkey, .. } => Some(dkey),
            };
            (punch.group, punch.oid, dkey, punch.conditions)
        }
    };
    let mut place = Vec::new();
    key::push_object(&mut place, group, oid);
    if level == Level::Object || conditions == Conditions::None {
        return vec![place];
    }
    dkey.into_iter().for_each(|dkey| key::push_key(&mut place, dkey));
    if level == Level::Dkey {
        return vec![place];
    }
    let below = |akey| {
        let mut place = place.clone();
        key::push_key(&mut place, akey);
        place
    };
    named_akeys(op).into_iter().map(below).collect()
}

fn settle(verdict: Verdict) -> Result<()> {
    match verdict {
        Verdict::Ok => Ok(()),
        Verdict::Restart { above } => Err(Error::Restart { above }),
        Verdict::InProgress { change } => Err(Error::InProgress { change }),
        Verdict::Exists => Err(Error::Exists),
        Verdict::NotFound => Err(Error::NotFound),
    }
}
