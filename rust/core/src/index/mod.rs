//! Index generators: they write global transition indices; their whole state is a few integers.

mod cursors;
mod permutation;
mod share;
mod shuffle;
mod uniform;
mod windows;

pub use cursors::SequentialCursors;
pub use permutation::Permutation;
pub use share::{Block, Share};
pub use shuffle::EpochShuffle;
pub use uniform::UniformDraws;
pub use windows::{Boundary, WindowRows, window_rows};

use std::sync::Arc;

use crate::segment::{Locator, SegmentTable};
use crate::{Error, Result};

/// What a shuffle or a uniform draw runs over: items 0..total, each of which is one transition.
#[derive(Debug, Clone)]
pub struct Domain {
    total: i64,
    /// Where the items are not the transitions themselves: the chosen segments, one after another.
    chosen: Option<Arc<Chosen>>,
}

#[derive(Debug)]
struct Chosen {
    /// First item of each chosen segment.
    items: Locator,
    /// What to add to an item of each chosen segment to get its transition index.
    offset: Vec<i64>,
}

impl Domain {
    /// All transitions 0..total.
    pub fn all(total: i64) -> Result<Self> {
        if total < 1 {
            return Err(Error::Invalid(format!("nothing to draw from: {total} transitions")));
        }
        Ok(Self { total, chosen: None })
    }

    /// The union of some segments; one that is named twice counts once.
    pub fn segments(table: &SegmentTable, positions: &[i64]) -> Result<Self> {
        let mut unique = positions.iter().map(|&k| table.check_position(k)).collect::<Result<Vec<_>>>()?;
        unique.sort_unstable();
        unique.dedup();
        let mut total = 0;
        let (mut first, mut offset) = (Vec::with_capacity(unique.len()), Vec::with_capacity(unique.len()));
        for k in unique {
            // Segments that lie back to back are one run of items: all segments of a store are, and need no look-up.
            if offset.last() != Some(&(table.start()[k] - total)) {
                first.push(total);
                offset.push(table.start()[k] - total);
            }
            total += table.length()[k];
        }
        let chosen = (offset != [0]).then(|| Arc::new(Chosen { items: Locator::new(first), offset }));
        Ok(Self { chosen, ..Self::all(total)? })
    }

    /// Number of items.
    pub fn total(&self) -> i64 {
        self.total
    }

    /// Replace items by their transitions.
    fn to_transitions(&self, items: &mut [i64]) {
        if let Some(chosen) = &self.chosen {
            for item in items {
                // Items are within 0..total, so a segment is always found; the first one otherwise.
                *item += chosen.offset[chosen.items.find(*item).unwrap_or(0)];
            }
        }
    }
}

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

/// A well-mixed 64-bit function of a 64-bit value: the finaliser of `SplitMix64` (Steele, Lea and Flood 2014).
#[inline]
pub(crate) fn mix(mut value: u64) -> u64 {
    value = value.wrapping_add(0x9E37_79B9_7F4A_7C15);
    value = (value ^ (value >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    value = (value ^ (value >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    value ^ (value >> 31)
}
