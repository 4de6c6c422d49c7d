//! The store on disk: format, build protocol, reading, verification. `docs/store-format.md` describes the format.

mod build;
mod checksum;
mod column;
mod column_file;
mod fields;
pub(crate) mod files;
mod foreign;
mod growing;
mod history;
mod leftovers;
mod lent;
mod lock;
#[cfg_attr(fuzzing, expect(missing_docs, reason = "public for the fuzzers alone"))]
mod manifest;
mod map;
mod names;
mod pieces;
mod reader;
mod tensordict;
mod trajectory;
mod verify;
mod writer;

pub use build::Build;
pub use column::{ColumnSpec, DType, Key, Kind, show};
pub use fields::Field;
pub(crate) use files::sync_directory;
pub use growing::{GrowingStore, grows};
pub use history::{FramePart, History};
pub use leftovers::repair;
pub use lent::Lent;
pub use manifest::View;
pub(crate) use map::AppendedFile;
pub use map::Backend;
pub use reader::{Store, gather_memory};
pub use trajectory::{Array, Trajectory};
pub use verify::{Damage, verify};
pub use writer::StoreWriter;
#[cfg(fuzzing)]
pub use {checksum::of as crc32c, manifest::Manifest};

/// Name of the file that makes a directory a store.
const MANIFEST: &str = "manifest.json";
/// The manifest before it is renamed into place.
const UNPUBLISHED: &str = "manifest.json.new";
/// The file that a build holds locked.
const LOCK: &str = ".lock";
/// Prefix of the directories that hold one generation of data each.
const DATA_PREFIX: &str = "data-";
/// Segment table within the data directory: little-endian int64, row by row task id, trajectory id, number of transitions.
const SEGMENTS: &str = "segments.i64";
/// Columns of the segment table.
const SEGMENT_FIELDS: usize = 3;
/// `TensorDict` metadata of a directory.
const META: &str = "meta.json";
/// Names within the data directory.
const NAMES: &str = "names.json";
/// The names of a store that grows, line by line.
const NAMES_LOG: &str = "names.log";
/// Within the data directory of a store that grows: what has not become columns yet.
const JOURNAL: &str = "journal";
/// Columns of a build, or of a store read with `pread`, whose file stays open: a process may have only so many, often 1,024.
/// The others' are opened whenever there is something to write or to read.
const HELD_OPEN: usize = 128;
