//! Log records taken apart: the parts that several kinds share.

use codec::checksum::chunk_count;
use types::{Epoch, Extent, Key, ObjectId};

use super::{ARRAY, BYTES, INTEGER, OwnedPunch, OwnedScope, OwnedUpdate, OwnedValue, SINGLE};
use crate::extents::Stop;
use crate::key::Version;
use crate::record::payload::OwnedPayload;
use crate::request::Checksums;
use crate::shard::Below;

/// Takes a record apart from its front.
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn slice(&mut self, len: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(head)
    }
    pub(super) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.slice(N)?.first_chunk().copied()
    }
    pub(super) fn u8(&mut self) -> Option<u8> {
        self.array().map(u8::from_le_bytes)
    }
    pub(super) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }
    pub(super) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }
    pub(super) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }
    pub(super) fn from(&mut self) -> Option<Vec<u8>> {
        let len = self.u16()?;
        Some(self.slice(len.into())?.to_vec())
    }
    pub(super) fn version(&mut self) -> Option<Version> {
        Some(Version { epoch: Epoch(self.u64()?), minor: self.u16()? })
    }
    pub(super) fn below(&mut self) -> Option<Below> {
        let (start, hole, class) = (self.u64()?, self.u8()? != 0, self.u8()?);
        let stop = Stop { start, hole, class, version: self.version()? };
        Some(Below { stop, index: self.u64()?, is_bare: self.u8()? != 0 }).filter(|below| below.stop.class < 64)
    }
    pub(super) fn oid(&mut self) -> Option<ObjectId> {
        self.array().map(ObjectId::from_bytes)
    }
    pub(super) fn key(&mut self) -> Option<Key> {
        match self.u8()? {
            INTEGER => self.u64().map(Key::Integer),
            BYTES => {
                let len = self.u16()?;
                Key::new(self.slice(len.into())?).ok()
            }
            _ => None,
        }
    }
    pub(super) fn extent(&mut self) -> Option<Extent> {
        Some(Extent::new(self.u64()?, self.u64()?)).filter(|extent| extent.is_valid())
    }
    pub(super) fn checksums(&mut self, bytes: u64) -> Option<Checksums> {
        if bytes > types::VALUE_BYTES_MAX as u64 {
            return None;
        }
        let stored = self.slice(chunk_count(bytes as usize) * 4)?;
        Some(stored.as_chunks::<4>().0.iter().map(|b| u32::from_le_bytes(*b)).collect())
    }
    pub(super) fn update(&mut self) -> Option<OwnedUpdate<'a>> {
        let (group, oid) = (self.u32()?, self.oid()?);
        let dkey = self.key()?;
        let count = self.u16()?;
        let akeys = (0..count).map(|_| Some((self.key()?, self.value()?))).collect::<Option<Vec<_>>>()?;
        Some(OwnedUpdate { group, oid, dkey, akeys })
    }
    pub(super) fn punch(&mut self) -> Option<OwnedPunch> {
        let (group, oid) = (self.u32()?, self.oid()?);
        let scope = match self.u8()? {
            1 => OwnedScope::Object,
            2 => OwnedScope::Dkey(self.key()?),
            3 => {
                let dkey = self.key()?;
                let count = self.u16()?;
                OwnedScope::Akeys(dkey, (0..count).map(|_| self.key()).collect::<Option<_>>()?)
            }
            4 => {
                let (dkey, akey) = (self.key()?, self.key()?);
                let count = self.u16()?;
                OwnedScope::Extents(dkey, akey, (0..count).map(|_| self.extent()).collect::<Option<_>>()?)
            }
            _ => return None,
        };
        Some(OwnedPunch { group, oid, scope })
    }
    pub(super) fn value(&mut self) -> Option<OwnedValue<'a>> {
        match self.u8()? {
            SINGLE => self.update_payload().map(OwnedValue::Single),
            ARRAY => {
                let (record_bytes, count) = (self.u32()?, self.u16()?);
                let extents =
                    (0..count).map(|_| Some((self.extent()?, self.update_payload()?))).collect::<Option<Vec<_>>>()?;
                let fits = |(extent, payload): &(Extent, OwnedPayload<'_>)| {
                    extent.count.checked_mul(record_bytes.into()) == Some(payload.borrow().len())
                };
                (record_bytes > 0 && extents.iter().all(fits)).then_some(OwnedValue::Array(record_bytes, extents))
            }
            _ => None,
        }
    }
}
