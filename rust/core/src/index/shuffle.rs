//! Without replacement: every item exactly once per epoch.

use super::domain::Domain;
use super::permutation::Permutation;
use super::share::{Block, Share};
use super::stream::{Draw, IndexStream};
use crate::{Error, Result};

/// A shuffle whose whole state is (seed, epoch, position).
///
/// Where several ranks share it, each draws its blocks of the one order, and the position is that of all of them: what
/// one rank saved, any rank of any number continues.
#[derive(Debug, Clone)]
pub struct EpochShuffle {
    domain: Domain,
    share: Share,
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
        let mut this = Self { domain, share: Share::WHOLE, seed, epoch, position: 0, permutation };
        this.restore(seed, epoch, position)?;
        Ok(this)
    }

    /// The same shuffle, of which only a rank's blocks are drawn.
    #[must_use]
    pub fn shared(self, share: Share) -> Self {
        Self { share, ..self }
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

    /// Items of this epoch already drawn, by all ranks together.
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

    fn skip(&mut self, count: u128) {
        let total = self.domain.total() as u128;
        let position = self.position as u128 + count;
        self.position = (position % total) as i64;
        if position >= total {
            // Epochs are counted modulo 2^64.
            self.epoch = self.epoch.wrapping_add((position / total) as u64);
            self.rekey();
        }
    }

    /// Fill `out` with the items of a block; what an epoch lacks comes from the next one.
    fn fill(&mut self, block: Block) -> Vec<i64> {
        let mut out = vec![0; block.count];
        self.skip(block.before);
        let mut rest = out.as_mut_slice();
        while !rest.is_empty() {
            let left = (self.domain.total() - self.position) as usize;
            let (now, later) = rest.split_at_mut(left.min(rest.len()));
            self.write(now);
            self.skip(now.len() as u128);
            rest = later;
        }
        self.skip(block.behind);
        out
    }

    /// Write the items from here on, all of which are of this epoch.
    fn write(&self, out: &mut [i64]) {
        match &self.permutation {
            Some(permutation) => permutation.images(self.position as u64, out),
            None => out.iter_mut().zip(self.position..).for_each(|(slot, position)| *slot = position),
        }
        self.domain.to_transitions(out);
    }
}

impl IndexStream for EpochShuffle {
    type Position = (u64, u64, i64);

    fn position(&self) -> Self::Position {
        (self.seed, self.epoch, self.position)
    }

    fn draw(&mut self, draw: Draw) -> Vec<i64> {
        let block = match draw {
            Draw::Batch(count) => self.share.block(count),
            Draw::WithinEpoch(0) => self.share.block(0),
            Draw::WithinEpoch(count) => self.share.round((self.domain.total() - self.position) as u64, count),
        };
        self.fill(block)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::segment::SegmentTable;

    fn of_ranks(shuffle: &EpochShuffle, world_size: u32) -> Vec<EpochShuffle> {
        (0..world_size).map(|rank| shuffle.clone().shared(Share::new(rank, world_size).unwrap())).collect()
    }

    proptest! {
        #[test]
        fn each_epoch_holds_every_item_once(total in 1_i64..300, batch in 1_usize..400, seed: u64) {
            let mut shuffle = EpochShuffle::new(Domain::all(total).unwrap(), seed, 0, 0, true).unwrap();
            let mut stream = Vec::new();
            while stream.len() < 3 * total as usize {
                stream.extend(shuffle.draw(Draw::Batch(batch)));
            }
            stream.truncate(3 * total as usize);
            for epoch in stream.chunks_mut(total as usize) {
                epoch.sort_unstable();
                prop_assert!(epoch.iter().copied().eq(0..total));
            }
        }

        #[test]
        fn resumes_anywhere(total in 1_i64..300, before in 0_usize..900, seed: u64, shuffled: bool) {
            let mut shuffle = EpochShuffle::new(Domain::all(total).unwrap(), seed, 0, 0, shuffled).unwrap();
            shuffle.draw(Draw::Batch(before));
            let (seed, epoch, position) = (shuffle.seed(), shuffle.epoch(), shuffle.position());
            let mut resumed = EpochShuffle::new(shuffle.domain().clone(), seed, epoch, position, shuffled).unwrap();
            prop_assert_eq!(shuffle.draw(Draw::Batch(500)), resumed.draw(Draw::Batch(500)));
        }

        #[test]
        fn ranks_take_the_blocks_of_one_order(
            total in 1_i64..300, world_size in 1_u32..7, batches in prop::collection::vec(1_usize..90, 1..12), seed: u64,
        ) {
            let mut whole = EpochShuffle::new(Domain::all(total).unwrap(), seed, 0, 0, true).unwrap();
            let mut ranks = of_ranks(&whole, world_size);
            for batch in batches {
                let blocks: Vec<i64> = ranks.iter_mut().flat_map(|rank| rank.draw(Draw::Batch(batch))).collect();
                prop_assert_eq!(blocks, whole.draw(Draw::Batch(batch * world_size as usize)));
                for rank in &ranks {
                    prop_assert_eq!(IndexStream::position(rank), IndexStream::position(&whole));
                }
            }
        }

        #[test]
        fn an_epoch_goes_on_with_any_number_of_ranks(
            total in 1_i64..300, worlds in prop::collection::vec((1_u32..7, 1_usize..30, 1_usize..5), 1..9), seed: u64,
        ) {
            let mut saved = EpochShuffle::new(Domain::all(total).unwrap(), seed, 4, 0, true).unwrap();
            let mut seen = Vec::new();
            let mut worlds = worlds.into_iter().cycle();
            while saved.epoch() == 4 {
                let (world_size, batch, rounds) = worlds.next().unwrap();
                let mut ranks = of_ranks(&saved, world_size);
                for _ in 0..rounds {
                    if ranks[0].epoch() == 4 {
                        seen.extend(ranks.iter_mut().flat_map(|rank| rank.draw(Draw::WithinEpoch(batch))));
                    }
                    for rank in &ranks {
                        prop_assert_eq!(IndexStream::position(rank), IndexStream::position(&ranks[0]));
                    }
                }
                saved.restore(seed, ranks[0].epoch(), ranks[0].position()).unwrap();
            }
            prop_assert_eq!((saved.epoch(), saved.position()), (5, 0));
            seen.sort_unstable();
            prop_assert!(seen.into_iter().eq(0..total));
        }
    }

    #[test]
    fn segments_are_drawn_as_their_union() {
        let table = SegmentTable::new(vec![0; 3], vec![0, 1, 2], vec![0, 10, 13], vec![10, 3, 7]).unwrap();
        let domain = Domain::segments(&table, &[2, 0, 2]).unwrap();
        let mut out = EpochShuffle::new(domain, 5, 0, 0, true).unwrap().draw(Draw::Batch(17));
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
