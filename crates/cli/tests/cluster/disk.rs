//! A file system of a few hundred MB of a test's own, in memory: gone when the test ends.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::network::left_out;

const PIECE: usize = 1 << 20;

pub struct SmallDisk {
    at: PathBuf,
}

impl SmallDisk {
    /// Mounts one of `bytes` at a directory, which is made; `None`, and it says so, where that is not permitted.
    pub fn mount(at: &Path, bytes: u64) -> Option<SmallDisk> {
        std::fs::create_dir_all(at).unwrap();
        let options = format!("size={bytes},mode=700");
        let mut command = Command::new("mount");
        let mounted = command.args(["-t", "tmpfs", "-o", &options, "none"]).arg(at).stdin(Stdio::null()).output();
        let why = match mounted {
            Ok(output) if output.status.success() => return Some(SmallDisk { at: at.into() }),
            Ok(output) => String::from_utf8_lossy(&output.stderr).trim().to_string(),
            Err(error) => error.to_string(),
        };
        left_out("a full file system", &format!("it cannot mount one ({why})"));
        None
    }

    fn filler(&self) -> PathBuf {
        self.at.join("filler")
    }

    /// Leaves no room at all.
    pub fn fill(&self) {
        let mut file = std::fs::File::create(self.filler()).unwrap();
        let (mut piece, content) = (PIECE, vec![7; PIECE]);
        while piece > 0 {
            if file.write_all(&content[..piece]).is_err() {
                piece /= 2;
            }
        }
    }

    pub fn empty(&self) {
        std::fs::remove_file(self.filler()).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Also while a server is in it, which ends with the test.
        let _ = Command::new("umount").arg("-l").arg(&self.at).stdin(Stdio::null()).status();
    }
}
