//! What a file system asks of a container: the few requests everything here is made of.
//!
//! The seam between this crate's tests, which run on a store in memory, and a container reached
//! through `client`.

use bytes::Bytes;
use client::{AkeyQuery, AkeyUpdate, Array, ArrayShape, Container};
use futures_util::{StreamExt, TryStreamExt, stream};
use rt::disk::IoBuf;
use types::{Conditions, Epoch, Extent, Key, ObjectClass, ObjectId, ObjectType, Redundancy, Result};

use crate::inode::Patch;
#[cfg(test)]
use crate::memory::Memory;

/// How to read an akey.
#[derive(Clone, Copy)]
pub(crate) enum Read {
    Single,
    /// The first `bytes` of a byte array; what was never written reads as zeros.
    Range {
        bytes: usize,
    },
}

/// How to write an akey.
#[derive(Clone)]
pub(crate) enum Write {
    /// Never empty.
    Single(Bytes),
    /// Pieces of a byte array, by offset.
    Ranges(Vec<(u64, Bytes)>),
}

/// Size of a file, and when its object was last written or punched.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Measure {
    pub bytes: u64,
    pub last_write: Epoch,
}

impl From<Patch> for Write {
    fn from(patch: Patch) -> Write {
        Write::Ranges(patch.pieces.into_iter().map(|(offset, bytes)| (offset as u64, bytes.into())).collect())
    }
}

/// The akey of an array's records, by the arrays' format (`object`).
const ARRAY_AKEY: &str = "0";
/// Pieces of one write to a file in flight.
const PIECES_MAX: usize = 8;

#[derive(Clone)]
pub(crate) enum Store {
    Container(Container),
    #[cfg(test)]
    Memory(Memory),
}

impl Store {
    pub(crate) fn is_read_only(&self) -> bool {
        match self {
            Store::Container(container) => container.epoch().is_some(),
            #[cfg(test)]
            Store::Memory(memory) => memory.is_read_only(),
        }
    }

    /// `class`, with as many copies as the container's redundancy factor wants at least.
    pub(crate) fn redundant(&self, class: ObjectClass) -> ObjectClass {
        let factor = match self {
            Store::Container(container) => container.redundancy_factor(),
            #[cfg(test)]
            Store::Memory(_) => 0,
        };
        if class.redundancy().tolerance() >= factor {
            return class;
        }
        let copies = u8::try_from(factor + 1).unwrap_or(u8::MAX);
        ObjectClass::of(Redundancy::Replicas { copies }, class.groups()).unwrap_or(class)
    }

    /// A new object id, of a class as [`Store::redundant`] makes it. Usually no request: ids come in ranges.
    pub(crate) async fn new_object(&self, kind: ObjectType, class: ObjectClass) -> Result<ObjectId> {
        match self {
            Store::Container(container) => loop {
                let oid = container.new_object(kind, Some(self.redundant(class))).await?;
                // The reserved objects have this number.
                if oid.lo != 0 {
                    return Ok(oid);
                }
            },
            #[cfg(test)]
            Store::Memory(memory) => Ok(memory.new_object(kind, class)),
        }
    }

    /// The values of akeys, in the order asked; `None` for those that are not there.
    pub(crate) async fn fetch(&self, oid: ObjectId, dkey: &Key, reads: Vec<(Key, Read)>) -> Result<Vec<Option<Bytes>>> {
        match self {
            Store::Container(container) => {
                let query = |(akey, read)| match read {
                    Read::Single => AkeyQuery::single(akey),
                    Read::Range { bytes } => AkeyQuery::array(akey, vec![Extent::new(0, bytes as u64)]),
                };
                let ranges: Vec<Option<usize>> = reads.iter().map(|(_, read)| read.range()).collect();
                let queries = reads.into_iter().map(query).collect();
                let results = container.object(oid).fetch(dkey, Conditions::None, queries).await?;
                let value = |(result, range): (client::AkeyResult, Option<usize>)| match range {
                    None => result.value().cloned(),
                    Some(_) if result.record_bytes == 0 => None,
                    Some(bytes) => Some(assembled(bytes, result.pieces)),
                };
                Ok(results.into_iter().zip(ranges).map(value).collect())
            }
            #[cfg(test)]
            Store::Memory(memory) => {
                rt::yield_now().await;
                Ok(memory.fetch(oid, dkey, reads))
            }
        }
    }

    /// Writes akeys of one dkey, all at one moment or none.
    pub(crate) async fn update(
        &self,
        oid: ObjectId,
        dkey: &Key,
        conditions: Conditions,
        writes: Vec<(Key, Write)>,
    ) -> Result<Epoch> {
        match self {
            Store::Container(container) => {
                let update = |(akey, write)| match write {
                    Write::Single(bytes) => AkeyUpdate::single(akey, bytes),
                    Write::Ranges(pieces) => {
                        let extent = |(start, bytes): (u64, Bytes)| (Extent::new(start, bytes.len() as u64), bytes);
                        AkeyUpdate::array(akey, 1, pieces.into_iter().map(extent).collect())
                    }
                };
                container.object(oid).update(dkey, conditions, writes.into_iter().map(update).collect()).await
            }
            #[cfg(test)]
            Store::Memory(memory) => {
                rt::yield_now().await;
                memory.update(oid, dkey, conditions, writes)
            }
        }
    }

    pub(crate) async fn punch_dkey(&self, oid: ObjectId, dkey: &Key, conditions: Conditions) -> Result<()> {
        match self {
            Store::Container(container) => {
                container.object(oid).punch_dkeys(std::slice::from_ref(dkey), conditions).await
            }
            #[cfg(test)]
            Store::Memory(memory) => {
                rt::yield_now().await;
                memory.punch_dkey(oid, dkey, conditions).map(drop)
            }
        }
    }

    pub(crate) async fn punch_akeys(&self, oid: ObjectId, dkey: &Key, akeys: Vec<Key>) -> Result<()> {
        match self {
            Store::Container(container) => {
                container.object(oid).punch_akeys(dkey, &akeys, Conditions::None).await.map(drop)
            }
            #[cfg(test)]
            Store::Memory(memory) => {
                rt::yield_now().await;
                memory.punch_akeys(oid, dkey, akeys).map(drop)
            }
        }
    }

    pub(crate) async fn punch_object(&self, oid: ObjectId) -> Result<()> {
        match self {
            Store::Container(container) => container.object(oid).punch().await,
            #[cfg(test)]
            Store::Memory(memory) => {
                rt::yield_now().await;
                memory.punch_object(oid).map(drop)
            }
        }
    }

    /// Dkeys after `after`, at most `limit`, and whether there are more.
    pub(crate) async fn list_dkeys(&self, oid: ObjectId, after: Option<Key>, limit: usize) -> Result<(Vec<Key>, bool)> {
        match self {
            Store::Container(container) => {
                let keys = container.object(oid).list_dkeys(after.as_ref(), limit).await?;
                let more = keys.len() == limit;
                Ok((keys, more))
            }
            #[cfg(test)]
            Store::Memory(memory) => {
                rt::yield_now().await;
                Ok(memory.list_dkeys(oid, after, limit))
            }
        }
    }

    /// Akeys of a dkey, at most `limit`.
    pub(crate) async fn list_akeys(&self, oid: ObjectId, dkey: &Key, limit: usize) -> Result<Vec<Key>> {
        match self {
            Store::Container(container) => container.object(oid).list_akeys(dkey, None, limit).await,
            #[cfg(test)]
            Store::Memory(memory) => {
                rt::yield_now().await;
                let mut akeys = memory.list_akeys(oid, dkey);
                akeys.truncate(limit);
                Ok(akeys)
            }
        }
    }

    /// Last write of an object, and with a chunk size the size of the file in it.
    pub(crate) async fn measure(&self, oid: ObjectId, chunk_bytes: Option<u64>) -> Result<Measure> {
        match self {
            Store::Container(container) => match chunk_bytes {
                None => {
                    let ends = container.object(oid).query_keys(None, None).await?;
                    Ok(Measure { bytes: 0, last_write: ends.last_write })
                }
                Some(chunk_bytes) => {
                    let info = array(container, oid, chunk_bytes).info().await?;
                    Ok(Measure { bytes: info.size, last_write: info.last_write })
                }
            },
            #[cfg(test)]
            Store::Memory(memory) => {
                let _ = chunk_bytes;
                rt::yield_now().await;
                Ok(memory.measure(oid))
            }
        }
    }

    /// Bytes of a file; short at its end.
    pub(crate) async fn read(&self, oid: ObjectId, chunk_bytes: u64, offset: u64, len: usize) -> Result<Bytes> {
        match self {
            Store::Container(container) => array(container, oid, chunk_bytes).read(offset, len as u64).await,
            #[cfg(test)]
            Store::Memory(memory) => {
                let _ = chunk_bytes;
                rt::yield_now().await;
                Ok(memory.read(oid, offset, len))
            }
        }
    }

    pub(crate) async fn read_into(
        &self,
        oid: ObjectId,
        chunk_bytes: u64,
        offset: u64,
        into: &mut [u8],
    ) -> Result<usize> {
        match self {
            Store::Container(container) => array(container, oid, chunk_bytes).read_into(offset, into).await,
            #[cfg(test)]
            Store::Memory(_) => {
                let bytes = self.read(oid, chunk_bytes, offset, into.len()).await?;
                into[..bytes.len()].copy_from_slice(&bytes);
                Ok(bytes.len())
            }
        }
    }

    /// Writes to a file; returns the latest epoch of its pieces.
    pub(crate) async fn write(&self, oid: ObjectId, chunk_bytes: u64, offset: u64, data: Bytes) -> Result<Epoch> {
        match self {
            Store::Container(container) => {
                let object = container.object(oid);
                let pieces = shape(chunk_bytes).pieces(offset, data.len() as u64)?;
                let object = &object;
                let written = stream::iter(pieces).map(|piece| {
                    let payload = data.slice(piece.at..piece.at + piece.extent.count as usize);
                    let update = vec![AkeyUpdate::array(Key::literal(ARRAY_AKEY), 1, vec![(piece.extent, payload)])];
                    async move { object.update(&piece.dkey(), Conditions::None, update).await }
                });
                let written = written.buffer_unordered(PIECES_MAX);
                written.try_fold(Epoch::ZERO, |latest, epoch| async move { Ok(latest.max(epoch)) }).await
            }
            #[cfg(test)]
            Store::Memory(memory) => {
                let _ = chunk_bytes;
                rt::yield_now().await;
                memory.write(oid, offset, &data)
            }
        }
    }

    /// Writes to a file from a buffer given away: without a copy where the store allows. The epoch is
    /// not told.
    pub(crate) async fn write_buf(&self, oid: ObjectId, chunk_bytes: u64, offset: u64, data: IoBuf) -> Result<()> {
        match self {
            Store::Container(container) => array(container, oid, chunk_bytes).write_buf(offset, data).await,
            #[cfg(test)]
            Store::Memory(_) => self.write(oid, chunk_bytes, offset, data.into()).await.map(drop),
        }
    }

    pub(crate) async fn set_size(&self, oid: ObjectId, chunk_bytes: u64, bytes: u64) -> Result<()> {
        match self {
            Store::Container(container) => array(container, oid, chunk_bytes).set_size(bytes).await,
            #[cfg(test)]
            Store::Memory(memory) => {
                let _ = chunk_bytes;
                rt::yield_now().await;
                memory.set_size(oid, bytes).map(drop)
            }
        }
    }

    /// Bytes in the pool: all, and free.
    pub(crate) async fn space(&self) -> Result<(u64, u64)> {
        match self {
            Store::Container(container) => {
                let space = container.pool().info().await?.space;
                Ok((space.total, space.total.saturating_sub(space.used)))
            }
            #[cfg(test)]
            Store::Memory(_) => Ok((1 << 40, 1 << 39)),
        }
    }
}

impl Read {
    fn range(self) -> Option<usize> {
        match self {
            Read::Single => None,
            Read::Range { bytes } => Some(bytes),
        }
    }
}

fn shape(chunk_bytes: u64) -> ArrayShape {
    ArrayShape { record_bytes: 1, chunk_records: chunk_bytes }
}

fn array(container: &Container, oid: ObjectId, chunk_bytes: u64) -> Array {
    container.array(oid, shape(chunk_bytes))
}

/// The first `bytes` of a byte array from the pieces read of it; holes are zeros.
fn assembled(bytes: usize, pieces: Vec<(Extent, Option<Bytes>)>) -> Bytes {
    if let [(extent, Some(all))] = &pieces[..]
        && extent.start == 0
        && all.len() == bytes
    {
        return all.clone();
    }
    let mut whole = vec![0; bytes];
    for (extent, piece) in pieces {
        let (Ok(start), Some(piece)) = (usize::try_from(extent.start), piece) else { continue };
        if let Some(room) = whole.get_mut(start..).and_then(|rest| rest.get_mut(..piece.len())) {
            room.copy_from_slice(&piece);
        }
    }
    whole.into()
}
