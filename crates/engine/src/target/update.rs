//! Update: check, reserve, write bulk data, apply, wait for durability.
//!
//! Nothing is visible before the one synchronous call that applies all of it; a request that dies
//! before leaves only reserved blocks, which go back when the reservation is dropped.

use net::Request;
use rt::disk::IoBuf;
use types::{AKEYS_PER_REQUEST_MAX, Code, EXTENTS_PER_AKEY_MAX, Error, Extent, Key, VALUE_BYTES_MAX};
use vos::{AkeyWrite, Payload, Reservation, Update, ValueWrite};
use wire::data::{Committed, UpdateRequest, Value};

use super::{Target, parse};

/// A payload of the request, with the blocks it went to if it is large.
struct Placed<'a> {
    payload: &'a wire::data::Payload,
    bytes: &'a [u8],
    blocks: Option<Reservation>,
}

impl Target {
    pub(super) async fn update(&self, mut request: Request) -> Result<Committed, Error> {
        let update: UpdateRequest = parse(&request.body)?;
        check_shape(&update)?;
        let origin = vos::Origin { session: request.session, seq: request.sequence };
        // Taken whole by a request of one large payload, the usual one, and written without a copy.
        let mut whole = request.bulk.take();
        let bulk_bytes = whole.as_deref().map_or(0, <[u8]>::len);
        let container = update.place.container;
        let (mut blocks, mut looked) = (Vec::new(), false);
        {
            let bulk = whole.as_deref().unwrap_or_default();
            for payload in payloads(&update) {
                check_payload(payload, bulk)?;
            }
        }
        for payload in payloads(&update) {
            if payload.len() <= vos::INLINE_BYTES_MAX {
                continue;
            }
            let reservation = loop {
                let reserved = self.store.borrow_mut().reserve_bulk(container, payload.len() as u64);
                match reserved {
                    Ok(reservation) => break reservation,
                    Err(error) => self.mend(error, container, request.deadline, &mut looked).await?,
                }
            };
            let alone = payload.len() == bulk_bytes;
            let buffer = match whole.take() {
                Some(buffer) if alone => buffer,
                kept => {
                    whole = kept;
                    let bulk = whole.as_deref().unwrap_or_default();
                    IoBuf::from_slice(payload.bytes(bulk).expect("checked above"))
                }
            };
            self.write_bulk(&reservation, buffer).await?;
            blocks.push(reservation);
        }

        let bulk = whole.as_deref().unwrap_or_default();
        let mut blocks = blocks.into_iter();
        let placed: Vec<Placed> = payloads(&update)
            .map(|payload| match payload.len() <= vos::INLINE_BYTES_MAX {
                true => Placed { payload, bytes: payload.bytes(bulk).expect("checked above"), blocks: None },
                false => Placed { payload, bytes: &[], blocks: blocks.next() },
            })
            .collect();
        let (epoch, lsn) = loop {
            let epoch = self.hlc.now();
            match self.apply_update(epoch, origin, &update, &placed) {
                Ok(lsn) => break (epoch, lsn),
                Err(error) => self.mend(error, container, request.deadline, &mut looked).await?,
            }
        };
        self.upkeep.written();
        self.durable(lsn).await?;
        Ok(Committed { epoch })
    }

    /// The one call in which all of the update takes effect.
    fn apply_update(
        &self,
        epoch: types::Epoch,
        origin: vos::Origin,
        update: &UpdateRequest,
        placed: &[Placed],
    ) -> Result<media::Lsn, vos::Error> {
        let mut placed = placed.iter().map(Placed::payload);
        let mut next = || placed.next().expect("one for each payload of the request");
        let mut singles = Vec::new();
        // Extents of all array akeys, so that the writes can borrow them.
        let arrays: Vec<Vec<(Extent, Payload)>> = update
            .akeys
            .iter()
            .map(|akey| match &akey.value {
                Value::Single { .. } => {
                    singles.push(next());
                    Vec::new()
                }
                Value::Array { extents, .. } => extents.iter().map(|e| (e.extent, next())).collect(),
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
        let write = Update {
            group: update.place.group,
            oid: update.place.oid,
            dkey: &update.dkey,
            conditions: update.conditions,
            akeys: &akeys,
        };
        self.store.borrow_mut().update(update.place.container, epoch, origin, &write)
    }

    /// Writes one payload to its blocks.
    async fn write_bulk(&self, reservation: &Reservation, buffer: IoBuf) -> Result<(), Error> {
        let blocks = reservation.media().expect("reserved here, not read from the log");
        let (written, _) = self.media.bulk_write(blocks, 0, buffer).await;
        written.map_err(|e| self.device_error(e))
    }
}

impl Placed<'_> {
    fn payload(&self) -> Payload<'_> {
        let checksums = self.payload.checksums();
        match &self.blocks {
            Some(at) => Payload::Bulk { at, bytes: self.payload.len() as u64, checksums },
            None => Payload::Inline { bytes: self.bytes, checksums },
        }
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

/// The payload is all there, and what the client summed.
fn check_payload(payload: &wire::data::Payload, bulk: &[u8]) -> Result<(), Error> {
    let bytes = payload.bytes(bulk).ok_or_else(|| {
        Error::new(Code::Protocol, format!("a payload lies outside the {} bulk bytes of its request", bulk.len()))
    })?;
    codec::checksum::verify_chunks(bytes, payload.checksums())
        .map_err(|m| Error::new(Code::Checksum, format!("data arrived damaged: {m}")).remedy("send it again"))
}
