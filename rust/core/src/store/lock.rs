//! One builder at a time: a lock on a file in the store directory, which the system releases when the holder dies.

use std::fs::{self, File, TryLockError};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::LOCK;
use super::files::{is_there, open_lock};
use crate::{Error, Result};

/// Bytes of the lock file that are looked at: a pid has fewer.
const PID_BYTES: u64 = 32;

/// Held for the length of a build.
#[derive(Debug)]
pub struct BuildLock {
    path: PathBuf,
    file: File,
    pid: u32,
}

impl BuildLock {
    /// Take the lock or say who holds it.
    pub fn take(store: &Path) -> Result<Self> {
        let path = store.join(LOCK);
        loop {
            let is_new = !is_there(&path);
            let mut file = open_lock(&path)?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    let mut holder = String::new();
                    let _ = file.take(PID_BYTES).read_to_string(&mut holder);
                    let holder = if holder.trim().is_empty() { "unknown" } else { holder.trim() };
                    return Err(Error::Busy(format!("{}: being built by process {holder}", store.display())));
                }
                Err(TryLockError::Error(error)) => return Err(Error::io(&path)(error)),
            }
            // A builder that aborts removes the file; make sure the lock is on the one that others will open.
            let ours = file.metadata().map_err(Error::io(&path))?.ino();
            if fs::symlink_metadata(&path).is_ok_and(|there| there.ino() == ours) {
                let pid = std::process::id();
                let written = file.set_len(0).and_then(|()| file.rewind()).and_then(|()| write!(file, "{pid}"));
                if written.is_err() && is_new {
                    let _ = fs::remove_file(&path);
                }
                written.map_err(Error::io(&path))?;
                return Ok(Self { path, file, pid });
            }
        }
    }

    /// Release the lock and remove its file, for a build that leaves nothing behind.
    pub fn remove(self) {
        let _ = fs::remove_file(&self.path);
    }
}

impl Drop for BuildLock {
    /// Closing is not enough: processes that were forked during the build hold the same open file, and the lock with it.
    fn drop(&mut self) {
        if self.pid == std::process::id() {
            let _ = self.file.unlock();
        }
    }
}
