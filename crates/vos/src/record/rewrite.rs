//! Records of data that gets another place: a rewrite says which extents of an akey go, and which come for
//! them; a mend puts the right bytes of one value to a new place.
//!
//! | part  | bytes                                                         |
//! |-------|---------------------------------------------------------------|
//! | akey  | length 2, the composite key up to the end of its akey         |
//! | parts | count 2, each start 8, count 8, epoch 8, minor 2              |
//! | size  | record bytes 4                                                |
//! | runs  | count 2, each start 8, count 8, epoch 8, minor 2, payload     |
//!
//! | part    | bytes                            |
//! |---------|----------------------------------|
//! | key     | length 2, the composite key      |
//! | payload | as in an update                  |

use types::{ContainerId, Extent};

use super::payload::{OwnedPayload, push_payload};
use super::{Reader, Record, push_extent, push_from, push_head, push_version};
use crate::key::Version;
use crate::request::{Origin, Payload};
use crate::rewrite::Rewrite;
use crate::space::Reservation;

/// A rewrite read back.
#[derive(Debug)]
pub(crate) struct OwnedRewrite<'a> {
    /// Key prefix.
    pub(crate) akey: Vec<u8>,
    pub(crate) parts: Vec<(Extent, Version)>,
    pub(crate) record_bytes: u32,
    runs: Vec<(Extent, Version, OwnedPayload<'a>)>,
}

impl OwnedRewrite<'_> {
    /// Blocks that come with it.
    pub(crate) fn reservations(&self) -> impl Iterator<Item = &Reservation> {
        self.runs.iter().filter_map(|(_, _, payload)| payload.reservation())
    }

    pub(crate) fn runs(&self) -> impl Iterator<Item = (Extent, Version, Payload<'_>)> {
        self.runs.iter().map(|(extent, version, payload)| (*extent, *version, payload.borrow()))
    }
}

/// Replaces `out` by the record of a rewrite.
pub(crate) fn encode(out: &mut Vec<u8>, rewrite: &Rewrite) {
    push_head(out, Origin::default(), rewrite.container.to_bytes());
    push_from(out, &rewrite.akey);
    out.extend_from_slice(&(rewrite.parts.len() as u16).to_le_bytes());
    for (extent, version) in &rewrite.parts {
        push_extent(out, *extent);
        push_version(out, *version);
    }
    out.extend_from_slice(&rewrite.record_bytes.to_le_bytes());
    out.extend_from_slice(&(rewrite.runs.len() as u16).to_le_bytes());
    for run in &rewrite.runs {
        push_extent(out, run.extent);
        push_version(out, run.version);
        let tail = push_payload(out, &run.payload());
        out.extend_from_slice(tail);
    }
}

/// Replaces `out` by the record of a mend.
pub(crate) fn encode_mend(out: &mut Vec<u8>, container: ContainerId, key: &[u8], payload: &Payload<'_>) {
    push_head(out, Origin::default(), container.to_bytes());
    push_from(out, key);
    let tail = push_payload(out, payload);
    out.extend_from_slice(tail);
}

/// A mend read back.
#[derive(Debug)]
pub(crate) struct OwnedMend<'a> {
    pub(crate) key: Vec<u8>,
    payload: OwnedPayload<'a>,
}

impl OwnedMend<'_> {
    pub(crate) fn payload(&self) -> Payload<'_> {
        self.payload.borrow()
    }

    /// Blocks that come with it.
    pub(crate) fn reservation(&self) -> Option<&Reservation> {
        self.payload.reservation()
    }
}

pub(super) fn read_mend<'a>(r: &mut Reader<'a>, container: ContainerId) -> Option<Record<'a>> {
    Some(Record::Mend { container, mend: OwnedMend { key: r.from()?, payload: r.payload()? } })
}

pub(super) fn read<'a>(r: &mut Reader<'a>, container: ContainerId) -> Option<Record<'a>> {
    let akey = r.from()?;
    let parts = (0..r.u16()?).map(|_| Some((r.extent()?, r.version()?))).collect::<Option<_>>()?;
    let record_bytes = r.u32()?;
    let runs = (0..r.u16()?)
        .map(|_| {
            let (extent, version, payload) = (r.extent()?, r.version()?, r.payload()?);
            let fits = extent.count.checked_mul(record_bytes.into()) == Some(payload.borrow().len());
            (record_bytes > 0 && fits).then_some((extent, version, payload))
        })
        .collect::<Option<_>>()?;
    Some(Record::Rewrite { container, rewrite: OwnedRewrite { akey, parts, record_bytes, runs } })
}

#[cfg(test)]
mod tests {
    use types::Epoch;

    use super::super::{decode, kind};
    use super::*;

    #[test]
    fn a_rewrite_is_read_from_these_bytes() {
        let hex = concat!(
            "00000000000000000000000000000000c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0",
            "0300aabbcc",
            "0100",
            "0500000000000000020000000000000009000000000000000100",
            "02000000",
            "0200",
            "0500000000000000020000000000000009000000000000000100",
            "0104000000ee00000077787 97a",
            "0700000000000000000800000000000009000000000000000100",
            "02001000000000000001000800000001000000dd000000",
        )
        .replace(' ', "");
        let byte = |at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
        let bytes: Vec<u8> = (0..hex.len()).step_by(2).map(byte).collect();
        let (_, record) = decode(kind::REWRITE, &bytes).unwrap();
        let Record::Rewrite { container, rewrite } = &record else { panic!("{record:?}") };
        assert_eq!(*container, ContainerId::from_bytes([0xc0; 16]));
        let version = Version { epoch: Epoch(9), minor: 1 };
        assert_eq!((&rewrite.akey[..], rewrite.record_bytes), (&[0xaa, 0xbb, 0xcc][..], 2));
        assert_eq!(rewrite.parts, [(Extent::new(5, 2), version)]);
        let runs: Vec<_> = rewrite.runs().map(|(extent, version, payload)| (extent, version, payload.len())).collect();
        assert_eq!(runs, [(Extent::new(5, 2), version, 4), (Extent::new(7, 2048), version, 4096)]);
        assert_eq!(rewrite.reservations().flat_map(|at| at.extents()).map(|at| at.block).collect::<Vec<_>>(), [8]);
        for end in 0..bytes.len() {
            assert!(decode(kind::REWRITE, &bytes[..end]).is_none());
        }
    }
}
