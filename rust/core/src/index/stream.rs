//! What every index generator can do.

/// What a caller asks of an index stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Draw {
    /// That many indices; at the end of an epoch they go on into the next. Cursors give one per env, whatever the number.
    Batch(usize),
    /// That many, or what the rank's share of the rest of the epoch is: see `Share::round`.
    WithinEpoch(usize),
}

/// A generator of indices that can be copied, so that somebody can run ahead of it.
pub trait IndexStream: Clone + Send + 'static {
    /// Tells where a stream stands: two positions of one stream are equal exactly if the same indices follow.
    type Position: PartialEq + Send + std::fmt::Debug;

    /// Where the stream stands.
    fn position(&self) -> Self::Position;

    /// The next indices.
    fn draw(&mut self, draw: Draw) -> Vec<i64>;
}
