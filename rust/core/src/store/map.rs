//! The bytes of a column: mapped, held in memory, or left in the file.
#![allow(unsafe_code)]

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use memmap2::{MmapOptions, MmapRaw};

use super::HELD_OPEN;
use super::files::{Refusal, open_exactly};
use crate::part::{Column, Reopen};
use crate::slab::Buffer;
use crate::{Error, Result};

/// Bytes that are read into memory between two looks at the interrupt flag.
const READ_BYTES: usize = 16 << 20;

/// Where the data is while it is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backend {
    /// Mapped: the page cache is the memory, shared by all processes.
    Mmap,
    /// Read once into memory of this process.
    Ram,
    /// Read from the file at each gather.
    Pread,
}

impl Backend {
    /// Its name in Python.
    pub fn name(self) -> &'static str {
        match self {
            Self::Mmap => "mmap",
            Self::Ram => "ram",
            Self::Pread => "pread",
        }
    }
}

impl std::str::FromStr for Backend {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        [Self::Mmap, Self::Ram, Self::Pread]
            .into_iter()
            .find(|backend| backend.name() == name)
            .ok_or_else(|| Error::Invalid(format!("backend is {name:?}; one of 'mmap', 'ram', 'pread' is needed")))
    }
}

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
    Reopened(Unheld),
}

/// A file that is not kept open: what it takes to open it again, and to know that it is still the same.
#[derive(Debug)]
struct Unheld {
    root: PathBuf,
    path: PathBuf,
    identity: (u64, u64),
    bytes: u64,
}

fn identity(file: &File) -> std::io::Result<(u64, u64)> {
    file.metadata().map(|metadata| (metadata.dev(), metadata.ino()))
}

impl Reopen for Unheld {
    fn reopen(&self) -> Result<File> {
        let changed = || {
            let path = self.path.display();
            Error::Changed(format!("{path}: replaced since the store was opened; its file was not kept open"))
        };
        match open_exactly(&self.root, &self.path, self.bytes) {
            Ok(file) if identity(&file).is_ok_and(|found| found == self.identity) => Ok(file),
            Ok(_) | Err(Refusal::Missing) => Err(changed()),
            Err(refusal) => Err(refusal.about(&self.path, "truncated while open")),
        }
    }
}

impl ColumnBytes {
    /// Open the `number`-th column's file below `root`, whose length must be `row_bytes * rows`.
    #[expect(clippy::too_many_arguments, reason = "what a column's file is, and how it is to be held")]
    pub fn open(
        number: usize,
        root: &Path,
        path: PathBuf,
        what: &str,
        row_bytes: usize,
        rows: usize,
        backend: Backend,
        interrupted: &dyn Fn() -> bool,
    ) -> Result<Self> {
        let bytes = row_bytes
            .checked_mul(rows)
            .filter(|&bytes| isize::try_from(bytes).is_ok())
            .ok_or_else(|| Error::Corrupt(format!("{what}: {rows} rows of {row_bytes} bytes overflow")))?;
        let mut file = match open_exactly(root, &path, bytes as u64) {
            Ok(file) => file,
            Err(refusal) => return Err(refusal.about(&path, what)),
        };
        let held = match backend {
            _ if bytes == 0 => Held::Empty,
            Backend::Mmap => {
                Held::Map(MmapOptions::new().len(bytes).map_raw_read_only(&file).map_err(Error::io(&path))?)
            }
            Backend::Ram => {
                let memory = Buffer::take(bytes)?;
                // SAFETY: the buffer holds `bytes` initialised bytes that nobody else knows of yet.
                let target = unsafe { std::slice::from_raw_parts_mut(memory.as_ptr(), bytes) };
                for piece in target.chunks_mut(READ_BYTES) {
                    file.read_exact(piece).map_err(Error::io(&path))?;
                    if interrupted() {
                        return Err(Error::Interrupted);
                    }
                }
                Held::Memory(memory)
            }
            Backend::Pread if number < HELD_OPEN => Held::File(file),
            Backend::Pread => Held::Reopened(Unheld {
                root: root.to_path_buf(),
                path: path.clone(),
                identity: identity(&file).map_err(Error::io(&path))?,
                bytes: bytes as u64,
            }),
        };
        Ok(Self { path, held, row_bytes, rows })
    }

    /// A column whose rows have no bytes.
    pub fn empty(path: PathBuf, rows: usize) -> Self {
        Self { path, held: Held::Empty, row_bytes: 0, rows }
    }

    /// The column, for a gather.
    pub fn column(&self) -> Column<'_> {
        let memory = match &self.held {
            Held::Empty => std::ptr::dangling(),
            Held::Map(map) => map.as_ptr(),
            Held::Memory(memory) => memory.as_ptr(),
            Held::File(file) => return Column::in_file(file, &self.path, self.row_bytes, self.rows),
            Held::Reopened(file) => return Column::in_reopened(file, &self.path, self.row_bytes, self.rows),
        };
        // SAFETY: the map or buffer is as long as `row_bytes * rows` (checked against the file's length when it was opened) and
        // lives as long as `self`. If someone shortens the file afterwards a read raises SIGBUS, which is documented; `ram`
        // and `pread` do not depend on it.
        unsafe { Column::in_memory(memory, self.row_bytes, self.rows) }
    }
}
