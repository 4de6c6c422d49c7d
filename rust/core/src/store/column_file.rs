//! A column while it is being written.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::checksum::BlockSums;
use super::column::{ColumnSpec, column_path};
use super::manifest::ColumnEntry;
use crate::{Error, Result};

/// Bytes of a column that are gathered before they are written: short clips cost no system call each.
const WRITE_BYTES: usize = 1 << 20;
/// Written bytes after which the disk is waited for. One sync of everything at the end could not be interrupted.
const SYNC_BYTES: usize = 16 << 20;

/// A new file that grows by whole rows.
#[derive(Debug)]
pub(super) struct ColumnFile {
    spec: ColumnSpec,
    path: PathBuf,
    file: File,
    pending: Vec<u8>,
    unsynced: usize,
    bytes: u64,
    sums: BlockSums,
}

impl ColumnFile {
    pub fn create(data_dir: &Path, spec: ColumnSpec) -> Result<Self> {
        let path = column_path(data_dir, spec.kind, &spec.key);
        let parent = path.parent().unwrap_or(data_dir);
        fs::create_dir_all(parent).map_err(Error::io(parent))?;
        let file = File::create_new(&path).map_err(Error::io(&path))?;
        Ok(Self { spec, path, file, pending: Vec::new(), unsynced: 0, bytes: 0, sums: BlockSums::default() })
    }

    pub fn spec(&self) -> &ColumnSpec {
        &self.spec
    }

    /// Add bytes at the end. After an error the file may hold any part of them.
    pub fn append(&mut self, bytes: &[u8], interrupted: &dyn Fn() -> bool) -> Result<()> {
        for piece in bytes.chunks(WRITE_BYTES) {
            let begin = self.pending.len();
            self.pending.extend_from_slice(piece);
            // The checksum is of what will be written, even if somebody changes `bytes` meanwhile.
            self.sums.update(&self.pending[begin..]);
            self.bytes += piece.len() as u64;
            if self.pending.len() >= WRITE_BYTES {
                self.flush(interrupted)?;
            }
        }
        Ok(())
    }

    fn flush(&mut self, interrupted: &dyn Fn() -> bool) -> Result<()> {
        self.file.write_all(&self.pending).map_err(Error::io(&self.path))?;
        self.unsynced += self.pending.len();
        self.pending.clear();
        if self.unsynced >= SYNC_BYTES {
            self.file.sync_data().map_err(Error::io(&self.path))?;
            self.unsynced = 0;
        }
        if interrupted() { Err(Error::Interrupted) } else { Ok(()) }
    }

    /// Make it durable and read-only.
    pub fn finish(mut self, interrupted: &dyn Fn() -> bool) -> Result<ColumnEntry> {
        self.flush(interrupted)?;
        self.file.set_permissions(fs::Permissions::from_mode(0o444)).map_err(Error::io(&self.path))?;
        self.file.sync_all().map_err(Error::io(&self.path))?;
        let ColumnSpec { key, kind, dtype, shape } = self.spec;
        Ok(ColumnEntry { key, kind, dtype, shape, bytes: self.bytes, crc32c: self.sums.finish() })
    }
}
