//! What each session did lately: so that a request which took effect is not done a second time, even when its
//! answer was lost with the process that gave it (K5).
//!
//! # Shape
//! A session has one page, a ring of its latest effects: the number of the request and the epoch that it got,
//! which is all that an answer says. The ring is written in the step that applies the log record, so a
//! checkpoint takes it along with the trees, and replay writes what came later by the same code. An entry of
//! the catalog leads to the page, little-endian:
//!
//! | key                  | value  |
//! |----------------------|--------|
//! | 06, session 8 BE     | page 4 |
//!
//! # Always true
//! 1. A number that is not in the ring, and not below its floor, took no effect here, nor on a target whose memory was
//!    taken over ([`Memory`]) before it gave that.
//! 2. At most [`sessions_max`] sessions have a page, the one that did something longest ago goes first, by the epochs of
//!    effects and not by when this target heard of them: what others tell of sessions that are over displaces none that
//!    goes on. Nothing is known of it from then on.
//! 3. A session whose page cannot be read is known to have one. Of its requests, whatever their number, nobody can tell
//!    whether they took effect. That goes along with its groups, as all memory does: whoever has a group from somebody
//!    who cannot tell cannot tell either.
//!
//! # Not here
//! Refusals. They changed nothing, and running them again is right. Which requests are under way, and waiting
//! for durability: the engine.

use std::collections::{BTreeMap, BTreeSet};
use std::mem::{offset_of, size_of};

use hashbrown::HashMap;
use media::{PAGE_BODY_BYTES, PAGE_BYTES, PageId, Pages};
use types::{Epoch, SessionId, UNDER_WAY_MAX};
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::cursor::each_record;
use crate::error::{Error, Result};
use crate::node::{KIND_SESSION, Value};
use crate::request::{Origin, Recall};
use crate::shard::Shard;
use crate::tree::damaged;

/// First byte of the keys of this file in the catalog's tree.
pub(crate) const SESSION: u8 = 6;
/// Effects remembered of one session: a page full. A client has at most [`UNDER_WAY_MAX`] requests under way, so that
/// one which comes a second time has let 250 others overtake it before it is too old.
pub const EFFECTS_MAX: usize = 507;
const _: () = assert!(EFFECTS_MAX > UNDER_WAY_MAX, "what may come again is remembered");
/// Floor of a session of whose requests nobody can tell whether they took effect.
const UNTOLD: u64 = u64::MAX;
/// Most sessions remembered: 32 MiB of pages, most of which lie on the device alone.
const SESSIONS_MAX: u64 = 4096;
/// Fewest, however small the device.
const SESSIONS_MIN: u64 = 16;
/// Share of the device that pages of sessions may take.
const SHARE: u64 = 64;
const PAGE_VERSION: u32 = 1;
const COUNT_MAX: u64 = 1 << 56;

/// Sessions remembered on a device of `capacity` bytes.
pub(crate) fn sessions_max(capacity: u64) -> u64 {
    (capacity / SHARE / PAGE_BYTES as u64).clamp(SESSIONS_MIN, SESSIONS_MAX)
}

/// Page of a session: the whole body. Little-endian. Ours.
///
/// | offset | bytes | field    | meaning                                                            |
/// |-------:|------:|----------|--------------------------------------------------------------------|
/// |      0 |     4 | version  | 1                                                                  |
/// |      4 |     4 | reserved | zero                                                               |
/// |      8 |     8 | session  | whose it is; never 0                                               |
/// |     16 |     8 | noted    | effects so far; the next one takes slot `noted` modulo 507         |
/// |     24 |     8 | floor    | of numbers below it, some were overwritten; all ones: see UNTOLD   |
/// |     32 |     8 | newest   | latest epoch of an effect                                          |
/// |     40 |     8 | reserved | zero                                                               |
/// |     48 |  8112 | ring     | 507 effects: number 8, epoch 8 (0: an effect without an epoch)     |
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
struct SessionPage {
    version: U32,
    reserved: U32,
    session: U64,
    noted: U64,
    floor: U64,
    newest: U64,
    reserved_too: U64,
    ring: [Effect; EFFECTS_MAX],
}

#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
struct Effect {
    seq: U64,
    epoch: U64,
}

const _: () = assert!(offset_of!(SessionPage, session) == 8);
const _: () = assert!(offset_of!(SessionPage, newest) == 32);
const _: () = assert!(offset_of!(SessionPage, ring) == 48);
const _: () = assert!(size_of::<SessionPage>() == PAGE_BODY_BYTES);

impl SessionPage {
    /// Effects that it has, oldest first.
    fn effects(&self) -> impl DoubleEndedIterator<Item = (u64, Epoch)> {
        let noted = self.noted.get();
        let (newer, older) = match usize::try_from(noted) {
            Ok(noted) if noted <= EFFECTS_MAX => (&self.ring[..noted], &[][..]),
            _ => self.ring.split_at((noted % EFFECTS_MAX as u64) as usize),
        };
        older.iter().chain(newer).map(|effect| (effect.seq.get(), Epoch(effect.epoch.get())))
    }
}

/// What memory knows of a session's page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Ring {
    page: PageId,
    noted: u64,
    floor: u64,
    /// Latest epoch of an effect.
    newest: Epoch,
    /// Highest number of which something is known: those above are new, without a look.
    highest: u64,
}

/// A session whose page cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Unread {
    /// None when what the entry leads to is no page, or somebody else's.
    page: Option<PageId>,
    /// As if it had done something just before the store was opened: it may have.
    newest: Epoch,
}

/// What a target knows of a session, for another that takes over its work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Memory {
    pub session: SessionId,
    /// None: of no request of it can it be told whether it took effect.
    pub effects: Option<Effects>,
}

/// All requests of a session from a number on that took effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Effects {
    floor: u64,
    list: Vec<(u64, Epoch)>,
}

impl Effects {
    /// `list`: numbers that took effect, and their epochs, ascending, [`EFFECTS_MAX`] at most; all that did from `floor`
    /// on. Of lower ones nobody can tell. `None` when no store says so: there is no effect, or it is below the floor.
    pub fn new(floor: u64, list: Vec<(u64, Epoch)>) -> Option<Effects> {
        let is_ascending = list.windows(2).all(|two| two[0].0 < two[1].0);
        let begins = list.first().is_some_and(|(first, _)| floor <= *first);
        (begins && is_ascending && list.len() <= EFFECTS_MAX).then_some(Effects { floor, list })
    }

    pub fn floor(&self) -> u64 {
        self.floor
    }

    pub fn list(&self) -> &[(u64, Epoch)] {
        &self.list
    }
}

impl Memory {
    /// As it is noted: the floor, and effects from there on.
    pub(crate) fn noted(&self) -> (u64, &[(u64, Epoch)]) {
        self.effects.as_ref().map_or((UNTOLD, &[]), |effects| (effects.floor, &effects.list))
    }
}

/// Who hears of an entry that cannot be taken up, and may refuse to go on. With the session, when its entry tells: then
/// it is known as one of which nothing can be told.
pub(crate) type Judge<'a> = &'a mut dyn FnMut(String, Option<SessionId>, Error) -> Result<()>;

/// The sessions of a store.
pub(crate) struct Table {
    rings: HashMap<u64, Ring>,
    unread: BTreeMap<u64, Unread>,
    limit: usize,
    /// Latest epoch of an effect, of all sessions.
    newest: Epoch,
}

impl Default for Table {
    fn default() -> Table {
        Table { rings: HashMap::new(), unread: BTreeMap::new(), limit: SESSIONS_MIN as usize, newest: Epoch::ZERO }
    }
}

fn key_of(session: u64) -> [u8; 9] {
    let mut key = [SESSION; 9];
    key[1..].copy_from_slice(&session.to_be_bytes());
    key
}

fn read(pages: &Pages, id: PageId, session: u64) -> Result<&SessionPage> {
    let page = pages.get(id)?;
    let stored = SessionPage::ref_from_bytes(page.body()).map_err(|_| damaged(id, "a short page of a session"))?;
    if page.kind() != KIND_SESSION || stored.version.get() != PAGE_VERSION {
        return Err(damaged(id, "not the page of a session"));
    }
    if stored.session.get() != session {
        return Err(damaged(id, "the page of another session"));
    }
    // It only grows, by one: no store gets there.
    if stored.noted.get() >= COUNT_MAX {
        return Err(damaged(id, "the page of a session that did too much"));
    }
    Ok(stored)
}

impl Ring {
    fn load(pages: &Pages, id: PageId, session: u64) -> Result<Ring> {
        let stored = read(pages, id, session)?;
        let floor = stored.floor.get();
        Ok(Ring {
            page: id,
            noted: stored.noted.get(),
            floor,
            newest: Epoch(stored.newest.get()),
            highest: stored.effects().map(|(seq, _)| seq).max().unwrap_or(0).max(below(floor)),
        })
    }
}

/// The highest number that a floor says something about.
fn below(floor: u64) -> u64 {
    if floor == UNTOLD { u64::MAX } else { floor.saturating_sub(1) }
}

impl Table {
    /// Bounds the table to what a device of `capacity` bytes may hold.
    pub(crate) fn set_capacity(&mut self, capacity: u64) {
        self.limit = sessions_max(capacity) as usize;
    }

    /// Reads every page that an effect of `origin` changes, so that nothing fails once it is logged.
    #[inline]
    pub(crate) fn touch(&self, own: &Shard, pages: &Pages, origin: Origin) -> Result<()> {
        if origin.session.0 == 0 {
            return Ok(());
        }
        match self.rings.get(&origin.session.0) {
            Some(ring) => Ok(pages.get(ring.page).map(drop)?),
            None if self.unread.contains_key(&origin.session.0) => Ok(()),
            None => self.touch_catalog(own, pages, origin.session.0),
        }
    }

    #[cold]
    fn touch_catalog(&self, own: &Shard, pages: &Pages, session: u64) -> Result<()> {
        own.tree.locate(pages, &key_of(session))?;
        if self.len() >= self.limit
            && let Some((_, oldest)) = self.oldest()
        {
            own.tree.locate(pages, &key_of(oldest))?;
        }
        Ok(())
    }

    /// Notes that the request `origin` took effect, at `epoch`. Part of applying its record.
    #[inline]
    pub(crate) fn note(&mut self, own: &mut Shard, pages: &mut Pages, origin: Origin, epoch: Epoch) -> Result<()> {
        if origin.session.0 == 0 {
            return Ok(());
        }
        // An effect without an epoch is as late as any.
        let newest = if epoch == Epoch::ZERO { self.newest } else { epoch };
        self.newest = self.newest.max(newest);
        let ring = match self.rings.get_mut(&origin.session.0) {
            Some(ring) => ring,
            // It goes on being unknown what it did.
            None if self.unread.contains_key(&origin.session.0) => return Ok(()),
            None => self.begin(own, pages, origin.session.0)?,
        };
        let page = SessionPage::mut_from_bytes(pages.get_mut(ring.page)?.body_mut())
            .map_err(|_| damaged(ring.page, "a short page of a session"))?;
        let slot = &mut page.ring[(ring.noted % EFFECTS_MAX as u64) as usize];
        if ring.noted >= EFFECTS_MAX as u64 {
            ring.floor = ring.floor.max(slot.seq.get().saturating_add(1));
        }
        *slot = Effect { seq: origin.seq.into(), epoch: epoch.0.into() };
        ring.noted += 1;
        ring.newest = ring.newest.max(newest);
        ring.highest = ring.highest.max(origin.seq);
        page.noted = ring.noted.into();
        page.floor = ring.floor.into();
        page.newest = ring.newest.0.into();
        Ok(())
    }

    /// Notes which requests of a session took effect elsewhere, where all that did from `floor` on are known. A session
    /// that is new here, and did nothing since all that are known did something, gets no page. Part of applying its record.
    pub(crate) fn learn(
        &mut self,
        own: &mut Shard,
        pages: &mut Pages,
        session: SessionId,
        floor: u64,
        effects: &[(u64, Epoch)],
    ) -> Result<()> {
        let newest = self.newest_of(effects);
        let is_over = !self.rings.contains_key(&session.0) && !self.has_room(newest);
        let ring = match self.rings.get_mut(&session.0) {
            Some(ring) => ring,
            None if session.0 == 0 || self.unread.contains_key(&session.0) || is_over => return Ok(()),
            None => self.begin(own, pages, session.0)?,
        };
        let page = SessionPage::mut_from_bytes(pages.get_mut(ring.page)?.body_mut())
            .map_err(|_| damaged(ring.page, "a short page of a session"))?;
        let mut all: BTreeMap<u64, Epoch> = effects.iter().copied().chain(page.effects()).collect();
        let mut floor = ring.floor.max(floor);
        // The highest numbers: of several targets' effects those that may come again are among them, whatever order they came in.
        while all.len() > EFFECTS_MAX
            && let Some((seq, _)) = all.pop_first()
        {
            floor = floor.max(seq.saturating_add(1));
        }
        let highest = all.last_key_value().map_or(0, |(seq, _)| *seq);
        (ring.noted, ring.floor, ring.newest) = (all.len() as u64, floor, ring.newest.max(newest));
        ring.highest = ring.highest.max(highest).max(below(floor));
        for (slot, (seq, epoch)) in page.ring.iter_mut().zip(&all) {
            *slot = Effect { seq: (*seq).into(), epoch: epoch.0.into() };
        }
        (page.noted, page.floor, page.newest) = (ring.noted.into(), floor.into(), ring.newest.0.into());
        self.newest = self.newest.max(newest);
        Ok(())
    }

    /// Of what somebody else tells of a session: when it did something last. Who cannot tell may mean just now.
    fn newest_of(&self, effects: &[(u64, Epoch)]) -> Epoch {
        effects.iter().map(|(_, epoch)| *epoch).max().unwrap_or(self.newest)
    }

    /// Whether a session that did something last at `newest` has a page, or would get one: at the cost of none that did
    /// something later.
    fn has_room(&self, newest: Epoch) -> bool {
        self.len() < self.limit || self.oldest().is_some_and(|(oldest, _)| oldest < newest)
    }

    /// Whether nothing is to be learnt from what somebody else knows of a session. Nothing is of one whose own page cannot
    /// be read.
    pub(crate) fn knows(&self, pages: &Pages, memory: &Memory) -> Result<bool> {
        let session = memory.session;
        let (floor, effects) = memory.noted();
        let Some(ring) = self.rings.get(&session.0) else {
            let is_unread = self.unread.contains_key(&session.0);
            return Ok(session.0 == 0 || is_unread || !self.has_room(self.newest_of(effects)));
        };
        let page = match read(pages, ring.page, session.0) {
            Ok(page) => page,
            Err(Error::Corrupt { .. }) => return Ok(true),
            Err(error) => return Err(error),
        };
        if ring.floor < floor {
            return Ok(false);
        }
        let known: BTreeSet<u64> = page.effects().map(|(seq, _)| seq).collect();
        Ok(effects.iter().all(|(seq, _)| *seq < ring.floor || known.contains(seq)))
    }

    /// A page for a session that did nothing before, or nothing that is known.
    #[cold]
    fn begin(&mut self, own: &mut Shard, pages: &mut Pages, session: u64) -> Result<&mut Ring> {
        while self.len() >= self.limit
            && let Some((_, oldest)) = self.oldest()
        {
            self.forget(own, pages, oldest)?;
        }
        let id = pages.allocate()?;
        let page = pages.get_mut(id)?;
        page.set_kind(KIND_SESSION);
        if let Ok(page) = SessionPage::mut_from_bytes(page.body_mut()) {
            page.version = PAGE_VERSION.into();
            page.session = session.into();
        }
        own.tree.insert(pages, &key_of(session), Value { head: &id.0.to_le_bytes(), tail: &[] }, 0)?;
        own.save_all(pages)?;
        Ok(self.rings.entry(session).or_insert(Ring { page: id, noted: 0, floor: 0, newest: Epoch::ZERO, highest: 0 }))
    }

    fn forget(&mut self, own: &mut Shard, pages: &mut Pages, session: u64) -> Result<()> {
        let unread = self.unread.remove(&session).and_then(|unread| unread.page);
        if let Some(page) = self.rings.remove(&session).map(|ring| ring.page).or(unread) {
            pages.free(page)?;
        }
        own.tree.remove(pages, &key_of(session))?;
        own.save_all(pages)
    }

    /// The session that did something longest ago, and when.
    fn oldest(&self) -> Option<(Epoch, u64)> {
        let rings = self.rings.iter().map(|(session, ring)| (ring.newest, *session));
        let unread = self.unread.iter().map(|(session, unread)| (unread.newest, *session));
        rings.chain(unread).min()
    }

    fn len(&self) -> usize {
        self.rings.len() + self.unread.len()
    }

    /// What became of a request.
    ///
    /// Cost: that of a hash lookup when its number is above all others of its session; else a look at a page.
    pub(crate) fn recall(&self, pages: &Pages, origin: Origin) -> Result<Recall> {
        let Some(ring) = self.rings.get(&origin.session.0) else {
            let is_unread = self.unread.contains_key(&origin.session.0);
            return Ok(if is_unread { Recall::Unreadable } else { Recall::Never });
        };
        if ring.floor == UNTOLD {
            return Ok(Recall::Unreadable);
        }
        if origin.seq > ring.highest {
            return Ok(Recall::Never);
        }
        let page = read(pages, ring.page, origin.session.0)?;
        match page.effects().rfind(|(seq, _)| *seq == origin.seq) {
            Some((_, epoch)) => Ok(Recall::Done(epoch)),
            None if origin.seq < ring.floor => Ok(Recall::Forgotten),
            None => Ok(Recall::Never),
        }
    }

    /// The highest number remembered of a session; 0 when there is none, the highest of all when any may be.
    pub(crate) fn highest(&self, session: SessionId) -> u64 {
        match self.rings.get(&session.0) {
            Some(ring) => ring.highest,
            None if self.unread.contains_key(&session.0) => u64::MAX,
            None => 0,
        }
    }

    /// Ascending.
    pub(crate) fn sessions(&self) -> Vec<SessionId> {
        let mut all: Vec<_> = self.rings.keys().map(|session| SessionId(*session)).collect();
        all.sort_unstable();
        all
    }

    /// Those whose page cannot be read, ascending.
    pub(crate) fn unread(&self) -> Vec<SessionId> {
        self.unread.keys().map(|session| SessionId(*session)).collect()
    }

    /// Effects remembered of a session, oldest first: number and epoch.
    pub(crate) fn effects(&self, pages: &Pages, session: SessionId) -> Result<Vec<(u64, Epoch)>> {
        match self.rings.get(&session.0) {
            Some(ring) => Ok(read(pages, ring.page, session.0)?.effects().collect()),
            None => Ok(Vec::new()),
        }
    }

    /// What is known of a session, as far as its requests may come again. Of one whose page has become unreadable, as of
    /// one that was so when the store was opened, that nothing can be told.
    pub(crate) fn memory(&self, pages: &Pages, session: SessionId) -> Result<Memory> {
        let effects = match self.rings.get(&session.0) {
            Some(ring) if ring.floor != UNTOLD => match read(pages, ring.page, session.0) {
                Ok(page) => lately(page, ring.floor),
                Err(Error::Corrupt { .. }) => None,
                Err(error) => return Err(error),
            },
            _ => None,
        };
        Ok(Memory { session, effects })
    }

    /// Reads all sessions back, through the catalog's tree. Those that cannot be read are shown to `judge`.
    pub(crate) fn load(&mut self, own: &Shard, pages: &mut Pages, judge: Judge<'_>) -> Result<()> {
        for (key, place) in entries(own, pages)? {
            pages.begin_op();
            let Some((session, page)) = place else {
                let error = damaged(own.tree.root, "an entry of a session that cannot be read");
                judge(name_of(&key), None, error)?;
                continue;
            };
            match Ring::load(pages, page, session) {
                Ok(ring) => {
                    self.newest = self.newest.max(ring.newest);
                    self.rings.insert(session, ring);
                }
                // What was not read may be whole: a device that fails is another matter.
                Err(error @ Error::Corrupt { .. }) => {
                    // One that can be read all the same is somebody else's, or nobody's.
                    let page = Some(page).filter(|page| pages.get(*page).is_err());
                    self.unread.insert(session, Unread { page, newest: Epoch::ZERO });
                    judge(name_of(&key), Some(SessionId(session)), error)?;
                }
                Err(error) => judge(name_of(&key), None, error)?,
            }
        }
        self.unread.values_mut().for_each(|unread| unread.newest = self.newest);
        Ok(())
    }

    /// Removes the entries of sessions that could not be loaded; returns their names. Their pages are nobody's
    /// then.
    pub(crate) fn forget_unread(&mut self, own: &mut Shard, pages: &mut Pages) -> Result<Vec<String>> {
        let mut gone = Vec::new();
        self.unread.clear();
        for (key, place) in entries(own, pages)? {
            pages.begin_op();
            let ring = place.and_then(|(session, page)| self.rings.get(&session).filter(|ring| ring.page == page));
            if ring.is_none() {
                own.tree.remove(pages, &key)?;
                own.save_all(pages)?;
                gone.push(name_of(&key));
            }
        }
        Ok(gone)
    }

    /// Compares what memory knows with entries and pages; adds the pages to those that are `owned`. Faults come
    /// with the name of the session.
    pub(crate) fn check(
        &self,
        own: &Shard,
        pages: &mut Pages,
        owned: &mut BTreeSet<u32>,
        faults: &mut Vec<(String, String)>,
    ) {
        let entries = match entries(own, pages) {
            Ok(entries) => entries,
            Err(error) => return faults.push(("sessions".into(), error.to_string())),
        };
        let mut listed = 0;
        for (key, place) in entries {
            let mut fault = |text: String| faults.push((name_of(&key), text));
            let Some((session, page)) = place else {
                fault("an entry that cannot be read".into());
                continue;
            };
            if let Some(unread) = self.unread.get(&session) {
                listed += 1;
                owned.extend(unread.page.map(|page| page.0));
                fault(format!("what it did cannot be read, in {page}: its requests are refused"));
                continue;
            }
            let Some(ring) = self.rings.get(&session).filter(|ring| ring.page == page) else {
                fault(format!("{page} is not in use"));
                continue;
            };
            listed += 1;
            if !owned.insert(page.0) {
                fault(format!("{page} has two owners"));
            }
            pages.begin_op();
            match Ring::load(pages, page, session) {
                Ok(stored) if stored == *ring => {}
                Ok(_) => fault(format!("{page} is not what memory says")),
                Err(error) => fault(error.to_string()),
            }
            if ring.newest > self.newest {
                fault(format!("epoch {} is beyond the latest, {}", ring.newest, self.newest));
            }
        }
        if listed != self.len() {
            faults.push(("sessions".into(), format!("{} in memory, {listed} in the catalog", self.len())));
        }
        if listed > self.limit {
            faults.push(("sessions".into(), format!("{listed}, at most {} are kept", self.limit)));
        }
    }
}

/// Effects of a session whose requests may come again, and from which number on these are all. Below the highest
/// [`UNDER_WAY_MAX`] no request is under way any more. Nothing, when none is left above the floor: then the client does not
/// number its requests as they come, and nobody can tell.
fn lately(page: &SessionPage, floor: u64) -> Option<Effects> {
    let all: BTreeMap<u64, Epoch> = page.effects().filter(|(seq, _)| *seq >= floor).collect();
    // By how many took effect, and not by their numbers: those of reads lie between.
    let old = all.len().saturating_sub(UNDER_WAY_MAX);
    let floor = all.keys().take(old).next_back().map_or(floor, |seq| seq.saturating_add(1));
    Effects::new(floor, all.into_iter().skip(old).collect())
}

/// A key of the catalog's tree; session and page, when the entry can be read.
type Entry = (Vec<u8>, Option<(u64, PageId)>);

/// Entries of sessions in the catalog's tree: collected, so that the pages they lead to can be read one by one.
fn entries(own: &Shard, pages: &mut Pages) -> Result<Vec<Entry>> {
    let mut found = Vec::new();
    each_record(&own.tree, pages, &[SESSION], |_, key, value| {
        let session = key.get(1..).and_then(|id| id.try_into().ok()).map(u64::from_be_bytes);
        let page = value.try_into().ok().map(|id| PageId(u32::from_le_bytes(id)));
        found.push((key.to_vec(), session.filter(|session| *session != 0).zip(page)));
        Ok(())
    })?;
    Ok(found)
}

fn name_of(key: &[u8]) -> String {
    let digits: String = key.iter().skip(1).map(|byte| format!("{byte:02x}")).collect();
    format!("session {digits}")
}

#[cfg(test)]
mod tests;
