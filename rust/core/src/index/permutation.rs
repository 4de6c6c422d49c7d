//! A keyed permutation of 0..n, computed per position: no start-up, no memory that grows with n.
//!
//! A Feistel network over the smallest power of two that holds n, with multiply-shift round functions, walked along
//! its cycle until the image falls below n (Black and Rogaway, "Ciphers with Arbitrary Finite Domains", 2002). The
//! power of two is less than 2n, so a walk takes less than two steps on average.
//!
//! Over a handful of items such a network reaches some orders twice as often as others, so up to `TABLE_ITEMS` items are
//! shuffled by Fisher and Yates' method into a table of a few kilobytes instead.

use super::mix;

const ROUNDS: usize = 8;
const TABLE_ITEMS: u64 = 1024;

/// One permutation of `0..total`, chosen by a seed and an epoch.
#[derive(Debug, Clone)]
pub enum Permutation {
    /// Few items: the images themselves.
    Table(Box<[u16]>),
    /// Any number of items.
    Cipher(Cipher),
}

impl Permutation {
    /// The permutation of `0..total` that belongs to `(seed, epoch)`.
    pub fn new(total: u64, seed: u64, epoch: u64) -> Self {
        let mut key = mix(seed ^ mix(epoch ^ 0x5DEE_CE66_D1CE_4E5B));
        let mut draw = || {
            key = mix(key);
            key
        };
        if total > TABLE_ITEMS {
            return Self::Cipher(Cipher::new(total, draw));
        }
        let mut images: Box<[u16]> = (0..total as u16).collect();
        for last in (1..images.len()).rev() {
            let chosen = (u128::from(draw()) * (last as u128 + 1)) >> 64;
            images.swap(last, chosen as usize);
        }
        Self::Table(images)
    }

    /// Image of a position below `total`.
    #[inline]
    pub fn get(&self, position: u64) -> u64 {
        match self {
            Self::Table(images) => u64::from(images[position as usize]),
            Self::Cipher(cipher) => cipher.get(position),
        }
    }
}

/// The Feistel network and its round keys.
#[derive(Debug, Clone)]
pub struct Cipher {
    total: u64,
    right_bits: u32,
    left_mask: u64,
    right_mask: u64,
    multiplier: [u64; ROUNDS],
    addend: [u64; ROUNDS],
}

impl Cipher {
    fn new(total: u64, mut draw: impl FnMut() -> u64) -> Self {
        let bits = 64 - (total - 1).leading_zeros();
        let right_bits = bits.div_ceil(2);
        Self {
            total,
            right_bits,
            left_mask: (1 << (bits - right_bits)) - 1,
            right_mask: (1 << right_bits) - 1,
            multiplier: std::array::from_fn(|_| draw() | 1),
            addend: std::array::from_fn(|_| draw()),
        }
    }

    #[inline]
    fn encrypt(&self, value: u64) -> u64 {
        let (mut left, mut right) = (value >> self.right_bits, value & self.right_mask);
        for pair in 0..ROUNDS / 2 {
            let (even, odd) = (2 * pair, 2 * pair + 1);
            left ^= (right.wrapping_mul(self.multiplier[even]).wrapping_add(self.addend[even]) >> 32) & self.left_mask;
            right ^= (left.wrapping_mul(self.multiplier[odd]).wrapping_add(self.addend[odd]) >> 32) & self.right_mask;
        }
        (left << self.right_bits) | right
    }

    #[inline]
    fn get(&self, position: u64) -> u64 {
        debug_assert!(position < self.total);
        let mut value = self.encrypt(position);
        while value >= self.total {
            value = self.encrypt(value);
        }
        value
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn is_a_bijection(total in prop_oneof![1_u64..1100, 1000_u64..5000], seed: u64, epoch: u64) {
            let permutation = Permutation::new(total, seed, epoch);
            let mut seen = vec![false; total as usize];
            for position in 0..total {
                let image = permutation.get(position) as usize;
                prop_assert!(!std::mem::replace(&mut seen[image], true));
            }
        }
    }

    #[test]
    fn holds_beyond_32_bits() {
        let total = (1 << 40) + 12345;
        let permutation = Permutation::new(total, 7, 0);
        let images: std::collections::HashSet<u64> = (0..100_000).map(|position| permutation.get(position)).collect();
        assert_eq!(images.len(), 100_000);
        assert!(images.iter().all(|&image| image < total));
    }

    /// Chi-square of counts against equal expectation, in standard deviations from its mean.
    fn deviation(counts: &[u64]) -> f64 {
        let expected = counts.iter().sum::<u64>() as f64 / counts.len() as f64;
        let chi: f64 = counts.iter().map(|&count| (count as f64 - expected).powi(2) / expected).sum();
        let freedom = (counts.len() - 1) as f64;
        (chi - freedom) / (2.0 * freedom).sqrt()
    }

    #[test]
    fn every_order_of_few_items_is_equally_likely() {
        for total in [3_u64, 4, 5] {
            let mut orders = HashMap::<Vec<u64>, u64>::new();
            let draws = 60_000;
            for epoch in 0..draws {
                let permutation = Permutation::new(total, 11, epoch);
                *orders.entry((0..total).map(|position| permutation.get(position)).collect()).or_default() += 1;
            }
            let factorial: u64 = (1..=total).product();
            assert_eq!(orders.len() as u64, factorial);
            let counts: Vec<u64> = orders.into_values().collect();
            assert!(deviation(&counts) < 5.0, "{total} items: {counts:?}");
        }
    }

    #[test]
    fn positions_and_neighbours_look_independent() {
        for total in [10_u64, 100, 1000, 1025, 5000, 100_003] {
            let bins = 10;
            let mut single = vec![0; bins];
            let mut pairs = vec![0; bins * bins];
            for epoch in 0..2000 {
                let permutation = Permutation::new(total, 3, epoch);
                let bin = |position: u64| (permutation.get(position) * bins as u64 / total) as usize;
                single[bin(total / 3)] += 1;
                // For few items a pair is visibly not independent: two positions never share an image.
                if total >= 1000 {
                    for position in (0..total - 1).step_by(97) {
                        pairs[bin(position) * bins + bin(position + 1)] += 1;
                    }
                }
            }
            assert!(deviation(&single) < 5.0, "{total}: {single:?}");
            if total >= 1000 {
                assert!(deviation(&pairs) < 5.0, "{total}: {pairs:?}");
            }
        }
    }
}
