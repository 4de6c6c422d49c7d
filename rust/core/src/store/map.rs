//! The bytes of a column: mapped, held in memory, or left in the file.
#![allow(unsafe_code)]

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use memmap2::{MmapOptions, MmapRaw};

use super::HELD_OPEN;
use super::files::{Refusal, open_of_length};
use crate::part::{Column, Reopen};
use crate::row_copy::prefetch;
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

/// How many rows a column's file has, and how many of them, from the first on, are wanted.
#[derive(Debug, Clone, Copy)]
pub struct RowsInFile {
    /// No more than are there.
    pub wanted: usize,
    /// In the file.
    pub there: usize,
    /// Whether more may have come since that was found.
    pub grows: bool,
}

impl RowsInFile {
    /// A file of so many rows, all of them wanted.
    pub fn all(rows: usize) -> Self {
        Self { wanted: rows, there: rows, grows: false }
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
    grows: bool,
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
        match open_of_length(&self.root, &self.path, self.bytes, self.grows) {
            Ok(file) if identity(&file).is_ok_and(|found| found == self.identity) => Ok(file),
            Ok(_) | Err(Refusal::Missing) => Err(changed()),
            Err(refusal) => Err(refusal.about(&self.path, "truncated while open")),
        }
    }
}

/// A file that only gets longer, mapped; what is there is copied out of it.
#[derive(Debug)]
pub struct AppendedFile {
    path: PathBuf,
    file: File,
    map: MmapRaw,
    /// Bytes that the file is known to have, at least.
    length: u64,
}

impl AppendedFile {
    /// Map the file at `path`, and room for it to grow to `most` bytes.
    pub fn open(path: PathBuf, most: u64) -> Result<Self> {
        let file = File::options().read(true).custom_flags(libc::O_NOFOLLOW).open(&path).map_err(Error::io(&path))?;
        let length = file.metadata().map_err(Error::io(&path))?.len();
        let size = usize::try_from(most.max(length).max(1)).ok().filter(|&size| isize::try_from(size).is_ok());
        let size =
            size.ok_or_else(|| Error::OutOfMemory(format!("{}: {length} bytes cannot be mapped", path.display())))?;
        let map = MmapOptions::new().len(size).map_raw_read_only(&file).map_err(Error::io(&path))?;
        Ok(Self { path, file, map, length })
    }

    /// Make sure that `bytes` bytes from `at` on are in the file, and in the map.
    fn reach(&mut self, at: u64, bytes: usize) -> Result<()> {
        let end = at.checked_add(bytes as u64);
        if end.is_none_or(|end| end > self.length) {
            self.length = self.file.metadata().map_err(Error::io(&self.path))?.len();
        }
        match end {
            Some(end) if end <= self.length && end > self.map.len() as u64 => {
                *self = Self::open(self.path.clone(), end.saturating_mul(2))?;
                Ok(())
            }
            Some(end) if end <= self.length => Ok(()),
            _ => {
                let (path, length) = (self.path.display(), self.length);
                Err(Error::Corrupt(format!("{path}: expected {bytes} bytes from byte {at} on, found {length} in all")))
            }
        }
    }

    /// Copy bytes out.
    pub fn read(&mut self, at: u64, out: &mut [u8]) -> Result<()> {
        self.reach(at, out.len())?;
        // SAFETY: the range lies in the file and in the map (`reach`). Nobody shortens the file: its only writer appends, and
        // cuts off no more than a record that it failed to write and told nobody of. `out` is memory of our own.
        unsafe {
            std::ptr::copy_nonoverlapping(self.map.as_ptr().add(at as usize), out.as_mut_ptr(), out.len());
        }
        Ok(())
    }

    /// Fetch ahead what will be read; nothing happens where nothing is.
    pub fn fetch(&self, at: u64, bytes: usize) {
        let start = self.map.as_ptr().wrapping_add(at as usize);
        (0..bytes).step_by(64).for_each(|line| prefetch(start.wrapping_add(line)));
    }
}

impl ColumnBytes {
    /// Open the `number`-th column's file below `root`, whose length must be that of its rows of `row_bytes` each.
    #[expect(clippy::too_many_arguments, reason = "what a column's file is, and how it is to be held")]
    pub fn open(
        number: usize,
        root: &Path,
        path: PathBuf,
        what: &str,
        row_bytes: usize,
        RowsInFile { wanted: rows, there, grows }: RowsInFile,
        backend: Backend,
        interrupted: &dyn Fn() -> bool,
    ) -> Result<Self> {
        let in_file = row_bytes
            .checked_mul(there)
            .filter(|&bytes| isize::try_from(bytes).is_ok())
            .ok_or_else(|| Error::Corrupt(format!("{what}: {there} rows of {row_bytes} bytes overflow")))?;
        let bytes = row_bytes * rows.min(there);
        let mut file = match open_of_length(root, &path, in_file as u64, grows) {
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
                bytes: in_file as u64,
                grows,
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
