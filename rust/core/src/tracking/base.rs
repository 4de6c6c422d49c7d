//! The base measure: what bins weigh before anything has happened, and the order in which they have their turns by it.

use super::bins::Bins;
use super::sweep::Sweep;
use crate::memory::filled;
use crate::{Error, Result};

/// The weight of each bin, and their turns.
#[derive(Debug)]
pub struct Base {
    weights: Vec<f64>,
    sweep: Sweep,
}

impl Base {
    /// The mass of each clip goes to its bins by their time; all weights make 1.
    pub fn new(bins: &Bins, masses: &[f64]) -> Result<Self> {
        Self::check(bins, masses)?;
        let mut weights = filled(bins.len(), 0.0)?;
        for (clip, &mass) in masses.iter().enumerate() {
            let of = bins.of_clip(clip);
            let per_second = if of.is_empty() { 0.0 } else { mass / bins.duration(clip) };
            for bin in of {
                let (begin, end) = bins.span(bin);
                weights[bin] = per_second * (end - begin);
            }
        }
        let total: f64 = weights.iter().sum();
        for weight in &mut weights {
            *weight /= total;
        }
        let sweep = Sweep::new(&weights)?;
        Ok(Self { weights, sweep })
    }

    /// Refuse masses of which no measure can be made.
    pub fn check(bins: &Bins, masses: &[f64]) -> Result<()> {
        let clips = bins.num_clips();
        if masses.len() != clips || masses.iter().any(|&mass| !(mass >= 0.0 && mass.is_finite())) {
            let why = format!("weights of {clips} clips: finite numbers that are not negative are needed");
            return Err(Error::Invalid(why));
        }
        let total: f64 = (0..clips).filter(|&clip| !bins.of_clip(clip).is_empty()).map(|clip| masses[clip]).sum();
        if total > 0.0 && total.is_finite() {
            return Ok(());
        }
        Err(Error::Invalid("no clip that can be started in has a positive weight".into()))
    }

    /// What each bin weighs.
    pub fn weights(&self) -> &[f64] {
        &self.weights
    }

    /// How many bins can be started in.
    pub fn num_drawn(&self) -> usize {
        self.sweep.num_bins()
    }

    /// The bin whose turn it is at a position of the order that a seed makes.
    pub fn turn(&mut self, seed: u64, position: u64) -> usize {
        self.sweep.bin(seed, position)
    }
}
