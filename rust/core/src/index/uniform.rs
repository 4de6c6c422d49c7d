//! With replacement: independent uniform draws.

use super::domain::Domain;
use super::permutation::mix;
use super::share::Share;
use super::stream::{Draw, IndexStream};

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

    fn fill(&mut self, out: &mut [i64]) {
        let key = mix(self.seed);
        let total = self.domain.total() as u128;
        for slot in &mut *out {
            let random = mix(key ^ mix(self.position));
            // The high word of the product is uniform up to one part in 2^64 / total (Lemire 2019).
            *slot = ((u128::from(random) * total) >> 64) as i64;
            self.position = self.position.wrapping_add(1);
        }
        self.domain.to_transitions(out);
    }
}

impl IndexStream for UniformDraws {
    type Position = (u64, u64);

    fn position(&self) -> Self::Position {
        (self.seed, self.position)
    }

    fn draw(&mut self, draw: Draw) -> Vec<i64> {
        let (Draw::Batch(count) | Draw::WithinEpoch(count)) = draw;
        let block = self.share.block(count);
        let mut out = vec![0; count];
        // Draws are numbered modulo 2^64.
        self.position = self.position.wrapping_add(block.before as u64);
        self.fill(&mut out);
        self.position = self.position.wrapping_add(block.behind as u64);
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn covers_uniformly_and_resumes() {
        let mut draws = UniformDraws::new(Domain::all(50).unwrap(), 9, 0);
        let out = draws.draw(Draw::Batch(100_000));
        let mut counts = [0_u32; 50];
        for &item in &out {
            counts[item as usize] += 1;
        }
        // 2000 expected with a standard deviation of about 45.
        assert!(counts.iter().all(|&count| (1775..2225).contains(&count)), "{counts:?}");

        let mut resumed = UniformDraws::new(Domain::all(50).unwrap(), 9, 99_000);
        assert_eq!(resumed.draw(Draw::Batch(1000)), out[99_000..]);

        let mut ranks: Vec<UniformDraws> = (0..3)
            .map(|rank| UniformDraws::new(Domain::all(50).unwrap(), 9, 0).shared(Share::new(rank, 3).unwrap()))
            .collect();
        for step in out[..90_000].chunks(300) {
            let blocks: Vec<i64> = ranks.iter_mut().flat_map(|rank| rank.draw(Draw::Batch(100))).collect();
            assert_eq!(blocks, step);
        }
        assert!(ranks.iter().all(|rank| rank.position() == 90_000));
    }
}
