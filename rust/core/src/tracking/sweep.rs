//! All bins in turn, in an order that is shuffled anew each round: what statistics cannot starve.
//!
//! Where bins weigh the same, a round is a keyed permutation of them. Where they do not, the base measure is cut into as many equal
//! strata as there are bins, and the permutation is one of strata: each round has a point in each, all at the same height, so a bin gets
//! the whole number below or above its part of a round. From round to round the height moves by the golden section, so a bin that is
//! less than a stratum wide is met after at most 2.7 times as many rounds as fit into one.

use super::cumulative::Cumulative;
use crate::Result;
use crate::index::{Permutation, mix};
use crate::memory::with_room;

/// Weights that differ by less than this part are one weight: what rounding makes of equal ones.
const SAME: f64 = 1e-9;
/// 2^64 times the golden section.
const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;

#[derive(Debug)]
enum Order {
    /// Bins of equal weight; `None` = all there are.
    Flat(Option<Vec<u32>>),
    Weighted(Cumulative),
}

/// The bins that can be started in, in their order.
#[derive(Debug)]
pub struct Sweep {
    order: Order,
    /// Starts of a round.
    round: u64,
    /// The permutation that was used last, by seed and round.
    permutation: Option<(u64, u64, Permutation)>,
}

impl Sweep {
    /// Over weights that are finite and not negative, at least one of them positive.
    pub fn new(weights: &[f64]) -> Result<Self> {
        let positive = || weights.iter().copied().filter(|&weight| weight > 0.0);
        let round = positive().count();
        let (least, most) = positive().fold((f64::INFINITY, 0.0_f64), |(low, high), w| (low.min(w), high.max(w)));
        let order = if most > least * (1.0 + SAME) {
            Order::Weighted(Cumulative::new(weights)?)
        } else if round == weights.len() {
            Order::Flat(None)
        } else {
            let mut bins = with_room(round)?;
            bins.extend((0_u32..).zip(weights).filter(|&(_, &weight)| weight > 0.0).map(|(bin, _)| bin));
            Order::Flat(Some(bins))
        };
        Ok(Self { order, round: round as u64, permutation: None })
    }

    /// How many bins can be started in.
    pub fn num_bins(&self) -> usize {
        self.round as usize
    }

    /// The bin at a position of the order that a seed makes.
    pub fn bin(&mut self, seed: u64, position: u64) -> usize {
        let (round, place) = (position / self.round, position % self.round);
        if !matches!(&self.permutation, Some((of, which, _)) if (*of, *which) == (seed, round)) {
            self.permutation = Some((seed, round, Permutation::new(self.round, seed, round)));
        }
        let mut image = [0];
        if let Some((_, _, permutation)) = &self.permutation {
            permutation.images(place, &mut image);
        }
        let [image] = image;
        match &self.order {
            Order::Flat(None) => image as usize,
            Order::Flat(Some(bins)) => bins[image as usize] as usize,
            Order::Weighted(cumulative) => {
                let height = mix(seed).wrapping_add(round.wrapping_mul(GOLDEN)) >> 11;
                let point = (image as f64 + height as f64 * (f64::EPSILON / 2.0)) / self.round as f64;
                cumulative.find(point.min(1.0 - f64::EPSILON / 2.0))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn counts(weights: &[f64], positions: std::ops::Range<u64>) -> Vec<u64> {
        let mut sweep = Sweep::new(weights).unwrap();
        let mut counts = vec![0; weights.len()];
        for position in positions {
            counts[sweep.bin(5, position)] += 1;
        }
        counts
    }

    proptest! {
        #[test]
        fn each_round_has_each_bin_by_its_weight(weights in prop::collection::vec(prop_oneof![Just(0.0), 0.01_f64..3.0], 2..60)) {
            prop_assume!(weights.iter().any(|&weight| weight > 0.0));
            let n = weights.iter().filter(|&&weight| weight > 0.0).count() as u64;
            let total: f64 = weights.iter().sum();
            for round in 0..3 {
                for (count, weight) in counts(&weights, round * n..(round + 1) * n).into_iter().zip(&weights) {
                    let wanted = n as f64 * weight / total;
                    prop_assert!((count as f64 - wanted).abs() < 1.0 + 1e-9, "{} {}", count, wanted);
                }
            }
            // However small a bin is, it has its turn.
            for (bin, weight) in weights.iter().enumerate().filter(|&(_, &weight)| weight > 0.0) {
                let rounds = (2.7 * total / (n as f64 * weight)).ceil().max(1.0) as u64;
                prop_assert!(counts(&weights, n * 7..n * (7 + rounds))[bin] > 0);
            }
        }

        #[test]
        fn equal_weights_are_a_shuffle(n in 1_usize..3000, weight in 1e-6_f64..10.0, left_out in 0_usize..3000) {
            let mut weights = vec![weight; n + 1];
            weights[left_out % (n + 1)] = 0.0;
            for round in 0..2 {
                let wanted: Vec<u64> = weights.iter().map(|&weight| u64::from(weight > 0.0)).collect();
                prop_assert_eq!(counts(&weights, round * n as u64..(round + 1) * n as u64), wanted);
            }
        }
    }
}
