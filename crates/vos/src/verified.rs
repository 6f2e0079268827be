//! Stored bytes, read and verified: for those inside the store that copy or check values.

use std::ops::Range;

use codec::checksum;
use media::PinGuard;
use rt::disk::IoBuf;
use types::CHECKSUM_CHUNK_BYTES;

use crate::error::{Error, Result};
use crate::space::BulkExtent;

const CHUNK: u64 = CHECKSUM_CHUNK_BYTES as u64;

/// Reads values that stay as they are while it lives.
#[derive(Clone, Copy)]
pub(crate) struct Reader<'a> {
    pub(crate) media: &'a media::Store,
    pub(crate) pin: &'a PinGuard,
    /// Waits in the call, not for a task: for stores whose tasks do not run.
    pub(crate) is_blocking: bool,
}

impl Reader<'_> {
    /// Bytes `part` of a value of `bytes` bytes in `extents`.
    ///
    /// # Errors
    /// `Corrupt`: they are not what was written; `Media(Read)`: the device failed.
    pub(crate) async fn part(
        &self,
        extents: &[BulkExtent],
        bytes: u64,
        checksums: &[u32],
        part: Range<u64>,
    ) -> Result<IoBuf> {
        // Whole chunks, for only these can be verified.
        let whole = part.start / CHUNK * CHUNK..part.end.next_multiple_of(CHUNK).min(bytes);
        let mut read = self.read(extents, whole.clone()).await?;
        verify(&read, &checksums[(whole.start / CHUNK) as usize..whole.end.div_ceil(CHUNK) as usize])?;
        if part.start > whole.start {
            let wanted = (part.start - whole.start) as usize..(part.end - whole.start) as usize;
            read.copy_within(wanted, 0);
        }
        read.truncate((part.end - part.start) as usize);
        Ok(read)
    }

    async fn read(&self, extents: &[BulkExtent], range: Range<u64>) -> Result<IoBuf> {
        let mut joined: Option<IoBuf> = None;
        for (extent, offset, bytes) in media::pieces_of(extents, range) {
            let piece = if self.is_blocking {
                self.media.bulk_read_now(extent, offset, bytes)?
            } else {
                self.media.bulk_read(extent, offset, bytes, self.pin.clone()).await?
            };
            match &mut joined {
                None => joined = Some(piece),
                Some(whole) => whole.extend_from_slice(&piece),
            }
        }
        joined.ok_or_else(|| Error::Corrupt { place: "a value".into(), fault: "it has no blocks".into() })
    }
}

/// # Errors
/// `Corrupt`.
pub(crate) fn verify(bytes: &[u8], checksums: &[u32]) -> Result<()> {
    checksum::verify_chunks(bytes, checksums)
        .map_err(|mismatch| Error::Corrupt { place: "a value".into(), fault: mismatch.to_string() })
}
