//! How a file of a store is opened and how one is written: everything in this room comes here for it.
//!
//! A store may come from anywhere, so what is opened is a regular file and never a link, a pipe is not waited for, and no more
//! bytes are read than were asked for. What is written is new, so a link that lies in its place is not written through.

use std::cmp::Ordering;
use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};

use crate::{Error, Result};

/// Bytes of the largest JSON file that is read or published: the checksums of 300 TB, or ten million names.
pub(crate) const LARGEST_JSON: u64 = 1 << 30;

/// Why a file was not opened or not read.
#[derive(Debug)]
pub(crate) enum Refusal {
    Missing,
    /// It, or a directory on the way to it.
    Link(PathBuf),
    Irregular,
    Length {
        expected: u64,
        found: u64,
    },
    TooLong {
        found: u64,
        most: u64,
    },
    TooShort {
        found: u64,
        least: u64,
    },
    NoMemory(u64),
    System(io::Error),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => write!(f, "is missing"),
            Self::Link(_) => write!(f, "is a symbolic link"),
            Self::Irregular => write!(f, "is not a regular file"),
            Self::Length { expected, found } => write!(f, "expected {expected} bytes, found {found}"),
            Self::TooLong { found, most } => write!(f, "expected at most {most} bytes, found {found}"),
            Self::TooShort { found, least } => write!(f, "expected at least {least} bytes, found {found}"),
            Self::NoMemory(bytes) => write!(f, "no memory for its {bytes} bytes"),
            Self::System(error) => write!(f, "{error}"),
        }
    }
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Self {
        match error.raw_os_error() {
            Some(libc::ENOENT | libc::ENOTDIR | libc::ENAMETOOLONG) => Self::Missing,
            // A socket.
            Some(libc::ENXIO) => Self::Irregular,
            _ => Self::System(error),
        }
    }
}

impl Refusal {
    /// The error to raise about the file at `path`, which should have been `what`.
    pub fn about(self, path: &Path, what: &str) -> Error {
        match self {
            Self::System(error) => Error::io(path)(error),
            Self::NoMemory(_) => Error::OutOfMemory(format!("{}: {what}: {self}", path.display())),
            Self::Link(ref link) if link != path => Error::Corrupt(format!("{}: {self}", link.display())),
            Self::Length { .. } | Self::TooLong { .. } | Self::TooShort { .. } => {
                Error::Corrupt(format!("{}: {what}: {self}", path.display()))
            }
            _ => Error::Corrupt(format!("{}: {what} {self}", path.display())),
        }
    }
}

fn unlinked(options: &mut OpenOptions, path: &Path) -> std::result::Result<File, Refusal> {
    let file =
        options.custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC | libc::O_NONBLOCK).open(path).map_err(|error| {
            match error.raw_os_error() {
                Some(libc::ELOOP) => Refusal::Link(path.to_path_buf()),
                _ => error.into(),
            }
        })?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(Refusal::Irregular) }
}

/// Open a regular file below `root` for reading; neither it nor a directory between the two may be a link.
pub(super) fn open(root: &Path, path: &Path) -> std::result::Result<File, Refusal> {
    let directories = path.parent().and_then(|parent| parent.strip_prefix(root).ok()).unwrap_or(Path::new(""));
    let mut directory = root.to_path_buf();
    for name in directories.components() {
        // A name alone leads further down.
        if !matches!(name, Component::Normal(_)) {
            return Err(Refusal::Irregular);
        }
        directory.push(name);
        if fs::symlink_metadata(&directory)?.is_symlink() {
            return Err(Refusal::Link(directory));
        }
    }
    unlinked(File::options().read(true), path)
}

/// Open a file of an expected length; one that grows may be longer.
pub(super) fn open_of_length(
    root: &Path,
    path: &Path,
    expected: u64,
    grows: bool,
) -> std::result::Result<File, Refusal> {
    let file = open(root, path)?;
    let found = file.metadata()?.len();
    match found.cmp(&expected) {
        Ordering::Equal => Ok(file),
        Ordering::Greater if grows => Ok(file),
        Ordering::Less if grows => Err(Refusal::TooShort { found, least: expected }),
        _ => Err(Refusal::Length { expected, found }),
    }
}

/// Open a file of at most so many bytes.
pub(super) fn open_within(root: &Path, path: &Path, most: u64) -> std::result::Result<File, Refusal> {
    let file = open(root, path)?;
    let found = file.metadata()?.len();
    if found <= most { Ok(file) } else { Err(Refusal::TooLong { found, most }) }
}

/// Read a whole file of at most so many bytes.
pub(crate) fn read(root: &Path, path: &Path, most: u64) -> std::result::Result<Vec<u8>, Refusal> {
    let file = open_within(root, path, most)?;
    let length = file.metadata()?.len();
    let mut bytes = Vec::new();
    usize::try_from(length)
        .ok()
        .and_then(|length| bytes.try_reserve_exact(length).ok())
        .ok_or(Refusal::NoMemory(length))?;
    file.take(length).read_to_end(&mut bytes)?;
    let found = bytes.len() as u64;
    if found == length { Ok(bytes) } else { Err(Refusal::Length { expected: length, found }) }
}

/// Open, or make, the file that a build holds locked.
pub(super) fn open_lock(path: &Path) -> Result<File> {
    unlinked(File::options().read(true).write(true).create(true).truncate(false), path)
        .map_err(|refusal| refusal.about(path, "the lock file"))
}

/// Open a file of a build to write more at its end.
pub(super) fn open_to_append(path: &Path) -> Result<File> {
    unlinked(File::options().append(true), path).map_err(|refusal| refusal.about(path, "a column in the making"))
}

/// Open a file that was being written when its writer died: what lies beyond the first `bytes` bytes is cut off.
pub(super) fn open_to_resume(path: &Path, bytes: u64, what: &str) -> Result<File> {
    let refused = |refusal: Refusal| refusal.about(path, what);
    // One that was about to be sealed is read-only.
    unlinked(File::options().read(true), path)
        .and_then(|file| Ok(file.set_permissions(fs::Permissions::from_mode(0o644))?))
        .map_err(refused)?;
    let file = unlinked(File::options().append(true), path).map_err(refused)?;
    let found = file.metadata().map_err(Error::io(path))?.len();
    if found < bytes {
        return Err(refused(Refusal::TooShort { found, least: bytes }));
    }
    file.set_len(bytes).map_err(Error::io(path))?;
    Ok(file)
}

/// Whether anything is there, be it a link to nowhere.
pub(super) fn is_there(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok()
}

/// Write a new file and bring it to disk.
pub(super) fn write_durably(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut file = File::create_new(path).map_err(Error::io(path))?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(Error::io(path))
}

/// Put a file in its place in one rename, after it was brought to disk under another name; the directory is left to the caller.
pub(crate) fn replace_durably(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut new = path.as_os_str().to_os_string();
    new.push(".new");
    let new = PathBuf::from(new);
    if is_there(&new) {
        fs::remove_file(&new).map_err(Error::io(&new))?;
    }
    write_durably(&new, bytes)?;
    fs::rename(&new, path).map_err(Error::io(path))
}

/// Bring the names in a directory to disk.
pub(crate) fn sync_directory(path: &Path) -> Result<()> {
    File::open(path).and_then(|directory| directory.sync_all()).map_err(Error::io(path))
}

/// The same for a directory and all below it, the inner ones first.
pub(super) fn sync_directories(path: &Path) -> Result<()> {
    for entry in fs::read_dir(path).map_err(Error::io(path))? {
        let entry = entry.map_err(Error::io(path))?;
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            sync_directories(&entry.path())?;
        }
    }
    sync_directory(path)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn only_regular_files_of_the_length_asked_for() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        fs::create_dir(root.join("inner")).unwrap();
        fs::write(root.join("inner/file"), "12345").unwrap();
        symlink(root.join("inner/file"), root.join("link")).unwrap();
        symlink(root.join("inner"), root.join("elsewhere")).unwrap();
        symlink("/nowhere", root.join("dangling")).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(root.join("socket")).unwrap();

        let file = root.join("inner/file");
        assert_eq!(read(root, &file, 5).unwrap(), b"12345");
        assert!(matches!(read(root, &file, 4), Err(Refusal::TooLong { found: 5, most: 4 })));
        assert!(matches!(open_of_length(root, &file, 6, false), Err(Refusal::Length { expected: 6, found: 5 })));
        assert!(matches!(open_of_length(root, &file, 4, false), Err(Refusal::Length { expected: 4, found: 5 })));
        assert!(matches!(open_of_length(root, &file, 6, true), Err(Refusal::TooShort { least: 6, found: 5 })));
        assert!(open_of_length(root, &file, 4, true).is_ok());
        assert!(matches!(open(root, &root.join("link")), Err(Refusal::Link(_))));
        assert!(matches!(open(root, &root.join("dangling")), Err(Refusal::Link(_))));
        let Err(Refusal::Link(link)) = open(root, &root.join("elsewhere/file")) else { panic!("followed") };
        assert_eq!(link, root.join("elsewhere"));
        assert!(matches!(open(root, &root.join("inner")), Err(Refusal::Irregular)));
        assert!(matches!(open(root, &root.join("socket")), Err(Refusal::Irregular)));
        assert!(matches!(open(&root.join("inner"), &root.join("inner/../inner/file")), Err(Refusal::Irregular)));
        assert!(matches!(open(root, &root.join("none")), Err(Refusal::Missing)));
        assert!(matches!(open(root, &root.join("inner/file/below")), Err(Refusal::Missing)));
        // The path to the store itself may well lead over links.
        assert!(open(&root.join("elsewhere"), &root.join("elsewhere/file")).is_ok());
    }

    #[test]
    fn nothing_is_written_through_a_link() {
        let directory = tempfile::tempdir().unwrap();
        let (target, link) = (directory.path().join("target"), directory.path().join("link"));
        symlink(&target, &link).unwrap();
        assert!(write_durably(&link, b"x").is_err());
        assert!(matches!(open_lock(&link), Err(Error::Corrupt(_))));
        assert!(matches!(open_to_resume(&link, 0, "a column"), Err(Error::Corrupt(_))));
        assert!(!target.exists());
    }
}
