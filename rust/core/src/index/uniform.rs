//! With replacement: independent uniform draws.

use super::{Domain, Draw, IndexStream, mix};

/// Draw number n is a function of (seed, n), so the state is (seed, n).
#[derive(Debug, Clone)]
pub struct UniformDraws {
    domain: Domain,
    seed: u64,
    position: u64,
}

impl UniformDraws {
    /// Start at draw number `position`.
    pub fn new(domain: Domain, seed: u64, position: u64) -> Self {
        Self { domain, seed, position }
    }

    /// What is drawn from.
    pub fn domain(&self) -> &Domain {
        &self.domain
    }

    /// Seed of the stream.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// Number of draws made.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Go to a saved position.
    pub fn restore(&mut self, seed: u64, position: u64) {
        (self.seed, self.position) = (seed, position);
    }

    /// Fill `out` with the next draws.
    pub fn next(&mut self, out: &mut [i64]) {
        let key = mix(self.seed);
        let total = self.domain.total() as u128;
        for slot in out {
            let random = mix(key ^ mix(self.position));
            // The high word of the product is uniform up to one part in 2^64 / total (Lemire 2019).
            *slot = self.domain.transition(((u128::from(random) * total) >> 64) as i64);
            self.position = self.position.wrapping_add(1);
        }
    }
}

impl IndexStream for UniformDraws {
    type Position = (u64, u64);

    fn position(&self) -> Self::Position {
        (self.seed, self.position)
    }

    fn draw(&mut self, draw: Draw) -> Vec<i64> {
        let (Draw::Batch(count) | Draw::WithinEpoch(count)) = draw;
        let mut out = vec![0; count];
        self.next(&mut out);
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn covers_uniformly_and_resumes() {
        let mut draws = UniformDraws::new(Domain::all(50).unwrap(), 9, 0);
        let mut out = vec![0; 100_000];
        draws.next(&mut out);
        let mut counts = [0_u32; 50];
        for &item in &out {
            counts[item as usize] += 1;
        }
        // 2000 expected with a standard deviation of about 45.
        assert!(counts.iter().all(|&count| (1775..2225).contains(&count)), "{counts:?}");

        let mut resumed = UniformDraws::new(Domain::all(50).unwrap(), 9, 99_000);
        let mut tail = vec![0; 1000];
        resumed.next(&mut tail);
        assert_eq!(tail, out[99_000..]);
    }
}
