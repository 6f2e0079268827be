//! Scrubbing: every stored value is read and compared with its checksums, before anybody needs it; mending, with
//! the bytes that a copy elsewhere still has; and moving, when the blocks of a value are to go.
//!
//! ```text
//! scrub -> ScrubbedValue -> verify().await -> Damage -> is_damaged? -> (bytes from a copy) -> plan_mend -+
//! find_fenced -> ScrubbedValue ------------------------------------------------------------> plan_move -+
//!    +--------------------------------------------------------------------------------------------------+
//!    +-> Mend -> write().await -> mend: still the same value? -> log record -> value at its new place
//! ```
//!
//! # Not here
//! When, and how fast: the engine. Pages: `media::Store::scrub_pages`. What undecided transactions will
//! write: it becomes a value, or goes, in moments.

use std::rc::Rc;

use media::{Lsn, PinGuard, Reserve};
use rt::disk::IoBuf;
use types::ContainerId;

use crate::cursor::Cursor;
use crate::error::{Error, Result};
use crate::intent::SPLIT_PAGES;
use crate::key::{self, Record as Key};
use crate::naming::place_of;
use crate::record::{self, kind};
use crate::request::{BulkList, INLINE_BYTES_MAX, Payload};
use crate::rewrite::{self, run_now};
use crate::space::Reservation;
use crate::store::Store;
use crate::value::{self, Stored};
use crate::verified::{Reader, verify};
use crate::view::unreadable;

/// Records that one step goes past.
const RECORDS_PER_STEP: u32 = 256;
/// Bytes of a value that are read at once.
const READ_BYTES: u64 = 1 << 20;

/// How far a scrub has come, and what it has read.
#[derive(Clone, Debug, Default)]
pub struct Scrub {
    container: Option<ContainerId>,
    /// First key to look at; empty for the first of all.
    from: Vec<u8>,
    pub values: u64,
    pub bytes: u64,
}

/// What comes next in a scrub.
#[derive(Debug)]
pub enum Scrubbing {
    /// Call again.
    Look,
    /// Read it, then call again.
    Value(ScrubbedValue),
    /// It was in memory, and is damaged. Call again.
    Damaged(Damage),
    /// Everything was looked at.
    End,
}

/// Which values a walk is after.
#[derive(Clone, Copy)]
enum Wanted {
    All,
    /// Those with a block behind the fence.
    Fenced,
}

/// A value whose bytes are to be compared with its checksums.
#[derive(Debug)]
pub struct ScrubbedValue {
    container: ContainerId,
    key: Vec<u8>,
    value: Vec<u8>,
    pin: PinGuard,
}

/// A value whose bytes are not what was written, or cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    pub container: ContainerId,
    /// The path of the value, with its version.
    pub place: String,
    pub fault: String,
    key: Vec<u8>,
    value: Vec<u8>,
}

impl ScrubbedValue {
    /// The path of the value, with its version.
    pub fn place(&self) -> String {
        place_of(&self.key)
    }

    /// Reads the value and compares it.
    ///
    /// # Errors
    /// Of the store, when it stopped. What is wrong with the value is the answer.
    pub async fn verify(&self, media: &media::Store) -> Result<Option<Damage>> {
        self.compare(Reader { media, pin: &self.pin, is_blocking: false }).await
    }

    /// As [`ScrubbedValue::verify`], blocking. For stores whose tasks do not run.
    ///
    /// # Errors
    /// As [`ScrubbedValue::verify`].
    pub fn verify_now(&self, media: &media::Store) -> Result<Option<Damage>> {
        run_now(self.compare(Reader { media, pin: &self.pin, is_blocking: true }))
    }

    async fn compare(&self, reader: Reader<'_>) -> Result<Option<Damage>> {
        let stored = payload(&self.key, &self.value)?;
        let Stored::Bulk { bytes, checksums, .. } = stored else { return Ok(None) };
        let (extents, checksums) = (stored.blocks(), value::read_checksums(checksums));
        let mut at = 0;
        while at < bytes {
            let part = at..bytes.min(at + READ_BYTES);
            at = part.end;
            match reader.part(&extents, bytes, &checksums, part).await {
                Ok(_) => {}
                Err(Error::Corrupt { fault, .. }) => return Ok(Some(self.damage(fault))),
                Err(Error::Media(media::Error::Read { .. })) => {
                    return Ok(Some(self.damage("the device cannot read it".into())));
                }
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    fn damage(&self, fault: String) -> Damage {
        let (key, value) = (self.key.clone(), self.value.clone());
        Damage { container: self.container, place: place_of(&self.key), fault, key, value }
    }
}

/// The payload of a record that holds one.
fn payload<'a>(key: &[u8], bytes: &'a [u8]) -> Result<Stored<'a>> {
    let read = match key::read_record(key) {
        Some(Key::Single(_)) => value::read_payload(bytes),
        Some(Key::Array { hole: false, .. }) => value::read_data(bytes).map(|(_, _, payload)| payload),
        _ => None,
    };
    read.ok_or_else(|| unreadable("a value"))
}

/// A value about to be written anew: with the right bytes, or to another place.
#[derive(Debug)]
pub struct Mend {
    container: ContainerId,
    key: Vec<u8>,
    /// What is there now.
    value: Vec<u8>,
    bytes: Bytes,
    checksums: Vec<u32>,
    /// Where they go; `None`: into the tree.
    at: Option<Reservation>,
    pin: PinGuard,
}

/// Where the bytes of a value that is written anew come from.
#[derive(Debug)]
enum Bytes {
    Given(IoBuf),
    /// From where they lie: so many bytes in these blocks.
    Stored(BulkList, u64),
}

impl Mend {
    /// Writes the bytes.
    ///
    /// # Errors
    /// `Media`.
    pub async fn write(&self, media: &media::Store) -> Result<()> {
        self.transfer(Reader { media, pin: &self.pin, is_blocking: false }).await
    }

    /// As [`Mend::write`], blocking. For stores whose tasks do not run.
    ///
    /// # Errors
    /// As [`Mend::write`].
    pub fn write_now(&self, media: &media::Store) -> Result<()> {
        run_now(self.transfer(Reader { media, pin: &self.pin, is_blocking: true }))
    }

    async fn transfer(&self, reader: Reader<'_>) -> Result<()> {
        match (&self.at, &self.bytes) {
            (Some(at), Bytes::Given(bytes)) => rewrite::write(reader, at, 0, bytes.clone()).await,
            (Some(at), Bytes::Stored(extents, bytes)) => {
                let mut done = 0;
                while done < *bytes {
                    let part = done..(*bytes).min(done + READ_BYTES);
                    let read = reader.part(extents, *bytes, &self.checksums, part.clone()).await;
                    let read = read.map_err(|error| self.unreadable(error))?;
                    rewrite::write(reader, at, done, read).await?;
                    done = part.end;
                }
                Ok(())
            }
            (None, _) => Ok(()),
        }
    }

    /// What cannot be read cannot be moved: the place is named.
    fn unreadable(&self, error: Error) -> Error {
        let fault = match error {
            Error::Corrupt { fault, .. } => fault,
            Error::Media(media::Error::Read { .. }) => "the device cannot read it".into(),
            other => return other,
        };
        Error::Corrupt { place: format!("container {}, {}", self.container, place_of(&self.key)), fault }
    }

    /// Bytes of the value.
    pub fn bytes(&self) -> u64 {
        match &self.bytes {
            Bytes::Given(bytes) => bytes.len() as u64,
            Bytes::Stored(_, bytes) => *bytes,
        }
    }

    fn payload(&self) -> Payload<'_> {
        let checksums = &self.checksums;
        match (&self.at, &self.bytes) {
            (Some(at), _) => Payload::Bulk { at, bytes: self.bytes(), checksums },
            (None, Bytes::Given(bytes)) => Payload::Inline { bytes, checksums },
            (None, Bytes::Stored(..)) => unreachable!("what is moved has blocks to go to"),
        }
    }
}

impl Store {
    /// One small step of a scrub over all containers.
    ///
    /// # Errors
    /// `Corrupt`: a page of the tree cannot be read; the next call goes on with the next container.
    pub fn scrub(&mut self, scrub: &mut Scrub) -> Result<Scrubbing> {
        self.walk(scrub, Wanted::All)
    }

    /// One small step of a walk over all containers for values with a block behind the fence of
    /// [`media::Store::fence`]. What it finds is to be moved. What comes to lie there behind the walk, by a
    /// transaction that is decided, the next one finds.
    ///
    /// # Errors
    /// As [`Store::scrub`].
    pub fn find_fenced(&mut self, scrub: &mut Scrub) -> Result<Scrubbing> {
        self.walk(scrub, Wanted::Fenced)
    }

    fn walk(&mut self, scrub: &mut Scrub, wanted: Wanted) -> Result<Scrubbing> {
        self.running()?;
        let mut pages = self.media.pages();
        pages.begin_op();
        let from = scrub.container.unwrap_or(ContainerId::from_bytes([0; 16]));
        let Some((&container, shard)) = self.catalog.shards.range(from..).next() else {
            return Ok(Scrubbing::End);
        };
        if scrub.container != Some(container) {
            (scrub.container, scrub.from) = (Some(container), Vec::new());
        }
        // Where to go on, should the tree be unreadable from here.
        let here = std::mem::take(&mut scrub.from);
        scrub.container = next_id(container);
        let mut cursor = Cursor::at(&shard.tree, &pages, &here)?;
        let mut key = Vec::new();
        for _ in 0..RECORDS_PER_STEP {
            if !cursor.is_valid() {
                return Ok(if scrub.container.is_some() { Scrubbing::Look } else { Scrubbing::End });
            }
            cursor.key().copy_to(&mut key);
            let is_wanted = match (wanted, key::read_record(&key)) {
                (Wanted::All, record) => matches!(record, Some(Key::Single(_) | Key::Array { hole: false, .. })),
                (Wanted::Fenced, None) => false,
                (Wanted::Fenced, Some(record)) => {
                    value::blocks_of(record, cursor.value()).iter().any(|extent| self.media.is_behind_fence(*extent))
                }
            };
            if is_wanted {
                let found = ScrubbedValue {
                    container,
                    key: key.clone(),
                    value: cursor.value().to_vec(),
                    pin: self.media.pin(),
                };
                let stored = payload(&found.key, &found.value)?;
                scrub.values += 1;
                scrub.bytes += stored.len();
                let damage = match stored {
                    Stored::Bulk { .. } => None,
                    Stored::Inline { checksums, bytes } => match verify(bytes, &value::read_checksums(checksums)) {
                        Ok(()) => {
                            cursor.next()?;
                            continue;
                        }
                        Err(error) => Some(found.damage(error.to_string())),
                    },
                };
                // The next one is just behind.
                key.push(0);
                (scrub.container, scrub.from) = (Some(container), key);
                return Ok(damage.map_or_else(|| Scrubbing::Value(found), Scrubbing::Damaged));
            }
            cursor.next()?;
        }
        if cursor.is_valid() {
            cursor.key().copy_to(&mut key);
            (scrub.container, scrub.from) = (Some(container), key);
        }
        Ok(Scrubbing::Look)
    }

    /// Whether a value that was found damaged is still there, and still the same.
    ///
    /// # Errors
    /// `Corrupt`: the tree cannot be read.
    pub fn is_damaged(&mut self, damage: &Damage) -> Result<bool> {
        self.holds(damage.container, &damage.key, &damage.value)
    }

    fn holds(&self, container: ContainerId, key: &[u8], value: &[u8]) -> Result<bool> {
        let Ok(shard) = self.catalog.shard(container) else { return Ok(false) };
        let mut pages = self.media.pages();
        pages.begin_op();
        Ok(shard.tree.get(&pages, key)? == Some(value))
    }

    /// Sets blocks aside to write a damaged value anew. `bytes` are what was written, all of it.
    ///
    /// # Errors
    /// `Corrupt`: they are not, by the checksums of the value; of [`Store::reserve_bulk`].
    pub fn plan_mend(&mut self, damage: &Damage, bytes: &[u8]) -> Result<Mend> {
        let stored = payload(&damage.key, &damage.value)?;
        let (Stored::Inline { checksums, .. } | Stored::Bulk { checksums, .. }) = stored;
        let checksums = value::read_checksums(checksums);
        if bytes.len() as u64 != stored.len() {
            return Err(Error::Invalid("a value is mended with as many bytes as were written"));
        }
        verify(bytes, &checksums)?;
        let is_bulk = bytes.len() > INLINE_BYTES_MAX || matches!(stored, Stored::Bulk { .. });
        let at = if is_bulk { Some(self.reserve_bulk(damage.container, bytes.len() as u64)?) } else { None };
        let Damage { container, key, value, .. } = damage.clone();
        let (bytes, checksums) = (Bytes::Given(IoBuf::from_slice(bytes)), checksums.to_vec());
        Ok(Mend { container, key, value, bytes, checksums, at, pin: self.media.pin() })
    }

    /// Sets blocks aside to write a value of [`Store::find_fenced`] to another place, from where it lies now. It is
    /// not counted twice: no quota is asked for it.
    ///
    /// # Errors
    /// `DeviceFull`; `Media(Busy)`: wait for `relieved`.
    pub fn plan_move(&mut self, found: ScrubbedValue) -> Result<Mend> {
        let ScrubbedValue { container, key, value, pin } = found;
        let stored = payload(&key, &value)?;
        let Stored::Bulk { bytes, checksums, .. } = stored else { return Err(unreadable("a value in blocks")) };
        let (extents, checksums) = (stored.blocks(), value::read_checksums(checksums).to_vec());
        let pool = self.catalog.shard(container)?.pool;
        let at = Reservation::live(pool, self.media.reserve(bytes)?, Rc::default());
        Ok(Mend { container, key, value, bytes: Bytes::Stored(extents, bytes), checksums, at: Some(at), pin })
    }

    /// Puts a value that was written anew in place of the one that was there. Nothing happens when that is no longer
    /// there.
    ///
    /// # Errors
    /// `NoSpace`; `Media(Busy | LogFull)`: wait for `relieved`; `Corrupt`.
    pub fn mend(&mut self, mend: &Mend) -> Result<Option<Lsn>> {
        self.running()?;
        let Mend { container, key, value, .. } = mend;
        if !self.holds(*container, key, value)? {
            return Ok(None);
        }
        let Store { media, catalog, scratch, .. } = self;
        // A value that only moves takes nothing from its pool, but for a page now and then.
        if let Bytes::Given(_) = mend.bytes {
            let pool = catalog.shard(*container)?.pool;
            catalog.pool(pool)?.admit(pool, SPLIT_PAGES * media::PAGE_BYTES as u64)?;
        }
        let mut pages = media.pages();
        pages.begin_op();
        record::rewrite::encode_mend(&mut scratch.log, *container, key, &mend.payload());
        let lsn = media.append(kind::MEND, &[&scratch.log], Reserve::Normal)?;
        mend.at.iter().for_each(|at| at.take(media));
        let done = catalog
            .with_shard(*container, |shard| rewrite::apply_mend(shard, &mut pages, key, &mend.payload(), scratch));
        drop(pages);
        self.settle(lsn, done)?;
        Ok(Some(lsn))
    }
}

/// The id after `id`; `None` after the last.
fn next_id(id: ContainerId) -> Option<ContainerId> {
    u128::from_be_bytes(id.to_bytes()).checked_add(1).map(|next| ContainerId::from_bytes(next.to_be_bytes()))
}
