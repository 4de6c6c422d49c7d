//! A recording: steps go into the journal, episodes come out of it, into a store that grows or one that is written in the end.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;

use super::episodes::{DATA, Episodes, Last};
use super::growth::{self, Pace};
use super::journal::{Journal, Unsynced};
use super::layout::Layout;
use super::progress::{Ending, Progress, State, Steps, check};
use super::reader::{Finished, JournalReader};
use super::records::{End, Place, Record, Shape};
use super::replay::replay;
use super::saving::Saving;
use crate::memory::collected;
use crate::store::{GrowingStore, StoreWriter};
use crate::{Error, Result};

/// Bit of `End::how`: the episode ended by what happened.
pub const TERMINATED: u8 = 1;
/// Bit of `End::how`: it was cut.
pub const TRUNCATED: u8 = 2;
/// Bit of `End::how`: its last state is in `End::states`.
pub const KNOWN: u8 = 4;

/// A recording in the making, and what of it is finished.
#[derive(Debug)]
pub struct Recorder {
    pid: u32,
    journal: Journal,
    layout: Layout,
    episodes: Episodes,
    /// Rows of all episodes, those that run among them.
    rows: u64,
    reader: JournalReader,
    progress: Arc<Progress>,
    thread: Option<JoinHandle<()>>,
}

impl Recorder {
    /// Begin a journal in a directory that holds none.
    pub fn begin(directory: &Path, layout: Layout) -> Result<Self> {
        let episodes = Episodes::new(layout.shape().num_envs, layout.longest())?;
        fs::create_dir_all(directory).map_err(Error::io(directory))?;
        layout.write(directory)?;
        let journal = Journal::begin(directory, 0, layout.shape().clone(), &episodes)?;
        Ok(Self::of(directory, journal, layout, episodes, 0, State::default()))
    }

    /// Begin a journal and a store that grows out of it, which `writer` has a place for.
    pub fn grow(writer: StoreWriter, layout: Layout, pace: Pace) -> Result<Self> {
        let directory = writer.journal()?;
        let mut this = Self::begin(&directory, layout.clone())?;
        // The journal is there before anybody can find the store.
        let (views, histories) = (layout.views().to_vec(), layout.histories().to_vec());
        let store = GrowingStore::begin(writer, layout.specs(), views, histories, layout.tasks().clone())?;
        this.thread = Some(growth::spawn(store, layout, &directory, pace, &this.progress)?);
        Ok(this)
    }

    /// Go on with a store that was growing when its process ended, perhaps in the middle of a record. What ran then is cut: its
    /// envs are gone. `attributes`, JSON, take the place of what was kept with it.
    pub fn resume(store: &Path, attributes: Option<&str>, pace: Pace) -> Result<Self> {
        let mut store = GrowingStore::resume(store)?;
        if let Some(attributes) = attributes {
            store.set_attributes(attributes)?;
        }
        let directory = store.journal()?;
        let layout = Layout::read(&directory)?;
        if store.num_trajectories() == 0 {
            // It may have died between a change of the layout and that of the columns.
            store.begin_anew(&layout.specs(), layout.views().to_vec(), layout.histories().to_vec())?;
        }
        let mut this = Self::replay(&directory, layout.clone(), store.num_trajectories() as u64)?;
        this.rows += store.num_transitions();
        this.thread = Some(growth::spawn(store, layout, &directory, pace, &this.progress)?);
        Ok(this)
    }

    /// Read a journal of which so many episodes are in a store already, and begin its next file.
    fn replay(directory: &Path, layout: Layout, published: u64) -> Result<Self> {
        let shape = layout.shape().clone();
        let mut episodes = Episodes::new(shape.num_envs, layout.longest())?;
        let mut state = State::default();
        let mut is_first = true;
        let next = replay(directory, &shape, layout.longest(), |record, place| {
            match record {
                Record::Begin(begun) if is_first => {
                    state.steps = Steps::from(begun.next_step());
                    episodes = begun;
                }
                Record::Begin(_) => {}
                Record::Step(mask) => {
                    state.steps.push(place)?;
                    episodes.step(&mask, |episode| state.waiting.push_back(Finished { episode, end: None, task: 0 }));
                }
                Record::End { envs, how, tasks } => {
                    finish(&mut episodes, &envs, &how, &tasks, place, |finished| state.waiting.push_back(finished));
                }
            }
            is_first = false;
            Ok(())
        })?;
        let corrupt = |why: String| Error::Corrupt(format!("{}: {why}", directory.display()));
        if episodes.num_ended() < published {
            let found = episodes.num_ended();
            return Err(corrupt(format!("expected the journal of at least {published} episodes, found {found}")));
        }
        state.waiting.retain(|finished| finished.episode.number >= published);
        let waiting = state.waiting.iter().map(|finished| finished.episode.first);
        let running = episodes.running().iter().flatten().copied();
        if let Some(missing) = waiting.chain(running).find(|&first| first < state.steps.first()) {
            return Err(corrupt(format!("expected step {missing}, found steps from {} on", state.steps.first())));
        }
        let journal = Journal::begin(directory, next, shape, &episodes)?;
        let rows = state.waiting.iter().map(|finished| finished.episode.rows() as u64).sum::<u64>();
        let next_step = episodes.next_step();
        let open = episodes.running().iter().flatten().map(|first| next_step - first).sum::<u64>();
        let mut this = Self::of(directory, journal, layout, episodes, rows + open, state);
        this.end_running()?;
        Ok(this)
    }

    fn of(directory: &Path, journal: Journal, layout: Layout, episodes: Episodes, rows: u64, state: State) -> Self {
        let reader = JournalReader::new(directory, layout.shape().clone());
        let progress = Arc::new(Progress::default());
        *progress.lock() = state;
        Self { pid: std::process::id(), journal, layout, episodes, rows, reader, progress, thread: None }
    }

    /// What runs, and how many are over.
    pub fn episodes(&self) -> &Episodes {
        &self.episodes
    }

    /// Number of rows of all episodes, those that run among them.
    pub fn num_rows(&self) -> u64 {
        self.rows
    }

    /// What is recorded, and what becomes of it.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Directory of the journal.
    pub fn directory(&self) -> &Path {
        self.journal.directory()
    }

    /// What a step holds.
    pub fn shape(&self) -> &Shape {
        self.journal.shape()
    }

    /// Where the thread that builds the store stands.
    pub fn progress(&self) -> &Arc<Progress> {
        &self.progress
    }

    /// Envs with a running episode, in order.
    pub fn running(&self) -> Vec<u32> {
        let running = self.episodes.running().iter().enumerate();
        running.filter(|(_, first)| first.is_some()).map(|(env, _)| env as u32).collect()
    }

    /// Env and first step of each episode that runs, or is over and not in a store yet.
    pub fn begins(&self) -> Vec<(u32, u64)> {
        let running = self.episodes.running().iter().enumerate();
        let running = running.filter_map(|(env, first)| first.map(|first| (env as u32, first)));
        let state = self.progress.lock();
        state.waiting.iter().map(|over| (over.episode.env, over.episode.first)).chain(running).collect()
    }

    /// Ask for a publication of what is over now, which `Progress::wait_until` waits for: true of the state once it was made.
    pub fn ask_to_publish(&self) -> impl Fn(&State) -> bool + Send + use<> {
        let wanted = self.progress.tell(|state| {
            state.flushes.0 += 1;
            state.flushes.0
        });
        let grows = self.grows();
        move |state| !grows || state.flushes.1 >= wanted
    }

    /// The steps that can be read: all, or those of which some row is not in the store yet.
    pub fn steps(&self) -> std::ops::Range<u64> {
        let state = self.progress.lock();
        state.steps.first()..state.steps.next()
    }

    /// Record a step; when this returns it is in the journal. See `Journal::step`.
    pub fn step(&mut self, mask: &[u8], columns: &[&[u8]]) -> Result<()> {
        let spare = {
            let mut state = self.progress.lock();
            check(&state)?;
            state.reserve(self.episodes.num_running())?;
            if self.journal.is_full() { state.spares.pop() } else { None }
        };
        if self.journal.is_full() {
            self.journal.next_file(&self.episodes, spare.as_deref())?;
        }
        let place = self.journal.step(&self.episodes, mask, columns)?;
        let mut over = Vec::new();
        self.episodes.step(mask, |episode| over.push(Finished { episode, end: None, task: 0 }));
        self.rows += mask.iter().map(|&what| u64::from(what == DATA)).sum::<u64>();
        self.note(Some(place), over)
    }

    /// Record the ends of running episodes, after the step they belong to.
    pub fn end(&mut self, end: &End) -> Result<()> {
        for &env in &end.envs {
            if self.episodes.running().get(env as usize).copied().flatten().is_none() {
                return Err(Error::OutOfRange(format!("env {env} has no running episode to end")));
            }
        }
        {
            let mut state = self.progress.lock();
            check(&state)?;
            state.reserve(end.envs.len())?;
        }
        let place = self.journal.end(&self.episodes, end)?;
        let mut over = Vec::new();
        finish(&mut self.episodes, &end.envs, &end.how, &end.tasks, place, |finished| over.push(finished));
        self.note(None, over)
    }

    /// Cut what runs; its last next state is not known.
    pub fn end_running(&mut self) -> Result<()> {
        let envs = self.running();
        if envs.is_empty() {
            return Ok(());
        }
        let (how, tasks) = (vec![TRUNCATED; envs.len()], vec![0; envs.len()]);
        self.end(&End { envs, how, tasks, states: Vec::new() })
    }

    fn note(&mut self, step: Option<Place>, over: Vec<Finished>) -> Result<()> {
        let oldest_running = self.episodes.oldest_running();
        // The step is recorded: where there is no handle for it now, it is brought to disk with a later one.
        let due = if self.thread.is_some() { self.journal.due_for_sync().unwrap_or(None) } else { None };
        let due = due.unwrap_or_default();
        let change = |state: &mut State| {
            state.oldest_running = oldest_running;
            state.waiting.extend(over);
            if !due.is_empty() {
                state.to_sync.extend(due);
            }
            step.map_or(Ok(()), |place| state.steps.push(place))
        };
        if self.thread.is_some() { self.progress.tell(change) } else { change(&mut self.progress.lock()) }
    }

    /// What to bring to disk now, unless the thread does: see `Journal::due_for_sync`.
    pub fn due_for_sync(&mut self) -> Result<Option<Unsynced>> {
        if self.thread.is_some() { Ok(None) } else { self.journal.due_for_sync() }
    }

    /// Begin another file of the journal.
    pub fn next_file(&mut self) -> Result<()> {
        let spare = self.progress.lock().spares.pop();
        self.journal.next_file(&self.episodes, spare.as_deref())
    }

    /// What of the journal is not on disk yet.
    pub fn unsynced(&mut self) -> Result<Unsynced> {
        check(&self.progress.lock())?;
        self.journal.unsynced()
    }

    /// Take another layout of the same steps. Other columns need that no episode is over.
    pub fn set_layout(&mut self, layout: Layout) -> Result<()> {
        let other_columns = layout.specs() != self.layout.specs() && self.episodes.num_ended() > 0;
        if layout.shape() != self.shape() || (other_columns && self.thread.is_some()) {
            return Err(Error::Invalid(
                "a layout of other steps or, with episodes that are over, of other columns".into(),
            ));
        }
        layout.write(self.journal.directory())?;
        self.layout = layout.clone();
        if self.thread.is_some() {
            self.progress.tell(|state| state.new_layout = Some(layout));
        }
        Ok(())
    }

    /// Copy one column of a step, `[num_envs, bytes]`.
    pub fn read_step(&mut self, step: u64, column: usize, out: &mut [u8]) -> Result<()> {
        let place = self.progress.lock().steps.place(step)?;
        self.reader.step(place, column, out)
    }

    /// Copy the mask of a step, `[num_envs]`.
    pub fn read_mask(&mut self, step: u64, out: &mut [u8]) -> Result<()> {
        let place = self.progress.lock().steps.place(step)?;
        self.reader.mask(place, out)
    }

    /// What a store of the episodes that are over is written of, of a recording out of which none grows. Recording may go on.
    pub fn saving(&self) -> Result<Saving> {
        let state = self.progress.lock();
        let finished = collected(state.waiting.iter().copied())?;
        Ok(Saving::new(finished, state.steps.copied()?, self.layout.clone(), self.journal.directory()))
    }

    /// Have the thread end; `Progress::wait_until` tells when it has.
    pub fn finish(&mut self, ending: Ending) {
        if self.thread.is_some() {
            self.progress.tell(|state| state.ending = Some(ending));
        }
    }

    /// Whether a store grows out of it.
    pub fn grows(&self) -> bool {
        self.thread.is_some()
    }
}

impl Drop for Recorder {
    /// In a forked copy there is no thread, and its state may be locked for good.
    fn drop(&mut self) {
        let Some(thread) = self.thread.take() else { return };
        if self.pid == std::process::id() {
            self.progress.tell(|state| {
                state.ending.get_or_insert(Ending::Stop);
            });
            let _ = thread.join();
        } else {
            std::mem::forget(thread);
        }
    }
}

/// End episodes as a record says.
fn finish(
    episodes: &mut Episodes,
    envs: &[u32],
    how: &[u8],
    tasks: &[u32],
    place: Place,
    mut over: impl FnMut(Finished),
) {
    for (row, ((&env, &how), &task)) in envs.iter().zip(how).zip(tasks).enumerate() {
        let known = how & KNOWN != 0;
        let last = if known { Last::End(row as u32) } else { Last::Unknown };
        let ended = episodes.end(env as usize, how & TERMINATED != 0, how & TRUNCATED != 0, last);
        let end = known.then_some((place, envs.len() as u32));
        if let Some(episode) = ended {
            over(Finished { episode, end, task });
        }
    }
}
