//! What is drawn from: all transitions, or the union of some segments.

use std::sync::Arc;

use crate::memory::with_room;
use crate::segment::{Locator, SegmentTable};
use crate::{Error, Result};

/// What a shuffle or a uniform draw runs over: items 0..total, each of which is one transition.
#[derive(Debug, Clone)]
pub struct Domain {
    total: i64,
    /// Where the items are not the transitions themselves: the first item of each chosen segment, and what to add to its
    /// items to get their transitions.
    chosen: Option<Arc<Locator<[i64; 2]>>>,
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
        let mut unique = with_room(positions.len())?;
        for &k in positions {
            unique.push(table.check_position(k)?);
        }
        unique.sort_unstable();
        unique.dedup();
        let mut total = 0;
        let mut runs: Vec<[i64; 2]> = with_room(unique.len())?;
        for k in unique {
            // Segments that lie back to back are one run of items: all segments of a store are, and need no look-up.
            let offset = table.start()[k] - total;
            if runs.last().is_none_or(|run| run[1] != offset) {
                runs.push([total, offset]);
            }
            total += table.length()[k];
        }
        let chosen = if runs == [[0, 0]] { None } else { Some(Arc::new(Locator::new(runs)?)) };
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
                *item += chosen.locate(*item).1[1];
            }
        }
    }
}
