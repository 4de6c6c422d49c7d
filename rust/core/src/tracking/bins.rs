//! Clips cut into bins of time, each of which is a place to start.
//!
//! A clip has as many bins as `bin_s` fits into its duration, rounded: what is left over is a bin of its own if it is half a bin or
//! more, and belongs to the last one otherwise. Starts are at least a control step before the end; a clip that has no such frame has no
//! bins.

use std::ops::Range;

use crate::memory::with_room;
use crate::motion::{Clip, TOLERANCE};
use crate::{Error, Result};

/// How one clip is cut.
#[derive(Debug, Clone, Copy)]
struct Cut {
    fps: f64,
    /// Number of its last state.
    last: f64,
    bins_per_frame: f64,
    /// Its first bin, of all.
    first: u32,
    count: u32,
}

impl Cut {
    /// The bin of a place in frames, before it is held to those there are.
    #[inline]
    fn floor(&self, frame: f64) -> u32 {
        // Not negative, so that cutting is flooring; beyond the range the greatest.
        ((frame + TOLERANCE) * self.bins_per_frame) as u32
    }

    /// The first frame of one of its bins.
    fn first_frame(&self, bin: u32) -> i64 {
        let mut frame = (f64::from(bin) / self.bins_per_frame - TOLERANCE).ceil().max(0.0);
        while frame > 0.0 && self.floor(frame - 1.0) >= bin {
            frame -= 1.0;
        }
        while self.floor(frame) < bin {
            frame += 1.0;
        }
        frame as i64
    }
}

/// The bins of all clips, one clip after the other.
#[derive(Debug)]
pub struct Bins {
    cuts: Vec<Cut>,
    /// Clip of each bin.
    clip: Vec<u32>,
    bin_s: f64,
    control_dt: f64,
}

impl Bins {
    /// Cut clips into bins of `bin_s` seconds, for steps of `control_dt` seconds.
    pub fn new(clips: &[Clip], control_dt: f64, bin_s: f64) -> Result<Self> {
        let is_time = |seconds: f64| seconds > 0.0 && seconds.is_finite();
        if !is_time(control_dt) {
            return Err(Error::Invalid(format!("control_dt is {control_dt}; a positive number of seconds is needed")));
        }
        if !is_time(bin_s) || bin_s < control_dt {
            return Err(Error::Invalid(format!(
                "bin_s is {bin_s}; at least a control step of {control_dt} s is needed"
            )));
        }
        let mut cuts = with_room(clips.len())?;
        let mut total = 0_u64;
        for (k, clip) in clips.iter().enumerate() {
            let cut = Self::cut(clip, control_dt, bin_s).map_err(|why| {
                Error::Invalid(format!("clip {k} of {} states at {} Hz: {why}", clip.last + 1, clip.fps))
            })?;
            cuts.push(Cut { first: total as u32, ..cut });
            total += u64::from(cut.count);
        }
        if total == 0 || total >= u64::from(u32::MAX) || clips.len() > u32::MAX as usize {
            let found = format!("{} clips in bins of {bin_s} s are {total} bins", clips.len());
            return Err(Error::Invalid(format!("{found}; at least one and less than 2^32 are needed")));
        }
        let mut clip = with_room(total as usize)?;
        for (k, cut) in cuts.iter().enumerate() {
            clip.extend(std::iter::repeat_n(k as u32, cut.count as usize));
        }
        Ok(Self { cuts, clip, bin_s, control_dt })
    }

    fn cut(clip: &Clip, control_dt: f64, bin_s: f64) -> std::result::Result<Cut, String> {
        let last_start = Self::last_start(clip.last as f64, clip.fps, control_dt);
        let bins_per_frame = 1.0 / (bin_s * clip.fps);
        let cut = Cut { fps: clip.fps, last: clip.last as f64, bins_per_frame, first: 0, count: 0 };
        if last_start < 0 {
            return Ok(cut);
        }
        if bins_per_frame > 1.0 + TOLERANCE {
            return Err(format!("bin_s is {bin_s}, less than the time between two frames"));
        }
        let fit = (cut.last * bins_per_frame + 0.5).floor();
        if fit >= f64::from(u32::MAX) {
            return Err(format!("{fit} bins are too many"));
        }
        let mut count = (fit as u32).max(1);
        while count > 1 && cut.first_frame(count - 1) > last_start {
            count -= 1;
        }
        Ok(Cut { count, ..cut })
    }

    /// The last frame that is a control step before the end, negative if there is none.
    fn last_start(last: f64, fps: f64, control_dt: f64) -> i64 {
        (last - control_dt * fps + TOLERANCE).floor() as i64
    }

    /// Number of bins.
    pub fn len(&self) -> usize {
        self.clip.len()
    }

    /// Whether there are none; there always are.
    pub fn is_empty(&self) -> bool {
        self.clip.is_empty()
    }

    /// Number of clips.
    pub fn num_clips(&self) -> usize {
        self.cuts.len()
    }

    /// Seconds of a control step.
    pub fn control_dt(&self) -> f64 {
        self.control_dt
    }

    /// The bins of a clip; none of one that is too short to start in.
    pub fn of_clip(&self, clip: usize) -> Range<usize> {
        let Cut { first, count, .. } = self.cuts[clip];
        first as usize..first as usize + count as usize
    }

    /// The clip of a bin.
    pub fn clip_of(&self, bin: usize) -> usize {
        self.clip[bin] as usize
    }

    /// Seconds from a clip's first to its last state.
    pub fn duration(&self, clip: usize) -> f64 {
        self.cuts[clip].last / self.cuts[clip].fps
    }

    /// The bin of a time that is not negative, and whether the time is behind the last state. A time behind is in the last bin; a clip
    /// without bins has `None`.
    #[inline]
    pub fn at(&self, clip: usize, seconds: f64) -> (Option<u32>, bool) {
        let cut = &self.cuts[clip];
        let frame = seconds * cut.fps;
        let bin = (cut.count > 0).then(|| cut.first + cut.floor(frame).min(cut.count - 1));
        (bin, frame > cut.last + TOLERANCE)
    }

    /// When a bin begins and ends, in seconds of its clip.
    pub fn span(&self, bin: usize) -> (f64, f64) {
        let clip = self.clip_of(bin);
        let cut = &self.cuts[clip];
        let nth = (bin - cut.first as usize) as f64;
        let is_last = bin + 1 == (cut.first + cut.count) as usize;
        (nth * self.bin_s, if is_last { self.duration(clip) } else { (nth + 1.0) * self.bin_s })
    }

    /// How many control steps a bin takes.
    pub fn steps(&self, bin: usize) -> f64 {
        let (begin, end) = self.span(bin);
        (end - begin) / self.control_dt
    }

    /// A frame of a bin to start from, in seconds: which one a fraction in [0, 1) says.
    pub fn start_frame(&self, bin: usize, fraction: f64) -> f64 {
        let cut = &self.cuts[self.clip_of(bin)];
        let nth = bin as u32 - cut.first;
        let first = cut.first_frame(nth);
        let last_start = Self::last_start(cut.last, cut.fps, self.control_dt);
        let end = if nth + 1 == cut.count { last_start + 1 } else { cut.first_frame(nth + 1).min(last_start + 1) };
        let frame = first + (fraction * (end - first) as f64) as i64;
        frame as f64 / cut.fps
    }

    /// Any time of a bin to start at, in seconds: which one a fraction in [0, 1) says.
    pub fn start_time(&self, bin: usize, fraction: f64) -> f64 {
        let (begin, end) = self.span(bin);
        let latest = (self.duration(self.clip_of(bin)) - self.control_dt).min(end);
        begin + fraction * (latest - begin).max(0.0)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    pub fn clips(lasts: &[i64], fps: f64) -> Vec<Clip> {
        lasts.iter().map(|&last| Clip { first: 0, last, fps }).collect()
    }

    proptest! {
        #[test]
        fn every_bin_has_starts_and_every_start_its_bin(
            lasts in prop::collection::vec(1_i64..700, 1..6),
            fps in 5.0_f64..130.0,
            control_dt in 0.002_f64..0.1,
            bin_s in 0.25_f64..3.0,
            fraction in 0.0_f64..1.0,
        ) {
            let Ok(bins) = Bins::new(&clips(&lasts, fps), control_dt, bin_s) else {
                prop_assert!(lasts.iter().all(|&last| (last as f64) < control_dt * fps));
                return Ok(());
            };
            for k in 0..lasts.len() {
                let (duration, of) = (bins.duration(k), bins.of_clip(k));
                prop_assert_eq!(of.is_empty(), duration + 2.0 * TOLERANCE / fps < control_dt);
                let mut end = 0.0;
                for bin in of.clone() {
                    prop_assert_eq!(bins.clip_of(bin), k);
                    let span = bins.span(bin);
                    prop_assert!((span.0 - end).abs() < 1e-9 && span.1 > span.0);
                    end = span.1;
                    for start in [bins.start_frame(bin, fraction), bins.start_time(bin, fraction)] {
                        prop_assert_eq!(bins.at(k, start), (Some(bin as u32), false));
                        prop_assert!(start + control_dt <= duration + 2.0 * TOLERANCE / fps, "{} {}", start, duration);
                    }
                    let frame = bins.start_frame(bin, fraction) * fps;
                    prop_assert!((frame - frame.round()).abs() < 1e-9);
                }
                prop_assert!(of.is_empty() || (end - duration).abs() < 1e-9);
                // Rounded: no bin but the only one is shorter than half, and none is longer than one and a half, but for the last
                // frames, which are no starts.
                let most = 1.5 * bin_s + control_dt + 1.0 / fps;
                prop_assert!(of.clone().all(|bin| bins.span(bin).1 - bins.span(bin).0 <= most + 1e-9));
                prop_assert_eq!(bins.at(k, duration + 1.0).0, of.clone().last().map(|bin| bin as u32));
                prop_assert!(bins.at(k, duration + 1.0).1 && !bins.at(k, duration).1);
            }
        }
    }

    #[test]
    fn what_makes_no_bins_is_refused() {
        let some = clips(&[90], 30.0);
        for (control_dt, bin_s) in
            [(0.0, 1.0), (f64::NAN, 1.0), (-0.02, 1.0), (0.02, 0.0), (0.02, 0.01), (0.02, f64::NAN), (0.02, 0.03)]
        {
            assert!(matches!(Bins::new(&some, control_dt, bin_s), Err(Error::Invalid(_))), "{control_dt} {bin_s}");
        }
        assert!(Bins::new(&clips(&[1], 100.0), 0.02, 1.0).is_err());
        let bins = Bins::new(&clips(&[90, 1, 104, 105], 30.0), 0.05, 1.0).unwrap();
        assert_eq!((0..4).map(|k| bins.of_clip(k).len()).collect::<Vec<_>>(), [3, 0, 3, 4]);
        assert_eq!(bins.span(8), (2.0, 3.0));
        assert_eq!(bins.at(1, 0.0), (None, false));
    }
}
