//! What is drawn from: all transitions, or the union of some segments.

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
    pub(super) fn to_transitions(&self, items: &mut [i64]) {
        if let Some(chosen) = &self.chosen {
            for item in items {
                // Items are within 0..total, so a segment is always found; the first one otherwise.
                *item += chosen.offset[chosen.items.find(*item).unwrap_or(0)];
            }
        }
    }
}
