//! Which item a point of a row of widths lies in: prefix sums in f64, and a table that says where to begin to look.

use crate::Result;
use crate::memory::refilled;

/// Items laid one after the other, each as wide as its weight.
#[derive(Debug, Clone, Default)]
pub struct Cumulative {
    /// Where each item ends.
    ends: Vec<f64>,
    /// Of each of as many buckets as there are items, and of one behind: the first item that ends in it or behind it.
    guide: Vec<u32>,
    /// Buckets per width.
    scale: f64,
    /// The last item that has any width.
    last: usize,
}

impl Cumulative {
    /// Weights that are finite and not negative, of which at least one is positive, and whose number is below 2^32.
    pub fn new(weights: &[f64]) -> Result<Self> {
        Self::default().remade(weights)
    }

    /// One over other weights, in the memory of this one.
    pub fn remade(self, weights: &[f64]) -> Result<Self> {
        let len = weights.len();
        let mut sum = 0.0;
        let ends = refilled(
            self.ends,
            weights.iter().map(|weight| {
                sum += weight;
                sum
            }),
        )?;
        let last = weights.iter().rposition(|&weight| weight > 0.0).unwrap_or(0);
        let scale = len as f64 / sum;
        let mut guide = refilled(self.guide, std::iter::repeat_n(0_u32, len + 2))?;
        let mut bucket = 0;
        for (item, &end) in ends.iter().enumerate() {
            let own = ((end * scale) as usize).min(len);
            while bucket <= own {
                guide[bucket] = item as u32;
                bucket += 1;
            }
        }
        guide[bucket..].fill(len.saturating_sub(1) as u32);
        Ok(Self { ends, guide, scale, last })
    }

    /// The item at a fraction, in [0, 1), of the whole width: never one of no width.
    #[inline]
    pub fn find(&self, fraction: f64) -> usize {
        self.search(self.narrow(fraction))
    }

    /// Where the item at a fraction is looked for. Of many fractions all are narrowed first: each waits for memory, all at once then.
    #[inline]
    pub fn narrow(&self, fraction: f64) -> Narrowed {
        let len = self.ends.len();
        let point = fraction * self.ends[len - 1];
        // As when the table was made, so that rounding puts no item and no point on different sides.
        let bucket = ((point * self.scale) as usize).min(len);
        Narrowed { point, low: self.guide[bucket], high: self.guide[bucket + 1] }
    }

    /// The item that was narrowed down to.
    #[inline]
    pub fn search(&self, Narrowed { point, low, high }: Narrowed) -> usize {
        let (low, high) = (low as usize, high as usize);
        let item = low + self.ends[low..=high].partition_point(|&end| end <= point);
        item.min(self.last)
    }
}

/// A point, and the first and the last item that it can lie in.
#[derive(Debug, Clone, Copy)]
pub struct Narrowed {
    point: f64,
    low: u32,
    high: u32,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn finds_what_a_search_finds(
            weights in prop::collection::vec(prop_oneof![Just(0.0), 0.0_f64..1.0, Just(1.0), 1e3..1e6_f64], 1..200),
            fractions in prop::collection::vec(0.0_f64..1.0, 1..50),
        ) {
            prop_assume!(weights.iter().any(|&weight| weight > 0.0));
            let cumulative = Cumulative::new(&weights).unwrap();
            let total: f64 = weights.iter().fold(0.0, |sum, &weight| sum + weight);
            let below_one = 1.0 - f64::EPSILON / 2.0;
            for fraction in fractions.into_iter().chain([0.0, below_one]) {
                let found = cumulative.find(fraction);
                prop_assert!(weights[found] > 0.0);
                let mut end = 0.0;
                let searched = weights.iter().position(|&weight| { end += weight; end > fraction * total });
                let last = weights.iter().rposition(|&weight| weight > 0.0);
                prop_assert_eq!(Some(found), searched.or(last));
            }
        }
    }

    #[test]
    fn more_items_than_a_single_float_can_tell_apart() {
        let len = (1 << 24) + 1000;
        let cumulative = Cumulative::new(&vec![1.0; len]).unwrap();
        assert_eq!(cumulative.find((len - 1) as f64 / len as f64 + 1e-9), len - 1);
        assert_eq!(cumulative.find(0.75), len * 3 / 4);
    }
}
