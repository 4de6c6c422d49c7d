//! What every index generator can do.

use std::sync::Arc;

use super::slices::{Cut, Drawn};
use crate::Result;

/// How many items a caller asks of an index stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Draw {
    /// That many; at the end of an epoch they go on into the next. Cursors give one per env, whatever the number.
    Batch(usize),
    /// That many, or what the rank's share of the rest of the epoch is: see `Share::round`.
    WithinEpoch(usize),
}

/// All that decides, beside where a stream stands, what it gives next. Whoever runs ahead compares it: what was made for
/// another ask is of no use.
#[derive(Debug, Clone)]
pub struct Ask {
    /// How many items.
    pub draw: Draw,
    /// Where slices are asked for: how they are cut from what the items are.
    pub cut: Option<Arc<Cut>>,
}

impl PartialEq for Ask {
    fn eq(&self, other: &Self) -> bool {
        self.draw == other.draw && self.cut.as_ref().map(Arc::as_ptr) == other.cut.as_ref().map(Arc::as_ptr)
    }
}

/// A generator of indices that can be copied, so that somebody can run ahead of it.
pub trait IndexStream: Clone + Send + 'static {
    /// Tells where a stream stands: two positions of one stream are equal exactly if the same indices follow.
    type Position: PartialEq + Send + std::fmt::Debug;

    /// Where the stream stands.
    fn position(&self) -> Self::Position;

    /// The next indices. Where there is no memory for them the stream stands where it stood.
    fn draw(&mut self, ask: &Ask) -> Result<Drawn>;
}
