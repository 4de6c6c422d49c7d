//! The bytes of a column: mapped, held in memory, or left in the file.
#![allow(unsafe_code)]

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use memmap2::{MmapOptions, MmapRaw};

use super::HELD_OPEN;
use super::files::{Refusal, open_of_length};
use super::pieces::ColumnPiece;
use crate::part::{Column, Reopen};
use crate::pieced_file::{Piece, PiecedFile};
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
    held: Held,
    row_bytes: usize,
    rows: usize,
}

#[derive(Debug)]
enum Held {
    /// Nothing to hold: no rows, or rows of no bytes.
    Empty,
    Map(MmapRaw),
    Maps(Maps),
    Memory(Buffer),
    Files(PiecedFile),
    Reopened(Unheld),
}

/// Files mapped one behind the other, so that their bytes are one range of memory.
#[derive(Debug)]
struct Maps {
    start: *mut libc::c_void,
    bytes: usize,
}

// SAFETY: the memory is only read, by whichever thread, and stays mapped as long as this lives.
unsafe impl Send for Maps {}
// SAFETY: as above.
unsafe impl Sync for Maps {}

impl Maps {
    /// Map the first `bytes` bytes of some files, which have as many (checked by whoever opened them).
    fn new(pieces: &[Piece], bytes: usize) -> Result<Self> {
        let (null, flags) = (std::ptr::null_mut(), libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: the system chooses addresses that nobody has; there is nothing at them yet.
        let start = unsafe { libc::mmap(null, bytes, libc::PROT_NONE, flags, -1, 0) };
        if start == libc::MAP_FAILED {
            return Err(Error::io("a map of several files")(std::io::Error::last_os_error()));
        }
        let this = Self { start, bytes };
        for (number, piece) in pieces.iter().enumerate() {
            let end = pieces.get(number + 1).map_or(bytes, |next| bytes.min(next.begin as usize));
            let begin = piece.begin as usize;
            if begin >= end {
                continue;
            }
            let flags = libc::MAP_SHARED | libc::MAP_FIXED;
            // SAFETY: `begin..end` lies in the range that was reserved above and that nobody else knows of, so what is replaced is ours.
            let mapped = unsafe {
                libc::mmap(start.byte_add(begin), end - begin, libc::PROT_READ, flags, piece.file.as_raw_fd(), 0)
            };
            if mapped == libc::MAP_FAILED {
                return Err(Error::io(&piece.path)(std::io::Error::last_os_error()));
            }
        }
        Ok(this)
    }
}

impl Drop for Maps {
    fn drop(&mut self) {
        // SAFETY: the range was mapped by `new`, and whoever reads it holds a borrow of what owns this.
        unsafe { libc::munmap(self.start, self.bytes) };
    }
}

/// Files that are not kept open: what it takes to open them again, and to know that they are still the same.
#[derive(Debug)]
struct Unheld {
    root: PathBuf,
    pieces: Vec<ColumnPiece>,
    identities: Vec<(u64, u64)>,
    grows: bool,
}

fn identity(file: &File) -> std::io::Result<(u64, u64)> {
    file.metadata().map(|metadata| (metadata.dev(), metadata.ino()))
}

impl Reopen for Unheld {
    fn reopen(&self) -> Result<PiecedFile> {
        let reopened = |(piece, expected): (&ColumnPiece, &(u64, u64))| {
            let changed = || {
                let path = piece.path.display();
                Error::Changed(format!("{path}: replaced since the store was opened; its file was not kept open"))
            };
            match open_of_length(&self.root, &piece.path, piece.bytes, self.grows) {
                Ok(file) if identity(&file).is_ok_and(|found| found == *expected) => Ok(opened(piece, file)),
                Ok(_) | Err(Refusal::Missing) => Err(changed()),
                Err(refusal) => Err(refusal.about(&piece.path, "truncated while open")),
            }
        };
        self.pieces.iter().zip(&self.identities).map(reopened).collect::<Result<_>>().map(PiecedFile::new)
    }
}

fn opened(piece: &ColumnPiece, file: File) -> Piece {
    Piece { begin: piece.begin, bytes: piece.bytes, file, path: piece.path.clone() }
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
        // SAFETY: the range lies in the file and in the map (`reach`). Nobody shortens the file: its only writer adds to
        // it, and cuts off no more than a record that it failed to write, or what lies behind its last one: it told nobody of either. `out` is memory of our own.
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
    /// Open the `number`-th column's files below `root`, whose lengths together must be those of its rows of `row_bytes` each.
    #[expect(clippy::too_many_arguments, reason = "what a column's files are, and how they are to be held")]
    pub(super) fn open(
        number: usize,
        root: &Path,
        pieces: Vec<ColumnPiece>,
        what: &str,
        row_bytes: usize,
        RowsInFile { wanted: rows, there, grows }: RowsInFile,
        backend: Backend,
        interrupted: &dyn Fn() -> bool,
    ) -> Result<Self> {
        row_bytes
            .checked_mul(there)
            .filter(|&bytes| isize::try_from(bytes).is_ok())
            .ok_or_else(|| Error::Corrupt(format!("{what}: {there} rows of {row_bytes} bytes overflow")))?;
        let bytes = row_bytes * rows.min(there);
        let open = |piece: &ColumnPiece| match open_of_length(root, &piece.path, piece.bytes, grows) {
            Ok(file) => Ok(opened(piece, file)),
            Err(refusal) => Err(refusal.about(&piece.path, what)),
        };
        let files: Vec<Piece> = pieces.iter().map(open).collect::<Result<_>>()?;
        let held = match (backend, files.as_slice()) {
            _ if bytes == 0 => Held::Empty,
            (Backend::Mmap, [only]) => {
                Held::Map(MmapOptions::new().len(bytes).map_raw_read_only(&only.file).map_err(Error::io(&only.path))?)
            }
            (Backend::Mmap, files) => Held::Maps(Maps::new(files, bytes)?),
            (Backend::Ram, _) => {
                let (memory, files) = (Buffer::take(bytes)?, PiecedFile::new(files));
                // SAFETY: the buffer holds `bytes` initialised bytes that nobody else knows of yet.
                let target = unsafe { std::slice::from_raw_parts_mut(memory.as_ptr(), bytes) };
                for (number, piece) in target.chunks_mut(READ_BYTES).enumerate() {
                    files.read_exact_at(piece, (number * READ_BYTES) as u64)?;
                    if interrupted() {
                        return Err(Error::Interrupted);
                    }
                }
                Held::Memory(memory)
            }
            (Backend::Pread, _) if number * pieces.len() < HELD_OPEN => Held::Files(PiecedFile::new(files)),
            (Backend::Pread, _) => {
                let identity = |piece: &Piece| identity(&piece.file).map_err(Error::io(&piece.path));
                let identities = files.iter().map(identity).collect::<Result<_>>()?;
                Held::Reopened(Unheld { root: root.to_path_buf(), pieces, identities, grows })
            }
        };
        Ok(Self { held, row_bytes, rows })
    }

    /// A column whose rows have no bytes.
    pub fn empty(rows: usize) -> Self {
        Self { held: Held::Empty, row_bytes: 0, rows }
    }

    /// The column, for a gather.
    pub fn column(&self) -> Column<'_> {
        let memory = match &self.held {
            Held::Empty => std::ptr::dangling(),
            Held::Map(map) => map.as_ptr(),
            Held::Maps(maps) => maps.start.cast_const().cast(),
            Held::Memory(memory) => memory.as_ptr(),
            Held::Files(files) => return Column::in_files(files, self.row_bytes, self.rows),
            Held::Reopened(files) => return Column::in_reopened(files, self.row_bytes, self.rows),
        };
        // SAFETY: the maps or the buffer are as long as `row_bytes * rows` (checked against the files' lengths when they were opened)
        // and live as long as `self`. If someone shortens a file afterwards a read raises SIGBUS, which is documented; `ram`
        // and `pread` do not depend on it.
        unsafe { Column::in_memory(memory, self.row_bytes, self.rows) }
    }
}
