//! Start number n of a rank: from the seed, the rank, n and the table alone.

use super::base::Base;
use super::bins::Bins;
use super::table::Table;
use crate::Result;
use crate::index::{Numbers, mix};
use crate::memory::with_room;

/// A place to start from.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Start {
    /// Its bin.
    pub bin: usize,
    /// Seconds from the clip's first frame.
    pub seconds: f64,
}

/// What starts are made of, besides the table.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Draws {
    /// Of all ranks.
    pub seed: u64,
    /// This one.
    pub rank: u32,
    /// Of how many.
    pub world_size: u32,
    /// Share of the starts that go through the bins in turn.
    pub uniform: f64,
    /// Whether a start may lie between frames.
    pub any_time: bool,
}

impl Draws {
    /// The same for another purpose, with other numbers.
    #[must_use]
    pub fn apart(self) -> Self {
        Self { seed: mix(self.seed ^ 0x6576_616C_7561_7465), ..self }
    }

    /// How many of the first n starts go in turn.
    pub fn turns(&self, n: u64) -> u64 {
        (self.uniform * n as f64).floor() as u64
    }

    /// Starts number `first` and those that follow.
    ///
    /// Over a million bins each of them waits for memory a few times, so all go one part of the way, then the next.
    pub fn starts(&self, first: u64, count: usize, bins: &Bins, base: &mut Base, table: &Table) -> Result<Vec<Start>> {
        let mut ways = with_room(count)?;
        for n in (first..).take(count) {
            let mut fractions = Numbers::new(self.seed ^ mix(u64::from(self.rank)), n.wrapping_mul(2)).fractions();
            let (which, place) = (fractions.next().unwrap_or(0.0), fractions.next().unwrap_or(0.0));
            let turn = self.turns(n);
            let drawn = if self.turns(n + 1) > turn { None } else { table.drawn() };
            ways.push((drawn.map(|drawn| (drawn, drawn.narrow(which))), turn, place));
        }
        let mut starts = with_room(count)?;
        for (drawn, turn, place) in ways {
            let bin = match drawn {
                Some((drawn, narrowed)) => drawn.search(narrowed),
                // The ranks go through one order together, each by steps of their number.
                None => base.turn(self.seed, u64::from(self.rank) + turn.wrapping_mul(u64::from(self.world_size))),
            };
            starts.push(Start { bin, seconds: place });
        }
        for Start { bin, seconds } in &mut starts {
            *seconds = if self.any_time { bins.start_time(*bin, *seconds) } else { bins.start_frame(*bin, *seconds) };
        }
        Ok(starts)
    }
}
