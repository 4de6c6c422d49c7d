//! From a time to two frames and how far it is from one to the other: the only place with the rule.
//!
//! Frame i of a clip of T states at `fps` states per second is at i / fps. A time is held to the clip; a millionth of a frame
//! from a frame it is that frame, so that clocks which divide evenly meet frames exactly. The index is floored, never
//! rounded: the fraction is never negative.

use crate::segment::SegmentTable;
use crate::{Error, Result};

/// In frames: so close to a frame is that frame, and so far beyond an end is still within.
pub const TOLERANCE: f64 = 1e-6;

/// A clip's states and their rate.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Clip {
    /// Row of its first state.
    pub first: i64,
    /// Number of its last state, from 0.
    pub last: i64,
    /// States per second.
    pub fps: f64,
}

/// Where a time lies.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Moment {
    /// The frame before (or at) the time.
    pub frame: i64,
    /// How far it is to the next one, in [0, 1); 0 at a frame, at which there need be no next one.
    pub fraction: f64,
    /// Whether the time is within the clip.
    pub valid: bool,
}

impl Clip {
    /// Where a time in seconds from its first frame lies.
    #[inline]
    pub fn at(&self, seconds: f64) -> Moment {
        let last = self.last as f64;
        let place = seconds * self.fps;
        let valid = place >= -TOLERANCE && place <= last + TOLERANCE;
        let held = place.clamp(0.0, last);
        // Not negative, so that cutting is flooring.
        let frame = ((held + TOLERANCE) as i64).min(self.last);
        let fraction = held - frame as f64;
        Moment { frame, fraction: if fraction < TOLERANCE { 0.0 } else { fraction }, valid }
    }

    /// Seconds from its first to its last state.
    pub fn duration(&self) -> f64 {
        self.last as f64 / self.fps
    }

    /// Whether a time is behind its last state.
    #[inline]
    pub fn is_over(&self, seconds: f64) -> bool {
        seconds * self.fps > self.last as f64 + TOLERANCE
    }
}

/// The clips of a store with their rates.
pub fn clips_of(segments: &SegmentTable, fps: &[f64]) -> Result<Vec<Clip>> {
    if fps.len() != segments.len() {
        return Err(Error::Invalid(format!("{} rates for {} clips", fps.len(), segments.len())));
    }
    if let Some(clip) = fps.iter().position(|&rate| !(rate > 0.0 && rate.is_finite())) {
        return Err(Error::Invalid(format!("fps of clip {clip} is {}; a positive number is needed", fps[clip])));
    }
    if !segments.is_contiguous() {
        return Err(Error::Schema("segments leave transitions out".into()));
    }
    // Each clip has one state more than transitions.
    let clip = |k: usize| Clip { first: segments.start()[k] + k as i64, last: segments.length()[k], fps: fps[k] };
    Ok((0..segments.len()).map(clip).collect())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn frames_are_met_exactly(last in 0_i64..100_000, fps in 1.0_f64..500.0, at in 0_i64..100_000) {
            let clip = Clip { first: 3, last, fps };
            let frame = at % (last + 1);
            let seconds = frame as f64 / fps;
            prop_assert_eq!(clip.at(seconds), Moment { frame, fraction: 0.0, valid: true });
            prop_assert!(!clip.is_over(seconds));
        }

        #[test]
        fn the_two_frames_surround_the_time(last in 0_i64..1000, fps in 1.0_f64..500.0, seconds in -1e3_f64..1e3) {
            let clip = Clip { first: 0, last, fps };
            let Moment { frame, fraction, valid } = clip.at(seconds);
            let place = seconds * fps;
            prop_assert!((0..=last).contains(&frame) && (0.0..1.0).contains(&fraction));
            prop_assert!(fraction == 0.0 || frame < last);
            if valid {
                prop_assert!((frame as f64 + fraction - place).abs() < 2.0 * TOLERANCE);
            } else {
                prop_assert!(fraction == 0.0 && (frame == 0 || frame == last));
                prop_assert!(place < 0.0 || place > last as f64);
            }
            prop_assert_eq!(clip.is_over(seconds), place > last as f64 && !valid);
        }
    }

    #[test]
    fn ends_and_extremes() {
        let clip = Clip { first: 0, last: 90, fps: 30.0 };
        assert_eq!(clip.at(3.0 + 1e-9), Moment { frame: 90, fraction: 0.0, valid: true });
        assert_eq!(clip.at(3.1), Moment { frame: 90, fraction: 0.0, valid: false });
        assert_eq!(clip.at(-0.1), Moment { frame: 0, fraction: 0.0, valid: false });
        for seconds in [f64::MAX, f64::INFINITY, 1e300] {
            assert_eq!(clip.at(seconds), Moment { frame: 90, fraction: 0.0, valid: false });
        }
        assert_eq!(clip.at(f64::MIN), Moment { frame: 0, fraction: 0.0, valid: false });
        let still = Clip { first: 5, last: 0, fps: 30.0 };
        assert_eq!(still.at(0.0), Moment { frame: 0, fraction: 0.0, valid: true });
        assert!(still.is_over(0.02) && still.duration() == 0.0);
        // A clock of 50 Hz over 30 frames per second: every fifth step is a frame, after ten minutes, too.
        let long = Clip { first: 0, last: 1_000_000, fps: 30.0 };
        assert!((0..30_000).step_by(5).all(|n| long.at(f64::from(n) * 0.02).fraction == 0.0));
    }
}
