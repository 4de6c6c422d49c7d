//! The store on disk: format, build protocol, reading, verification. `docs/store-format.md` describes the format.

mod checksum;
mod column;
mod column_file;
mod leftovers;
mod lock;
#[cfg_attr(fuzzing, expect(missing_docs, reason = "public for the fuzzers alone"))]
mod manifest;
mod map;
mod reader;
mod tensordict;
mod verify;
mod writer;

pub use column::{ColumnSpec, DType, Field, Key, Kind, show};
pub use leftovers::repair;
pub use reader::{Backend, Store, gather_memory};
pub use verify::{Damage, verify};
pub use writer::{Array, StoreWriter};
#[cfg(fuzzing)]
pub use {checksum::of as crc32c, manifest::Manifest};

/// Name of the file that makes a directory a store.
const MANIFEST: &str = "manifest.json";
/// Prefix of the directories that hold one generation of data each.
const DATA_PREFIX: &str = "data-";
