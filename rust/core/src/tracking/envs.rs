//! Where envs stand: a clip, a time in it, and how many steps of a control loop ago that was. Nothing accumulates.

use super::bins::Bins;
use crate::memory::filled;
use crate::{Error, Result};

/// The clip of an env that was not given a start yet.
pub const NOWHERE: i64 = -1;

/// One cursor per env, as it is saved.
#[derive(Debug, Clone, PartialEq)]
pub struct Envs {
    /// Clip of each, or `NOWHERE`.
    pub clip: Vec<i64>,
    /// Where it started, in seconds of the clip.
    pub start: Vec<f64>,
    /// Control steps since then.
    pub steps: Vec<i64>,
}

impl Envs {
    /// Nobody has a start yet.
    pub fn new(count: usize) -> Result<Self> {
        Ok(Self { clip: filled(count, NOWHERE)?, start: filled(count, 0.0)?, steps: filled(count, 0)? })
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.clip.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.clip.is_empty()
    }

    /// Refuse what cannot be.
    pub fn check(&self, count: usize, bins: &Bins) -> Result<()> {
        let refuse = |why: String| Err(Error::State(why));
        if [self.clip.len(), self.start.len(), self.steps.len()] != [count; 3] {
            return refuse(format!("clips, starts and steps of {count} envs are needed"));
        }
        for (env, ((&clip, &start), &steps)) in self.clip.iter().zip(&self.start).zip(&self.steps).enumerate() {
            let is_there = clip == NOWHERE || (0..bins.num_clips() as i64).contains(&clip);
            if !is_there || !is_within(bins, clip, start) || !(0..1 << 53).contains(&steps) {
                return refuse(format!("env {env}: clip {clip}, start {start}, step {steps} cannot be"));
            }
        }
        Ok(())
    }

    /// Seconds from the first frame of an env's clip.
    #[inline]
    pub fn time(&self, env: usize, control_dt: f64) -> f64 {
        self.start[env] + self.steps[env] as f64 * control_dt
    }

    /// Put an env somewhere.
    pub fn put(&mut self, env: usize, clip: usize, seconds: f64) {
        (self.clip[env], self.start[env], self.steps[env]) = (clip as i64, seconds, 0);
    }

    /// Refuse ids that are not there, or there twice.
    pub fn check_ids(&self, ids: &[i64]) -> Result<()> {
        let mut seen = filled(self.len(), false)?;
        for &id in ids {
            let Some(seen) = usize::try_from(id).ok().and_then(|env| seen.get_mut(env)) else {
                return Err(Error::OutOfRange(format!("env {id} is outside [0, {})", self.len())));
            };
            if std::mem::replace(seen, true) {
                return Err(Error::Invalid(format!("env {id} is there twice")));
            }
        }
        Ok(())
    }

    /// The first env of some that has no start yet.
    pub fn first_nowhere(&self, ids: impl IntoIterator<Item = i64>) -> Option<i64> {
        ids.into_iter().find(|&env| self.clip[env as usize] == NOWHERE)
    }
}

/// Whether a time is within a clip; any is where there is no clip.
pub fn is_within(bins: &Bins, clip: i64, seconds: f64) -> bool {
    seconds >= 0.0 && seconds.is_finite() && (clip == NOWHERE || !bins.at(clip as usize, seconds).1)
}
