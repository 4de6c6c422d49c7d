//! The part of `iltools_datasets` that is measured: the store on disk, index generation, the gather and the look-up of motion.
//!
//! Nothing here knows Python. `unsafe` lives where memory is handled: `store/map.rs` (mapping files), `slab.rs` (aligned output
//! memory), `part.rs`, `gather.rs`, `frames.rs`, `frame_output.rs`, `row_copy.rs` and `streaming.rs` (copying rows) and the two functions of `store/reader.rs`
//! that hand addresses to them; `motion/` but for its rules of time and turns (mixing rows of the same columns, in the machine's
//! vectors); in `job.rs`, where helpers borrow the caller's work; and around the system calls of
//! `thread_core.rs`.
#![deny(unsafe_code)]

pub mod error;
mod frame_output;
mod frames;
pub mod gather;
mod helpers;
pub mod index;
mod job;
pub mod lookahead;
pub mod memory;
pub mod motion;
pub mod parallel;
pub mod part;
pub mod pieced_file;
pub mod recording;
mod row_copy;
mod row_read;
pub mod segment;
pub mod slab;
pub mod store;
mod streaming;
mod thread_core;
pub mod tracking;
mod watch;

pub use error::{Error, Result};
pub use frames::Frames;
