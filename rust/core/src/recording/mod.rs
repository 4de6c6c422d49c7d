//! Roll-outs while they are made: a journal of steps, which episodes they form, and the store that grows out of them.
//!
//! `docs/store-format.md` describes what lies on disk.

mod episodes;
mod growth;
mod journal;
mod journal_files;
mod layout;
mod progress;
mod reader;
mod recorder;
mod records;
mod repair;
mod replay;
mod saving;

pub use episodes::{DATA, Episode, LEFT_OUT, Last, Missing};
pub use growth::Pace;
pub use journal::Unsynced;
pub use layout::Layout;
pub use progress::{Ending, Progress, State};
pub use recorder::{KNOWN, Recorder, TERMINATED, TRUNCATED};
pub use records::{End, Shape};
pub use repair::repair;
pub use saving::Saving;
