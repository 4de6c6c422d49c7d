//! The bytes of a column: mapped, held in memory, or left in the file.
#![allow(unsafe_code)]

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use memmap2::{MmapOptions, MmapRaw};

use super::reader::Backend;
use crate::gather::Column;
use crate::slab::Buffer;
use crate::{Error, Result};

/// A column's bytes, kept readable for as long as this lives.
#[derive(Debug)]
pub struct ColumnBytes {
    path: PathBuf,
    held: Held,
    row_bytes: usize,
    rows: usize,
}

#[derive(Debug)]
enum Held {
    /// Nothing to hold: no rows, or rows of no bytes.
    Empty,
    Map(MmapRaw),
    Memory(Buffer),
    File(File),
}

/// Open a file of an expected length for reading; a link, a directory or another length is refused.
pub fn open_exactly(path: &Path, expected: u64, what: &str) -> Result<File> {
    let file =
        File::options().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC).open(path).map_err(|error| {
            match error.raw_os_error() {
                Some(libc::ENOENT) => Error::Corrupt(format!("{}: {what} is missing", path.display())),
                Some(libc::ELOOP) => Error::Corrupt(format!("{}: {what} is a symbolic link", path.display())),
                _ => Error::io(path)(error),
            }
        })?;
    let metadata = file.metadata().map_err(Error::io(path))?;
    if !metadata.is_file() {
        return Err(Error::Corrupt(format!("{}: {what} is not a regular file", path.display())));
    }
    if metadata.len() != expected {
        return Err(Error::Corrupt(format!(
            "{}: {what}: expected {expected} bytes, found {}",
            path.display(),
            metadata.len()
        )));
    }
    Ok(file)
}

impl ColumnBytes {
    /// Open a column's file, whose length must be `row_bytes * rows`.
    pub fn open(path: PathBuf, what: &str, row_bytes: usize, rows: usize, backend: Backend) -> Result<Self> {
        let bytes = row_bytes
            .checked_mul(rows)
            .filter(|&bytes| isize::try_from(bytes).is_ok())
            .ok_or_else(|| Error::Corrupt(format!("{what}: {rows} rows of {row_bytes} bytes overflow")))?;
        let mut file = open_exactly(&path, bytes as u64, what)?;
        let held = match backend {
            _ if bytes == 0 => Held::Empty,
            Backend::Mmap => {
                Held::Map(MmapOptions::new().len(bytes).map_raw_read_only(&file).map_err(Error::io(&path))?)
            }
            Backend::Ram => {
                let memory = Buffer::take(bytes)?;
                // SAFETY: the buffer holds `bytes` initialised bytes that nobody else knows of yet.
                let target = unsafe { std::slice::from_raw_parts_mut(memory.as_ptr(), bytes) };
                file.read_exact(target).map_err(Error::io(&path))?;
                Held::Memory(memory)
            }
            Backend::Pread => Held::File(file),
        };
        Ok(Self { path, held, row_bytes, rows })
    }

    /// The column, for a gather.
    pub fn column(&self) -> Column<'_> {
        let memory = match &self.held {
            Held::Empty => std::ptr::dangling(),
            Held::Map(map) => map.as_ptr(),
            Held::Memory(memory) => memory.as_ptr(),
            Held::File(file) => return Column::in_file(file, &self.path, self.row_bytes, self.rows),
        };
        // SAFETY: the map or buffer is as long as `row_bytes * rows` (checked against the file's length when it was opened) and
        // lives as long as `self`. If someone shortens the file afterwards a read raises SIGBUS, which is documented; `ram`
        // and `pread` do not depend on it.
        unsafe { Column::in_memory(memory, self.row_bytes, self.rows) }
    }
}
