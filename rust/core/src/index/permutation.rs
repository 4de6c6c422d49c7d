//! A keyed permutation of 0..n, computed per position: no start-up, no memory that grows with n.
//!
//! A Feistel network over pairs (left, right): left has a number of bits, right is below a number, such that there are n
//! pairs or a few more; with multiply-shift round functions; walked along its cycle until the image falls below n (after
//! the generalised Feistel cipher of Black and Rogaway, "Ciphers with Arbitrary Finite Domains", 2002). Less than one in
//! the root of n items takes a second step; with bits on both sides it would be up to every second one.
//!
//! Positions are taken in groups, written so that the compiler turns each step of a group into vector code: products of 64
//! bits are most of it, which AVX-512 has as an instruction and AVX2 as three.
//!
//! Over a handful of items such a network reaches some orders twice as often as others, so up to `TABLE_ITEMS` items are
//! shuffled by Fisher and Yates' method into a table of a few kilobytes instead.

#![allow(unsafe_code)]

const ROUNDS: usize = 8;
/// Positions of a group: eight vectors of AVX-512, which do not wait for one another's products.
const GROUP: usize = 64;
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

    /// Images of consecutive positions, all below `total`.
    pub fn images(&self, first: u64, out: &mut [i64]) {
        match self {
            Self::Table(images) => {
                for (slot, &image) in out.iter_mut().zip(&images[first as usize..]) {
                    *slot = i64::from(image);
                }
            }
            Self::Cipher(cipher) => cipher.images(first, out),
        }
    }
}

/// The Feistel network and its round keys.
#[derive(Debug, Clone)]
pub struct Cipher {
    total: u64,
    left_bits: u32,
    rights: u64,
    multiplier: [u64; ROUNDS],
    addend: [u64; ROUNDS],
}

impl Cipher {
    /// More than one item.
    fn new(total: u64, mut draw: impl FnMut() -> u64) -> Self {
        let left_bits = total.ilog2().div_ceil(2);
        Self {
            total,
            left_bits,
            rights: total.div_ceil(1 << left_bits),
            multiplier: std::array::from_fn(|_| draw() | 1),
            addend: std::array::from_fn(|_| draw()),
        }
    }

    /// What a round adds: a product, whose high bits depend on all of the value's.
    #[inline]
    fn mixed(&self, round: usize, value: u64) -> u64 {
        value.wrapping_mul(self.multiplier[round]).wrapping_add(self.addend[round])
    }

    #[inline]
    fn encrypt(&self, value: u64) -> u64 {
        let (mut left, mut right) = (value & ((1 << self.left_bits) - 1), value >> self.left_bits);
        for pair in 0..ROUNDS / 2 {
            left ^= self.mixed(2 * pair, right) >> (u64::BITS - self.left_bits);
            let below = (u128::from(self.mixed(2 * pair + 1, left)) * u128::from(self.rights)) >> u64::BITS;
            right = add_below(self.rights, right, below as u64);
        }
        (right << self.left_bits) | left
    }

    /// Walk along the cycle of a value until there is an item.
    #[inline]
    fn item(&self, mut value: u64) -> u64 {
        while value >= self.total {
            value = self.encrypt(value);
        }
        value
    }

    #[inline]
    fn get(&self, position: u64) -> u64 {
        debug_assert!(position < self.total);
        self.item(self.encrypt(position))
    }

    /// Images of consecutive positions, with the widest vectors that the machine has.
    fn images(&self, first: u64, out: &mut [i64]) {
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::is_x86_feature_detected as has;
            if has!("avx512f") && has!("avx512dq") {
                // SAFETY: the machine has what the function is compiled for.
                return unsafe { self.images_avx512(first, out) };
            }
            if has!("avx2") {
                // SAFETY: as above.
                return unsafe { self.images_avx2(first, out) };
            }
        }
        self.images_by_groups(first, out);
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx512dq")]
    fn images_avx512(&self, first: u64, out: &mut [i64]) {
        self.images_by_groups(first, out);
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2")]
    fn images_avx2(&self, first: u64, out: &mut [i64]) {
        self.images_by_groups(first, out);
    }

    #[expect(clippy::inline_always, reason = "becomes vector code only within what is compiled for it")]
    #[inline(always)]
    fn images_by_groups(&self, first: u64, out: &mut [i64]) {
        let (groups, rest) = out.as_chunks_mut::<GROUP>();
        let mut position = first;
        for group in groups {
            self.write_group(position, group);
            position += GROUP as u64;
        }
        for (slot, position) in rest.iter_mut().zip(position..) {
            *slot = self.get(position) as i64;
        }
    }

    /// As `get`, for each position of a group: the same steps, or, of nearly 2^63 items, the very same code.
    #[expect(clippy::inline_always, reason = "becomes vector code only within what is compiled for it")]
    #[inline(always)]
    fn write_group(&self, first: u64, group: &mut [i64; GROUP]) {
        let Ok(rights) = u32::try_from(self.rights) else {
            for (slot, position) in group.iter_mut().zip(first..) {
                *slot = self.get(position) as i64;
            }
            return;
        };
        let rights = u64::from(rights);
        let mut left: [u64; GROUP] = std::array::from_fn(|i| (first + i as u64) & ((1 << self.left_bits) - 1));
        let mut right: [u64; GROUP] = std::array::from_fn(|i| (first + i as u64) >> self.left_bits);
        for pair in 0..ROUNDS / 2 {
            for (left, &right) in left.iter_mut().zip(&right) {
                *left ^= self.mixed(2 * pair, right) >> (u64::BITS - self.left_bits);
            }
            for (right, &left) in right.iter_mut().zip(&left) {
                let mixed = self.mixed(2 * pair + 1, left);
                // The high half of the product with a number of 32 bits, by products of 32 bits.
                let (high, low) = (mixed >> 32, mixed & u64::from(u32::MAX));
                *right = add_below(rights, *right, (high * rights + ((low * rights) >> 32)) >> 32);
            }
        }
        let mut greatest = 0;
        for (slot, (&left, &right)) in group.iter_mut().zip(left.iter().zip(&right)) {
            let value = (right << self.left_bits) | left;
            greatest = greatest.max(value);
            *slot = value as i64;
        }
        if greatest >= self.total {
            for slot in group {
                *slot = self.item(*slot as u64) as i64;
            }
        }
    }
}

/// The sum of two numbers below a limit, modulo the limit; without a branch.
#[inline]
fn add_below(limit: u64, a: u64, b: u64) -> u64 {
    let sum = a + b;
    sum.min(sum.wrapping_sub(limit))
}

/// A well-mixed 64-bit function of a 64-bit value: the finaliser of `SplitMix64` (Steele, Lea and Flood 2014).
#[inline]
pub(crate) fn mix(mut value: u64) -> u64 {
    value = value.wrapping_add(0x9E37_79B9_7F4A_7C15);
    value = (value ^ (value >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    value = (value ^ (value >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    fn images(permutation: &Permutation, first: u64, count: u64) -> Vec<u64> {
        let mut out = vec![-1; count as usize];
        permutation.images(first, &mut out);
        out.into_iter().map(|image| u64::try_from(image).unwrap()).collect()
    }

    proptest! {
        #[test]
        fn any_part_is_that_of_the_whole(total in 1_u64..5000, seed: u64, cut in (0_u64..5000, 0_u64..5000)) {
            let permutation = Permutation::new(total, seed, 1);
            let first = cut.0 % total;
            let count = cut.1 % (total - first) + 1;
            let whole = images(&permutation, 0, total);
            prop_assert_eq!(&images(&permutation, first, count), &whole[first as usize..(first + count) as usize]);
        }

        #[test]
        fn is_a_bijection(total in prop_oneof![1_u64..1100, 1000_u64..5000], seed: u64, epoch: u64) {
            let permutation = Permutation::new(total, seed, epoch);
            let mut seen = vec![false; total as usize];
            for image in images(&permutation, 0, total) {
                prop_assert!(!std::mem::replace(&mut seen[image as usize], true));
            }
        }
    }

    proptest! {
        #[test]
        fn groups_in_any_vectors_are_as_one_by_one(
            total in prop_oneof![1025_u64..3000, 1_u64 << 30..1 << 40, (1_u64 << 63) - (1 << 32)..1 << 63],
            seed: u64, at: u64, count in 0_u64..300,
        ) {
            let Permutation::Cipher(cipher) = Permutation::new(total, seed, 0) else { unreachable!() };
            let count = count.min(total);
            let first = at % (total - count + 1);
            let expected: Vec<i64> = (first..first + count).map(|position| cipher.get(position) as i64).collect();
            let mut out = vec![-1; count as usize];
            cipher.images_by_groups(first, &mut out);
            prop_assert_eq!(&out, &expected);
            #[cfg(target_arch = "x86_64")]
            {
                use std::arch::is_x86_feature_detected as has;
                if has!("avx2") {
                    out.fill(-1);
                    // SAFETY: the machine has what the function is compiled for.
                    unsafe { cipher.images_avx2(first, &mut out) };
                    prop_assert_eq!(&out, &expected);
                }
                if has!("avx512f") && has!("avx512dq") {
                    out.fill(-1);
                    // SAFETY: as above.
                    unsafe { cipher.images_avx512(first, &mut out) };
                    prop_assert_eq!(&out, &expected);
                }
            }
        }
    }

    #[test]
    fn holds_beyond_32_bits() {
        let total = (1 << 40) + 12345;
        let permutation = Permutation::new(total, 7, 0);
        // Across the end of a row of the grid, too.
        let first = (1 << 20) - 50_000;
        let images: std::collections::HashSet<u64> = images(&permutation, first, 100_000).into_iter().collect();
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
                *orders.entry(images(&permutation, 0, total)).or_default() += 1;
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
                let bin = |position: u64| (images(&permutation, position, 1)[0] * bins as u64 / total) as usize;
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
