//! The side that has the data.

use std::rc::Rc;

use futures_util::StreamExt;
use net::{Reply, Request};
use rt::disk::IoBuf;
use types::{Code, ContainerId, Error, ObjectId};
use vos::{CopiedPayload, CopiedValue, Span};
use wire::Wire;
use wire::copy::{
    CopyDigestRequest, CopyDigestResponse, CopyListRequest, CopyListResponse, CopyRecord, CopyRequest, CopyResponse,
    CopySpan, CopyValue,
};
use wire::data::{Payload, Place};
use wire::encoding::Bytes;

use crate::target::{Target, parse};

/// Groups that one answer names.
const GROUPS_MAX: usize = 1024;
/// Bulk data of one answer: a record more than this is one of the next.
const BULK_BYTES_MAX: u64 = 4 << 20;
/// Reads of the device that are under way for one answer.
const READS_AT_ONCE: usize = 32;

/// Some bytes of a value on the device: in which extent, from where, how many.
type Piece = (media::Extent, u64, usize);

impl Target {
    pub(in crate::target) async fn copy_list(self: &Rc<Self>, request: &Request) -> Result<CopyListResponse, Error> {
        let CopyListRequest { pool, map_version, after } = parse(&request.body)?;
        let unserved = self.unserved(pool, map_version, request.deadline).await?;
        if unserved.len() > GROUPS_MAX {
            let text = format!("target {} does not serve {} of its groups yet", self.index, unserved.len());
            return Err(Error::new(Code::Again, text).remedy("try again in a moment"));
        }
        let containers = self.store.borrow().containers(pool);
        let (mut groups, mut next) = (Vec::new(), None);
        for container in containers.into_iter().filter(|id| after.is_none_or(|(first, _)| *id >= first)) {
            let behind = after.filter(|(first, _)| *first == container).map(|(_, group)| group);
            let room = GROUPS_MAX - groups.len();
            let found = self.store.borrow_mut().stored_groups(container, behind, room);
            groups.extend(found.map_err(|e| self.refusal(container, e))?.into_iter().map(|group| (container, group)));
            if groups.len() == GROUPS_MAX {
                next = groups.last().copied();
                break;
            }
        }
        groups.retain(|(_, group)| !unserved.contains(group));
        Ok(CopyListResponse { groups, unserved: unserved.into_iter().collect(), next })
    }

    /// Records of a group, their bulk data behind them.
    pub(in crate::target) async fn copy(self: &Rc<Self>, request: &Request) -> Result<Reply, Error> {
        let CopyRequest { container, map_version, span, known } = parse(&request.body)?;
        self.has_all_of(container, &span, map_version, request.deadline).await?;
        let hold = self.hold(container)?;
        // Before the look: whatever is named stays where it is.
        let pin = self.media.pin();
        let known = known.into_iter().collect();
        let part = self.store.borrow_mut().copy_out(container, &lent(&span), &known);
        let part = part.map_err(|e| self.refusal(container, e))?;
        let (mut records, mut reads, mut bulk_bytes) = (Vec::new(), Vec::new(), 0);
        let mut next = part.next;
        for record in part.records {
            let coming = match record.value.payload() {
                Some(CopiedPayload::Bulk { bytes, .. }) => *bytes,
                _ => 0,
            };
            if !records.is_empty() && bulk_bytes + coming > BULK_BYTES_MAX {
                next = Some(record.key);
                break;
            }
            let mut lend = |payload| self.lend(payload, &mut bulk_bytes, &mut reads);
            let value = match record.value {
                CopiedValue::Punch => CopyValue::Punch,
                CopiedValue::Hole { count } => CopyValue::Hole { count },
                CopiedValue::Single(payload) => CopyValue::Single { payload: lend(payload)? },
                CopiedValue::Data { count, record_bytes, payload } => {
                    CopyValue::Data { count, record_bytes, payload: lend(payload)? }
                }
            };
            records.push(CopyRecord { key: Bytes(record.key), value });
        }
        let mut bulk = IoBuf::with_capacity(bulk_bytes as usize);
        let read = |(extent, at, bytes): Piece| self.media.bulk_read(extent, at, bytes, pin.clone());
        let mut reading = futures_util::stream::iter(reads.into_iter().map(read)).buffered(READS_AT_ONCE);
        while let Some(read) = reading.next().await {
            bulk.extend_from_slice(&read.map_err(|e| self.device_error(e))?);
        }
        let (horizon, undone, next) = (part.horizon, part.undone, Bytes(next.unwrap_or_default()));
        let body = CopyResponse { hold, horizon, undone, records, same: part.same, next }.to_bytes().into();
        Ok(Reply { body, bulk: Some(bulk).filter(|bulk| !bulk.is_empty()) })
    }

    /// The sum over a span. It may be all the proof that another has the group, so it waits for as much as a copy.
    pub(in crate::target) async fn copy_digest(
        self: &Rc<Self>,
        request: &Request,
    ) -> Result<CopyDigestResponse, Error> {
        let CopyDigestRequest { container, map_version, span } = parse(&request.body)?;
        self.has_all_of(container, &span, map_version, request.deadline).await?;
        let hold = self.hold(container)?;
        let summed = self.store.borrow_mut().digest(container, &lent(&span));
        let (sum, next) = summed.map_err(|e| self.refusal(container, e))?;
        Ok(CopyDigestResponse { hold, sum, next: Bytes(next.unwrap_or_default()) })
    }

    /// Waits until what a span covers is decided and done here. Whoever asks is a member for all that comes from then on, and for
    /// nothing that came before: what earlier leaders left undecided would never come to it.
    async fn has_all_of(
        self: &Rc<Self>,
        container: ContainerId,
        span: &CopySpan,
        map_version: u32,
        deadline: rt::Instant,
    ) -> Result<(), Error> {
        let place = Place { container, oid: ObjectId { hi: 0, lo: 0 }, group: span.group, map_version };
        self.leads(&place, span.upto, deadline).await
    }

    /// A payload as it travels; of one in blocks it is noted what is to be read, to lie behind `bulk_bytes` others. Whoever
    /// takes it compares its checksums.
    fn lend(&self, payload: CopiedPayload, bulk_bytes: &mut u64, reads: &mut Vec<Piece>) -> Result<Payload, Error> {
        match payload {
            CopiedPayload::Inline { bytes, checksums } => {
                Ok(Payload::Inline { bytes: Bytes(bytes), checksums: checksums.to_vec() })
            }
            CopiedPayload::Bulk { blocks, bytes, checksums } => {
                let too_long = |_| Error::new(Code::DataLoss, format!("target {}: a value has no end", self.index));
                let (offset, len) = (*bulk_bytes as u32, u32::try_from(bytes).map_err(too_long)?);
                reads.extend(media::pieces_of(&blocks, 0..bytes));
                *bulk_bytes += bytes;
                Ok(Payload::Bulk { offset, bytes: len, checksums: checksums.to_vec() })
            }
        }
    }
}

fn lent(span: &CopySpan) -> Span<'_> {
    Span { group: span.group, from: anchor(&span.from), end: anchor(&span.end), upto: span.upto }
}

fn anchor(key: &Bytes) -> Option<&[u8]> {
    Some(&key.0[..]).filter(|key| !key.is_empty())
}
