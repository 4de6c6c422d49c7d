//! The probabilities that starts are drawn by: part of them in proportion to scores, none above its cap, and the rest by turns.

use super::cumulative::Cumulative;
use super::scheme::Scheme;
use crate::Result;
use crate::memory::{collected, refilled};

/// Sums that are made at once.
const LANES: usize = 8;

/// Of a table that nobody needs any more, or of none.
#[derive(Debug, Default)]
pub struct Memory {
    /// Room for a number per bin: scores that a table is made of may be in it.
    pub shares: Vec<f64>,
    drawn: Cumulative,
}

/// What starts are drawn from until the next sync.
#[derive(Debug)]
pub struct Table {
    /// The share of each bin in those starts that do not go in turn; all of them make 1.
    adaptive: Vec<f64>,
    uniform: f64,
    /// The same, to draw from; not there where nothing is.
    drawn: Option<Cumulative>,
}

impl Table {
    /// A table over base weights that make 1; without scores, or with none above 0, all is drawn by these. `memory` is that of a table that
    /// nobody needs any more.
    pub fn new(base: &[f64], scores: Option<Vec<f64>>, scheme: &Scheme, memory: Memory) -> Result<Self> {
        let adaptive = match scores {
            Some(scores) => shares(base, scores, scheme.cap),
            None => refilled(memory.shares, base.iter().copied())?,
        };
        let drawn = if scheme.uniform < 1.0 { Some(memory.drawn.remade(&adaptive)?) } else { None };
        Ok(Self { adaptive, uniform: scheme.uniform, drawn })
    }

    /// What it is in, for the next one.
    pub fn into_memory(self) -> Memory {
        Memory { shares: self.adaptive, drawn: self.drawn.unwrap_or_default() }
    }

    /// The share that follows the scores.
    pub fn adaptive(&self) -> &[f64] {
        &self.adaptive
    }

    /// How likely a start is in each bin, over the base that the table was made with.
    pub fn probabilities(&self, base: &[f64]) -> Result<Vec<f64>> {
        let mixed = |(&adaptive, &base): (&f64, &f64)| (1.0 - self.uniform) * adaptive + self.uniform * base;
        collected(self.adaptive.iter().zip(base).map(mixed))
    }

    /// The adaptive share, to draw from; `None` where all starts go in turn.
    pub fn drawn(&self) -> Option<&Cumulative> {
        self.drawn.as_ref()
    }
}

/// Shares in proportion to base times score of which none is above `cap` times its base: those that would be get just that, and what is
/// left goes to the others in proportion, until none is above.
fn shares(base: &[f64], mut scores: Vec<f64>, cap: Option<f64>) -> Vec<f64> {
    let most = base.iter().zip(&scores).fold(0.0_f64, |most, (&w, &s)| if w > 0.0 { most.max(s) } else { most });
    if most <= 0.0 {
        scores.copy_from_slice(base);
        return scores;
    }
    let cap = cap.unwrap_or(f64::INFINITY);
    // Those with a score of at least `held` are at their cap; all scores are at most 1.
    let (mut held, mut factor) = (f64::INFINITY, 0.0);
    let mut left_by_weight = None;
    for score in &mut scores {
        *score /= most;
    }
    loop {
        let Split { capped, free, free_weight } = split(base, &scores, held);
        let left = if capped > 0.0 { (1.0 - cap * capped).max(0.0) } else { 1.0 };
        if free <= 0.0 {
            // Only scores of 0 are left: what is left over goes to them by weight.
            left_by_weight = (free_weight > 0.0).then(|| left / free_weight);
            break;
        }
        factor = left / free;
        let next = cap / factor;
        // Strictly fewer are free in each round, so there is an end.
        if !base.iter().zip(&scores).any(|(&weight, &score)| score >= next && score < held && weight > 0.0) {
            break;
        }
        held = next;
    }
    for (score, &weight) in scores.iter_mut().zip(base) {
        let times = if *score >= held { cap } else { left_by_weight.unwrap_or(factor * *score) };
        *score = weight * times.min(cap);
    }
    scores
}

/// The weight of what is at its cap, the weight times score of what is not, and the weight of that.
struct Split {
    capped: f64,
    free: f64,
    free_weight: f64,
}

/// Sums over those with a score of at least `held`, and over the others; in lanes that do not wait for each other.
fn split(base: &[f64], scores: &[f64], held: f64) -> Split {
    let (mut capped, mut free, mut free_weight) = ([0.0; LANES], [0.0; LANES], [0.0; LANES]);
    let mut add = |lane: usize, weight: f64, score: f64| {
        let is_capped = score >= held;
        capped[lane] += if is_capped { weight } else { 0.0 };
        free[lane] += if is_capped { 0.0 } else { weight * score };
        free_weight[lane] += if is_capped { 0.0 } else { weight };
    };
    let ((weights, rest), (parts, last)) = (base.as_chunks::<LANES>(), scores.as_chunks::<LANES>());
    for (weights, scores) in weights.iter().zip(parts) {
        for lane in 0..LANES {
            add(lane, weights[lane], scores[lane]);
        }
    }
    rest.iter().zip(last).for_each(|(&weight, &score)| add(0, weight, score));
    Split { capped: capped.iter().sum(), free: free.iter().sum(), free_weight: free_weight.iter().sum() }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn scheme(uniform: f64, cap: Option<f64>) -> Scheme {
        Scheme { uniform, cap, ..Scheme::UNIFORM }
    }

    proptest! {
        #[test]
        fn floor_and_cap_hold_exactly(
            items in prop::collection::vec(
                (prop_oneof![Just(0.0), 1e-3_f64..1.0], prop_oneof![Just(0.0), 0.0_f64..1.0, 1e-300..1e300_f64]), 1..120
            ),
            cap in prop_oneof![Just(1.0), 1.0_f64..12.0, Just(10.0)],
            uniform in 0.0_f64..0.5,
        ) {
            let total: f64 = items.iter().map(|item| item.0).sum();
            prop_assume!(total > 0.0);
            let base: Vec<f64> = items.iter().map(|item| item.0 / total).collect();
            let scores = items.iter().map(|item| item.1).collect();
            let table = Table::new(&base, Some(scores), &scheme(uniform, Some(cap)), Memory::default()).unwrap();
            let adaptive: f64 = table.adaptive().iter().sum();
            prop_assert!((adaptive - 1.0).abs() < 1e-9, "{}", adaptive);
            let p = table.probabilities(&base).unwrap();
            prop_assert!((p.iter().sum::<f64>() - 1.0).abs() < 1e-9);
            for ((&p, &q), &w) in p.iter().zip(table.adaptive()).zip(&base) {
                prop_assert!(p >= uniform * w && q <= cap * w && q >= 0.0);
            }
            // Below the cap shares are in proportion to the scores.
            let ratios: Vec<(f64, f64)> = items.iter().zip(table.adaptive()).zip(&base)
                .filter(|((item, q), w)| **w > 0.0 && item.1 > 1e-200 && **q < cap * **w)
                .map(|((item, q), w)| (q / w, item.1)).collect();
            for pair in ratios.windows(2) {
                let ratio = pair[0].0 * (pair[1].1 / pair[0].1);
                prop_assert!((ratio - pair[1].0).abs() <= 1e-9 * pair[1].0.max(ratio) || pair[0].0 < 1e-290 || pair[1].0 < 1e-290);
            }
        }
    }

    #[test]
    fn a_cap_pushes_the_excess_over_others_caps() {
        // 0.5, 0.3 and 0.2 times, of which the first is held to 1.2, then the second.
        let table =
            Table::new(&[0.25; 4], Some(vec![10.0, 5.0, 4.0, 1.0]), &scheme(0.0, Some(1.25)), Memory::default())
                .unwrap();
        let wanted = [0.3125, 0.3125, 0.3, 0.075];
        assert!(
            table.adaptive().iter().zip(wanted).all(|(q, wanted)| (q - wanted).abs() < 1e-12),
            "{:?}",
            table.adaptive()
        );
        let only = Table::new(&[0.25; 4], Some(vec![1.0, 0.0, 0.0, 0.0]), &scheme(0.0, Some(2.0)), table.into_memory())
            .unwrap();
        assert!((only.adaptive()[1] - 0.5 / 3.0).abs() < 1e-12 && (only.adaptive()[0] - 0.5).abs() < 1e-15);
    }
}
