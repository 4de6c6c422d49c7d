//! How failures become starts: the parameters.

use crate::{Error, Result};

/// What a bin is judged by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Statistic {
    /// Failures per pass.
    Rate,
    /// Failures.
    Count,
}

/// The parameters of adaptive starts.
#[derive(Debug, Clone, PartialEq)]
pub struct Scheme {
    /// Share of starts that go through all bins in turn, whatever happened in them.
    pub uniform: f64,
    /// How many times its part of the base measure a bin may have of the other starts.
    pub cap: Option<f64>,
    /// Passes that a bin is believed to be like its clip for, and a clip like all.
    pub prior: f64,
    /// Half is forgotten after so many passes per bin, but not in fewer than so many syncs; never where there is none.
    pub half_life: Option<(f64, f64)>,
    /// How many bins count, and how much less each bin ahead does.
    pub look_back: (usize, f64),
    /// What a bin is judged by.
    pub statistic: Statistic,
}

impl Scheme {
    /// All starts in turn.
    pub const UNIFORM: Self = Self {
        uniform: 1.0,
        cap: None,
        prior: 2.0,
        half_life: Some((100.0, 20.0)),
        look_back: (4, 0.8),
        statistic: Statistic::Rate,
    };

    /// Refuse what makes no sense.
    pub fn check(&self) -> Result<()> {
        let within = |name: &str, value: f64, holds: bool, expected: &str| {
            if holds && value.is_finite() {
                return Ok(());
            }
            Err(Error::Invalid(format!("{name} is {value}; {expected} is needed")))
        };
        within("uniform", self.uniform, (0.0..=1.0).contains(&self.uniform), "a share within 0..=1")?;
        let cap = self.cap.unwrap_or(1.0);
        within("cap", cap, cap >= 1.0, "at least 1")?;
        within("prior", self.prior, self.prior >= 0.0, "a number that is not negative")?;
        let (passes, syncs) = self.half_life.unwrap_or((1.0, 1.0));
        within("half_life", passes, passes > 0.0, "a positive number of passes")?;
        within("half_life", syncs, syncs > 0.0, "a positive number of syncs")?;
        let (bins, factor) = self.look_back;
        within("look_back", bins as f64, (1..=1024).contains(&bins), "1 to 1024 bins")?;
        within("look_back", factor, (0.0..=1.0).contains(&factor), "a factor within 0..=1")
    }
}
