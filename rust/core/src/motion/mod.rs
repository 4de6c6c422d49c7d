//! Motion at any time: clips between their frames, seen from the world, the robot or the anchor.
// What is compiled for the machine's vectors has to be inlined into the function that is; and a quaternion's numbers have names.
// Loops over a vector's few rows are loops, not closures, for the same reason.
#![allow(clippy::inline_always, clippy::many_single_char_names, clippy::needless_range_loop)]

mod blend;
mod block;
mod groups;
mod lanes;
mod lookup;
mod mix;
mod picks;
mod runs;
mod slerp;
mod source;
mod time;
mod turn;
#[cfg(target_arch = "x86_64")]
mod wide;

pub use blend::Orders;
pub use lookup::{Anchor, Frame, Motion, Request};
pub use mix::{Kind, Piece};
pub use runs::Run;
pub use source::{Key, Numbers};
pub use time::{Clip, Moment, TOLERANCE, clips_of};
