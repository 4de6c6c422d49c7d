//! Many envs, each at its own time of a clip: where they go, what is counted on the way, and where they start next.

use std::sync::Arc;

use super::base::Base;
use super::bins::Bins;
use super::draws::Draws;
use super::envs::{Envs, is_within};
use super::ledger::{Counts, Ledger, counts_of, numbers_of};
use super::scheme::Scheme;
use super::statistics::Statistics;
use super::table::{Memory, Table};
use crate::memory::{collected, copied, filled, refilled};
use crate::{Error, Result};

/// What a tracker is made of, besides its bins.
#[derive(Debug, Clone)]
pub struct Setting {
    /// Number of envs.
    pub num_envs: usize,
    /// How failures become starts.
    pub scheme: Scheme,
    /// Whose draws.
    pub draws: Draws,
}

/// Everything that changes.
#[derive(Debug, Clone, PartialEq)]
pub struct Saved {
    /// Where envs stand.
    pub envs: Envs,
    /// Starts drawn so far: those that count, and those that do not.
    pub drawn: [u64; 2],
    /// Syncs so far.
    pub syncs: u64,
    /// What is believed of the bins.
    pub statistics: Statistics,
    /// Counts since the last sync, four numbers per bin.
    pub since: Vec<i64>,
    /// Counts before, four numbers per bin.
    pub totals: Vec<i64>,
    /// What clips weigh in the table.
    pub masses: Vec<f64>,
    /// What they weigh from the next sync on.
    pub next_masses: Vec<f64>,
    /// The scores that somebody else made for the table.
    pub scores: Option<Vec<f64>>,
}

/// The envs, the bins, and all that is known of both.
#[derive(Debug)]
pub struct Tracker {
    bins: Arc<Bins>,
    scheme: Scheme,
    draws: Draws,
    envs: Envs,
    /// The bin of each env, and whether it is behind its clip's end: what `Bins::at` says of where it stands.
    here: Vec<(Option<u32>, bool)>,
    drawn: [u64; 2],
    syncs: u64,
    statistics: Statistics,
    ledger: Ledger,
    masses: Vec<f64>,
    next_masses: Vec<f64>,
    scores: Option<Vec<f64>>,
    base: Base,
    table: Table,
    /// What the statistics and the table before these were in: the next sync's go there.
    spare: Option<(Statistics, Memory)>,
}

impl Tracker {
    /// Nobody has a start, nothing has happened; `masses` is what each clip weighs.
    pub fn new(bins: Arc<Bins>, setting: Setting, masses: Vec<f64>) -> Result<Self> {
        let Setting { num_envs, scheme, draws } = setting;
        scheme.check()?;
        if draws.rank >= draws.world_size {
            let why =
                format!("rank {} of a world of {}: 0 <= rank < world_size is needed", draws.rank, draws.world_size);
            return Err(Error::Invalid(why));
        }
        let statistics = Statistics::new(bins.len())?;
        let base = Base::new(&bins, &masses)?;
        let table = Self::table_of(&bins, &base, &scheme, &statistics, None, Memory::default())?;
        Ok(Self {
            envs: Envs::new(num_envs)?,
            here: filled(num_envs, (None, false))?,
            drawn: [0; 2],
            syncs: 0,
            ledger: Ledger::new(bins.len())?,
            next_masses: copied(&masses)?,
            masses,
            scores: None,
            bins,
            scheme,
            draws,
            statistics,
            base,
            table,
            spare: None,
        })
    }

    fn table_of(
        bins: &Bins,
        base: &Base,
        scheme: &Scheme,
        statistics: &Statistics,
        scores: Option<&[f64]>,
        mut memory: Memory,
    ) -> Result<Table> {
        let room = std::mem::take(&mut memory.shares);
        let scores = match scores {
            Some(scores) => Some(refilled(room, scores.iter().copied())?),
            None if scheme.uniform < 1.0 => Some(statistics.scores(bins, scheme, room)?),
            None => {
                memory.shares = room;
                None
            }
        };
        Table::new(base.weights(), scores, scheme, memory)
    }

    /// The bins.
    pub fn bins(&self) -> &Bins {
        &self.bins
    }

    /// Where envs stand.
    pub fn envs(&self) -> &Envs {
        &self.envs
    }

    /// What bins weigh.
    pub fn base(&self) -> &Base {
        &self.base
    }

    /// What bins will weigh from the next sync on.
    pub fn next_base(&self) -> Result<Vec<f64>> {
        if self.masses == self.next_masses {
            return copied(self.base.weights());
        }
        copied(Base::new(&self.bins, &self.next_masses)?.weights())
    }

    /// What starts are drawn from.
    pub fn table(&self) -> &Table {
        &self.table
    }

    /// Counts since the last sync, four numbers per bin.
    pub fn since(&self) -> Result<Vec<i64>> {
        numbers_of(self.ledger.since())
    }

    /// Counts up to the last sync, four numbers per bin.
    pub fn totals(&self) -> Result<Vec<i64>> {
        numbers_of(self.ledger.totals())
    }

    /// Book a failure where each env stands that is said to have failed.
    pub fn report(&mut self, ids: &[i64], failed: &[bool], counting: bool) -> Result<()> {
        self.check_report(ids, Some(failed))?;
        if counting {
            self.book(ids, failed);
        }
        Ok(())
    }

    fn check_report(&self, ids: &[i64], failed: Option<&[bool]>) -> Result<()> {
        self.envs.check_ids(ids)?;
        let Some(failed) = failed else { return Ok(()) };
        if failed.len() != ids.len() {
            return Err(Error::Invalid(format!("{} failures for {} envs", failed.len(), ids.len())));
        }
        let failures = ids.iter().zip(failed).filter(|&(_, &failed)| failed).map(|(&id, _)| id);
        self.envs.first_nowhere(failures).map_or(Ok(()), |id| Err(nowhere(id)))
    }

    fn book(&mut self, ids: &[i64], failed: &[bool]) {
        for (&id, _) in ids.iter().zip(failed).filter(|&(_, &failed)| failed) {
            if let (Some(bin), _) = self.here[id as usize] {
                self.ledger.add(bin).failures += 1;
            }
        }
    }

    /// Book failures where some envs stand, then draw them new starts. Nothing is counted where that is not asked for, and the starts are
    /// others' then.
    pub fn reset(&mut self, ids: &[i64], failed: Option<&[bool]>, counting: bool) -> Result<()> {
        self.check_report(ids, failed)?;
        let draws = if counting { self.draws } else { self.draws.apart() };
        let drawn = &mut self.drawn[usize::from(!counting)];
        let starts = draws.starts(*drawn, ids.len(), &self.bins, &mut self.base, &self.table)?;
        *drawn += ids.len() as u64;
        if let (Some(failed), true) = (failed, counting) {
            self.book(ids, failed);
        }
        for (&id, start) in ids.iter().zip(starts) {
            self.put(id as usize, self.bins.clip_of(start.bin), start.seconds, counting);
        }
        Ok(())
    }

    /// Book failures where some envs stand, then put them where they are wanted.
    pub fn place(
        &mut self,
        ids: &[i64],
        clip: &[i64],
        seconds: &[f64],
        failed: Option<&[bool]>,
        counting: bool,
    ) -> Result<()> {
        self.check_report(ids, failed)?;
        if clip.len() != ids.len() || seconds.len() != ids.len() {
            let found = format!("{} clips and {} times", clip.len(), seconds.len());
            return Err(Error::Invalid(format!("{found} for {} envs", ids.len())));
        }
        for (&clip, &seconds) in clip.iter().zip(seconds) {
            if !(0..self.bins.num_clips() as i64).contains(&clip) {
                return Err(Error::OutOfRange(format!("clip {clip} is outside [0, {})", self.bins.num_clips())));
            }
            if !is_within(&self.bins, clip, seconds) {
                let duration = self.bins.duration(clip as usize);
                return Err(Error::OutOfRange(format!("{seconds} s is outside clip {clip} of {duration:.6} s")));
            }
        }
        if let (Some(failed), true) = (failed, counting) {
            self.book(ids, failed);
        }
        for ((&id, &clip), &seconds) in ids.iter().zip(clip).zip(seconds) {
            self.put(id as usize, clip as usize, seconds, counting);
        }
        Ok(())
    }

    fn put(&mut self, env: usize, clip: usize, seconds: f64, counting: bool) {
        self.envs.put(env, clip, seconds);
        self.here[env] = self.bins.at(clip, seconds);
        if let ((Some(bin), _), true) = (self.here[env], counting) {
            self.ledger.add(bin).starts += 1;
        }
    }

    /// The clip and the seconds of some starts that come, from number `first` on, as the table is now. Nothing is drawn by that.
    pub fn starts(&mut self, first: u64, count: usize, counting: bool) -> Result<(Vec<i64>, Vec<f64>)> {
        let draws = if counting { self.draws } else { self.draws.apart() };
        let starts = draws.starts(first, count, &self.bins, &mut self.base, &self.table)?;
        let clips = collected(starts.iter().map(|start| self.bins.clip_of(start.bin) as i64))?;
        let times = collected(starts.iter().map(|start| start.seconds))?;
        Ok((clips, times))
    }

    /// Starts drawn so far: those that count, and those that do not.
    pub fn drawn(&self) -> [u64; 2] {
        self.drawn
    }

    /// Count a visit where each env stands, move it by a control step, and say whether its clip is over.
    pub fn step(&mut self, counting: bool) -> Result<Vec<bool>> {
        if let Some(id) = self.envs.first_nowhere(0..self.envs.len() as i64) {
            return Err(nowhere(id));
        }
        let control_dt = self.bins.control_dt();
        let mut ended = filled(self.envs.len(), false)?;
        let Envs { clip, start, steps } = &mut self.envs;
        let cursors = clip.iter().zip(start).zip(steps).zip(&mut self.here).zip(&mut ended);
        for ((((&clip, &mut start), steps), here), ended) in cursors {
            *steps += 1;
            let after = self.bins.at(clip as usize, start + *steps as f64 * control_dt);
            let before = std::mem::replace(here, after);
            *ended = after.1;
            // Behind the end an env stands on its last frame, and nothing happens to it.
            if let ((Some(bin), false), true) = (before, counting) {
                let counts = self.ledger.add(bin);
                counts.visits += 1;
                counts.completions += i64::from(after != before);
            }
        }
        Ok(ended)
    }

    /// What is believed of the bins once some counts are taken up.
    pub fn folded(&self, counted: Option<&[i64]>) -> Result<Statistics> {
        let counted = counted.map(|numbers| counts_of(numbers, self.bins.len(), "counts")).transpose()?;
        self.fold(counted.as_deref(), Statistics::default())
    }

    fn fold(&self, counted: Option<&[Counts]>, memory: Statistics) -> Result<Statistics> {
        let (before, drawn) = (&self.statistics, self.base.num_drawn());
        match counted {
            Some(counted) => {
                let some = counted.iter().copied().enumerate().filter(|&(_, counts)| counts != Counts::default());
                before.folded(&self.bins, some, drawn, &self.scheme, memory)
            }
            None => before.folded(&self.bins, self.ledger.news(), drawn, &self.scheme, memory),
        }
    }

    /// Take up counts, this rank's or what is given for those of all ranks, and make the table that starts are drawn from until the next
    /// time: by its own scores or by those given.
    pub fn sync(&mut self, counted: Option<&[i64]>, scores: Option<&[f64]>) -> Result<()> {
        let counted = counted.map(|numbers| counts_of(numbers, self.bins.len(), "counts")).transpose()?;
        check_scores(scores, self.bins.len())?;
        let (room, memory) = self.spare.take().unwrap_or_default();
        let statistics = self.fold(counted.as_deref(), room)?;
        let moved = self.masses != self.next_masses;
        let base = if moved { Some(Base::new(&self.bins, &self.next_masses)?) } else { None };
        let over = base.as_ref().unwrap_or(&self.base);
        let table = Self::table_of(&self.bins, over, &self.scheme, &statistics, scores, memory)?;
        self.scores = scores.map(copied).transpose()?;
        if let Some(base) = base {
            self.masses.copy_from_slice(&self.next_masses);
            self.base = base;
        }
        self.ledger.settle(counted.as_deref());
        let before = std::mem::replace(&mut self.table, table).into_memory();
        self.spare = Some((std::mem::replace(&mut self.statistics, statistics), before));
        self.syncs += 1;
        Ok(())
    }

    /// How often an env was put into each clip, by all ranks up to the last sync.
    pub fn clip_starts(&self) -> Result<Vec<i64>> {
        let starts = |clip| self.ledger.totals()[self.bins.of_clip(clip)].iter().map(|counts| counts.starts).sum();
        collected((0..self.bins.num_clips()).map(starts))
    }

    /// Say what clips weigh from the next sync on.
    pub fn set_masses(&mut self, masses: Vec<f64>) -> Result<()> {
        Base::check(&self.bins, &masses)?;
        self.next_masses = masses;
        Ok(())
    }

    /// Everything that changes, as it is now.
    pub fn save(&self) -> Result<Saved> {
        Ok(Saved {
            envs: self.envs.clone(),
            drawn: self.drawn,
            syncs: self.syncs,
            statistics: self.statistics.clone(),
            since: self.since()?,
            totals: self.totals()?,
            masses: copied(&self.masses)?,
            next_masses: copied(&self.next_masses)?,
            scores: self.scores.as_deref().map(copied).transpose()?,
        })
    }

    /// Go to where something was saved; what cannot be is refused, and nothing changes.
    pub fn restore(&mut self, saved: Saved) -> Result<()> {
        let bins = self.bins.len();
        let as_state = |error| match error {
            Error::Invalid(why) => Error::State(why),
            other => other,
        };
        saved.envs.check(self.envs.len(), &self.bins)?;
        saved.statistics.check(bins)?;
        let since = counts_of(&saved.since, bins, "counts since the last sync").map_err(as_state)?;
        let totals = counts_of(&saved.totals, bins, "counts").map_err(as_state)?;
        check_scores(saved.scores.as_deref(), bins).map_err(as_state)?;
        if saved.drawn.iter().any(|&drawn| drawn >= 1 << 53) {
            return Err(Error::State(format!("{:?} starts are too many", saved.drawn)));
        }
        Base::check(&self.bins, &saved.next_masses).map_err(as_state)?;
        let base = Base::new(&self.bins, &saved.masses).map_err(as_state)?;
        let scores = saved.scores.as_deref();
        let table = Self::table_of(&self.bins, &base, &self.scheme, &saved.statistics, scores, Memory::default())?;
        let mut here = filled(self.envs.len(), (None, false))?;
        for (env, here) in here.iter_mut().enumerate().filter(|&(env, _)| saved.envs.clip[env] >= 0) {
            *here = self.bins.at(saved.envs.clip[env] as usize, saved.envs.time(env, self.bins.control_dt()));
        }
        let ledger = Ledger::of(since, totals)?;
        (self.base, self.table, self.here) = (base, table, here);
        (self.envs, self.drawn, self.syncs) = (saved.envs, saved.drawn, saved.syncs);
        (self.statistics, self.ledger) = (saved.statistics, ledger);
        (self.masses, self.next_masses, self.scores) = (saved.masses, saved.next_masses, saved.scores);
        Ok(())
    }
}

fn check_scores(scores: Option<&[f64]>, bins: usize) -> Result<()> {
    let Some(scores) = scores else { return Ok(()) };
    if scores.len() == bins && scores.iter().all(|&score| score >= 0.0 && score.is_finite()) {
        return Ok(());
    }
    Err(Error::Invalid(format!("scores: a finite number that is not negative is needed for each of {bins} bins")))
}

fn nowhere(id: i64) -> Error {
    Error::Invalid(format!("env {id} stands nowhere yet: reset it first"))
}
