//! The side that is to have the data.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes as Shared;
use futures_util::future::join;
use media::Lsn;
use rt::disk::IoBuf;
use types::{Code, ContainerId, Epoch, Error};
use vos::{CopiedValue, Incoming, Prints, Reservation, Span};
use wire::copy::{
    CopyDigestRequest, CopyDigestResponse, CopyMemoryRequest, CopyMemoryResponse, CopyRecord, CopyRequest,
    CopyResponse, CopySpan, CopyValue,
};
use wire::data::Payload;
use wire::encoding::Bytes;

use super::PATIENCE;
use crate::target::{Target, is_pressure};

/// How often a group is begun again, when holds end on the way or sums differ.
const ATTEMPTS: u32 = 4;
/// How often they may differ before nothing of what is here is believed.
pub(super) const UNLIKE_MAX: u32 = 2;
/// Records here that are compared together.
const RANGE: usize = 256;
/// Records that are taken out together: their keys, 3 KiB each at worst, make one record of the log.
const TAKEN_OUT: usize = 64;
/// How often sums are compared before the records are: decisions of the last changes may still be on their way.
const LOOKS: u32 = 10;
/// Half the time to the first look again; it doubles from look to look. They come within milliseconds, mostly, and a group of few
/// records comes as fast.
const LOOK_SOON: Duration = Duration::from_millis(1);
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// Who has the data.
pub trait Source {
    /// Records, and the bulk data behind them. The source knows by which map it is asked.
    fn copy(&self, request: CopyRequest) -> impl Future<Output = Result<(CopyResponse, IoBuf), Error>>;

    fn digest(&self, request: CopyDigestRequest) -> impl Future<Output = Result<CopyDigestResponse, Error>>;

    fn memory(&self, request: CopyMemoryRequest) -> impl Future<Output = Result<CopyMemoryResponse, Error>>;
}

/// What came.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pulled {
    pub records: u64,
    /// Of their payloads.
    pub bytes: u64,
    /// Records that were here already.
    pub same: u64,
    /// Records that were here, and not at the source.
    pub removed: u64,
    /// How often all was dropped and begun anew, because the sums differed though all had been compared.
    pub anew: u64,
}

/// How a try ended.
enum Attempt {
    /// Nothing differed, from the first range to the last: that is the proof.
    Same,
    Complete,
    /// A hold has ended on the way.
    Lapsed,
}

/// Where a try goes on.
#[derive(Default)]
struct Front {
    /// First key; none: the group's first.
    from: Option<Vec<u8>>,
    /// What is here from that key on, as far as it was looked at already.
    here: Option<Prints>,
}

/// What one round trip brought.
struct Step {
    /// Under which it was read here and there.
    holds: (u64, u64),
    found: Found,
    /// None: that was the last.
    next: Option<Front>,
}

enum Found {
    /// So many records that both have.
    Same(u64),
    Part(Box<Part>),
}

/// Records that are missing, and what is here of the keys that they cover.
struct Part {
    response: CopyResponse,
    bulk: Shared,
    here: Vec<(Vec<u8>, u64)>,
}

/// Of what a try is about.
#[derive(Clone, Copy)]
struct Wanted {
    container: ContainerId,
    group: u32,
    /// All that may be here and nowhere else was written up to this moment.
    upto: Epoch,
}

impl Wanted {
    /// The part between two keys; none: from the group's beginning, or to its end.
    fn span<'a>(&self, from: Option<&'a [u8]>, end: Option<&'a [u8]>) -> Span<'a> {
        Span { group: self.group, from, end, upto: self.upto }
    }
}

fn asked(span: &Span<'_>) -> CopySpan {
    let key = |key: Option<&[u8]>| Bytes(key.unwrap_or_default().to_vec());
    CopySpan { group: span.group, from: key(span.from), end: key(span.end), upto: span.upto }
}

fn anchor(key: Bytes) -> Option<Vec<u8>> {
    Some(key.0).filter(|key| !key.is_empty())
}

impl Target {
    /// Makes what is here of a group what a source has: what the source has not goes, what is missing comes, until the sums
    /// over all that was decided when this began are the same. What is written later comes as to a member.
    ///
    /// Cost: both read the keys of all records, twice if anything differs; a sum travels for each [`RANGE`] of them, and where
    /// sums differ, a fingerprint for each. While one part is written the next is under way, so that two are in memory.
    ///
    /// # Errors
    /// The source's; `NoSpace`; `DataLoss`, when the sums differ whatever is done.
    pub async fn pull(&self, source: &impl Source, container: ContainerId, group: u32) -> Result<Pulled, Error> {
        let mut wanted = Wanted { container, group, upto: self.up_to_now()? };
        let (mut pulled, mut unlike, mut lapsed) = (Pulled::default(), 0, 0);
        for _ in 0..ATTEMPTS {
            if unlike == UNLIKE_MAX {
                tracing::warn!(target_index = %self.index, %container, group, "sums differ: the group is copied anew");
                self.drop_whole(container, group).await?;
                pulled.anew += 1;
                // What came meanwhile as to a member went, too.
                wanted.upto = self.up_to_now()?;
            }
            match self.pull_once(source, wanted, &mut pulled).await? {
                Attempt::Lapsed => lapsed += 1,
                Attempt::Same => return Ok(pulled),
                Attempt::Complete if self.has_same(source, wanted).await? => return Ok(pulled),
                Attempt::Complete => unlike += 1,
            }
        }
        if unlike == 0 {
            let text = format!(
                "target {}: placement group {group:#x} of container {container} was let go of {lapsed} times on the way: a part \
                 of it took too long",
                self.index
            );
            return Err(Error::new(Code::Again, text)
                .remedy("it is tried again; a higher `rebuild_budget` makes parts quicker"));
        }
        let text =
            format!("target {}: placement group {group:#x} of container {container} is not its source's", self.index);
        Err(Error::new(Code::DataLoss, text).remedy("see the logs of both servers; it is tried again"))
    }

    /// No epoch that was ever heard of here is later: changes of leaders that had lost this target may be among them. A clock
    /// that stands hears of none.
    ///
    /// # Errors
    /// `Again`: it stands.
    fn up_to_now(&self) -> Result<Epoch, Error> {
        let upto = self.hlc.now();
        if self.hlc.is_halted() {
            let text = format!("target {} waits for the time before it compares what it has", self.index);
            return Err(Error::new(Code::Again, text).remedy("it is tried again"));
        }
        Ok(upto)
    }

    async fn pull_once(&self, source: &impl Source, wanted: Wanted, pulled: &mut Pulled) -> Result<Attempt, Error> {
        let mut step = self.step(source, wanted, Front::default()).await?;
        let (holds, mut differs, mut last) = (step.holds, false, None);
        loop {
            if step.holds != holds {
                return Ok(Attempt::Lapsed);
            }
            let next = async {
                match step.next {
                    Some(front) => self.step(source, wanted, front).await.map(Some),
                    None => Ok(None),
                }
            };
            let before = last;
            let taken = async {
                let taken = match &step.found {
                    Found::Same(count) => {
                        pulled.same += count;
                        let _turn = self.pace.turn().await;
                        self.give_way(wanted.container).await;
                        None
                    }
                    Found::Part(part) => {
                        differs = true;
                        self.take(wanted.container, part, pulled).await?
                    }
                };
                // Of the part before: the log has it, mostly. So not much waits to be written, and nothing waits for this part.
                if let (Some(before), Some(_)) = (before, taken) {
                    self.durable(before).await?;
                }
                Ok::<_, Error>(taken)
            };
            let (taken, next) = join(taken, next).await;
            last = taken?.or(last);
            match next? {
                Some(next) => step = next,
                None => break,
            }
        }
        if let Some(last) = last {
            self.durable(last).await?;
        }
        Ok(if differs { Attempt::Complete } else { Attempt::Same })
    }

    /// Compares what is here of a range with what the source has, and asks for what is missing, if they differ.
    async fn step(&self, source: &impl Source, wanted: Wanted, front: Front) -> Result<Step, Error> {
        let container = wanted.container;
        let Front { from, here } = front;
        let own = self.hold(container)?;
        let (here, is_fresh) = match here {
            Some(here) => (here, false),
            None => {
                let look = || self.store.borrow_mut().prints(container, &wanted.span(from.as_deref(), None), RANGE);
                (self.pace.busy(look).map_err(|e| self.refusal(container, e))?, true)
            }
        };
        let span = wanted.span(from.as_deref(), here.next.as_deref());
        let behind = |next: Option<Vec<u8>>| next.map(|from| Front { from: Some(from), here: None });
        // Of a range that was looked at before it is known that it differs.
        if is_fresh && !here.found.is_empty() {
            let theirs = source.digest(CopyDigestRequest { container, map_version: 0, span: asked(&span) }).await?;
            let ours = here.found.iter().fold(0u64, |sum, (_, print)| sum.wrapping_add(*print));
            if theirs.next.0.is_empty() && theirs.sum == ours {
                let found = Found::Same(here.found.len() as u64);
                return Ok(Step { holds: (own, theirs.hold), found, next: behind(here.next) });
            }
        }
        let known = here.found.iter().map(|(_, print)| *print).collect();
        let request = CopyRequest { container, map_version: 0, span: asked(&span), known };
        let (response, bulk) = source.copy(request).await?;
        self.check(&response, &span, bulk.len())?;
        let Prints { mut found, next: end } = here;
        let (next, found) = match anchor(Bytes(response.next.0.clone())) {
            Some(next) => {
                let rest = found.split_off(found.partition_point(|(key, _)| *key < next));
                let is_known = !rest.is_empty() || end.is_none();
                let here = is_known.then_some(Prints { found: rest, next: end });
                (Some(Front { from: Some(next), here }), found)
            }
            None => (behind(end), found),
        };
        let holds = (own, response.hold);
        Ok(Step { holds, found: Found::Part(Box::new(Part { response, bulk: bulk.into(), here: found })), next })
    }

    /// Makes what is here of a part what the source has; where the log has to be durable for it. One part at a time: what is
    /// under way of other groups comes meanwhile.
    async fn take(&self, container: ContainerId, part: &Part, pulled: &mut Pulled) -> Result<Option<Lsn>, Error> {
        let Part { response, bulk, here } = part;
        let _turn = self.pace.turn().await;
        let began = rt::now();
        let out = self.take_out(container, response, here, pulled).await?;
        pulled.records += response.records.len() as u64;
        pulled.bytes += response.records.iter().filter_map(payload).map(|payload| payload.len() as u64).sum::<u64>();
        let last = self.take_in(container, response, bulk).await?.or(out);
        self.pace.spent(began.elapsed());
        self.give_way(container).await;
        Ok(last)
    }

    /// Whether a part is one of what was asked for, before anything is done with it. What its records are, the store looks at.
    ///
    /// # Errors
    /// `Checksum`, with what is wrong.
    fn check(&self, part: &CopyResponse, span: &Span<'_>, bulk: usize) -> Result<(), Error> {
        let bulk_bytes = part.records.iter().filter_map(payload).map(|payload| match payload {
            Payload::Bulk { bytes, .. } => *bytes as usize,
            Payload::Inline { .. } => 0,
        });
        let is_empty = |payload: &Payload| matches!(payload, Payload::Bulk { bytes: 0, .. });
        let is_before = |key: &[u8]| span.from.is_some_and(|from| key < from);
        let is_behind = |key: &[u8]| span.end.is_some_and(|end| key >= end);
        let is_outside = |record: &CopyRecord| {
            let key = &record.key.0[..];
            !key.starts_with(&span.group.to_be_bytes()) || is_before(key) || is_behind(key)
        };
        if part.records.iter().any(is_outside) {
            return Err(damaged("a record is of another group, or part of it"));
        }
        if part.records.iter().filter_map(payload).any(is_empty) || bulk_bytes.sum::<usize>() > bulk {
            return Err(damaged("its bulk data is not what its records say"));
        }
        let next = &part.next.0[..];
        if !next.is_empty() && (next <= span.from.unwrap_or_default() || is_behind(next)) {
            return Err(damaged("it does not lead any further"));
        }
        if part.horizon > self.hlc.now() {
            return Err(damaged("it forgets what is yet to come"));
        }
        Ok(())
    }

    /// Removes what is `here` of a part and not at its source. Whatever this target has done, its leader had decided and done
    /// before it answered: it is not among these.
    async fn take_out(
        &self,
        container: ContainerId,
        part: &CopyResponse,
        here: &[(Vec<u8>, u64)],
        pulled: &mut Pulled,
    ) -> Result<Option<Lsn>, Error> {
        let same: BTreeSet<u64> = part.same.iter().copied().collect();
        let (shared, excess): (Vec<_>, Vec<_>) = here.iter().partition(|(_, print)| same.contains(print));
        pulled.same += shared.len() as u64;
        pulled.removed += excess.len() as u64;
        let excess: Vec<&[u8]> = excess.into_iter().map(|(key, _)| &key[..]).collect();
        let (deadline, mut looked, mut last) = (rt::now() + PATIENCE, false, None);
        for some in excess.chunks(TAKEN_OUT) {
            last = Some(loop {
                let taken = self.store.borrow_mut().take_out(container, part.undone, some);
                match taken {
                    Ok(lsn) => break lsn,
                    Err(error) => self.mend(error, container, deadline, &mut looked).await?,
                }
            });
        }
        Ok(last)
    }

    /// Keeps the records of a part.
    async fn take_in(&self, container: ContainerId, part: &CopyResponse, bulk: &Shared) -> Result<Option<Lsn>, Error> {
        let (deadline, mut looked) = (rt::now() + PATIENCE, false);
        loop {
            let behind = self.store.borrow().container_info(container).map(|info| info.horizon < part.horizon);
            if !behind.map_err(|e| self.refusal(container, e))? {
                break;
            }
            let advanced = self.store.borrow_mut().advance(container, part.horizon);
            match advanced {
                Ok(_) => break,
                Err(error) => self.mend(error, container, deadline, &mut looked).await?,
            }
        }
        let (mut blocks, mut writes) = (Vec::new(), Vec::new());
        for payload in part.records.iter().filter_map(payload) {
            blocks.push(match payload {
                Payload::Inline { bytes, checksums } => {
                    codec::checksum::verify_chunks(&bytes.0, checksums).map_err(damaged)?;
                    None
                }
                Payload::Bulk { bytes, checksums, .. } => {
                    let there = payload.bytes(bulk).ok_or_else(|| damaged("its bulk data is short"))?;
                    let at = self.room(container, u64::from(*bytes), deadline, &mut looked).await?;
                    let place = at.media().ok_or_else(|| damaged("a reservation that is none"))?;
                    // All at once: a part has a bound.
                    let data = bulk.slice_ref(there).into();
                    writes.push(self.media.bulk_write(place, 0, data, Some(checksums.clone())));
                    Some(at)
                }
            });
        }
        for written in writes {
            written.await.map_err(|error| match error {
                media::Error::Arrived(mismatch) => damaged(mismatch),
                error => self.device_error(error),
            })?;
        }
        let mut blocks = blocks.iter();
        let incoming: Vec<Incoming<'_>> = part
            .records
            .iter()
            .map(|record| {
                let at = payload(record).and_then(|_| blocks.next()).and_then(Option::as_ref);
                Incoming { key: &record.key.0, value: value(&record.value, at) }
            })
            .collect();
        let mut last = None;
        for some in incoming.chunks(vos::COPY_RECORDS_MAX) {
            last = Some(loop {
                let taken = self.store.borrow_mut().copy_in(container, part.undone, some);
                match taken {
                    Ok(lsn) => break lsn,
                    Err(error) => self.mend(error, container, deadline, &mut looked).await?,
                }
            });
        }
        Ok(last)
    }

    async fn room(
        &self,
        container: ContainerId,
        bytes: u64,
        deadline: rt::Instant,
        looked: &mut bool,
    ) -> Result<Reservation, Error> {
        loop {
            let reserved = self.store.borrow_mut().reserve_bulk(container, bytes);
            match reserved {
                Ok(reservation) => return Ok(reservation),
                Err(error) => self.mend(error, container, deadline, looked).await?,
            }
        }
    }

    /// Drops what this target has of a group; its leader has what came to it as a member, too.
    pub(in crate::target) async fn drop_whole(&self, container: ContainerId, group: u32) -> Result<(), Error> {
        let deadline = rt::now() + PATIENCE;
        loop {
            let dropped = self.store.borrow_mut().drop_group(container, group);
            match dropped {
                Ok(false) => return Ok(()),
                Ok(true) => rt::yield_now().await,
                Err(error) if is_pressure(&error) => self.relieved(deadline).await?,
                Err(vos::Error::InProgress { .. }) if rt::now() < deadline => rt::sleep(LOOK_AGAIN).await,
                Err(error) => return Err(self.refusal(container, error)),
            }
        }
    }

    /// Whether both have the same of a group.
    async fn has_same(&self, source: &impl Source, wanted: Wanted) -> Result<bool, Error> {
        for look in 0..LOOKS {
            if look > 0 {
                rt::sleep(LOOK_SOON * (1 << look)).await;
            }
            let (theirs, ours) = join(self.their_sum(source, wanted), self.own_sum(wanted)).await;
            if ours? == theirs? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    async fn their_sum(&self, source: &impl Source, wanted: Wanted) -> Result<u64, Error> {
        let (mut sum, mut from) = (0u64, None::<Vec<u8>>);
        loop {
            self.hold(wanted.container)?;
            let span = asked(&wanted.span(from.as_deref(), None));
            let request = CopyDigestRequest { container: wanted.container, map_version: 0, span };
            let part = source.digest(request).await?;
            sum = sum.wrapping_add(part.sum);
            let next = anchor(part.next);
            if next.is_some() && next <= from {
                return Err(damaged("its sum does not lead any further"));
            }
            from = next;
            if from.is_none() {
                return Ok(sum);
            }
        }
    }

    async fn own_sum(&self, wanted: Wanted) -> Result<u64, Error> {
        let (container, mut sum, mut from) = (wanted.container, 0u64, None::<Vec<u8>>);
        loop {
            let look = || self.store.borrow_mut().digest(container, &wanted.span(from.as_deref(), None));
            let (more, next) = self.pace.busy(look).map_err(|e| self.refusal(container, e))?;
            sum = sum.wrapping_add(more);
            from = next;
            if from.is_none() {
                return Ok(sum);
            }
            rt::yield_now().await;
        }
    }
}

fn payload(record: &CopyRecord) -> Option<&Payload> {
    match &record.value {
        CopyValue::Punch | CopyValue::Hole { .. } => None,
        CopyValue::Single { payload } | CopyValue::Data { payload, .. } => Some(payload),
    }
}

/// A record's value, with the blocks that its payload went to, if it is large.
fn value<'a>(value: &'a CopyValue, at: Option<&'a Reservation>) -> CopiedValue<vos::Payload<'a>> {
    let lent = |payload: &'a Payload| match (payload, at) {
        (Payload::Bulk { bytes, checksums, .. }, Some(at)) => {
            vos::Payload::Bulk { at, bytes: u64::from(*bytes), checksums }
        }
        (Payload::Inline { bytes, checksums }, _) => vos::Payload::Inline { bytes: &bytes.0, checksums },
        // Every bulk payload was given blocks; without them it is refused for its checksums.
        (Payload::Bulk { checksums, .. }, None) => vos::Payload::Inline { bytes: &[], checksums },
    };
    match value {
        CopyValue::Punch => CopiedValue::Punch,
        CopyValue::Hole { count } => CopiedValue::Hole { count: *count },
        CopyValue::Single { payload } => CopiedValue::Single(lent(payload)),
        CopyValue::Data { count, record_bytes, payload } => {
            CopiedValue::Data { count: *count, record_bytes: *record_bytes, payload: lent(payload) }
        }
    }
}

fn damaged(why: impl std::fmt::Display) -> Error {
    Error::new(Code::Checksum, format!("a copy arrived damaged: {why}")).remedy("it is tried again")
}
