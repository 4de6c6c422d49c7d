//! Roll-outs while they are made: a journal of steps, which episodes they form, and the store that grows out of them.
//!
//! `docs/store-format.md` describes what lies on disk.

mod episodes;
mod journal;
mod recorder;
mod records;

pub use episodes::{Episode, Last};

pub use recorder::{KNOWN, Recorder, TERMINATED, TRUNCATED};
pub use records::{End, Shape};
