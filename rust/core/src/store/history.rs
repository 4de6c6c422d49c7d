//! Keys that are stored as single frames and read as histories of them.

use serde::{Deserialize, Serialize};

use super::column::{ColumnSpec, Key, Kind, check_key, show};
use crate::{Error, Frames, Result};

/// A key whose rows are stacks of frames: what a column holds of a state and of those before it in the same trajectory, part by
/// part, of each part one frame behind the other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct History {
    /// Its own key.
    pub key: Key,
    /// The column's, which has a row per state.
    pub source: Key,
    /// What of the column's row a frame is.
    pub parts: Vec<FramePart>,
    /// Frames of each part.
    pub length: usize,
    /// `"newest_first"` or `"oldest_first"`.
    pub order: String,
    /// What stands before a trajectory's first state: `"zero"`, or `"first"`, that state's own frame.
    pub pad: String,
    /// How many states before the one that is asked for the newest frame is: 0 or 1.
    pub lag: usize,
}

/// Elements of a row that belong together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FramePart {
    /// First of them within the column's row.
    pub offset: usize,
    /// Their number.
    pub width: usize,
}

impl History {
    /// How the frames are put together, of one of these columns, and that column's position.
    pub(super) fn frames(&self, specs: &[ColumnSpec]) -> Result<(usize, Frames)> {
        let refuse = |why: String| Error::Schema(format!("history {}: {why}", show(&self.key)));
        check_key(&self.key)?;
        let found = specs.iter().position(|spec| spec.key == self.source);
        let column = found.ok_or_else(|| refuse(format!("no column {}", show(&self.source))))?;
        let spec = &specs[column];
        if spec.kind != Kind::State {
            return Err(refuse(format!(
                "source: expected a column with a row per state, found {}",
                show(&self.source)
            )));
        }
        let there = spec.row_bytes()? / spec.dtype.size();
        let part = |part: &FramePart| {
            let end = part.offset.checked_add(part.width).filter(|&end| end <= there);
            end.map(|end| part.offset * spec.dtype.size()..end * spec.dtype.size()).ok_or_else(|| {
                let FramePart { offset, width } = part;
                refuse(format!("parts: {width} elements from {offset} of {there} in a row of {}", show(&self.source)))
            })
        };
        let parts = self.parts.iter().map(part).collect::<Result<_>>()?;
        let oldest_first =
            one_of(&self.order, ["newest_first", "oldest_first"]).map_err(|why| refuse(format!("order: {why}")))?;
        let repeats_first = one_of(&self.pad, ["zero", "first"]).map_err(|why| refuse(format!("pad: {why}")))?;
        let frames = Frames::new(parts, self.length, self.lag, oldest_first, repeats_first);
        frames.map(|frames| (column, frames)).map_err(|error| refuse(error.to_string()))
    }
}

/// Whether a word is the second of two.
fn one_of(found: &str, [first, second]: [&str; 2]) -> std::result::Result<bool, String> {
    if found == first || found == second {
        Ok(found == second)
    } else {
        Err(format!("expected {first:?} or {second:?}, found {found:?}"))
    }
}
