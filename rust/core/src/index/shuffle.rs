//! Without replacement: every item exactly once per epoch.

use super::domain::Domain;
use super::permutation::Permutation;
use super::share::{Block, Share};
use super::slices::{Cut, Drawn};
use super::stream::{Ask, Draw, IndexStream};
use super::uniform::Numbers;
use crate::memory::filled;
use crate::{Error, Result};

/// A shuffle whose whole state is (seed, epoch, position).
///
/// Where several ranks share it, each draws its blocks of the one order, and the position is that of all of them: what
/// one rank saved, any rank of any number continues.
#[derive(Debug, Clone)]
pub struct EpochShuffle {
    domain: Domain,
    /// What the epochs after this one run over, where that is more.
    longer: Option<Domain>,
    share: Share,
    seed: u64,
    epoch: u64,
    position: i64,
    /// Places within trajectories that were drawn, for slices of them.
    places: u64,
    /// `None` keeps the natural order.
    permutation: Option<Permutation>,
}

impl EpochShuffle {
    /// Start at `position` (0..=total) of `epoch`; without `shuffle` items come in their natural order.
    pub fn new(domain: Domain, seed: u64, epoch: u64, position: i64, shuffle: bool) -> Result<Self> {
        let permutation = shuffle.then(|| Permutation::new(domain.total() as u64, seed, epoch));
        let mut this =
            Self { domain, longer: None, share: Share::WHOLE, seed, epoch, position: 0, places: 0, permutation };
        this.restore(seed, epoch, position)?;
        Ok(this)
    }

    /// The same shuffle, of which only a rank's blocks are drawn.
    #[must_use]
    pub fn shared(self, share: Share) -> Self {
        Self { share, ..self }
    }

    /// The same shuffle, after so many places were drawn.
    #[must_use]
    pub fn after_places(self, places: u64) -> Self {
        Self { places, ..self }
    }

    /// Run over a data set that has become longer, in which what there was comes first: from the next epoch on, if this one was
    /// begun.
    pub fn grow(&mut self, domain: Domain) {
        self.longer = Some(domain);
        if self.position == 0 {
            self.start_epoch(self.epoch);
        }
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

    /// Places within trajectories that were drawn, of the seed's numbers.
    pub fn places(&self) -> u64 {
        self.places
    }

    /// Go to a saved position. Refuses one outside the epoch and then changes nothing.
    pub fn restore(&mut self, seed: u64, epoch: u64, position: i64) -> Result<()> {
        let total = self.domain.total();
        if !(0..=total).contains(&position) {
            return Err(Error::State(format!("position {position} is outside an epoch of {total} items")));
        }
        self.seed = seed;
        match position {
            0 => self.start_epoch(epoch),
            _ if position == total => self.start_epoch(epoch.wrapping_add(1)),
            _ => {
                (self.epoch, self.position) = (epoch, position);
                self.rekey();
            }
        }
        Ok(())
    }

    /// Go on as if so many places had been drawn.
    pub fn restore_places(&mut self, places: u64) {
        self.places = places;
    }

    fn rekey(&mut self) {
        if self.permutation.is_some() {
            self.permutation = Some(Permutation::new(self.domain.total() as u64, self.seed, self.epoch));
        }
    }

    fn start_epoch(&mut self, epoch: u64) {
        if let Some(longer) = self.longer.take() {
            self.domain = longer;
        }
        (self.epoch, self.position) = (epoch, 0);
        self.rekey();
    }

    fn skip(&mut self, count: u128) {
        let (mut total, mut position) = (self.domain.total() as u128, self.position as u128 + count);
        if position >= total && self.longer.is_some() {
            self.start_epoch(self.epoch.wrapping_add(1));
            position -= total;
            total = self.domain.total() as u128;
        }
        self.position = (position % total) as i64;
        if position >= total {
            // Epochs are counted modulo 2^64.
            self.epoch = self.epoch.wrapping_add((position / total) as u64);
            self.rekey();
        }
    }

    /// The next items.
    pub fn items(&mut self, draw: Draw) -> Result<Vec<i64>> {
        let block = match draw {
            Draw::Batch(count) => self.share.block(count),
            Draw::WithinEpoch(0) => self.share.block(0),
            Draw::WithinEpoch(count) => self.share.round((self.domain.total() - self.position) as u64, count),
        };
        self.fill(block)
    }

    /// The next slices, of trajectories or windows that are the items of this shuffle.
    pub fn slices(&mut self, draw: Draw, cut: &Cut) -> Result<Drawn> {
        let total = self.domain.total();
        if cut.total() != total {
            return Err(Error::Invalid(format!("a shuffle of {total} items is none of {}", cut.total())));
        }
        let (_, epoch, position, places) = IndexStream::position(self);
        let domains = (self.domain.clone(), self.longer.clone());
        // Places are numbers of the same seed, of the epoch that was begun with it.
        let fractions = Numbers::new(self.seed, places).fractions();
        let made = self.items(draw).and_then(|items| {
            if let Some(windows) = cut.windows(&items) {
                return windows;
            }
            let trajectories = cut.keep(&items)?;
            self.places = places.wrapping_add(trajectories.len() as u64);
            cut.place(&trajectories, fractions)
        });
        if let Err(Error::OutOfMemory(_)) = made {
            self.places = places;
            (self.domain, self.longer) = domains;
            (self.epoch, self.position) = (epoch, position);
            self.rekey();
        }
        made
    }

    /// The items of a block; what an epoch lacks comes from the next one.
    fn fill(&mut self, block: Block) -> Result<Vec<i64>> {
        let mut out = filled(block.count, 0)?;
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
        Ok(out)
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
    type Position = (u64, u64, i64, u64);

    fn position(&self) -> Self::Position {
        (self.seed, self.epoch, self.position, self.places)
    }

    fn draw(&mut self, ask: &Ask) -> Result<Drawn> {
        match &ask.cut {
            None => Ok(Drawn { rows: self.items(ask.draw)?, ..Drawn::default() }),
            Some(cut) => self.slices(ask.draw, cut),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::slices::Shape;
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
                stream.extend(shuffle.items(Draw::Batch(batch)).unwrap());
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
            shuffle.items(Draw::Batch(before)).unwrap();
            let (seed, epoch, position) = (shuffle.seed(), shuffle.epoch(), shuffle.position());
            let mut resumed = EpochShuffle::new(shuffle.domain().clone(), seed, epoch, position, shuffled).unwrap();
            prop_assert_eq!(shuffle.items(Draw::Batch(500)).unwrap(), resumed.items(Draw::Batch(500)).unwrap());
        }

        #[test]
        fn ranks_take_the_blocks_of_one_order(
            total in 1_i64..300, world_size in 1_u32..7, batches in prop::collection::vec(1_usize..90, 1..12), seed: u64,
        ) {
            let mut whole = EpochShuffle::new(Domain::all(total).unwrap(), seed, 0, 0, true).unwrap();
            let mut ranks = of_ranks(&whole, world_size);
            for batch in batches {
                let blocks: Vec<i64> = ranks.iter_mut().flat_map(|rank| rank.items(Draw::Batch(batch)).unwrap()).collect();
                prop_assert_eq!(blocks, whole.items(Draw::Batch(batch * world_size as usize)).unwrap());
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
                        seen.extend(ranks.iter_mut().flat_map(|rank| rank.items(Draw::WithinEpoch(batch)).unwrap()));
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

    proptest! {
        /// The epoch that runs has what it began with, each once; those that follow have everything.
        #[test]
        fn an_epoch_that_grows_is_finished_first(
            total in 1_i64..60, more in 1_i64..60, before in 0_usize..200, batch in 1_usize..90, seed: u64, shuffled: bool,
        ) {
            let domain = |total| Domain::all(total).unwrap();
            let mut shuffle = EpochShuffle::new(domain(total), seed, 0, 0, shuffled).unwrap();
            let mut stream = shuffle.items(Draw::Batch(before)).unwrap();
            shuffle.grow(domain(total + more));
            while stream.len() < before + 3 * (total + more) as usize {
                stream.extend(shuffle.items(Draw::Batch(batch)).unwrap());
            }
            // One that was not begun has everything, too.
            let epochs = before.div_ceil(total as usize);
            let (old, new) = stream.split_at(epochs * total as usize);
            for (epochs, total) in [(old, total), (new, total + more)] {
                for epoch in epochs.chunks_exact(total as usize) {
                    let mut items = epoch.to_vec();
                    items.sort_unstable();
                    prop_assert!(items.into_iter().eq(0..total));
                }
            }
            let (epoch, position) = (shuffle.epoch(), shuffle.position());
            let mut again = EpochShuffle::new(shuffle.domain().clone(), seed, epoch, position, shuffled).unwrap();
            prop_assert_eq!(shuffle.domain().total(), total + more);
            prop_assert_eq!(shuffle.items(Draw::Batch(50)).unwrap(), again.items(Draw::Batch(50)).unwrap());
        }
    }

    #[test]
    fn segments_are_drawn_as_their_union() {
        let table = SegmentTable::new(vec![0; 3], vec![0, 1, 2], vec![0, 10, 13], vec![10, 3, 7]).unwrap();
        let domain = Domain::segments(&table, &[2, 0, 2]).unwrap();
        let mut out = EpochShuffle::new(domain, 5, 0, 0, true).unwrap().items(Draw::Batch(17)).unwrap();
        out.sort_unstable();
        assert!(out.into_iter().eq((0..10).chain(13..20)));
        assert!(Domain::segments(&table, &[3]).is_err());
        assert!(Domain::segments(&table, &[]).is_err());
    }

    #[test]
    fn slices_are_of_the_items_and_go_on_where_they_stopped() {
        let lengths = [4, 1, 7, 2, 9, 3];
        let start: Vec<i64> = lengths.iter().scan(0, |at, n| Some(std::mem::replace(at, *at + n))).collect();
        let shape = Shape { length: 3, strict: true, padded: false, span: [Some(0); 2], stride: None, holders: true };
        let cut = |shape| Cut::new(&start, &lengths, 26, shape).unwrap();
        let (short_left_out, all) = (cut(shape), cut(Shape { strict: false, ..shape }));
        let mut shuffle = EpochShuffle::new(Domain::all(6).unwrap(), 5, 0, 0, true).unwrap();
        let mut items = shuffle.clone();
        for places in [4, 8, 12] {
            let mut chosen = items.items(Draw::WithinEpoch(6)).unwrap();
            chosen.retain(|&k| lengths[k as usize] >= 3);
            chosen.sort_unstable();
            let drawn = shuffle.slices(Draw::WithinEpoch(6), &short_left_out).unwrap();
            let mut holders = drawn.holders.unwrap();
            holders.dedup();
            assert_eq!((holders, shuffle.places()), (chosen, places));
        }
        let mut again = EpochShuffle::new(Domain::all(6).unwrap(), 5, 3, 0, true).unwrap().after_places(12);
        assert_eq!(IndexStream::position(&again), IndexStream::position(&shuffle));
        assert_eq!(again.slices(Draw::Batch(4), &all).unwrap(), shuffle.slices(Draw::Batch(4), &all).unwrap());
        // What there is no memory for is yet to come; a shuffle of other items gives nothing.
        let endless = cut(Shape { length: 1 << 60, strict: false, padded: true, ..shape });
        let windows = cut(Shape { stride: Some(1), ..shape });
        let before = IndexStream::position(&shuffle);
        assert!(matches!(shuffle.slices(Draw::Batch(2), &endless), Err(Error::OutOfMemory(_))));
        assert!(matches!(shuffle.slices(Draw::Batch(usize::MAX), &all), Err(Error::OutOfMemory(_))));
        assert!(shuffle.slices(Draw::Batch(2), &windows).is_err());
        assert_eq!(IndexStream::position(&shuffle), before);
    }

    #[test]
    fn impossible_position_changes_nothing() {
        let mut shuffle = EpochShuffle::new(Domain::all(10).unwrap(), 1, 0, 4, true).unwrap();
        assert!(shuffle.restore(2, 0, 11).is_err());
        assert!(shuffle.restore(2, 0, -1).is_err());
        assert_eq!((shuffle.seed(), shuffle.epoch(), shuffle.position()), (1, 0, 4));
    }
}
