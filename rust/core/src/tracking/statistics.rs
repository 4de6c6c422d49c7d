//! What is believed of each bin: passes and failures, half of which is forgotten in time, and the scores made of them.

use super::bins::Bins;
use super::ledger::Counts;
use super::scheme::{Scheme, Statistic};
use crate::memory::{emptied, filled, refilled, with_room};
use crate::{Error, Result};

/// Passes are summed as whole numbers of this part of one.
const FIXED: f64 = 4_294_967_296.0;

/// Passes and failures of each bin.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Statistics {
    /// Control steps spent in the bin ÷ control steps it has.
    pub passes: Vec<f64>,
    /// Failures in it.
    pub failures: Vec<f64>,
}

impl Statistics {
    /// Nothing has happened yet.
    pub fn new(bins: usize) -> Result<Self> {
        Ok(Self { passes: filled(bins, 0.0)?, failures: filled(bins, 0.0)? })
    }

    /// Refuse what cannot have happened.
    pub fn check(&self, bins: usize) -> Result<()> {
        let is_possible = |values: &[f64]| values.len() == bins && values.iter().all(|&x| x >= 0.0 && x.is_finite());
        if is_possible(&self.passes) && is_possible(&self.failures) {
            return Ok(());
        }
        Err(Error::State(format!(
            "passes and failures of {bins} bins: finite numbers that are not negative are needed"
        )))
    }

    /// These with new counts of some bins, and part of what was there forgotten; `drawn` is how many bins take part. `memory` is that of others
    /// which nobody needs any more.
    ///
    /// In whatever order the counts come, the result is the same to the bit: the sum of passes is one of whole numbers.
    pub fn folded(
        &self,
        bins: &Bins,
        counts: impl Iterator<Item = (usize, Counts)> + Clone,
        drawn: usize,
        scheme: &Scheme,
        memory: Self,
    ) -> Result<Self> {
        let passes_of = |bin: usize, counts: Counts| counts.visits as f64 / bins.steps(bin);
        let new: u128 = counts.clone().map(|(bin, counts)| (passes_of(bin, counts) * FIXED) as u128).sum();
        let kept = scheme.half_life.map_or(1.0, |(passes, syncs)| {
            half_to_the((new as f64 / FIXED / (drawn.max(1) as f64 * passes)).min(1.0 / syncs))
        });
        let mut passes = refilled(memory.passes, self.passes.iter().map(|before| kept * before))?;
        let mut failures = refilled(memory.failures, self.failures.iter().map(|before| kept * before))?;
        for (bin, counts) in counts {
            passes[bin] += passes_of(bin, counts);
            failures[bin] += counts.failures as f64;
        }
        Ok(Self { passes, failures })
    }

    /// How likely a bin, or what it leads to, is believed to fail: a bin is like its clip until it was passed, a clip like all.
    pub fn scores(&self, bins: &Bins, scheme: &Scheme, memory: Vec<f64>) -> Result<Vec<f64>> {
        let mut of_clips: Vec<(f64, f64)> = with_room(bins.num_clips())?;
        let (mut all_passes, mut all_failures) = (0.0, 0.0);
        for clip in 0..bins.num_clips() {
            let of = bins.of_clip(clip);
            let passes: f64 = self.passes[of.clone()].iter().sum();
            let failures: f64 = self.failures[of].iter().sum();
            all_passes += passes;
            all_failures += failures;
            of_clips.push((passes, failures));
        }
        let rate = |failures: f64, passes: f64| if passes > 0.0 { failures / passes } else { 0.0 };
        let prior = scheme.prior;
        let of_all = prior * rate(all_failures, all_passes);
        let (count, factor) = scheme.look_back;
        let mut scores = emptied(memory, bins.len())?;
        let mut rates = with_room((0..bins.num_clips()).map(|clip| bins.of_clip(clip).len()).max().unwrap_or(0))?;
        for (clip, &(passes, failures)) in of_clips.iter().enumerate() {
            let of = bins.of_clip(clip);
            let believed = prior * rate(failures + of_all, passes + prior);
            rates.clear();
            let (passes, failures) = (&self.passes[of.clone()], &self.failures[of]);
            match scheme.statistic {
                Statistic::Count => rates.extend(failures.iter().map(|failures| failures + believed)),
                Statistic::Rate => {
                    rates.extend(failures.iter().zip(passes).map(|(f, p)| rate(f + believed, p + prior)));
                }
            }
            let begin = scores.len();
            scores.extend_from_slice(&rates);
            let own = &mut scores[begin..];
            let mut less = 1.0;
            for ahead in 1..count.min(rates.len()) {
                less *= factor;
                own.iter_mut().zip(&rates[ahead..]).for_each(|(score, rate)| *score += less * rate);
            }
        }
        Ok(scores)
    }
}

/// 2^-x for a small x, from products and sums alone: the same bits on every rank, whatever machine it is.
fn half_to_the(x: f64) -> f64 {
    let y = -x * std::f64::consts::LN_2;
    (1..=24).rev().fold(1.0, |sum, n| 1.0 + sum * y / f64::from(n))
}

#[cfg(test)]
mod tests {
    use super::super::bins::tests::clips;
    use super::*;

    #[test]
    fn halves() {
        for x in [0.0, 1e-9, 0.013, 0.05, 0.5, 1.0] {
            assert!((half_to_the(x) - (-x).exp2()).abs() < 1e-15, "{x}");
        }
    }

    #[test]
    fn follows_the_formulas() {
        // Two clips of three and two bins of 50 steps each.
        let bins = Bins::new(&clips(&[90, 60], 30.0), 0.02, 1.0).unwrap();
        let mut counts = [Counts::default(); 5];
        counts[0].visits = 100;
        counts[2] = Counts { visits: 50, failures: 2, ..Counts::default() };
        let scheme = Scheme { uniform: 0.1, cap: Some(10.0), ..Scheme::UNIFORM };
        let start = Statistics { passes: vec![4.0; 5], failures: vec![1.0; 5] };
        let found = start.folded(&bins, counts.iter().copied().enumerate(), 5, &scheme, Statistics::default()).unwrap();
        let kept = (-3.0_f64 / 500.0).exp2();
        for (bin, (passes, failures)) in
            [(2.0, 0.0), (0.0, 0.0), (1.0, 2.0), (0.0, 0.0), (0.0, 0.0)].into_iter().enumerate()
        {
            assert!((found.passes[bin] - (4.0 * kept + passes)).abs() < 1e-12);
            assert!((found.failures[bin] - (kept + failures)).abs() < 1e-12);
        }
        let many = [Counts { visits: 50_000, ..Counts::default() }; 5];
        let after = start.folded(&bins, many.iter().copied().enumerate(), 5, &scheme, found).unwrap();
        assert!((after.failures[0] - (-0.05_f64).exp2()).abs() < 1e-12);

        let told = Statistics { passes: vec![3.0, 1.0, 0.0, 2.0, 0.0], failures: vec![0.0, 1.0, 0.0, 0.0, 0.0] };
        let all = 1.0 / 6.0;
        let first = (1.0 + 2.0 * all) / (4.0 + 2.0);
        let second = (0.0 + 2.0 * all) / (2.0 + 2.0);
        let rate = [2.0 * first / 5.0, (1.0 + 2.0 * first) / 3.0, first, 2.0 * second / 4.0, second];
        let wanted = [
            rate[0] + 0.8 * rate[1] + 0.64 * rate[2],
            rate[1] + 0.8 * rate[2],
            rate[2],
            rate[3] + 0.8 * rate[4],
            rate[4],
        ];
        for (score, wanted) in told.scores(&bins, &scheme, vec![7.0; 9]).unwrap().into_iter().zip(wanted) {
            assert!((score - wanted).abs() < 1e-12);
        }
        let counting = Scheme { prior: 0.0, statistic: Statistic::Count, look_back: (1, 0.8), ..scheme };
        assert_eq!(told.scores(&bins, &counting, Vec::new()).unwrap(), told.failures);
    }
}
