//! The side that has the data.

use std::rc::Rc;

use media::PinGuard;
use net::{Reply, Request};
use rt::disk::IoBuf;
use types::{Code, Error, ObjectId};
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
const BULK_BYTES_MAX: usize = 4 << 20;

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
        // Whoever is to have the group is a member for all that comes from now on.
        let place = Place { container, oid: ObjectId { hi: 0, lo: 0 }, group: span.group, map_version };
        self.leads(&place, span.upto, request.deadline).await?;
        let hold = self.hold(container)?;
        // Before the look: whatever is named stays where it is.
        let pin = self.media.pin();
        let known = known.into_iter().collect();
        let part = self.store.borrow_mut().copy_out(container, &lent(&span), &known);
        let part = part.map_err(|e| self.refusal(container, e))?;
        let (mut records, mut bulk) = (Vec::new(), IoBuf::with_capacity(0));
        let mut next = part.next;
        for record in part.records {
            let coming = match record.value.payload() {
                Some(CopiedPayload::Bulk { bytes, .. }) => *bytes as usize,
                _ => 0,
            };
            if !records.is_empty() && bulk.len() + coming > BULK_BYTES_MAX {
                next = Some(record.key);
                break;
            }
            let value = match record.value {
                CopiedValue::Punch => CopyValue::Punch,
                CopiedValue::Hole { count } => CopyValue::Hole { count },
                CopiedValue::Single(payload) => {
                    CopyValue::Single { payload: self.lend(payload, &pin, &mut bulk).await? }
                }
                CopiedValue::Data { count, record_bytes, payload } => {
                    CopyValue::Data { count, record_bytes, payload: self.lend(payload, &pin, &mut bulk).await? }
                }
            };
            records.push(CopyRecord { key: Bytes(record.key), value });
        }
        let (horizon, undone, next) = (part.horizon, part.undone, Bytes(next.unwrap_or_default()));
        let body = CopyResponse { hold, horizon, undone, records, same: part.same, next }.to_bytes().into();
        Ok(Reply { body, bulk: Some(bulk).filter(|bulk| !bulk.is_empty()) })
    }

    pub(in crate::target) fn copy_digest(&self, request: &Request) -> Result<CopyDigestResponse, Error> {
        let CopyDigestRequest { container, span } = parse(&request.body)?;
        let hold = self.hold(container)?;
        let summed = self.store.borrow_mut().digest(container, &lent(&span));
        let (sum, next) = summed.map_err(|e| self.refusal(container, e))?;
        Ok(CopyDigestResponse { hold, sum, next: Bytes(next.unwrap_or_default()) })
    }

    /// A payload as it travels; what lies in blocks is appended to `bulk`. Whoever takes it compares its checksums.
    async fn lend(&self, payload: CopiedPayload, pin: &PinGuard, bulk: &mut IoBuf) -> Result<Payload, Error> {
        match payload {
            CopiedPayload::Inline { bytes, checksums } => {
                Ok(Payload::Inline { bytes: Bytes(bytes), checksums: checksums.to_vec() })
            }
            CopiedPayload::Bulk { blocks, bytes, checksums } => {
                let too_long = |_| Error::new(Code::DataLoss, format!("target {}: a value has no end", self.index));
                let (offset, len) = (bulk.len() as u32, u32::try_from(bytes).map_err(too_long)?);
                for (extent, at, bytes) in media::pieces_of(&blocks, 0..bytes) {
                    let read = self.media.bulk_read(extent, at, bytes, pin.clone()).await;
                    bulk.extend_from_slice(&read.map_err(|e| self.device_error(e))?);
                }
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
