//! The bytes of a column: mapped, held in memory, or left in the file.
#![allow(unsafe_code)]

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use memmap2::{MmapOptions, MmapRaw};

use crate::part::Column;
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
}

/// Open a file for reading unless it is a link; does not wait for the other end of a pipe.
fn open_unlinked(path: &Path) -> std::io::Result<File> {
    File::options().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC | libc::O_NONBLOCK).open(path)
}

/// Open a regular file for reading, or say in words why not.
pub fn open_regular(path: &Path) -> std::result::Result<File, String> {
    let file = open_unlinked(path).map_err(|error| match error.raw_os_error() {
        Some(libc::ELOOP) => "is a symbolic link".to_owned(),
        _ => error.to_string(),
    })?;
    match file.metadata() {
        Ok(metadata) if metadata.is_file() => Ok(file),
        Ok(_) => Err("is not a regular file".into()),
        Err(error) => Err(error.to_string()),
    }
}

/// Open a file of an expected length for reading; a link, a directory or another length is refused.
pub fn open_exactly(path: &Path, expected: u64, what: &str) -> Result<File> {
    let file = open_unlinked(path).map_err(|error| match error.raw_os_error() {
        Some(libc::ENOENT) => Error::Corrupt(format!("{}: {what} is missing", path.display())),
        Some(libc::ELOOP) => Error::Corrupt(format!("{}: {what} is a symbolic link", path.display())),
        _ => Error::io(path)(error),
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

/// A column's own file is opened without following links; the directories on the way to it are looked at here.
pub fn refuse_linked_directories(data_dir: &Path, file: &Path) -> Result<()> {
    let below = file.strip_prefix(data_dir).unwrap_or(file).parent().into_iter().flat_map(Path::components);
    let mut directory = data_dir.to_path_buf();
    for component in std::iter::once(None).chain(below.map(Some)) {
        directory.extend(component);
        let linked = std::fs::symlink_metadata(&directory).is_ok_and(|metadata| metadata.is_symlink());
        if linked {
            return Err(Error::Corrupt(format!("{}: is a symbolic link", directory.display())));
        }
    }
    Ok(())
}

impl ColumnBytes {
    /// Open a column's file, whose length must be `row_bytes * rows`.
    pub fn open(
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
                for piece in target.chunks_mut(READ_BYTES) {
                    file.read_exact(piece).map_err(Error::io(&path))?;
                    if interrupted() {
                        return Err(Error::Interrupted);
                    }
                }
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
