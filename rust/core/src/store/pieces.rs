//! In which files of a store that was added to the bytes of a column lie.

use std::path::{Path, PathBuf};

use super::column::{Kind, column_path};
use super::manifest::{ColumnEntry, Manifest};

/// A file that a generation adds to a column begins at a multiple of so many of the column's bytes: the files are mapped behind one
/// another, and pages have at most so many. What lies between there and the end of the file before is in both.
const ALIGNED_TO: u64 = 64 << 10;

/// A file of a column.
#[derive(Debug, Clone)]
pub(super) struct ColumnPiece {
    pub path: PathBuf,
    /// Which of the column's bytes is its first.
    pub begin: u64,
    /// Bytes that it has.
    pub bytes: u64,
}

/// Where the file begins that is added to a column of so many bytes.
pub(super) fn begin_of_next(bytes: u64) -> u64 {
    bytes - bytes % ALIGNED_TO
}

/// The files of a column, the first one first.
pub(super) fn pieces(store: &Path, manifest: &Manifest, column: &ColumnEntry) -> Vec<ColumnPiece> {
    let rows = if column.kind == Kind::State { manifest.num_states } else { manifest.num_transitions };
    let row_bytes = column.bytes.checked_div(rows).unwrap_or(0);
    let mut end = 0;
    let generations = manifest.all_generations().into_iter().zip(manifest.data_dirs(store));
    let piece = |(generation, data_dir): (super::manifest::Generation, PathBuf)| {
        let rows = if column.kind == Kind::State { generation.num_states } else { generation.num_transitions };
        let begin = begin_of_next(end);
        // No more than all the column's, of which the manifest was checked to have as many as it says.
        end = rows * row_bytes;
        ColumnPiece { path: column_path(&data_dir, column.kind, &column.key), begin, bytes: end - begin }
    };
    generations.map(piece).collect()
}
