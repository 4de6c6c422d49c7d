//! Without replacement: every item exactly once per epoch.

use super::{Domain, Draw, IndexStream, Permutation};
use crate::{Error, Result};

/// A shuffle whose whole state is (seed, epoch, position).
#[derive(Debug, Clone)]
pub struct EpochShuffle {
    domain: Domain,
    seed: u64,
    epoch: u64,
    position: i64,
    /// `None` keeps the natural order.
    permutation: Option<Permutation>,
}

impl EpochShuffle {
    /// Start at `position` (0..=total) of `epoch`; without `shuffle` items come in their natural order.
    pub fn new(domain: Domain, seed: u64, epoch: u64, position: i64, shuffle: bool) -> Result<Self> {
        let permutation = shuffle.then(|| Permutation::new(domain.total() as u64, seed, epoch));
        let mut this = Self { domain, seed, epoch, position: 0, permutation };
        this.restore(seed, epoch, position)?;
        Ok(this)
    }

    /// What is shuffled.
    pub fn domain(&self) -> &Domain {
        &self.domain
    }

    /// Seed of all epochs.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// Epoch that the next item belongs to.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Items of this epoch already drawn.
    pub fn position(&self) -> i64 {
        self.position
    }

    /// Go to a saved position. Refuses one outside the epoch and then changes nothing.
    pub fn restore(&mut self, seed: u64, epoch: u64, position: i64) -> Result<()> {
        let total = self.domain.total();
        if !(0..=total).contains(&position) {
            return Err(Error::State(format!("position {position} is outside an epoch of {total} items")));
        }
        (self.seed, self.epoch, self.position) = (seed, epoch, position);
        self.rekey();
        if position == total {
            self.start_epoch(epoch.wrapping_add(1));
        }
        Ok(())
    }

    fn rekey(&mut self) {
        if self.permutation.is_some() {
            self.permutation = Some(Permutation::new(self.domain.total() as u64, self.seed, self.epoch));
        }
    }

    fn start_epoch(&mut self, epoch: u64) {
        (self.epoch, self.position) = (epoch, 0);
        self.rekey();
    }

    /// Fill `out` with the next items; what an epoch lacks comes from the next one.
    pub fn next(&mut self, out: &mut [i64]) {
        let mut filled = 0;
        while filled < out.len() {
            filled += self.next_within_epoch(&mut out[filled..]);
        }
    }

    /// Fill `out` with the next items of this epoch and return how many there were; at its end the next epoch begins.
    pub fn next_within_epoch(&mut self, out: &mut [i64]) -> usize {
        let count = out.len().min((self.domain.total() - self.position) as usize);
        let positions = self.position..self.position + count as i64;
        match &self.permutation {
            Some(permutation) => {
                for (slot, position) in out.iter_mut().zip(positions) {
                    *slot = self.domain.transition(permutation.get(position as u64) as i64);
                }
            }
            None => {
                for (slot, position) in out.iter_mut().zip(positions) {
                    *slot = self.domain.transition(position);
                }
            }
        }
        self.position += count as i64;
        if self.position == self.domain.total() {
            self.start_epoch(self.epoch.wrapping_add(1));
        }
        count
    }
}

impl IndexStream for EpochShuffle {
    type Position = (u64, u64, i64);

    fn position(&self) -> Self::Position {
        (self.seed, self.epoch, self.position)
    }

    fn draw(&mut self, draw: Draw) -> Vec<i64> {
        match draw {
            Draw::Batch(count) => {
                let mut out = vec![0; count];
                self.next(&mut out);
                out
            }
            Draw::WithinEpoch(count) => {
                let mut out = vec![0; count.min((self.domain.total() - self.position) as usize)];
                self.next_within_epoch(&mut out);
                out
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::segment::SegmentTable;

    proptest! {
        #[test]
        fn each_epoch_holds_every_item_once(total in 1_i64..300, batch in 1_usize..400, seed: u64) {
            let mut shuffle = EpochShuffle::new(Domain::all(total).unwrap(), seed, 0, 0, true).unwrap();
            let mut stream = vec![0; 3 * total as usize];
            for chunk in stream.chunks_mut(batch) {
                shuffle.next(chunk);
            }
            for epoch in stream.chunks_mut(total as usize) {
                epoch.sort_unstable();
                prop_assert!(epoch.iter().copied().eq(0..total));
            }
        }

        #[test]
        fn resumes_anywhere(total in 1_i64..300, before in 0_usize..900, seed: u64, shuffled: bool) {
            let mut shuffle = EpochShuffle::new(Domain::all(total).unwrap(), seed, 0, 0, shuffled).unwrap();
            shuffle.next(&mut vec![0; before]);
            let (seed, epoch, position) = (shuffle.seed(), shuffle.epoch(), shuffle.position());
            let mut resumed = EpochShuffle::new(shuffle.domain().clone(), seed, epoch, position, shuffled).unwrap();
            let (mut a, mut b) = (vec![0; 500], vec![0; 500]);
            shuffle.next(&mut a);
            resumed.next(&mut b);
            prop_assert_eq!(a, b);
        }
    }

    #[test]
    fn segments_are_drawn_as_their_union() {
        let table = SegmentTable::new(vec![0; 3], vec![0, 1, 2], vec![0, 10, 13], vec![10, 3, 7]).unwrap();
        let domain = Domain::segments(&table, &[2, 0, 2]).unwrap();
        let mut out = vec![0; 17];
        EpochShuffle::new(domain, 5, 0, 0, true).unwrap().next(&mut out);
        out.sort_unstable();
        assert!(out.into_iter().eq((0..10).chain(13..20)));
        assert!(Domain::segments(&table, &[3]).is_err());
        assert!(Domain::segments(&table, &[]).is_err());
    }

    #[test]
    fn impossible_position_changes_nothing() {
        let mut shuffle = EpochShuffle::new(Domain::all(10).unwrap(), 1, 0, 4, true).unwrap();
        assert!(shuffle.restore(2, 0, 11).is_err());
        assert!(shuffle.restore(2, 0, -1).is_err());
        assert_eq!((shuffle.seed(), shuffle.epoch(), shuffle.position()), (1, 0, 4));
    }
}
