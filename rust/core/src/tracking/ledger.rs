//! What happened in each bin: whole numbers, exact and never forgotten, with those since the last sync apart.

use crate::memory::{filled, with_room};
use crate::{Error, Result};

/// Numbers per bin.
pub const COUNTS: usize = 4;

/// What happened in a bin.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Control steps spent in it.
    pub visits: i64,
    /// Envs that fell in it.
    pub failures: i64,
    /// Envs that were put into it.
    pub starts: i64,
    /// Envs that left it at its end.
    pub completions: i64,
}

impl Counts {
    fn plus(self, other: Self) -> Self {
        Self {
            visits: self.visits.saturating_add(other.visits),
            failures: self.failures.saturating_add(other.failures),
            starts: self.starts.saturating_add(other.starts),
            completions: self.completions.saturating_add(other.completions),
        }
    }

    fn numbers(self) -> [i64; COUNTS] {
        [self.visits, self.failures, self.starts, self.completions]
    }
}

/// Counts of all bins.
#[derive(Debug)]
pub struct Ledger {
    /// Since the last sync, of this rank.
    since: Vec<Counts>,
    /// The bins that have any of these, so that those of a million others need not be looked at.
    touched: Vec<u32>,
    /// Up to the last sync, of all ranks.
    totals: Vec<Counts>,
}

impl Ledger {
    /// Nothing has happened yet.
    pub fn new(bins: usize) -> Result<Self> {
        Self::of(filled(bins, Counts::default())?, filled(bins, Counts::default())?)
    }

    /// What was saved.
    pub fn of(since: Vec<Counts>, totals: Vec<Counts>) -> Result<Self> {
        let mut touched = with_room(since.len())?;
        touched.extend((0_u32..).zip(&since).filter(|&(_, counts)| *counts != Counts::default()).map(|(bin, _)| bin));
        Ok(Self { since, touched, totals })
    }

    /// The counts of a bin, to one of which is added.
    #[inline]
    pub fn add(&mut self, bin: u32) -> &mut Counts {
        let counts = &mut self.since[bin as usize];
        if *counts == Counts::default() {
            self.touched.push(bin);
        }
        counts
    }

    /// Counts since the last sync, where there are any, in no order that counts.
    pub fn news(&self) -> impl Iterator<Item = (usize, Counts)> + Clone {
        self.touched.iter().map(|&bin| (bin as usize, self.since[bin as usize]))
    }

    /// Counts since the last sync.
    pub fn since(&self) -> &[Counts] {
        &self.since
    }

    /// Counts up to the last sync.
    pub fn totals(&self) -> &[Counts] {
        &self.totals
    }

    /// Take up what all ranks counted, or this one where it is alone.
    pub fn settle(&mut self, counted: Option<&[Counts]>) {
        for &bin in &self.touched {
            let new = std::mem::take(&mut self.since[bin as usize]);
            if counted.is_none() {
                self.totals[bin as usize] = self.totals[bin as usize].plus(new);
            }
        }
        self.touched.clear();
        for (total, &new) in self.totals.iter_mut().zip(counted.unwrap_or_default()) {
            *total = total.plus(new);
        }
    }
}

/// Counts as numbers, four per bin.
pub fn numbers_of(counts: &[Counts]) -> Result<Vec<i64>> {
    let mut numbers = with_room(counts.len() * COUNTS)?;
    for counts in counts {
        numbers.extend(counts.numbers());
    }
    Ok(numbers)
}

/// Numbers as counts; those that cannot be are an error.
pub fn counts_of(numbers: &[i64], bins: usize, what: &str) -> Result<Vec<Counts>> {
    if numbers.len() != bins * COUNTS || numbers.iter().any(|&number| number < 0) {
        let why = format!("{what}: {COUNTS} numbers for each of {bins} bins are needed, none of them negative");
        return Err(Error::Invalid(why));
    }
    let mut counts = with_room(bins)?;
    counts.extend(numbers.as_chunks::<COUNTS>().0.iter().map(|&[visits, failures, starts, completions]| Counts {
        visits,
        failures,
        starts,
        completions,
    }));
    Ok(counts)
}
