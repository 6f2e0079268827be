//! Fetch: plan in the store, read bulk data, answer with bytes and checksums.
//!
//! A piece that is made of whole checksum chunks travels with the checksums stored at its writing,
//! unverified here: the client verifies them, so one check covers the disk and the network. A piece
//! that cuts a chunk is read with the whole chunk, verified here, and summed anew. So is a value of one block, which
//! is then kept in memory for the next reader.

use std::ops::Range;
use std::rc::Rc;

use net::{Reply, Request};
use rt::disk::IoBuf;
use types::{AKEYS_PER_REQUEST_MAX, CHECKSUM_CHUNK_BYTES, Code, EXTENTS_PER_AKEY_MAX, Error};
use vos::{AkeyRead, BulkExtent, FetchPlan, ReadWhat, Source};
use wire::Wire;
use wire::data::{AkeyData, FetchRequest, FetchResponse, INLINE_BYTES_MAX, Payload, Piece, Selection};
use wire::encoding::Bytes;
use wire::frame::BULK_BYTES_MAX;

use super::{Target, parse};

impl Target {
    pub(super) async fn fetch(self: &Rc<Self>, request: Request) -> Result<Reply, Error> {
        let mut fetch: FetchRequest = parse(&request.body)?;
        fetch.at = self.admit_read(&fetch.place, Some(&fetch.dkey), fetch.at, request.deadline).await?;
        let plan = self.plan(&fetch)?;
        let mut answer = Answer { inline: &plan.inline, bulk: None, bulk_bytes: bulk_bytes(&plan)? };
        let mut akeys = Vec::with_capacity(plan.akeys.len());
        for akey in &plan.akeys {
            let mut pieces = Vec::with_capacity(akey.pieces.len());
            for piece in &akey.pieces {
                let payload = match &piece.source {
                    Source::Hole => None,
                    Source::Inline { payload, checksums, part } => {
                        Some(self.inline_piece(&mut answer, payload.clone(), checksums, part)?)
                    }
                    Source::Bulk { extents, bytes, checksums, part } => {
                        Some(Box::pin(self.bulk_piece(&mut answer, &plan, extents, *bytes, checksums, part)).await?)
                    }
                };
                pieces.push(Piece { extent: piece.extent, payload });
            }
            akeys.push(AkeyData { record_bytes: akey.record_bytes, pieces });
        }
        Ok(Reply { body: FetchResponse { akeys }.to_bytes().into(), bulk: answer.bulk })
    }

    fn plan(&self, fetch: &FetchRequest) -> Result<FetchPlan, Error> {
        if fetch.akeys.is_empty() || fetch.akeys.len() > AKEYS_PER_REQUEST_MAX {
            let text = format!("{} akeys in one fetch: from 1 to {AKEYS_PER_REQUEST_MAX} are taken", fetch.akeys.len());
            return Err(Error::new(Code::Invalid, text));
        }
        let mut reads = Vec::with_capacity(fetch.akeys.len());
        for akey in &fetch.akeys {
            let what = match &akey.selection {
                Selection::Single => ReadWhat::Single,
                Selection::Array { extents } if (1..=EXTENTS_PER_AKEY_MAX).contains(&extents.len()) => {
                    ReadWhat::Array(extents)
                }
                Selection::Array { extents } => {
                    let text = format!("{} extents of akey {}", extents.len(), akey.akey);
                    return Err(Error::new(Code::Invalid, text).remedy(format!("ask for 1 to {EXTENTS_PER_AKEY_MAX}")));
                }
            };
            reads.push(AkeyRead { akey: &akey.akey, what });
        }
        let place = &fetch.place;
        let plan = self.store.borrow_mut().fetch(
            place.container,
            fetch.at,
            place.group,
            place.oid,
            &fetch.dkey,
            &reads,
            fetch.conditions,
        );
        plan.map_err(|e| self.refusal(place.container, e))
    }

    fn inline_piece(
        &self,
        answer: &mut Answer,
        payload: Range<usize>,
        checksums: &[u32],
        part: &Range<u64>,
    ) -> Result<Payload, Error> {
        let value = &answer.inline[payload];
        let whole = part.start == 0 && part.end == value.len() as u64;
        let bytes = &value[part.start as usize..part.end as usize];
        let checksums = if whole {
            checksums.to_vec()
        } else {
            self.verify(value, checksums)?;
            codec::checksum::of_chunks(bytes)
        };
        Ok(answer.place(bytes, checksums))
    }

    async fn bulk_piece(
        &self,
        answer: &mut Answer<'_>,
        plan: &FetchPlan,
        extents: &[BulkExtent],
        payload_bytes: u64,
        checksums: &[u32],
        part: &Range<u64>,
    ) -> Result<Payload, Error> {
        const CHUNK: u64 = CHECKSUM_CHUNK_BYTES as u64;
        // The whole chunks that the part touches.
        let start = part.start / CHUNK * CHUNK;
        let end = part.end.next_multiple_of(CHUNK).min(payload_bytes);
        let chunks = &checksums[(start / CHUNK) as usize..end.div_ceil(CHUNK) as usize];
        let mut buffer = self.read_bulk(plan, extents, start..end).await?;
        if let ([extent], Some(pin), true) = (extents, &plan.pin, start == 0 && end == payload_bytes)
            && extent.blocks == 1
            && codec::checksum::verify_chunks(&buffer, chunks).is_ok()
        {
            self.media.keep(*extent, &buffer, pin);
        }
        if part.start == start && part.end == end {
            return Ok(answer.take(buffer, chunks.to_vec()));
        }
        self.verify(&buffer, chunks)?;
        let wanted = (part.start - start) as usize..(part.end - start) as usize;
        let sums = codec::checksum::of_chunks(&buffer[wanted.clone()]);
        if wanted.start == 0 {
            buffer.truncate(wanted.end);
            return Ok(answer.take(buffer, sums));
        }
        Ok(answer.place(&buffer[wanted], sums))
    }

    /// Reads bytes `range` of a payload that lies in `extents`, end to end. The range starts at a
    /// block.
    async fn read_bulk(&self, plan: &FetchPlan, extents: &[BulkExtent], range: Range<u64>) -> Result<IoBuf, Error> {
        let pin = plan.pin.clone().expect("a plan that names blocks pins them");
        let mut joined: Option<IoBuf> = None;
        for (extent, offset, bytes) in media::pieces_of(extents, range) {
            let part =
                self.media.bulk_read(extent, offset, bytes, pin.clone()).await.map_err(|e| self.device_error(e))?;
            match &mut joined {
                None => joined = Some(part),
                Some(whole) => whole.extend_from_slice(&part),
            }
        }
        joined.ok_or_else(|| Error::new(Code::DataLoss, format!("target {}: a value has no blocks", self.index)))
    }

    fn verify(&self, bytes: &[u8], checksums: &[u32]) -> Result<(), Error> {
        codec::checksum::verify_chunks(bytes, checksums).map_err(|mismatch| {
            Error::new(Code::Checksum, format!("target {}: a value is damaged on its device: {mismatch}", self.index))
                .remedy("other data stays readable; restore this value from a copy")
        })
    }
}

/// Collects payloads: small ones go into the body, the rest into one buffer of bulk data.
struct Answer<'a> {
    inline: &'a [u8],
    bulk: Option<IoBuf>,
    /// Upper bound of the bulk data.
    bulk_bytes: usize,
}

impl Answer<'_> {
    fn place(&mut self, bytes: &[u8], checksums: Vec<u32>) -> Payload {
        if bytes.len() <= INLINE_BYTES_MAX {
            return Payload::Inline { bytes: Bytes(bytes.to_vec()), checksums };
        }
        let room = self.bulk_bytes;
        let bulk = self.bulk.get_or_insert_with(|| IoBuf::with_capacity(room));
        let offset = bulk.len() as u32;
        bulk.extend_from_slice(bytes);
        Payload::Bulk { offset, bytes: bytes.len() as u32, checksums }
    }

    /// As `place`, without a copy when the buffer is all the bulk data there is so far.
    fn take(&mut self, buffer: IoBuf, checksums: Vec<u32>) -> Payload {
        if self.bulk.is_some() || buffer.len() <= INLINE_BYTES_MAX {
            return self.place(&buffer, checksums);
        }
        let bytes = buffer.len() as u32;
        self.bulk = Some(buffer);
        Payload::Bulk { offset: 0, bytes, checksums }
    }
}

/// Bytes that a plan's pieces add up to.
///
/// # Errors
/// `Overflow`, when they are more than one answer may carry.
fn bulk_bytes(plan: &FetchPlan) -> Result<usize, Error> {
    let length = |source: &Source| match source {
        Source::Hole => 0,
        Source::Inline { part, .. } | Source::Bulk { part, .. } => part.end - part.start,
    };
    let total: u64 = plan.akeys.iter().flat_map(|akey| &akey.pieces).map(|piece| length(&piece.source)).sum();
    if total > BULK_BYTES_MAX as u64 {
        let text = format!("one fetch of {total} bytes is over {BULK_BYTES_MAX}");
        return Err(Error::new(Code::Overflow, text).remedy("read it in pieces"));
    }
    Ok(total as usize)
}

#[cfg(test)]
mod tests {
    use net::Handler;
    use rt::fault::When;
    use rt::sim::DiskFault;
    use types::{Conditions, Epoch, Key};
    use wire::Opcode;

    use super::*;
    use crate::target::machine::{Machine, PLACE, request, simulated};

    /// Of a value that is staged, and lies in a block after a checkpoint.
    const BYTES: usize = 3000;

    impl Machine {
        /// A machine whose values were written to their blocks, and of which memory knows nothing: its next life.
        async fn with_blocks(keys: &[&str]) -> Machine {
            let mut machine = Machine::new().await;
            for (key, sequence) in keys.iter().zip(1..) {
                machine.put(7, sequence, key, &key.repeat(BYTES)).await.unwrap();
            }
            assert_eq!(machine.kept(), keys.len() as u64, "they are staged");
            machine.on(|target| async move { target.media.checkpoint_now().await.unwrap() }).await;
            machine.cut().await;
            assert_eq!(machine.kept(), 0);
            machine
        }

        /// Blocks whose bytes lie in memory.
        fn kept(&self) -> u64 {
            self.target.media.usage().stage.blocks
        }

        /// Flips a bit where `text` begins on the device; a second time, back.
        async fn flip_value(&self, text: &'static [u8]) {
            self.on(move |_| async move {
                let disk = rt::disk::Disk::open("/data", rt::disk::OpenMode::default()).unwrap();
                let mut block = IoBuf::zeroed(media::BLOCK_BYTES);
                for at in (0..disk.len().unwrap()).step_by(media::BLOCK_BYTES) {
                    disk.read_now(at, &mut block).unwrap();
                    if block[1..].starts_with(&text[1..]) {
                        block[0] ^= 1;
                        disk.write_now(at, &block).unwrap();
                        return disk.sync_now().unwrap();
                    }
                }
                panic!("no block begins so");
            })
            .await;
        }

        /// What a client gets of a value: the bytes, which it verifies.
        async fn fetch(&self, key: &'static str) -> Result<Vec<u8>, Error> {
            self.on(move |target| async move {
                let akeys = vec![wire::data::AkeyRead { akey: Key::literal("v"), selection: Selection::Single }];
                let dkey = Key::new(key.as_bytes()).unwrap();
                let fetch = FetchRequest { place: PLACE, dkey, at: Epoch::MAX, conditions: Conditions::None, akeys };
                let reply = target.handle(request(0, 0, Opcode::Fetch, fetch.to_bytes())).await?;
                let answer = FetchResponse::from_bytes(&reply.body).unwrap();
                let Some(Payload::Inline { bytes, checksums }) = &answer.akeys[0].pieces[0].payload else {
                    panic!("it fits the body: {answer:?}")
                };
                let verified = codec::checksum::verify_chunks(&bytes.0, checksums);
                verified.map_err(|mismatch| Error::new(Code::Checksum, mismatch.to_string()))?;
                Ok(bytes.0.clone())
            })
            .await
        }
    }

    #[test]
    fn a_value_of_one_block_is_read_from_its_device_once() {
        simulated(async {
            let machine = Machine::with_blocks(&["a", "b"]).await;
            assert_eq!(machine.fetch("a").await, Ok("a".repeat(BYTES).into_bytes()));
            assert_eq!(machine.kept(), 1);
            rt::sim::current().disk_fault(machine.node, "/data", DiskFault::ReadError, When::Chance(1.0));
            assert_eq!(machine.fetch("a").await, Ok("a".repeat(BYTES).into_bytes()), "it is kept");
            assert!(machine.fetch("b").await.is_err(), "this one is not");
            rt::sim::current().clear_disk_faults(machine.node);
            // A new value of the key has a block of its own.
            machine.put(7, 9, "a", &"z".repeat(BYTES)).await.unwrap();
            assert_eq!(machine.fetch("a").await, Ok("z".repeat(BYTES).into_bytes()));
            assert_eq!(machine.fetch("b").await, Ok("b".repeat(BYTES).into_bytes()));
        });
    }

    /// Each reader of a value that is damaged on the device is told; only what is whole is kept.
    #[test]
    fn a_value_that_is_damaged_is_not_kept() {
        simulated(async {
            let machine = Machine::with_blocks(&["a"]).await;
            machine.flip_value(b"aaaaaaaa").await;
            for _ in 0..2 {
                assert_eq!(machine.fetch("a").await.unwrap_err().code, Code::Checksum);
                assert_eq!(machine.kept(), 0);
            }
            machine.flip_value(b"aaaaaaaa").await;
            assert_eq!(machine.fetch("a").await, Ok("a".repeat(BYTES).into_bytes()));
            assert_eq!(machine.kept(), 1);
        });
    }
}
