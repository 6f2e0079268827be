//! Update: check, reserve, write bulk data, apply, wait for durability.
//!
//! Nothing is visible before the one synchronous call that applies all of it; a request that dies
//! before leaves only reserved blocks, which go back when the reservation is dropped.
//!
//! What goes into the tree is compared with its checksums before anything else is done; bulk data while it is written
//! ([`media::Store::bulk_write`]), so that memory is passed over once.

use std::rc::Rc;

use bytes::Bytes;
use codec::checksum::Mismatch;
use net::Request;
use rt::disk::IoBuf;
use types::{AKEYS_PER_REQUEST_MAX, Code, EXTENTS_PER_AKEY_MAX, Error, Extent, Key, VALUE_BYTES_MAX};
use vos::{AkeyWrite, Op, Payload, Reservation, Update, ValueWrite};
use wire::data::{Committed, UpdateRequest, Value};

use super::group::{Door, Kind, Wanted};
use super::{Target, parse};

/// The payloads of a request where the store can take them from.
pub(super) struct Placed {
    /// What the smaller ones lie in, if not in the body.
    bulk: Bytes,
    /// Of each payload, in the order named: its blocks, if it is large.
    blocks: Vec<Option<Reservation>>,
}

impl Target {
    pub(super) async fn update(self: &Rc<Self>, mut request: Request, door: &Door) -> Result<Committed, Error> {
        let update: UpdateRequest = parse(&request.body)?;
        check_shape(&update)?;
        let origin = vos::Origin { session: request.session, seq: request.sequence };
        let bulk = request.bulk.take().unwrap_or_default();
        let (container, deadline) = (update.place.container, request.deadline);
        let copy = match door {
            // The original goes to this target's disk, padded to its blocks.
            Door::Lead(_) if !bulk.is_empty() => Some(Bytes::from(bulk.clone())),
            _ => None,
        };
        let placed = self.place(&update, bulk, deadline).await?;
        if let Door::Lead(group) = door {
            let with_op = |keep: &mut dyn FnMut(&Op<'_>)| {
                with_update(&update, &placed, |update| keep(&Op::Update(*update)));
            };
            let (what, body) = (Kind::Update, request.body);
            let wanted = Wanted { container, origin, deadline, what, body, bulk: copy, with_op: &with_op };
            return self.replicate(group, wanted).await;
        }
        let mut looked = false;
        let (epoch, lsn) = loop {
            self.still_single(&update.place)?;
            // Without a wait from here to the store, unless it took effect.
            if let Some(before) = self.recall(origin).await? {
                return Ok(before);
            }
            let epoch = self.hlc.now();
            let apply = |write: &Update<'_>| self.store.borrow_mut().update(container, epoch, origin, write);
            match with_update(&update, &placed, apply) {
                Ok(lsn) => break (epoch, lsn),
                Err(error) => self.mend(error, container, deadline, &mut looked).await?,
            }
        };
        self.upkeep.written();
        self.durable(lsn).await?;
        Ok(Committed { epoch })
    }

    /// Compares what came with its checksums, and writes large payloads to blocks of their own.
    ///
    /// # Errors
    /// `Protocol`, `Checksum`; what the store refuses; `Io`.
    pub(super) async fn place(
        &self,
        update: &UpdateRequest,
        bulk: IoBuf,
        deadline: rt::Instant,
    ) -> Result<Placed, Error> {
        for payload in payloads(update) {
            check_payload(payload, &bulk)?;
        }
        match large(update).next() {
            None => Ok(Placed { bulk: Bytes::from(bulk), blocks: payloads(update).map(|_| None).collect() }),
            // The task of a small one has no room for it.
            Some(_) => Box::pin(self.place_large(update, bulk, deadline)).await,
        }
    }

    async fn place_large(&self, update: &UpdateRequest, bulk: IoBuf, deadline: rt::Instant) -> Result<Placed, Error> {
        let container = update.place.container;
        let (mut blocks, mut looked) = (Vec::new(), false);
        for payload in large(update) {
            let reservation = loop {
                let reserved = self.store.borrow_mut().reserve_bulk(container, payload.len() as u64);
                match reserved {
                    Ok(reservation) => break reservation,
                    Err(error) => self.mend(error, container, deadline, &mut looked).await?,
                }
            };
            blocks.push(reservation);
        }
        let bulk = self.write_bulk(update, &blocks, bulk).await?;
        let mut blocks = blocks.into_iter();
        let of = |payload: &wire::data::Payload| is_large(payload).then(|| blocks.next()).flatten();
        Ok(Placed { bulk, blocks: payloads(update).map(of).collect() })
    }

    /// Writes the large payloads to their blocks; gives the bulk data back, as far as a smaller one may lie in it.
    async fn write_bulk(&self, update: &UpdateRequest, blocks: &[Reservation], bulk: IoBuf) -> Result<Bytes, Error> {
        let written = |outcome: media::Result<()>| outcome.map_err(|error| self.bulk_refusal(error));
        let write = |at: &Reservation, source: media::BulkSource, payload: &wire::data::Payload| {
            let at = at.media().expect("reserved here, not read from the log");
            self.media.bulk_write(at, 0, source, Some(payload.checksums().to_vec()))
        };
        // The usual one, a payload that is all there is: from where it is.
        if let (Some(payload), [at]) = (large(update).next(), blocks)
            && payload.len() == bulk.len()
        {
            written(write(at, bulk.into(), payload).await)?;
            return Ok(Bytes::new());
        }
        let bulk = Bytes::from(bulk);
        for (payload, at) in large(update).zip(blocks) {
            let bytes = payload.bytes(&bulk).expect("checked before");
            let source = match payload {
                wire::data::Payload::Bulk { .. } => bulk.slice_ref(bytes).into(),
                wire::data::Payload::Inline { .. } => IoBuf::from_slice(bytes).into(),
            };
            written(write(at, source, payload).await)?;
        }
        Ok(bulk)
    }

    fn bulk_refusal(&self, error: media::Error) -> Error {
        match error {
            media::Error::Arrived(mismatch) => damaged(mismatch),
            error => self.device_error(error),
        }
    }
}

/// Lends the update that a request asks for, with its payloads where they are.
pub(super) fn with_update<T>(update: &UpdateRequest, placed: &Placed, f: impl FnOnce(&Update<'_>) -> T) -> T {
    let mut blocks = placed.blocks.iter();
    let mut next = |payload| lend(payload, &placed.bulk, blocks.next().and_then(Option::as_ref));
    let mut singles = Vec::new();
    // Extents of all array akeys, so that the writes can borrow them.
    let arrays: Vec<Vec<(Extent, Payload)>> = update
        .akeys
        .iter()
        .map(|akey| match &akey.value {
            Value::Single { payload } => {
                singles.push(next(payload));
                Vec::new()
            }
            Value::Array { extents, .. } => extents.iter().map(|e| (e.extent, next(&e.payload))).collect(),
        })
        .collect();
    let mut singles = singles.into_iter();
    let akeys: Vec<AkeyWrite> = update
        .akeys
        .iter()
        .zip(&arrays)
        .map(|(akey, extents)| {
            let value = match &akey.value {
                Value::Single { .. } => ValueWrite::Single(singles.next().expect("pushed above")),
                Value::Array { record_bytes, .. } => ValueWrite::Array { record_bytes: *record_bytes, extents },
            };
            AkeyWrite { akey: &akey.akey, value }
        })
        .collect();
    f(&Update {
        group: update.place.group,
        oid: update.place.oid,
        dkey: &update.dkey,
        conditions: update.conditions,
        akeys: &akeys,
    })
}

fn lend<'a>(payload: &'a wire::data::Payload, bulk: &'a [u8], blocks: Option<&'a Reservation>) -> Payload<'a> {
    let checksums = payload.checksums();
    match blocks {
        Some(at) => Payload::Bulk { at, bytes: payload.len() as u64, checksums },
        None => Payload::Inline { bytes: payload.bytes(bulk).expect("checked when it was placed"), checksums },
    }
}

/// Every payload of a request, in the order named.
fn payloads(update: &UpdateRequest) -> impl Iterator<Item = &wire::data::Payload> {
    update.akeys.iter().flat_map(|akey| {
        let (single, extents) = match &akey.value {
            Value::Single { payload } => (Some(payload), &[][..]),
            Value::Array { extents, .. } => (None, &extents[..]),
        };
        single.into_iter().chain(extents.iter().map(|e| &e.payload))
    })
}

/// The limits of a request, and that lengths agree with extents.
fn check_shape(update: &UpdateRequest) -> Result<(), Error> {
    if update.akeys.is_empty() || update.akeys.len() > AKEYS_PER_REQUEST_MAX {
        let text = format!("{} akeys in one update: from 1 to {AKEYS_PER_REQUEST_MAX} are taken", update.akeys.len());
        return Err(Error::new(Code::Invalid, text));
    }
    for akey in &update.akeys {
        match &akey.value {
            Value::Single { payload } => check_bytes(&akey.akey, payload.len())?,
            Value::Array { record_bytes, extents } => {
                if *record_bytes == 0 || extents.is_empty() || extents.len() > EXTENTS_PER_AKEY_MAX {
                    let text = format!(
                        "akey {}: {} extents of {record_bytes}-byte records: 1 to {EXTENTS_PER_AKEY_MAX} extents of \
                         records of at least a byte are taken",
                        akey.akey,
                        extents.len()
                    );
                    return Err(Error::new(Code::Invalid, text));
                }
                for write in extents {
                    let wanted = write.extent.count.checked_mul(u64::from(*record_bytes));
                    if wanted != Some(write.payload.len() as u64) {
                        let text = format!(
                            "akey {}: {} bytes for {} records of {record_bytes} bytes",
                            akey.akey,
                            write.payload.len(),
                            write.extent.count
                        );
                        return Err(Error::new(Code::Invalid, text));
                    }
                    check_bytes(&akey.akey, write.payload.len())?;
                }
            }
        }
    }
    Ok(())
}

fn check_bytes(akey: &Key, bytes: usize) -> Result<(), Error> {
    if bytes <= VALUE_BYTES_MAX {
        return Ok(());
    }
    let text = format!("akey {akey}: a value of {bytes} bytes is over {VALUE_BYTES_MAX}");
    Err(Error::new(Code::ValueTooBig, text).remedy("write it as an array, in pieces"))
}

/// The payload is all there, and, unless it is compared while it is written, what the client summed.
fn check_payload(payload: &wire::data::Payload, bulk: &[u8]) -> Result<(), Error> {
    let bytes = payload.bytes(bulk).ok_or_else(|| {
        Error::new(Code::Protocol, format!("a payload lies outside the {} bulk bytes of its request", bulk.len()))
    })?;
    match is_large(payload) {
        true => Ok(()),
        false => codec::checksum::verify_chunks(bytes, payload.checksums()).map_err(damaged),
    }
}

/// Whether it goes to blocks of its own.
fn is_large(payload: &wire::data::Payload) -> bool {
    payload.len() > vos::INLINE_BYTES_MAX
}

fn large(update: &UpdateRequest) -> impl Iterator<Item = &wire::data::Payload> {
    payloads(update).filter(|payload| is_large(payload))
}

fn damaged(mismatch: Mismatch) -> Error {
    Error::new(Code::Checksum, format!("data arrived damaged: {mismatch}")).remedy("send it again")
}
