//! Devices that somebody named: whether they are in use, and whether they hold something already.
//!
//! A slip of the hand in a device's name must not cost a file system. What is looked for are the marks that
//! file systems, volume managers and partition tables leave near the beginning; a device without any of them
//! is taken to be free.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use rt::disk::{Disk, DiskError};
use types::{Code, Error};

use crate::storage::io;

/// What there is, where its mark lies, and the mark.
const MARKS: &[(&str, usize, &[u8])] = &[
    ("an ext2, ext3 or ext4 file system", 1080, &[0x53, 0xef]),
    ("an XFS file system", 0, b"XFSB"),
    ("a Btrfs file system", 65_600, b"_BHRfS_M"),
    ("an F2FS file system", 1024, &[0x10, 0x20, 0xf5, 0xf2]),
    ("an NTFS file system", 3, b"NTFS    "),
    ("an exFAT file system", 3, b"EXFAT   "),
    ("a SquashFS file system", 0, b"hsqs"),
    ("swap space", 4086, b"SWAPSPACE2"),
    ("an LVM physical volume", 536, b"LVM2 001"),
    ("an encrypted volume (LUKS)", 0, b"LUKS\xba\xbe"),
    ("a part of a RAID array (md)", 4096, &[0xfc, 0x4e, 0x2b, 0xa9]),
    ("a part of a RAID array (md)", 0, &[0xfc, 0x4e, 0x2b, 0xa9]),
    ("a BlueStore device", 0, b"bluestore block device"),
    ("storage of this system", 0, b"FLMEDIA"),
    ("storage of this system", 0, b"FLREGHD"),
    ("a GUID partition table", 512, b"EFI PART"),
    // Last: it is also at the end of what boots from a file system.
    ("a partition table or a boot sector", 510, &[0x55, 0xaa]),
];

/// Bytes that hold all marks.
const HEAD_BYTES: usize = 68 << 10;

/// Keeps the kernel from mounting those of `paths` that are block devices, while the handles live.
///
/// # Errors
/// `Busy`: one is mounted, or a part of something.
pub(crate) fn claim(paths: &BTreeSet<PathBuf>) -> Result<Vec<Disk>, Error> {
    let mut claims = Vec::new();
    for path in paths {
        match Disk::claim_device(path) {
            Ok(claim) => claims.extend(claim),
            // A file to be made, or one that is gone; whoever opens it will say so.
            Err(DiskError::NotFound { .. }) => {}
            Err(DiskError::Locked { .. }) => {
                let text = format!("{} is mounted, or in use by another server or a volume", path.display());
                return Err(Error::new(Code::Busy, text).remedy("unmount it, or name another device"));
            }
            Err(other) => return Err(io(other)),
        }
    }
    Ok(claims)
}

/// Refuses a device or a file that holds something already. What is not there yet holds nothing.
///
/// # Errors
/// `Exists`, with what it is.
pub(crate) fn refuse_foreign(path: &Path) -> Result<(), Error> {
    let disk = match Disk::open_read_only(path) {
        Ok(disk) => disk,
        Err(DiskError::NotFound { .. }) => return Ok(()),
        Err(other) => return Err(io(other)),
    };
    let bytes = disk.len().map_err(io)?.min(HEAD_BYTES as u64) as usize;
    let mut head = vec![0; bytes];
    disk.read_now(0, &mut head).map_err(io)?;
    match found(&head) {
        None => Ok(()),
        Some(what) => Err(Error::new(Code::Exists, format!("{} holds {what}", path.display()))
            .remedy("name another device, or start once with --force to destroy what it holds")),
    }
}

/// What begins with `head`, if it has a mark.
fn found(head: &[u8]) -> Option<&'static str> {
    MARKS.iter().find(|(_, at, mark)| head.get(*at..at + mark.len()) == Some(mark)).map(|(what, _, _)| *what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_mark_is_found_in_its_place_only() {
        for (what, at, mark) in MARKS {
            assert!(at + mark.len() <= HEAD_BYTES);
            let mut head = vec![0; HEAD_BYTES];
            head[*at..at + mark.len()].copy_from_slice(mark);
            assert_eq!(found(&head), Some(*what));
            head.rotate_right(7);
            assert_eq!(found(&head), None, "{what}");
            assert_eq!(found(&head[..*at.min(&100)]), None);
        }
        assert_eq!(found(&[0; HEAD_BYTES]), None);
        assert_eq!(found(&[]), None);
    }
}
