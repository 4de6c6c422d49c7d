//! Index generators: they write global transition indices; their whole state is a few integers.

mod cursors;
mod domain;
mod permutation;
mod share;
mod shuffle;
mod slices;
mod stream;
mod uniform;
mod window_table;
mod windows;

pub use cursors::SequentialCursors;
pub use domain::Domain;
pub use permutation::Permutation;
pub(crate) use permutation::mix;
pub use share::{Block, Share};
pub use shuffle::EpochShuffle;
pub use slices::{Cut, Drawn, Shape};
pub use stream::{Ask, Draw, IndexStream};
pub(crate) use uniform::Numbers;
pub use uniform::UniformDraws;
pub use windows::{Boundary, WindowRows, window_rows};
