//! The side that is to have the data.

use std::time::Duration;

use bytes::Bytes as Shared;
use rt::disk::IoBuf;
use types::{Code, ContainerId, Epoch, Error};
use vos::{CopiedValue, Incoming, Reservation};
use wire::copy::{CopyDigestRequest, CopyDigestResponse, CopyRecord, CopyRequest, CopyResponse, CopyValue};
use wire::data::Payload;
use wire::encoding::Bytes;

use crate::target::{Target, is_pressure};

/// How often a group is begun again, when holds end on the way or sums differ.
const ATTEMPTS: u32 = 4;
/// How often sums are compared before the records are: decisions of the last changes may still be on their way.
const LOOKS: u32 = 10;
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// How long room is waited for.
const PATIENCE: Duration = Duration::from_secs(30);

/// Who has the data.
pub trait Source {
    /// Records, and the bulk data behind them. The source knows by which map it is asked.
    fn copy(&self, request: CopyRequest) -> impl Future<Output = Result<(CopyResponse, IoBuf), Error>>;

    fn digest(&self, request: CopyDigestRequest) -> impl Future<Output = Result<CopyDigestResponse, Error>>;
}

/// What came.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pulled {
    pub records: u64,
    /// Of their payloads.
    pub bytes: u64,
}

/// How a try ended.
enum Attempt {
    /// All is here that the source had decided up to this moment.
    Complete(Epoch),
    /// A hold has ended on the way.
    Lapsed,
}

impl Target {
    /// Gets the records of a group that were written after `since` (zero: all) from a source, until the sums over all that is
    /// decided are the same.
    ///
    /// # Errors
    /// The source's; `NoSpace`; `DataLoss`, when the sums differ whatever is done.
    pub async fn pull(
        &self,
        source: &impl Source,
        container: ContainerId,
        group: u32,
        since: Epoch,
    ) -> Result<Pulled, Error> {
        let (mut pulled, mut since) = (Pulled::default(), since);
        for _ in 0..ATTEMPTS {
            match self.pull_once(source, container, group, since, &mut pulled).await? {
                Attempt::Lapsed => continue,
                Attempt::Complete(closed) => {
                    if self.has_same(source, container, group, (since, closed)).await? {
                        return Ok(pulled);
                    }
                    // What was here before was not what it was taken for.
                    since = Epoch::ZERO;
                    self.drop_whole(container, group).await?;
                }
            }
        }
        let text =
            format!("target {}: placement group {group} of container {container} is not its source's", self.index);
        Err(Error::new(Code::DataLoss, text).remedy("see the logs of both servers; it is tried again"))
    }

    async fn pull_once(
        &self,
        source: &impl Source,
        container: ContainerId,
        group: u32,
        since: Epoch,
        pulled: &mut Pulled,
    ) -> Result<Attempt, Error> {
        let (mut holds, mut closed) = (None, None);
        let (mut after, mut seen) = (Bytes(Vec::new()), 0);
        loop {
            let began = rt::now();
            let own = self.hold(container)?;
            let asked = after.clone();
            let (part, bulk) = source.copy(CopyRequest { container, group, map_version: 0, since, after }).await?;
            if *holds.get_or_insert((own, part.hold)) != (own, part.hold) {
                return Ok(Attempt::Lapsed);
            }
            self.check(&part, group, bulk.len(), &asked)?;
            let closed = *closed.get_or_insert(part.closed);
            pulled.records += part.records.len() as u64;
            pulled.bytes += part.records.iter().filter_map(payload).map(|payload| payload.len() as u64).sum::<u64>();
            self.take_in(container, &part, bulk.into()).await?;
            if part.next.0.is_empty() {
                return Ok(Attempt::Complete(closed));
            }
            after = part.next;
            self.give_way(self.rest_within_budget(container, began.elapsed()), &mut seen).await;
        }
    }

    /// Whether a part is one of what was asked for, before anything is done with it. What its records are, the store looks at.
    ///
    /// # Errors
    /// `Checksum`, with what is wrong.
    fn check(&self, part: &CopyResponse, group: u32, bulk: usize, asked: &Bytes) -> Result<(), Error> {
        let wanted = part.records.iter().filter_map(payload).map(|payload| match payload {
            Payload::Bulk { bytes, .. } => *bytes as usize,
            Payload::Inline { .. } => 0,
        });
        let is_empty = |payload: &Payload| matches!(payload, Payload::Bulk { bytes: 0, .. });
        if part.records.iter().any(|record| !record.key.0.starts_with(&group.to_be_bytes())) {
            return Err(damaged("a record is of another group"));
        }
        if part.records.iter().filter_map(payload).any(is_empty) || wanted.sum::<usize>() > bulk {
            return Err(damaged("its bulk data is not what its records say"));
        }
        if !part.next.0.is_empty() && part.next.0 <= asked.0 {
            return Err(damaged("it does not lead any further"));
        }
        if part.horizon > self.hlc.now() {
            return Err(damaged("it forgets what is yet to come"));
        }
        Ok(())
    }

    /// Keeps the records of a part; they are durable then.
    async fn take_in(&self, container: ContainerId, part: &CopyResponse, bulk: Shared) -> Result<(), Error> {
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
        let mut blocks = Vec::new();
        for payload in part.records.iter().filter_map(payload) {
            blocks.push(match payload {
                Payload::Inline { bytes, checksums } => {
                    codec::checksum::verify_chunks(&bytes.0, checksums).map_err(damaged)?;
                    None
                }
                Payload::Bulk { bytes, checksums, .. } => {
                    let there = payload.bytes(&bulk).ok_or_else(|| damaged("its bulk data is short"))?;
                    let at = self.room(container, u64::from(*bytes), deadline, &mut looked).await?;
                    let place = at.media().ok_or_else(|| damaged("a reservation that is none"))?;
                    let written =
                        self.media.bulk_write(place, 0, bulk.slice_ref(there).into(), Some(checksums.clone()));
                    written.await.map_err(|error| match error {
                        media::Error::Arrived(mismatch) => damaged(mismatch),
                        error => self.device_error(error),
                    })?;
                    Some(at)
                }
            });
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
        match last {
            Some(lsn) => self.durable(lsn).await,
            None => Ok(()),
        }
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

    /// Whether both have the same of a group, of what was written after `since` and up to `upto`.
    async fn has_same(
        &self,
        source: &impl Source,
        container: ContainerId,
        group: u32,
        (since, upto): (Epoch, Epoch),
    ) -> Result<bool, Error> {
        for look in 0..LOOKS {
            if look > 0 {
                rt::sleep(LOOK_AGAIN).await;
            }
            let (mut theirs, mut after) = (0u64, Bytes(Vec::new()));
            loop {
                self.hold(container)?;
                let asked = CopyDigestRequest { container, group, since, upto, after: after.clone() };
                let part = source.digest(asked).await?;
                theirs = theirs.wrapping_add(part.sum);
                if !part.next.0.is_empty() && part.next.0 <= after.0 {
                    return Err(damaged("its sum does not lead any further"));
                }
                after = part.next;
                if after.0.is_empty() {
                    break;
                }
            }
            let (mut ours, mut after) = (0u64, None::<Vec<u8>>);
            loop {
                let summed = self.store.borrow_mut().digest(container, group, (since, upto), after.as_deref());
                let (sum, next) = summed.map_err(|e| self.refusal(container, e))?;
                ours = ours.wrapping_add(sum);
                after = next;
                if after.is_none() {
                    break;
                }
                rt::yield_now().await;
            }
            if ours == theirs {
                return Ok(true);
            }
        }
        Ok(false)
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
