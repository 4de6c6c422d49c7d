//! Motion at any time: clips between their frames, seen from the world, the robot or the anchor.

mod block;
mod lanes;
mod lookup;
mod mix;
mod slerp;
mod source;
mod time;
mod turn;

pub use lookup::{Anchor, Frame, Motion, Request};
pub use mix::{Kind, Orders, Piece};
pub use source::{Key, Numbers, Run};
pub use time::{Clip, Moment, TOLERANCE, clips_of};
