//! A recording: steps go into the journal, episodes come out of it.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::episodes::{Episode, Episodes, Last};
use super::journal::{Journal, path_of, replay};
use super::records::{End, Place, Record, Shape, end_row_offset, row_offset};
use crate::{Error, Result};

/// Bit of `End::how`: the episode ended by what happened.
pub const TERMINATED: u8 = 1;
/// Bit of `End::how`: it was cut.
pub const TRUNCATED: u8 = 2;
/// Bit of `End::how`: its last state is in `End::states`.
pub const KNOWN: u8 = 4;

/// An episode that is over, and where its last next state lies.
#[derive(Debug, Clone, Copy)]
struct Finished {
    episode: Episode,
    /// The record that ended it, and how many episodes that one ended.
    end: Option<(Place, u32)>,
}

/// A recording in the making, and what of it is finished.
#[derive(Debug)]
pub struct Recorder {
    directory: PathBuf,
    journal: Journal,
    episodes: Episodes,
    finished: Vec<Finished>,
    /// Where each step's record lies.
    steps: Vec<Place>,
    /// The file that was read last; episodes lie close together.
    open: Option<(u64, File)>,
}

impl Recorder {
    /// Begin a journal in a directory that holds none.
    pub fn begin(directory: &Path, shape: Shape, longest: u64) -> Result<Self> {
        let episodes = Episodes::new(shape.num_envs, longest)?;
        let journal = Journal::begin(directory, 0, shape, &episodes)?;
        let directory = directory.to_path_buf();
        Ok(Self { directory, journal, episodes, finished: Vec::new(), steps: Vec::new(), open: None })
    }

    /// Go on with a journal that a process left, perhaps in the middle of a record. What ran then is cut: its envs are gone.
    pub fn resume(directory: &Path, shape: Shape, longest: u64) -> Result<Self> {
        let mut episodes = Episodes::new(shape.num_envs, longest)?;
        let (mut finished, mut steps) = (Vec::new(), Vec::new());
        let next = replay(directory, &shape, longest, |record, place| {
            match record {
                Record::Begin(_) => {}
                Record::Step(mask) => {
                    steps.push(place);
                    episodes.step(&mask, |episode| finished.push(Finished { episode, end: None }));
                }
                Record::End { envs, how } => finish(&mut episodes, &envs, &how, place, &mut finished),
            }
            Ok(())
        })?;
        let journal = Journal::begin(directory, next, shape, &episodes)?;
        let mut this = Self { directory: directory.to_path_buf(), journal, episodes, finished, steps, open: None };
        let running = this.running();
        if !running.is_empty() {
            let how = vec![TRUNCATED; running.len()];
            this.end(&End { envs: running, how, states: Vec::new() })?;
        }
        Ok(this)
    }

    /// What runs, and how many are over.
    pub fn episodes(&self) -> &Episodes {
        &self.episodes
    }

    /// What a step holds.
    pub fn shape(&self) -> &Shape {
        self.journal.shape()
    }

    /// Envs with a running episode, in order.
    pub fn running(&self) -> Vec<u32> {
        let running = self.episodes.running().iter().enumerate();
        running.filter(|(_, first)| first.is_some()).map(|(env, _)| env as u32).collect()
    }

    /// Number of recorded steps.
    pub fn num_steps(&self) -> usize {
        self.steps.len()
    }

    /// The episodes that are over, in the order of their ends.
    pub fn finished(&self) -> impl Iterator<Item = &Episode> {
        self.finished.iter().map(|finished| &finished.episode)
    }

    /// Record a step; when this returns it is in the journal. See `Journal::step`.
    pub fn step(&mut self, mask: &[u8], columns: &[&[u8]]) -> Result<()> {
        reserve(&mut self.steps, 1)?;
        reserve(&mut self.finished, self.episodes.num_running())?;
        self.steps.push(self.journal.step(&self.episodes, mask, columns)?);
        let finished = &mut self.finished;
        self.episodes.step(mask, |episode| finished.push(Finished { episode, end: None }));
        Ok(())
    }

    /// Record the ends of running episodes, after the step they belong to.
    pub fn end(&mut self, end: &End) -> Result<()> {
        for &env in &end.envs {
            if self.episodes.running().get(env as usize).copied().flatten().is_none() {
                return Err(Error::OutOfRange(format!("env {env} has no running episode to end")));
            }
        }
        reserve(&mut self.finished, end.envs.len())?;
        let place = self.journal.end(&self.episodes, end)?;
        finish(&mut self.episodes, &end.envs, &end.how, place, &mut self.finished);
        Ok(())
    }

    /// The file to bring to disk now: see `Journal::due_for_sync`.
    pub fn due_for_sync(&mut self) -> Result<Option<File>> {
        self.journal.due_for_sync()
    }

    /// Bring the journal to disk.
    pub fn sync(&mut self) -> Result<()> {
        self.journal.sync()
    }

    /// Copy one column of a step, `[num_envs, bytes]`.
    pub fn read_step(&mut self, step: usize, column: usize, out: &mut [u8]) -> Result<()> {
        let place = self.place(step)?;
        self.check_column(column, self.shape().num_envs, out)?;
        let offset = row_offset(self.shape(), column, 0);
        self.read(place, offset, out)
    }

    /// Copy the mask of a step, `[num_envs]`.
    pub fn read_mask(&mut self, step: usize, out: &mut [u8]) -> Result<()> {
        if out.len() != self.shape().num_envs {
            return Err(Error::Invalid(format!("{} bytes for {} envs", out.len(), self.shape().num_envs)));
        }
        let place = self.place(step)?;
        self.read(place, 0, out)
    }

    /// Copy one column of a finished episode, `[rows, bytes]`, and for a state column its last next state behind it.
    ///
    /// Returns whether that one is known; the last row stands in for it where it is not.
    pub fn read_episode(&mut self, number: usize, column: usize, out: &mut [u8]) -> Result<bool> {
        let Finished { episode, end } = *self
            .finished
            .get(number)
            .ok_or_else(|| Error::OutOfRange(format!("episode {number} of {}", self.finished.len())))?;
        let is_state = column < self.shape().num_states;
        self.check_column(column, episode.rows() + usize::from(is_state), out)?;
        let bytes = self.shape().row_bytes[column];
        if bytes == 0 {
            return Ok(episode.end != Last::Unknown);
        }
        let mut rows = out.chunks_exact_mut(bytes);
        let in_step = row_offset(self.shape(), column, episode.env);
        for (step, row) in (episode.first..=episode.last).zip(&mut rows) {
            let place = self.place(step as usize)?;
            self.read(place, in_step, row)?;
        }
        let Some(last) = rows.next() else { return Ok(true) };
        let (place, offset) = match (episode.end, end) {
            (Last::Step(step), _) => (self.place(step as usize)?, in_step),
            (Last::End(row), Some((place, ended))) => {
                (place, end_row_offset(self.shape(), ended as usize, column, row))
            }
            _ => (self.place(episode.last as usize)?, in_step),
        };
        self.read(place, offset, last)?;
        Ok(episode.end != Last::Unknown)
    }

    fn place(&self, step: usize) -> Result<Place> {
        let known = self.steps.get(step).copied();
        known.ok_or_else(|| Error::OutOfRange(format!("step {step} of {}", self.steps.len())))
    }

    fn check_column(&self, column: usize, rows: usize, out: &[u8]) -> Result<()> {
        match self.shape().row_bytes.get(column) {
            Some(&bytes) if bytes.checked_mul(rows) == Some(out.len()) => Ok(()),
            Some(&bytes) => Err(Error::Invalid(format!("{} bytes for {rows} rows of {bytes} bytes", out.len()))),
            None => Err(Error::OutOfRange(format!("column {column} of {}", self.shape().row_bytes.len()))),
        }
    }

    fn read(&mut self, place: Place, offset: u64, out: &mut [u8]) -> Result<()> {
        let path = path_of(&self.directory, place.file);
        let file = match self.open.take() {
            Some((number, file)) if number == place.file => file,
            _ => File::open(&path).map_err(Error::io(&path))?,
        };
        let read = file.read_exact_at(out, place.offset + offset).map_err(Error::io(&path));
        self.open = Some((place.file, file));
        read
    }
}

fn reserve<T>(items: &mut Vec<T>, more: usize) -> Result<()> {
    items.try_reserve(more).map_err(|_| Error::OutOfMemory(format!("no memory for {more} more episodes or steps")))
}

/// End episodes as a record says.
fn finish(episodes: &mut Episodes, envs: &[u32], how: &[u8], place: Place, finished: &mut Vec<Finished>) {
    for (row, (&env, &how)) in envs.iter().zip(how).enumerate() {
        let known = how & KNOWN != 0;
        let last = if known { Last::End(row as u32) } else { Last::Unknown };
        let over = episodes.end(env as usize, how & TERMINATED != 0, how & TRUNCATED != 0, last);
        let end = known.then_some((place, envs.len() as u32));
        finished.extend(over.map(|episode| Finished { episode, end }));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NUM_ENVS: usize = 3;

    fn shape() -> Shape {
        Shape { num_envs: NUM_ENVS, row_bytes: vec![8, 2], num_states: 1 }
    }

    fn state(env: usize, step: u64) -> [u8; 8] {
        (env as u64 * 1000 + step).to_le_bytes()
    }

    /// Record steps with masks and ends; returns what each episode should hold.
    fn record(recorder: &mut Recorder, script: &[(Vec<u8>, Vec<bool>)], from: u64) -> Vec<(usize, u64, u64, bool)> {
        let mut expected = Vec::new();
        for (at, (mask, ends)) in script.iter().enumerate() {
            let step = from + at as u64;
            let states: Vec<u8> = (0..NUM_ENVS).flat_map(|env| state(env, step)).collect();
            let actions: Vec<u8> = (0..NUM_ENVS).flat_map(|env| [env as u8, step as u8]).collect();
            recorder.step(mask, &[&states, &actions]).unwrap();
            let running: Vec<u32> =
                recorder.running().into_iter().filter(|&env| ends[env as usize] && mask[env as usize] == 1).collect();
            if !running.is_empty() {
                let how = running.iter().map(|env| if env % 2 == 0 { TERMINATED | KNOWN } else { TRUNCATED }).collect();
                let last = running.iter().flat_map(|&env| state(env as usize, 900 + step)).collect();
                recorder.end(&End { envs: running, how, states: vec![last] }).unwrap();
            }
        }
        expected.extend(recorder.finished().map(|e| (e.env as usize, e.first, e.last, e.end != Last::Unknown)));
        expected
    }

    fn check(recorder: &mut Recorder) {
        let episodes: Vec<Episode> = recorder.finished().copied().collect();
        for (number, episode) in episodes.iter().enumerate() {
            let env = episode.env as usize;
            let mut states = vec![0; 8 * (episode.rows() + 1)];
            let known = recorder.read_episode(number, 0, &mut states).unwrap();
            let mut expected: Vec<u8> = (episode.first..=episode.last).flat_map(|step| state(env, step)).collect();
            expected.extend(match episode.end {
                Last::Unknown => state(env, episode.last),
                Last::Step(step) => state(env, step),
                Last::End(_) => state(env, 900 + episode.last),
            });
            assert_eq!((states, known), (expected, episode.end != Last::Unknown));
            let mut actions = vec![0; 2 * episode.rows()];
            recorder.read_episode(number, 1, &mut actions).unwrap();
            let expected: Vec<u8> = (episode.first..=episode.last).flat_map(|step| [env as u8, step as u8]).collect();
            assert_eq!(actions, expected);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn episodes_come_out_as_they_went_in_also_after_a_kill(
            script in prop::collection::vec((prop::collection::vec(0..2_u8, NUM_ENVS), prop::collection::vec(any::<bool>(), NUM_ENVS)), 1..30),
            longest in 2..9_u64,
            torn in 0..60_u64,
        ) {
            let directory = tempfile::tempdir().unwrap();
            let journal = directory.path().join("journal");
            let mut recorder = Recorder::begin(&journal, shape(), longest).unwrap();
            record(&mut recorder, &script, 0);
            check(&mut recorder);
            let before: Vec<Episode> = recorder.finished().copied().collect();
            // A kill in the middle of the last record.
            let file = path_of(&journal, 0);
            let length = std::fs::metadata(&file).unwrap().len();
            File::options().write(true).open(&file).unwrap().set_len(length - torn.min(length)).unwrap();
            drop(recorder);
            let mut resumed = Recorder::resume(&journal, shape(), longest).unwrap();
            prop_assert_eq!(resumed.episodes().num_running(), 0);
            check(&mut resumed);
            let after: Vec<Episode> = resumed.finished().copied().collect();
            if torn == 0 { prop_assert_eq!(&after[..before.len()], &before[..]); }
            // And goes on, and can be resumed again.
            let from = resumed.num_steps() as u64;
            record(&mut resumed, &script, from);
            check(&mut resumed);
            let count = resumed.finished().count();
            drop(resumed);
            let mut again = Recorder::resume(&journal, shape(), longest).unwrap();
            check(&mut again);
            prop_assert!(again.finished().count() >= count);
        }
    }

    #[test]
    fn steps_come_back_as_given_and_wrong_calls_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let mut recorder = Recorder::begin(&directory.path().join("journal"), shape(), 100).unwrap();
        record(&mut recorder, &[(vec![1, 0, 1], vec![false; 3]), (vec![1, 1, 1], vec![true, false, false])], 0);
        let (mut mask, mut states) = ([9; 3], [0; 24]);
        recorder.read_mask(0, &mut mask).unwrap();
        recorder.read_step(1, 0, &mut states).unwrap();
        assert_eq!((mask, &states[8..16]), ([1, 0, 1], &state(1, 1)[..]));
        let end = |envs: Vec<u32>| End { how: vec![TERMINATED; envs.len()], envs, states: vec![] };
        assert!(matches!(recorder.end(&end(vec![0])), Err(Error::OutOfRange(_))));
        assert!(matches!(recorder.end(&end(vec![7])), Err(Error::OutOfRange(_))));
        assert!(matches!(recorder.read_step(2, 0, &mut states), Err(Error::OutOfRange(_))));
        assert!(matches!(recorder.read_step(0, 2, &mut states), Err(Error::OutOfRange(_))));
        assert!(matches!(recorder.read_step(0, 0, &mut states[1..]), Err(Error::Invalid(_))));
        assert!(matches!(recorder.read_episode(1, 0, &mut states), Err(Error::OutOfRange(_))));
        assert_eq!(recorder.running(), [1, 2]);
    }
}
