//! One error type; each variant becomes one exception class in Python.

use std::io;
use std::path::{Path, PathBuf};

/// Result with this crate's error.
pub type Result<T> = std::result::Result<T, Error>;

/// What can go wrong, by what the caller can do about it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operating system refused.
    #[error("{path}: {source}", path = path.display())]
    Io {
        /// File or directory concerned.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// There is no store at the path.
    #[error("{0}")]
    NotFound(String),
    /// A store is there and overwriting was not asked for.
    #[error("{0}")]
    Exists(String),
    /// Another process builds here.
    #[error("{0}")]
    Busy(String),
    /// Bytes on disk are not what was written.
    #[error("{0}")]
    Corrupt(String),
    /// Another build has taken the place of the one asked about.
    #[error("{0}")]
    Changed(String),
    /// Written by a format version this code does not read.
    #[error("{0}")]
    Version(String),
    /// Trajectories disagree, or a key cannot be stored.
    #[error("{0}")]
    Schema(String),
    /// A key that is asked for is not there.
    #[error("{0}")]
    MissingKey(String),
    /// The same trajectory twice.
    #[error("{0}")]
    Duplicate(String),
    /// No such (task, trajectory).
    #[error("{0}")]
    UnknownSegment(String),
    /// An index, step or env outside what exists.
    #[error("{0}")]
    OutOfRange(String),
    /// A saved state that cannot be.
    #[error("{0}")]
    State(String),
    /// An argument that makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// No memory of this size is to be had.
    #[error("{0}")]
    OutOfMemory(String),
    /// The caller's interrupt check asked to stop.
    #[error("interrupted")]
    Interrupted,
}

impl Error {
    /// Attach a path to a system error.
    pub fn io(path: impl AsRef<Path>) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { path: path.as_ref().to_path_buf(), source }
    }
}
