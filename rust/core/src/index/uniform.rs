//! With replacement: independent uniform draws.

use super::domain::Domain;
use super::permutation::mix;
use super::share::Share;
use super::slices::{Cut, Drawn};
use super::stream::{Ask, Draw, IndexStream};
use crate::memory::collected;
use crate::{Error, Result};

/// The numbers of a seed from one of them on: each depends on the seed and on where it stands alone.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Numbers {
    key: u64,
    first: u64,
}

impl Numbers {
    pub fn new(seed: u64, first: u64) -> Self {
        Self { key: mix(seed), first }
    }

    #[inline]
    fn get(self, i: usize) -> u64 {
        mix(self.key ^ mix(self.first.wrapping_add(i as u64)))
    }

    /// As fractions of [0, 1), as many of them as an f64 can tell apart.
    pub fn fractions(self) -> impl Iterator<Item = f64> {
        (0..).map(move |i| (self.get(i) >> (u64::BITS - f64::MANTISSA_DIGITS)) as f64 * (f64::EPSILON / 2.0))
    }
}

/// Draw number n is a function of (seed, n), so the state is (seed, n).
///
/// Where several ranks share the draws, each takes its blocks of the numbers, and n counts those of all ranks.
#[derive(Debug, Clone)]
pub struct UniformDraws {
    domain: Domain,
    share: Share,
    seed: u64,
    position: u64,
}

impl UniformDraws {
    /// Start at draw number `position`.
    pub fn new(domain: Domain, seed: u64, position: u64) -> Self {
        Self { domain, share: Share::WHOLE, seed, position }
    }

    /// The same draws, of which only a rank's blocks are made.
    #[must_use]
    pub fn shared(self, share: Share) -> Self {
        Self { share, ..self }
    }

    /// Draw from a data set that has become longer.
    pub fn grow(&mut self, domain: Domain) {
        self.domain = domain;
    }

    /// What is drawn from.
    pub fn domain(&self) -> &Domain {
        &self.domain
    }

    /// Seed of the stream.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// Number of draws made, by all ranks together.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Go to a saved position.
    pub fn restore(&mut self, seed: u64, position: u64) {
        (self.seed, self.position) = (seed, position);
    }

    /// The next `count` items.
    pub fn items(&mut self, count: usize) -> Result<Vec<i64>> {
        let total = self.domain.total() as u128;
        // The high word of the product is uniform up to one part in 2^64 / total (Lemire 2019).
        let item = |random| ((u128::from(random) * total) >> 64) as i64;
        let mut items = self.take(count, |numbers| collected((0..count).map(|i| item(numbers.get(i)))))?;
        self.domain.to_transitions(&mut items);
        Ok(items)
    }

    /// The next `count` slices: the first half of the draws chooses trajectories, the second places within them.
    pub fn slices(&mut self, count: usize, cut: &Cut) -> Result<Drawn> {
        self.take(count.saturating_mul(2), |numbers| cut.choose(count, numbers.fractions()))
    }

    /// Make something of the rank's next `count` draws; where there is no memory for it they are yet to come.
    fn take<T>(&mut self, count: usize, make: impl FnOnce(Numbers) -> Result<T>) -> Result<T> {
        let block = self.share.block(count);
        // Draws are numbered modulo 2^64.
        let begin = self.position.wrapping_add(block.before as u64);
        let made = make(Numbers::new(self.seed, begin));
        if !matches!(made, Err(Error::OutOfMemory(_))) {
            self.position = begin.wrapping_add(count as u64).wrapping_add(block.behind as u64);
        }
        made
    }
}

impl IndexStream for UniformDraws {
    type Position = (u64, u64);

    fn position(&self) -> Self::Position {
        (self.seed, self.position)
    }

    fn draw(&mut self, ask: &Ask) -> Result<Drawn> {
        let (Draw::Batch(count) | Draw::WithinEpoch(count)) = ask.draw;
        match &ask.cut {
            None => Ok(Drawn { rows: self.items(count)?, ..Drawn::default() }),
            Some(cut) => self.slices(count, cut),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::slices::Shape;
    use super::*;

    #[test]
    fn covers_uniformly_and_resumes() {
        let mut draws = UniformDraws::new(Domain::all(50).unwrap(), 9, 0);
        let out = draws.items(100_000).unwrap();
        let mut counts = [0_u32; 50];
        for &item in &out {
            counts[item as usize] += 1;
        }
        // 2000 expected with a standard deviation of about 45.
        assert!(counts.iter().all(|&count| (1775..2225).contains(&count)), "{counts:?}");

        let mut resumed = UniformDraws::new(Domain::all(50).unwrap(), 9, 99_000);
        assert_eq!(resumed.items(1000).unwrap(), out[99_000..]);

        let mut ranks: Vec<UniformDraws> = (0..3)
            .map(|rank| UniformDraws::new(Domain::all(50).unwrap(), 9, 0).shared(Share::new(rank, 3).unwrap()))
            .collect();
        for step in out[..90_000].chunks(300) {
            let blocks: Vec<i64> = ranks.iter_mut().flat_map(|rank| rank.items(100).unwrap()).collect();
            assert_eq!(blocks, step);
        }
        assert!(ranks.iter().all(|rank| rank.position() == 90_000));
    }

    #[test]
    fn slices_take_two_draws_each_unless_there_is_no_memory_for_them() {
        let shape = Shape { length: 3, strict: true, padded: false, span: [Some(0); 2], stride: None, holders: false };
        let cut = Cut::new(&[0, 4], &[4, 9], 13, shape).unwrap();
        let mut draws = UniformDraws::new(Domain::all(1).unwrap(), 9, 5);
        draws.slices(7, &cut).unwrap();
        assert_eq!(draws.position(), 19);
        for count in [1 << 50, usize::MAX / 2, usize::MAX] {
            assert!(matches!(draws.slices(count, &cut), Err(Error::OutOfMemory(_))));
            assert!(matches!(draws.items(count), Err(Error::OutOfMemory(_))));
        }
        assert_eq!(draws.position(), 19);
        let mut again = UniformDraws::new(Domain::all(1).unwrap(), 9, 19);
        assert_eq!(again.slices(5, &cut).unwrap(), draws.slices(5, &cut).unwrap());
    }
}
