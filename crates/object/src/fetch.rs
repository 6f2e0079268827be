//! A logical read as messages, and answers as verified pieces.

use std::collections::VecDeque;

use bytes::Bytes;
use codec::checksum;
use types::{
    AKEYS_PER_REQUEST_MAX, Code, Conditions, EXTENTS_PER_AKEY_MAX, Epoch, Error, Extent, Key, ObjectId, Result,
};
use wire::Wire;
use wire::data::{AkeyData, AkeyRead, FetchRequest, FetchResponse, Payload, Place, Selection};

/// What to read of one akey.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AkeyQuery {
    pub akey: Key,
    pub query: Query,
}

/// Which part of a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Query {
    Single,
    /// Extents that do not overlap, in any order.
    Array(Vec<Extent>),
}

impl AkeyQuery {
    pub fn single(akey: Key) -> AkeyQuery {
        AkeyQuery { akey, query: Query::Single }
    }

    pub fn array(akey: Key, extents: Vec<Extent>) -> AkeyQuery {
        AkeyQuery { akey, query: Query::Array(extents) }
    }
}

/// What one akey holds, verified.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct AkeyResult {
    /// Bytes of a record; of a single value, its length. 0 when nothing is there.
    pub record_bytes: u32,
    /// For a single value one piece at 0..1, or none if there is no value. For an array, pieces that cover exactly the extents
    /// asked for, in that order; `None` is a hole.
    pub pieces: Vec<(Extent, Option<Bytes>)>,
}

impl AkeyResult {
    /// The single value.
    pub fn value(&self) -> Option<&Bytes> {
        self.pieces.first().and_then(|(_, bytes)| bytes.as_ref())
    }
}

/// A part of a read that fits one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FetchPart {
    /// Which query of the whole each query here is, or is a part of.
    origins: Vec<usize>,
    queries: Vec<AkeyQuery>,
}

/// Splits a read by the limits of one request.
///
/// # Errors
/// `Invalid`: no akey, a key of the wrong kind, bad or overlapping extents.
pub fn plan(oid: ObjectId, queries: &[AkeyQuery]) -> Result<VecDeque<FetchPart>> {
    if queries.is_empty() {
        return Err(Error::new(Code::Invalid, "no akey given"));
    }
    let mut parts = VecDeque::new();
    let mut part = FetchPart { origins: Vec::new(), queries: Vec::new() };
    let mut add = |origin: usize, query: AkeyQuery| {
        if part.queries.len() == AKEYS_PER_REQUEST_MAX {
            let full = std::mem::replace(&mut part, FetchPart { origins: Vec::new(), queries: Vec::new() });
            parts.push_back(full);
        }
        part.origins.push(origin);
        part.queries.push(query);
    };
    for (origin, AkeyQuery { akey, query }) in queries.iter().enumerate() {
        crate::check::akey(oid, akey)?;
        match query {
            Query::Single => add(origin, AkeyQuery::single(akey.clone())),
            Query::Array(extents) => {
                crate::check::extents(akey, extents)?;
                for some in extents.chunks(EXTENTS_PER_AKEY_MAX) {
                    add(origin, AkeyQuery::array(akey.clone(), some.to_vec()));
                }
            }
        }
    }
    parts.push_back(part);
    Ok(parts)
}

impl FetchPart {
    /// The body of the request.
    pub fn body(&self, place: Place, dkey: &Key, at: Epoch, conditions: Conditions) -> Vec<u8> {
        let akeys = self.queries.iter().map(|AkeyQuery { akey, query }| AkeyRead {
            akey: akey.clone(),
            selection: match query {
                Query::Single => Selection::Single,
                Query::Array(extents) => {
                    let mut extents = extents.clone();
                    extents.sort_unstable();
                    Selection::Array { extents }
                }
            },
        });
        FetchRequest { place, dkey: dkey.clone(), at, conditions, akeys: akeys.collect() }.to_bytes()
    }

    /// Two halves, for an answer that was too long for one message; `None` when this is a single
    /// record or value.
    pub fn halve(&self) -> Option<(FetchPart, FetchPart)> {
        if self.queries.len() > 1 {
            let (a, b) = self.queries.split_at(self.queries.len() / 2);
            let (i, j) = self.origins.split_at(a.len());
            let part = |origins: &[usize], queries: &[AkeyQuery]| FetchPart {
                origins: origins.to_vec(),
                queries: queries.to_vec(),
            };
            return Some((part(i, a), part(j, b)));
        }
        let AkeyQuery { akey, query: Query::Array(extents) } = &self.queries[0] else { return None };
        let (a, b) = match extents[..] {
            [Extent { start, count }] if count > 1 => {
                let half = count / 2;
                (vec![Extent::new(start, half)], vec![Extent::new(start + half, count - half)])
            }
            [_] => return None,
            _ => {
                let (a, b) = extents.split_at(extents.len() / 2);
                (a.to_vec(), b.to_vec())
            }
        };
        let part = |extents| FetchPart {
            origins: self.origins.clone(),
            queries: vec![AkeyQuery::array(akey.clone(), extents)],
        };
        Some((part(a), part(b)))
    }

    /// Verifies an answer and adds it to `results`, which has one entry per query of the whole read.
    ///
    /// # Errors
    /// `Checksum`: a payload is not what was promised of it; names dkey and akey. `Protocol`: the
    /// answer does not fit the question.
    pub fn accept(&self, dkey: &Key, body: &[u8], bulk: Bytes, results: &mut [AkeyResult]) -> Result<()> {
        let response = FetchResponse::from_bytes(body).map_err(|error| malformed(dkey, &error.to_string()))?;
        if response.akeys.len() != self.queries.len() {
            let found = format!("{} akeys where {} were asked for", response.akeys.len(), self.queries.len());
            return Err(malformed(dkey, &found));
        }
        for ((AkeyQuery { akey, query }, data), &origin) in self.queries.iter().zip(response.akeys).zip(&self.origins) {
            let result = &mut results[origin];
            let record_bytes = data.record_bytes;
            match query {
                Query::Single => single(dkey, akey, data, &bulk, result)?,
                Query::Array(extents) => array(dkey, akey, extents, data, &bulk, result)?,
            }
            // A part that found only holes may not know the size of the records in another.
            result.record_bytes = result.record_bytes.max(record_bytes);
        }
        Ok(())
    }
}

fn single(dkey: &Key, akey: &Key, data: AkeyData, bulk: &Bytes, result: &mut AkeyResult) -> Result<()> {
    let Some(piece) = data.pieces.into_iter().next() else { return Ok(()) };
    let Some(payload) = piece.payload else { return Ok(()) };
    let bytes = verified(dkey, akey, payload, bulk)?;
    if bytes.len() != data.record_bytes as usize {
        let found = format!("a value of {} bytes that is said to have {}", bytes.len(), data.record_bytes);
        return Err(malformed(dkey, &found));
    }
    result.pieces.push((Extent::new(0, 1), Some(bytes)));
    Ok(())
}

fn array(
    dkey: &Key,
    akey: &Key,
    wanted: &[Extent],
    data: AkeyData,
    bulk: &Bytes,
    result: &mut AkeyResult,
) -> Result<()> {
    let record_bytes = data.record_bytes as usize;
    let mut found: Vec<(Extent, Bytes)> = Vec::with_capacity(data.pieces.len());
    for piece in data.pieces {
        let Some(payload) = piece.payload else { continue };
        let bytes = verified(dkey, akey, payload, bulk)?;
        let expected = u128::from(piece.extent.count) * record_bytes as u128;
        if bytes.len() as u128 != expected {
            let found = format!("{} bytes for {} records of {record_bytes}", bytes.len(), piece.extent.count);
            return Err(malformed(dkey, &found));
        }
        if found.last().is_some_and(|(last, _)| last.end() > piece.extent.start) {
            return Err(malformed(dkey, "pieces out of order"));
        }
        found.push((piece.extent, bytes));
    }
    for &extent in wanted {
        let mut covered = extent.start;
        let from = found.partition_point(|(piece, _)| piece.end() <= extent.start);
        for (piece, bytes) in &found[from..] {
            let Some(both) = piece.intersect(extent) else { break };
            if covered < both.start {
                result.pieces.push((Extent::new(covered, both.start - covered), None));
            }
            let first = (both.start - piece.start) as usize * record_bytes;
            let slice = bytes.slice(first..first + both.count as usize * record_bytes);
            result.pieces.push((both, Some(slice)));
            covered = both.end();
        }
        if covered < extent.end() {
            result.pieces.push((Extent::new(covered, extent.end() - covered), None));
        }
    }
    Ok(())
}

/// The bytes of a payload, out of the body or out of the bulk data, after their checksums held.
fn verified(dkey: &Key, akey: &Key, payload: Payload, bulk: &Bytes) -> Result<Bytes> {
    let (bytes, checksums) = match payload {
        Payload::Inline { bytes, checksums } => (Bytes::from(bytes.0), checksums),
        Payload::Bulk { offset, bytes, checksums } => {
            let (start, end) = (offset as usize, offset as usize + bytes as usize);
            if end > bulk.len() {
                let found = format!("bulk data of {} bytes where {end} were announced", bulk.len());
                return Err(malformed(dkey, &found));
            }
            (bulk.slice(start..end), checksums)
        }
    };
    checksum::verify_chunks(&bytes, &checksums).map_err(|mismatch| {
        Error::new(Code::Checksum, format!("dkey '{dkey}', akey '{akey}': the data arrived damaged: {mismatch}"))
            .remedy("read again; if it stays, the stored copy or the network is at fault")
    })?;
    Ok(bytes)
}

fn malformed(dkey: &Key, found: &str) -> Error {
    Error::new(Code::Protocol, format!("dkey '{dkey}': the server's answer is not one: {found}"))
        .remedy("use a client and a server of the same release")
}

#[cfg(test)]
mod tests {
    use types::{ObjectClass, ObjectType};
    use wire::data::Piece;

    use super::*;

    fn oid() -> ObjectId {
        ObjectId::new(ObjectType::MultiHashed, ObjectClass::S1, 0, 1)
    }

    fn key() -> Key {
        Key::literal("k")
    }

    fn inline(bytes: &[u8]) -> Payload {
        Payload::Inline { bytes: wire::encoding::Bytes(bytes.to_vec()), checksums: checksum::of_chunks(bytes) }
    }

    fn piece(start: u64, count: u64, bytes: Option<&[u8]>) -> Piece {
        Piece { extent: Extent::new(start, count), payload: bytes.map(inline) }
    }

    fn accept(query: AkeyQuery, data: AkeyData, bulk: &[u8]) -> Result<AkeyResult> {
        let part = plan(oid(), &[query])?.pop_front().unwrap();
        let mut results = vec![AkeyResult::default()];
        let body = FetchResponse { akeys: vec![data] }.to_bytes();
        part.accept(&key(), &body, Bytes::copy_from_slice(bulk), &mut results)?;
        Ok(results.remove(0))
    }

    #[test]
    fn answers_cover_exactly_what_was_asked_with_holes_named() {
        let query = AkeyQuery::array(key(), vec![Extent::new(10, 5), Extent::new(0, 4)]);
        // Wider than asked at 0, a hole at 10..12, nothing from 13 on.
        let data =
            AkeyData { record_bytes: 2, pieces: vec![piece(0, 6, Some(b"aabbccddeeff")), piece(12, 1, Some(b"xy"))] };
        let result = accept(query, data, &[]).unwrap();
        let shown: Vec<(u64, u64, Option<&[u8]>)> =
            result.pieces.iter().map(|(e, b)| (e.start, e.count, b.as_deref())).collect();
        assert_eq!(shown, [(10, 2, None), (12, 1, Some(&b"xy"[..])), (13, 2, None), (0, 4, Some(b"aabbccdd"))]);
        assert_eq!(result.record_bytes, 2);
    }

    #[test]
    fn bulk_payloads_are_sliced_without_a_copy() {
        let bulk: Vec<u8> = (0..100_000u32).map(|i| i as u8).collect();
        let payload =
            Payload::Bulk { offset: 1000, bytes: 90_000, checksums: checksum::of_chunks(&bulk[1000..91_000]) };
        let data = AkeyData {
            record_bytes: 1,
            pieces: vec![Piece { extent: Extent::new(0, 90_000), payload: Some(payload) }],
        };
        let result = accept(AkeyQuery::array(key(), vec![Extent::new(0, 90_000)]), data, &bulk).unwrap();
        assert_eq!(result.pieces[0].1.as_deref(), Some(&bulk[1000..91_000]));
    }

    #[test]
    fn an_absent_value_and_an_empty_value_differ() {
        let none = accept(AkeyQuery::single(key()), AkeyData { record_bytes: 0, pieces: vec![] }, &[]).unwrap();
        assert_eq!(none.value(), None);
        let hole = AkeyData { record_bytes: 0, pieces: vec![piece(0, 1, None)] };
        assert_eq!(accept(AkeyQuery::single(key()), hole, &[]).unwrap().value(), None);
        let empty = AkeyData { record_bytes: 0, pieces: vec![piece(0, 1, Some(b""))] };
        assert_eq!(accept(AkeyQuery::single(key()), empty, &[]).unwrap().value(), Some(&Bytes::new()));
    }

    #[test]
    fn damaged_or_senseless_answers_are_refused() {
        let mut torn = inline(b"abcd");
        if let Payload::Inline { bytes, .. } = &mut torn {
            bytes.0[2] ^= 1;
        }
        let torn = AkeyData { record_bytes: 4, pieces: vec![Piece { extent: Extent::new(0, 1), payload: Some(torn) }] };
        let error = accept(AkeyQuery::single(key()), torn, &[]).unwrap_err();
        assert_eq!(error.code, Code::Checksum);
        assert!(error.message.contains("dkey 'k', akey 'k'"), "{error}");

        let all = AkeyQuery::array(key(), vec![Extent::new(0, 10)]);
        let outside = Payload::Bulk { offset: 5, bytes: 10, checksums: vec![0] };
        for pieces in [
            vec![piece(0, 3, Some(b"toolong"))],
            vec![piece(4, 1, Some(b"a")), piece(0, 1, Some(b"b"))],
            vec![Piece { extent: Extent::new(0, 10), payload: Some(outside) }],
        ] {
            let data = AkeyData { record_bytes: 1, pieces };
            assert_eq!(accept(all.clone(), data, &[0; 8]).unwrap_err().code, Code::Protocol);
        }
        let part = plan(oid(), &[all]).unwrap().pop_front().unwrap();
        let error = part.accept(&key(), b"noise", Bytes::new(), &mut [AkeyResult::default()]).unwrap_err();
        assert_eq!(error.code, Code::Protocol);
    }

    #[test]
    fn reads_are_split_by_the_limits_and_halved_down_to_one_record() {
        let extents: Vec<Extent> = (0..2500).map(|i| Extent::new(i * 2, 1)).collect();
        let queries: Vec<AkeyQuery> = (0..300u64).map(|n| AkeyQuery::array(n.into(), extents.clone())).collect();
        let parts = plan(oid(), &queries).unwrap();
        assert_eq!(parts.len(), 900usize.div_ceil(AKEYS_PER_REQUEST_MAX));
        assert!(parts.iter().flat_map(|p| &p.queries).all(|q| matches!(&q.query, Query::Array(e) if e.len() <= 1024)));

        let mut work = vec![
            plan(oid(), &[AkeyQuery::array(key(), vec![Extent::new(0, 9), Extent::new(20, 1)])])
                .unwrap()
                .remove(0)
                .unwrap(),
        ];
        let mut records = 0;
        while let Some(part) = work.pop() {
            match part.halve() {
                Some((a, b)) => work.extend([a, b]),
                None => records += 1,
            }
        }
        assert_eq!(records, 10);
    }
}
