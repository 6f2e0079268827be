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

/// An encoded update: what one sending takes. A repeat encodes it anew from the caller's data.
#[derive(Debug)]
pub struct UpdateMessage {
    pub body: Vec<u8>,
    pub bulk: Option<IoBuf>,
}

/// Most payload that travels inside one body, whatever its pieces: leaves a body room for keys and
/// extents below its own limit.
pub const INLINE_BYTES_PER_BODY_MAX: usize = 1 << 20;

impl UpdateMessage {
    /// Encodes an update that has passed [`crate::check::updates`].
    ///
    /// Cost: one pass over the payloads, copying and summing each 32 KiB while it is in the cache.
    pub fn new(place: Place, dkey: &Key, conditions: Conditions, akeys: &[AkeyUpdate]) -> UpdateMessage {
        let mut sizes = Vec::with_capacity(akeys.len());
        for AkeyUpdate { value, .. } in akeys {
            match value {
                NewValue::Single(value) => sizes.push(value.len()),
                NewValue::Array { extents, .. } => sizes.extend(extents.iter().map(|(_, payload)| payload.len())),
            }
        }
        let mut layout = Layout::with_room_for(sizes.into_iter());
        let akeys = akeys.iter().map(|AkeyUpdate { akey, value }| {
            let value = match value {
                NewValue::Single(value) => Value::Single { payload: layout.place(value) },
                NewValue::Array { record_bytes, extents } => {
                    let write = |(extent, payload): &(Extent, Bytes)| ExtentWrite {
                        extent: *extent,
                        payload: layout.place(payload),
                    };
                    Value::Array { record_bytes: *record_bytes, extents: extents.iter().map(write).collect() }
                }
            };
            AkeyWrite { akey: akey.clone(), value }
        });
        let request = UpdateRequest { place, dkey: dkey.clone(), conditions, akeys: akeys.collect() };
        UpdateMessage { body: request.to_bytes(), bulk: layout.into_bulk() }
    }

    /// Encodes a write of one extent of an array, from a borrowed slice of whole records.
    pub fn of_extent(place: Place, dkey: &Key, akey: &Key, record_bytes: u32, extent: Extent, payload: &[u8]) -> Self {
        let mut layout = Layout::with_room_for([payload.len()].into_iter());
        let payload = layout.place(payload);
        UpdateMessage {
            body: of_one_extent(place, dkey, akey, record_bytes, extent, payload),
            bulk: layout.into_bulk(),
        }
    }

    /// As [`UpdateMessage::of_extent`], from a buffer that is handed over: not copied, so there is
    /// nothing left to repeat it from.
    pub fn of_buffer(place: Place, dkey: &Key, akey: &Key, record_bytes: u32, extent: Extent, buffer: IoBuf) -> Self {
        if buffer.len() <= INLINE_BYTES_MAX {
            return UpdateMessage::of_extent(place, dkey, akey, record_bytes, extent, &buffer);
        }
        let checksums = checksum::of_chunks(&buffer);
        let payload = Payload::Bulk { offset: 0, bytes: u32_of(buffer.len()), checksums };
        UpdateMessage { body: of_one_extent(place, dkey, akey, record_bytes, extent, payload), bulk: Some(buffer) }
    }
}

fn of_one_extent(place: Place, dkey: &Key, akey: &Key, record_bytes: u32, extent: Extent, payload: Payload) -> Vec<u8> {
    let value = Value::Array { record_bytes, extents: vec![ExtentWrite { extent, payload }] };
    let akeys = vec![AkeyWrite { akey: akey.clone(), value }];
    UpdateRequest { place, dkey: dkey.clone(), conditions: Conditions::None, akeys }.to_bytes()
}

fn u32_of(bytes: usize) -> u32 {
    u32::try_from(bytes).expect("a request was checked to have at most 16 MiB of payload")
}

/// Payloads being laid out: small ones in the body, the others one after another in the bulk data.
struct Layout {
    inline_bytes: usize,
    bulk: IoBuf,
}

impl Layout {
    fn with_room_for(payloads: impl Iterator<Item = usize>) -> Layout {
        let mut inline_bytes = 0;
        let bulk = payloads.filter(|&bytes| !goes_inline(&mut inline_bytes, bytes)).sum();
        Layout { inline_bytes: 0, bulk: IoBuf::with_capacity(bulk) }
    }

    fn place(&mut self, payload: &[u8]) -> Payload {
        let mut checksums = Vec::with_capacity(checksum::chunk_count(payload.len()));
        if goes_inline(&mut self.inline_bytes, payload.len()) {
            checksums.extend(payload.chunks(CHECKSUM_CHUNK_BYTES).map(crc32c));
            return Payload::Inline { bytes: wire::encoding::Bytes(payload.to_vec()), checksums };
        }
        let offset = u32_of(self.bulk.len());
        for chunk in payload.chunks(CHECKSUM_CHUNK_BYTES) {
            let start = self.bulk.len();
            self.bulk.extend_from_slice(chunk);
            // Of the copy, so that the checksum promises what is sent even if the source changes.
            checksums.push(crc32c(&self.bulk[start..]));
        }
        Payload::Bulk { offset, bytes: u32_of(payload.len()), checksums }
    }

    fn into_bulk(self) -> Option<IoBuf> {
        (!self.bulk.is_empty()).then_some(self.bulk)
    }
}

/// Whether a payload travels in the body, of which `taken` bytes are payload already.
fn goes_inline(taken: &mut usize, bytes: usize) -> bool {
    let fits = bytes <= INLINE_BYTES_MAX && *taken + bytes <= INLINE_BYTES_PER_BODY_MAX;
    *taken += if fits { bytes } else { 0 };
    fits
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
        let message = UpdateMessage::new(place(), &Key::literal("d"), Conditions::None, &akeys);
        let request = UpdateRequest::from_bytes(&message.body).unwrap();
        let bulk = message.bulk.unwrap();
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
    fn many_small_payloads_do_not_overfill_the_body() {
        let extents = (0..1024u64).map(|i| (Extent::new(i * 4096, 4096), vec![i as u8; 4096].into())).collect();
        let akeys = [AkeyUpdate::array(Key::literal("a"), 1, extents)];
        let message = UpdateMessage::new(place(), &Key::literal("d"), Conditions::None, &akeys);
        assert!(message.body.len() < INLINE_BYTES_PER_BODY_MAX + 1024 * 64);
        assert_eq!(message.bulk.unwrap().len(), (1024 - 256) * 4096);
    }

    #[test]
    fn a_buffer_handed_over_is_not_copied() {
        let buffer = IoBuf::from_slice(&[7; 10_000]);
        let address = buffer.as_ptr();
        let extent = Extent::new(0, 10_000);
        let message = UpdateMessage::of_buffer(place(), &Key::from(1), &Key::literal("0"), 1, extent, buffer);
        assert_eq!(message.bulk.unwrap().as_ptr(), address);
        let small = IoBuf::from_slice(&[7; 100]);
        let message =
            UpdateMessage::of_buffer(place(), &Key::from(1), &Key::literal("0"), 1, Extent::new(0, 100), small);
        assert!(message.bulk.is_none());
    }
}
