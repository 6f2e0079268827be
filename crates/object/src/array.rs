//! Arrays: records numbered from 0, cut into chunks, each chunk under a dkey of its own.
//!
//! Chunk `n` lies at the integer dkey `n + 1`, akey `"0"`. Dkey 0 is left to metadata.
//! Source: upstream's array layout, as a fact that its users rely on.

use types::{ARRAY_INDEX_MAX, Code, Error, Extent, Key, Result};

/// Largest payload of one request of an array. Larger chunks are moved in parts, so that one
/// request does not hold up a target, and a few under way at once need bounded memory.
pub const PIECE_BYTES_MAX: u64 = 4 << 20;

/// How an array is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ArrayShape {
    /// Bytes of one record (upstream: cell size).
    pub record_bytes: u32,
    /// Records of one chunk.
    pub chunk_records: u64,
}

impl Default for ArrayShape {
    /// Bytes, in chunks of 1 MiB.
    fn default() -> ArrayShape {
        ArrayShape { record_bytes: 1, chunk_records: 1 << 20 }
    }
}

/// A run of records within one chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ArrayPiece {
    /// The chunk, from 0.
    pub chunk: u64,
    /// Records, counted within the chunk.
    pub extent: Extent,
    /// Where the piece lies in the caller's buffer, in bytes.
    pub at: usize,
}

impl ArrayPiece {
    pub fn dkey(&self) -> Key {
        dkey_of_chunk(self.chunk)
    }
}

/// The dkey of chunk `chunk`.
pub fn dkey_of_chunk(chunk: u64) -> Key {
    Key::Integer(chunk + 1)
}

/// The akey every chunk's records lie under.
pub fn akey() -> Key {
    Key::literal("0")
}

impl ArrayShape {
    /// # Errors
    /// `Invalid`: a record or a chunk of nothing, or records over 4 MiB.
    pub fn check(&self) -> Result<()> {
        if self.record_bytes == 0 || u64::from(self.record_bytes) > PIECE_BYTES_MAX || self.chunk_records == 0 {
            return Err(Error::new(
                Code::Invalid,
                format!("an array of {} records of {} bytes a chunk", self.chunk_records, self.record_bytes),
            )
            .remedy(format!("use records of 1 to {PIECE_BYTES_MAX} bytes, and at least one a chunk")));
        }
        Ok(())
    }

    /// How many whole records `bytes` are.
    ///
    /// # Errors
    /// `Invalid` when they are not whole.
    pub fn records_in(&self, bytes: usize) -> Result<u64> {
        let (bytes, each) = (bytes as u64, u64::from(self.record_bytes));
        if bytes.is_multiple_of(each) {
            return Ok(bytes / each);
        }
        Err(Error::new(Code::Invalid, format!("{bytes} bytes are not whole records of {each} bytes")))
    }

    /// Cuts records `start..start + count` at chunk borders and at [`PIECE_BYTES_MAX`], in order.
    ///
    /// # Errors
    /// `Invalid` when the range leaves what an array can index, or the shape is none.
    pub fn pieces(&self, start: u64, count: u64) -> Result<Pieces> {
        self.check()?;
        if start > ARRAY_INDEX_MAX || count > ARRAY_INDEX_MAX - start {
            return Err(Error::new(
                Code::Invalid,
                format!("{count} records from {start} end beyond the largest index"),
            )
            .remedy("stay below index 2^63 - 1"));
        }
        let piece_records = (PIECE_BYTES_MAX / u64::from(self.record_bytes)).max(1);
        Ok(Pieces { shape: *self, piece_records, next: start, start, end: start + count })
    }

    /// The chunk that record `index` lies in, and its place there.
    pub fn locate(&self, index: u64) -> (u64, u64) {
        (index / self.chunk_records, index % self.chunk_records)
    }
}

/// The pieces of a range. See [`ArrayShape::pieces`].
#[derive(Clone, Debug)]
pub struct Pieces {
    shape: ArrayShape,
    piece_records: u64,
    start: u64,
    next: u64,
    end: u64,
}

impl Iterator for Pieces {
    type Item = ArrayPiece;

    fn next(&mut self) -> Option<ArrayPiece> {
        if self.next == self.end {
            return None;
        }
        let (chunk, within) = self.shape.locate(self.next);
        let count = (self.shape.chunk_records - within).min(self.end - self.next).min(self.piece_records);
        let at = (self.next - self.start) as usize * self.shape.record_bytes as usize;
        self.next += count;
        Some(ArrayPiece { chunk, extent: Extent::new(within, count), at })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces(shape: ArrayShape, start: u64, count: u64) -> Vec<(u64, u64, u64, usize)> {
        let all = shape.pieces(start, count).unwrap();
        all.map(|p| (p.chunk, p.extent.start, p.extent.count, p.at)).collect()
    }

    #[test]
    fn a_range_is_cut_at_chunk_borders() {
        let shape = ArrayShape { record_bytes: 4, chunk_records: 10 };
        assert_eq!(pieces(shape, 8, 15), [(0, 8, 2, 0), (1, 0, 10, 8), (2, 0, 3, 48)]);
        assert_eq!(pieces(shape, 10, 10), [(1, 0, 10, 0)]);
        assert_eq!(pieces(shape, 5, 0), []);
    }

    #[test]
    fn large_chunks_are_moved_in_parts() {
        let shape = ArrayShape { record_bytes: 1, chunk_records: 10 << 20 };
        let sizes: Vec<u64> = pieces(shape, 0, 12 << 20).iter().map(|p| p.2 >> 20).collect();
        assert_eq!(sizes, [4, 4, 2, 2]);
    }

    #[test]
    fn chunk_n_lies_at_dkey_n_plus_1() {
        let piece = ArrayShape::default().pieces(3 << 20, 1).unwrap().next().unwrap();
        assert_eq!((piece.dkey(), akey().to_string()), (Key::from(4), "0".to_string()));
    }

    #[test]
    fn ranges_and_shapes_out_of_bounds_are_refused() {
        assert!(ArrayShape::default().pieces(ARRAY_INDEX_MAX, 1).is_err());
        assert!(ArrayShape::default().pieces(1, u64::MAX).is_err());
        assert!(ArrayShape { record_bytes: 0, chunk_records: 1 }.check().is_err());
        assert!(ArrayShape { record_bytes: 1, chunk_records: 0 }.check().is_err());
        assert!(ArrayShape { record_bytes: 8, chunk_records: 1 }.records_in(12).is_err());
    }
}
