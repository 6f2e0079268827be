//! A logical update as one message: small payloads in the body, large ones in the bulk buffer.

use bytes::Bytes;
use codec::{checksum, crc32c};
use rt::disk::IoBuf;
use types::{CHECKSUM_CHUNK_BYTES, Conditions, Extent, Key};
use wire::Wire;
use wire::data::{AkeyWrite, ExtentWrite, INLINE_BYTES_MAX, Payload, Place, UpdateRequest, Value};

/// What to write to one akey.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AkeyUpdate {
    pub akey: Key,
    pub value: NewValue,
}

/// A value to write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NewValue {
    /// Replaced whole.
    Single(Bytes),
    /// Records of `record_bytes` each; every payload is `record_bytes * extent.count` long.
    Array { record_bytes: u32, extents: Vec<(Extent, Bytes)> },
}

impl AkeyUpdate {
    pub fn single(akey: Key, value: impl Into<Bytes>) -> AkeyUpdate {
        AkeyUpdate { akey, value: NewValue::Single(value.into()) }
    }

    pub fn array(akey: Key, record_bytes: u32, extents: Vec<(Extent, Bytes)>) -> AkeyUpdate {
        AkeyUpdate { akey, value: NewValue::Array { record_bytes, extents } }
    }
}

/// An encoded update, ready to be sent any number of times.
pub struct UpdateMessage<'a> {
    pub body: Vec<u8>,
    bulk: Bulk<'a>,
}

/// The bulk data of a message, and where to take it from again for a repeat.
enum Bulk<'a> {
    None,
    Parts {
        /// Laid out already; gone after the first sending.
        first: Option<IoBuf>,
        parts: Vec<&'a [u8]>,
        bytes: usize,
    },
    /// Handed over by the caller, whole; it can be sent once.
    Owned(Option<IoBuf>),
}

impl<'a> UpdateMessage<'a> {
    /// Encodes an update that has passed [`crate::check::updates`].
    ///
    /// Cost: one pass over the payloads, copying and summing each 32 KiB while it is in the cache.
    pub fn new(place: Place, dkey: &Key, conditions: Conditions, akeys: &'a [AkeyUpdate]) -> UpdateMessage<'a> {
        let mut layout =
            BulkLayout::for_bytes(akeys.iter().flat_map(payloads).filter(|p| !inline(p)).map(<[u8]>::len).sum());
        let akeys = akeys.iter().map(|AkeyUpdate { akey, value }| {
            let value = match value {
                NewValue::Single(value) => Value::Single { payload: layout.payload(value) },
                NewValue::Array { record_bytes, extents } => Value::Array {
                    record_bytes: *record_bytes,
                    extents: extents
                        .iter()
                        .map(|(extent, payload)| ExtentWrite { extent: *extent, payload: layout.payload(payload) })
                        .collect(),
                },
            };
            AkeyWrite { akey: akey.clone(), value }
        });
        let request = UpdateRequest { place, dkey: dkey.clone(), conditions, akeys: akeys.collect() };
        UpdateMessage { body: request.to_bytes(), bulk: layout.into_bulk() }
    }

    /// Encodes a write of one extent of an array, from a borrowed slice of whole records.
    pub fn of_extent(
        place: Place,
        dkey: &Key,
        akey: &Key,
        record_bytes: u32,
        extent: Extent,
        payload: &'a [u8],
    ) -> Self {
        let mut layout = BulkLayout::for_bytes(if inline(payload) { 0 } else { payload.len() });
        let payload = layout.payload(payload);
        let body = extent_request(place, dkey, akey, record_bytes, extent, payload);
        UpdateMessage { body, bulk: layout.into_bulk() }
    }

    /// As [`UpdateMessage::of_extent`], from a buffer that is handed over: no copy, and no repeat
    /// once it has been sent.
    pub fn of_buffer(place: Place, dkey: &Key, akey: &Key, record_bytes: u32, extent: Extent, buffer: IoBuf) -> Self {
        let checksums = checksum::of_chunks(&buffer);
        let (payload, bulk) = if inline(&buffer) {
            (Payload::Inline { bytes: wire::encoding::Bytes(buffer.to_vec()), checksums }, Bulk::None)
        } else {
            let bytes = u32_of(buffer.len());
            (Payload::Bulk { offset: 0, bytes, checksums }, Bulk::Owned(Some(buffer)))
        };
        UpdateMessage { body: extent_request(place, dkey, akey, record_bytes, extent, payload), bulk }
    }

    /// The bulk data for one sending. `Err(Spent)` when it was handed over and is gone.
    pub fn bulk(&mut self) -> Result<Option<IoBuf>, Spent> {
        match &mut self.bulk {
            Bulk::None => Ok(None),
            Bulk::Parts { first, parts, bytes } => Ok(Some(first.take().unwrap_or_else(|| {
                let mut again = IoBuf::with_capacity(*bytes);
                parts.iter().for_each(|part| again.extend_from_slice(part));
                again
            }))),
            Bulk::Owned(buffer) => buffer.take().map(Some).ok_or(Spent),
        }
    }
}

/// The bulk data of a message was handed over with its first sending.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spent;

fn extent_request(
    place: Place,
    dkey: &Key,
    akey: &Key,
    record_bytes: u32,
    extent: Extent,
    payload: Payload,
) -> Vec<u8> {
    let value = Value::Array { record_bytes, extents: vec![ExtentWrite { extent, payload }] };
    let akeys = vec![AkeyWrite { akey: akey.clone(), value }];
    UpdateRequest { place, dkey: dkey.clone(), conditions: Conditions::None, akeys }.to_bytes()
}

fn inline(payload: &[u8]) -> bool {
    payload.len() <= INLINE_BYTES_MAX
}

fn u32_of(bytes: usize) -> u32 {
    u32::try_from(bytes).expect("a request was checked to have at most 16 MiB of payload")
}

fn payloads(update: &AkeyUpdate) -> Box<dyn Iterator<Item = &[u8]> + '_> {
    match &update.value {
        NewValue::Single(value) => Box::new(std::iter::once(&value[..])),
        NewValue::Array { extents, .. } => Box::new(extents.iter().map(|(_, payload)| &payload[..])),
    }
}

/// Bulk data being laid out, one payload after another.
struct BulkLayout<'a> {
    buffer: IoBuf,
    parts: Vec<&'a [u8]>,
}

impl<'a> BulkLayout<'a> {
    fn for_bytes(bytes: usize) -> BulkLayout<'a> {
        BulkLayout { buffer: IoBuf::with_capacity(bytes), parts: Vec::new() }
    }

    fn payload(&mut self, payload: &'a [u8]) -> Payload {
        let mut checksums = Vec::with_capacity(checksum::chunk_count(payload.len()));
        if inline(payload) {
            checksums.extend(payload.chunks(CHECKSUM_CHUNK_BYTES).map(crc32c));
            return Payload::Inline { bytes: wire::encoding::Bytes(payload.to_vec()), checksums };
        }
        let offset = u32_of(self.buffer.len());
        for chunk in payload.chunks(CHECKSUM_CHUNK_BYTES) {
            let start = self.buffer.len();
            self.buffer.extend_from_slice(chunk);
            // Of the copy, so that the checksum promises what is sent even if the source changes.
            checksums.push(crc32c(&self.buffer[start..]));
        }
        self.parts.push(payload);
        Payload::Bulk { offset, bytes: u32_of(payload.len()), checksums }
    }

    fn into_bulk(self) -> Bulk<'a> {
        match self.parts.is_empty() {
            true => Bulk::None,
            false => Bulk::Parts { bytes: self.buffer.len(), first: Some(self.buffer), parts: self.parts },
        }
    }
}

#[cfg(test)]
mod tests {
    use types::{ContainerId, ObjectId};

    use super::*;

    fn place() -> Place {
        Place { container: ContainerId::from_bytes([1; 16]), oid: ObjectId { hi: 1, lo: 2 }, group: 3, map_version: 4 }
    }

    #[test]
    fn small_payloads_are_inline_and_large_ones_lie_end_to_end_in_bulk() {
        let (small, large, larger) = (vec![1; 4096], vec![2; 4097], vec![3; 70_000]);
        let akeys = [
            AkeyUpdate::single(Key::literal("a"), large.clone()),
            AkeyUpdate::single(Key::literal("b"), small.clone()),
            AkeyUpdate::array(Key::literal("c"), 1, vec![(Extent::new(9, 70_000), larger.clone().into())]),
        ];
        let mut message = UpdateMessage::new(place(), &Key::literal("d"), Conditions::None, &akeys);
        let request = UpdateRequest::from_bytes(&message.body).unwrap();
        let bulk = message.bulk().unwrap().unwrap();
        assert_eq!(bulk[..], [large.clone(), larger.clone()].concat()[..]);

        let payloads: Vec<&Payload> = request
            .akeys
            .iter()
            .map(|akey| match &akey.value {
                Value::Single { payload } => payload,
                Value::Array { extents, .. } => &extents[0].payload,
            })
            .collect();
        assert!(matches!(payloads[0], Payload::Bulk { offset: 0, bytes: 4097, .. }));
        assert!(matches!(payloads[1], Payload::Inline { .. }));
        assert!(matches!(payloads[2], Payload::Bulk { offset: 4097, bytes: 70_000, .. }));
        for (payload, expected) in payloads.iter().zip([&large, &small, &larger]) {
            let bytes = payload.bytes(&bulk).unwrap();
            assert_eq!(bytes, &expected[..]);
            checksum::verify_chunks(bytes, payload.checksums()).unwrap();
        }
    }

    #[test]
    fn a_repeat_carries_the_same_bulk_data() {
        let payload = vec![7; 10_000];
        let extent = Extent::new(0, 10_000);
        let mut message = UpdateMessage::of_extent(place(), &Key::from(1), &Key::literal("0"), 1, extent, &payload);
        let first = message.bulk().unwrap().unwrap();
        assert_eq!(message.bulk().unwrap().unwrap(), first);
        assert_eq!(first[..], payload[..]);
    }

    #[test]
    fn a_buffer_handed_over_is_sent_once_and_not_copied() {
        let buffer = IoBuf::from_slice(&[7; 10_000]);
        let address = buffer.as_ptr();
        let extent = Extent::new(0, 10_000);
        let mut message = UpdateMessage::of_buffer(place(), &Key::from(1), &Key::literal("0"), 1, extent, buffer);
        assert_eq!(message.bulk().unwrap().unwrap().as_ptr(), address);
        assert_eq!(message.bulk(), Err(Spent));
    }
}
