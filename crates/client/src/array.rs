//! An array: records numbered from 0, cut into chunks that lie on different targets.

use ::object::array::{akey, dkey_of_chunk};
use ::object::update::UpdateMessage;
use ::object::{AkeyQuery, ArrayPiece, ArrayShape};
use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt, TryStreamExt, stream};
use rt::disk::IoBuf;
use types::{ARRAY_INDEX_MAX, Code, Conditions, Epoch, Error, Extent, Key, Result};
use wire::Opcode;
use wire::data::{Committed, Direction, LIST_ENTRIES_MAX};

use crate::object::Whither;
use crate::{IN_FLIGHT_MAX, Object};

/// Most bytes one read returns: a hole costs no storage but would cost this much memory.
pub const READ_BYTES_MAX: u64 = 1 << 30;

/// A read over more pieces than this asks for the size first, so that "all of it" can be asked for
/// with any large number.
const PIECES_WITHOUT_SIZE_MAX: usize = 16;

/// A handle on an array.
#[derive(Clone)]
pub struct Array {
    object: Object,
    shape: ArrayShape,
}

/// What is known of an array as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct ArrayInfo {
    /// Records: one past the highest written.
    pub size: u64,
    /// When it was last written or punched.
    pub last_write: Epoch,
}

impl Array {
    pub(crate) fn new(object: Object, shape: ArrayShape) -> Array {
        Array { object, shape }
    }

    pub fn object(&self) -> &Object {
        &self.object
    }

    pub fn shape(&self) -> ArrayShape {
        self.shape
    }

    /// Reads `count` records from `start`; fewer at the end of the array. Holes read as zeros.
    ///
    /// Without a copy when the records lie in one stored extent.
    ///
    /// # Errors
    /// `Invalid`: over 1 GiB, or beyond the largest index. `RecordSize`: the array has records of
    /// another size. `Checksum`: data is damaged.
    pub async fn read(&self, start: u64, count: u64) -> Result<Bytes> {
        let mut parts: Vec<(usize, Option<Bytes>)> = Vec::new();
        let bytes = self.gather(start, count, READ_BYTES_MAX, |_, length, data| parts.push((length, data))).await?;
        if let [(_, Some(only))] = &parts[..] {
            return Ok(only.slice(..bytes));
        }
        let mut whole = BytesMut::with_capacity(bytes);
        for (length, data) in parts {
            let room = bytes - whole.len();
            match data {
                Some(data) => whole.extend_from_slice(&data[..length.min(room)]),
                None => whole.resize(whole.len() + length.min(room), 0),
            }
        }
        Ok(whole.freeze())
    }

    /// Reads from record `start` into `buffer`, which takes whole records. Returns the bytes read:
    /// fewer than its length at the end of the array.
    ///
    /// # Errors
    /// As [`Array::read`], without its limit.
    pub async fn read_into(&self, start: u64, buffer: &mut [u8]) -> Result<usize> {
        let count = self.located(self.shape.records_in(buffer.len()))?;
        let place = |at: usize, length: usize, data: Option<Bytes>| match data {
            Some(data) => buffer[at..at + length].copy_from_slice(&data),
            None => buffer[at..at + length].fill(0),
        };
        self.gather(start, count, u64::MAX, place).await
    }

    /// Reads pieces in order and gives each to `sink` (byte offset, bytes, data or a hole). Returns
    /// how many of the bytes lie before the end of the array.
    async fn gather(
        &self,
        start: u64,
        count: u64,
        bytes_max: u64,
        mut sink: impl FnMut(usize, usize, Option<Bytes>) + Send,
    ) -> Result<usize> {
        let record_bytes = u64::from(self.shape.record_bytes);
        let mut pieces = self.located(self.shape.pieces(start, count))?;
        let mut count = count;
        let mut end_known = false;
        if pieces.clone().nth(PIECES_WITHOUT_SIZE_MAX).is_some() {
            count = count.min(self.size().await?.saturating_sub(start));
            pieces = self.shape.pieces(start, count)?;
            end_known = true;
        }
        if count.saturating_mul(record_bytes) > bytes_max {
            let text =
                format!("{count} records of {record_bytes} bytes in one read, which returns at most {bytes_max} bytes");
            return self.located(Err(Error::new(Code::Invalid, text).remedy("read in parts")));
        }
        let mut data_end = 0;
        let fetch = |piece: ArrayPiece| async move { self.fetch_piece(piece).await };
        let mut answers = stream::iter(pieces).map(fetch).buffered(IN_FLIGHT_MAX);
        while let Some((piece, found)) = answers.try_next().await? {
            for (extent, data) in found {
                let at = piece.at + ((extent.start - piece.extent.start) * record_bytes) as usize;
                let length = (extent.count * record_bytes) as usize;
                if data.is_some() {
                    data_end = at + length;
                }
                sink(at, length, data);
            }
        }
        let asked = (count * record_bytes) as usize;
        if data_end == asked || end_known {
            return Ok(asked);
        }
        // The read ends in a hole: within the array, or beyond its end?
        let size = self.size().await?;
        let before_end = size.saturating_sub(start).min(count) * record_bytes;
        Ok((before_end as usize).max(data_end))
    }

    async fn fetch_piece(&self, piece: ArrayPiece) -> Result<(ArrayPiece, Vec<(Extent, Option<Bytes>)>)> {
        let query = vec![AkeyQuery::array(akey(), vec![piece.extent])];
        let result = self.object.fetch(&piece.dkey(), Conditions::None, query).await?.swap_remove(0);
        if result.record_bytes != 0 && result.record_bytes != self.shape.record_bytes {
            let text = format!(
                "it has records of {} bytes, and is read as one of {}",
                result.record_bytes, self.shape.record_bytes
            );
            return self.located(Err(Error::new(Code::RecordSize, text).remedy("open it with its own shape")));
        }
        Ok((piece, result.pieces))
    }

    /// Writes whole records from `start` on. Chunk by chunk: a failure may leave some written.
    ///
    /// # Errors
    /// `Invalid`: no whole records, or beyond the largest index. `RecordSize`, `NoSpace`,
    /// `NoPermission` on a view of the past.
    pub async fn write(&self, start: u64, bytes: &[u8]) -> Result<()> {
        self.object.writable()?;
        let count = self.located(self.shape.records_in(bytes.len()))?;
        let pieces = self.located(self.shape.pieces(start, count))?;
        let write = |piece| async move { self.write_piece(piece, bytes).await };
        stream::iter(pieces.map(Ok)).try_for_each_concurrent(IN_FLIGHT_MAX, write).await
    }

    async fn write_piece(&self, piece: ArrayPiece, bytes: &[u8]) -> Result<()> {
        let ArrayPiece { extent, at, .. } = piece;
        let (dkey, record_bytes) = (piece.dkey(), self.shape.record_bytes);
        let payload = &bytes[at..at + (extent.count * u64::from(record_bytes)) as usize];
        self.update(&dkey, &mut |place| {
            Ok(UpdateMessage::of_extent(place, &dkey, &akey(), record_bytes, extent, payload))
        })
        .await
    }

    /// As [`Array::write`], from a buffer that is given away.
    ///
    /// When all of it lies in one chunk (and is at most 4 MiB) and the target is in this process, the very buffer goes
    /// to the store without a copy. Then there is nothing to repeat the request from: should its
    /// answer be lost, the error says that the outcome is unknown.
    ///
    /// # Errors
    /// As [`Array::write`].
    pub async fn write_buf(&self, start: u64, buffer: IoBuf) -> Result<()> {
        self.object.writable()?;
        let count = self.located(self.shape.records_in(buffer.len()))?;
        let mut pieces = self.located(self.shape.pieces(start, count))?;
        match (pieces.next(), pieces.next()) {
            (Some(only), None) if self.object.is_local(&only.dkey())? => {
                let (dkey, record_bytes) = (only.dkey(), self.shape.record_bytes);
                let mut buffer = Some(buffer);
                self.update(&dkey, &mut |place| {
                    let gone = || Error::new(Code::TimedOut, "the buffer was given away with the first attempt");
                    let buffer = buffer.take().ok_or_else(gone)?;
                    Ok(UpdateMessage::of_buffer(place, &dkey, &akey(), record_bytes, only.extent, buffer))
                })
                .await
            }
            _ => self.write(start, &buffer).await,
        }
    }

    async fn update(
        &self,
        dkey: &Key,
        message: &mut (dyn FnMut(wire::data::Place) -> Result<UpdateMessage> + Send),
    ) -> Result<()> {
        let message = &mut |place| message(place).map(Into::into);
        let reply = self.object.call(Opcode::Update, Whither::Dkey(dkey), message).await?;
        self.object.answer::<Committed>(Opcode::Update, &reply).map(drop)
    }

    /// Records: one past the highest written.
    pub async fn size(&self) -> Result<u64> {
        Ok(self.info().await?.size)
    }

    /// Size and time of the last write. Asks every group of the array.
    pub async fn info(&self) -> Result<ArrayInfo> {
        let akey = akey();
        let groups = self.object.query_groups(Some(&akey)).await?;
        let last_write = groups.iter().map(|group| group.last_write).max().unwrap_or_default();
        let mut size = 0;
        for (index, group) in groups.iter().enumerate() {
            // Dkey 0 is metadata.
            let Some(chunk) = group.dkey_max.and_then(|dkey| dkey.checked_sub(1)) else { continue };
            let group_size = match group.array_end {
                0 => self.size_below(index, chunk).await?,
                end => self.end_of(chunk, end),
            };
            size = size.max(group_size);
        }
        Ok(ArrayInfo { size, last_write })
    }

    /// The size by one group whose highest dkey, of `chunk`, has no records left (all punched):
    /// that of the next lower one that has.
    async fn size_below(&self, group: usize, chunk: u64) -> Result<u64> {
        let akey = akey();
        let mut before = Some(dkey_of_chunk(chunk));
        while before.is_some() {
            let limit = LIST_ENTRIES_MAX;
            let (keys, next) = self.object.list_group(group, before, limit, Direction::Backward).await?;
            for key in keys {
                // Dkey 0 holds no records.
                let Key::Integer(number @ 1..) = key else { return Ok(0) };
                let ends = self.object.query_keys(Some(&key), Some(&akey)).await?;
                if ends.array_end > 0 {
                    return Ok(self.end_of(number - 1, ends.array_end));
                }
            }
            before = next;
        }
        Ok(0)
    }

    fn end_of(&self, chunk: u64, end: u64) -> u64 {
        chunk.saturating_mul(self.shape.chunk_records).saturating_add(end)
    }

    /// Makes the array `size` records long: cuts off what is beyond, or adds zeros.
    ///
    /// # Errors
    /// `Invalid`: beyond the largest index. `NoPermission` on a view of the past.
    pub async fn set_size(&self, size: u64) -> Result<()> {
        self.object.writable()?;
        self.located(self.shape.pieces(0, size))?;
        let old = self.size().await?;
        if size < old {
            self.cut(size).await?;
        }
        if size > 0 && size != old {
            self.keep_end(size).await?;
        }
        Ok(())
    }

    /// Removes every record from `size` on.
    async fn cut(&self, size: u64) -> Result<()> {
        let (chunk, within) = self.shape.locate(size);
        // The chunks wholly beyond: from `chunk` itself when the cut is at its very start.
        let first_gone = if within == 0 { chunk } else { chunk + 1 };
        let mut beyond = self.object.dkeys_from(Some(&Key::Integer(first_gone)), Direction::Forward)?;
        loop {
            let dkeys = beyond.next_page(LIST_ENTRIES_MAX as usize).await?;
            if dkeys.is_empty() {
                break;
            }
            self.object.punch_dkeys(&dkeys, Conditions::None).await?;
        }
        if within > 0 {
            let tail = Extent::new(within, self.shape.chunk_records - within);
            self.object.punch_extents(&dkey_of_chunk(chunk), &akey(), &[tail], Conditions::None).await?;
        }
        Ok(())
    }

    /// Makes the last of `size` records be there, as a zero if it is a hole: the size is one past
    /// the highest record written.
    async fn keep_end(&self, size: u64) -> Result<()> {
        let last = self.shape.pieces(size - 1, 1)?.next().expect("one record makes one piece");
        let (_, found) = self.fetch_piece(last).await?;
        match found.iter().all(|(_, data)| data.is_some()) {
            true => Ok(()),
            false => self.write(size - 1, &vec![0; self.shape.record_bytes as usize]).await,
        }
    }

    /// Removes records: they read as zeros. Those at the end of the array shorten it.
    ///
    /// # Errors
    /// `NoPermission` on a view of the past.
    pub async fn punch(&self, start: u64, count: u64) -> Result<()> {
        self.object.writable()?;
        let size = self.size().await?;
        let end = start.saturating_add(count).min(ARRAY_INDEX_MAX);
        if start >= size.min(end) {
            return Ok(());
        }
        if end >= size {
            // To the end: chunks go as wholes, however the last one is filled.
            return self.cut(start).await;
        }
        let chunk_records = self.shape.chunk_records;
        let chunks = start / chunk_records..=(end - 1) / chunk_records;
        let punch = |chunk: u64| async move {
            let chunk_start = chunk * chunk_records;
            let from = start.max(chunk_start) - chunk_start;
            let to = (end - chunk_start).min(chunk_records);
            let dkey = dkey_of_chunk(chunk);
            if to - from == chunk_records {
                self.object.punch_dkeys(&[dkey], Conditions::None).await
            } else {
                let extents = [Extent::new(from, to - from)];
                self.object.punch_extents(&dkey, &akey(), &extents, Conditions::None).await.map(drop)
            }
        };
        stream::iter(chunks).map(punch).buffered(IN_FLIGHT_MAX).try_for_each(|()| async { Ok(()) }).await
    }

    /// Removes the array.
    pub async fn destroy(&self) -> Result<()> {
        self.object.punch().await
    }

    fn located<T>(&self, result: Result<T>) -> Result<T> {
        self.object.located(result)
    }
}
