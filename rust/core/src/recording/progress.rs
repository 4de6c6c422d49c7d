//! What the caller who records and the thread that builds the store know of each other.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::journal::Unsynced;
use super::layout::Layout;
use super::reader::Finished;
use super::records::Place;
use crate::{Error, Result};

/// Time between two looks at the interrupt flag while the thread is waited for.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// How the thread is to end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    /// At once; the store stays one that can be gone on with.
    Stop,
    /// At once, and the store goes.
    Discard,
    /// After all episodes, with the store sealed.
    Seal,
}

/// Where each step's record lies, from one step on.
#[derive(Debug, Default)]
pub struct Steps {
    first: u64,
    places: VecDeque<Place>,
}

impl Steps {
    /// The next step is `first`.
    pub fn from(first: u64) -> Self {
        Self { first, places: VecDeque::new() }
    }

    /// Step that comes next.
    pub fn next(&self) -> u64 {
        self.first + self.places.len() as u64
    }

    /// First step that is known.
    pub fn first(&self) -> u64 {
        self.first
    }

    /// The same, for somebody else.
    pub fn copied(&self) -> Result<Self> {
        let mut places = VecDeque::new();
        reserve(&mut places, self.places.len())?;
        places.extend(&self.places);
        Ok(Self { first: self.first, places })
    }

    /// Note where the next step lies.
    pub fn push(&mut self, place: Place) -> Result<()> {
        reserve(&mut self.places, 1)?;
        self.places.push_back(place);
        Ok(())
    }

    /// Where a step lies.
    pub fn place(&self, step: u64) -> Result<Place> {
        let at = step.checked_sub(self.first).and_then(|at| usize::try_from(at).ok());
        let known = at.and_then(|at| self.places.get(at)).copied();
        known.ok_or_else(|| Error::OutOfRange(format!("step {step} of {}..{}", self.first, self.next())))
    }

    /// Where the rows of an episode lie.
    pub fn of(&self, finished: &Finished) -> Result<Vec<Place>> {
        finished.steps().map(|step| self.place(step)).collect()
    }

    /// Where the latest step lies.
    pub fn latest(&self) -> Option<Place> {
        self.places.back().copied()
    }

    fn forget_before(&mut self, file: u64) {
        while self.places.front().is_some_and(|place| place.file < file) {
            self.places.pop_front();
            self.first += 1;
        }
    }
}

fn reserve<T>(items: &mut VecDeque<T>, more: usize) -> Result<()> {
    items.try_reserve(more).map_err(|_| Error::OutOfMemory(format!("no memory for {more} more episodes or steps")))
}

/// What both sides see.
#[derive(Debug, Default)]
pub struct State {
    /// Episodes that are over and not in the store.
    pub waiting: VecDeque<Finished>,
    /// The journal's steps.
    pub steps: Steps,
    /// First step of which a row belongs to an episode that runs.
    pub oldest_running: Option<u64>,
    /// Files of the journal to bring to disk.
    pub to_sync: Unsynced,
    /// Files of the journal whose room is free.
    pub spares: Vec<PathBuf>,
    /// Columns to begin anew with, as long as there is no trajectory.
    pub new_layout: Option<Layout>,
    /// How often a publication was asked for, and how many of these were served.
    pub flushes: (u64, u64),
    /// Whether the thread is to end.
    pub ending: Option<Ending>,
    /// What ended it before.
    pub failure: Option<Error>,
    /// Whether it has ended.
    pub is_over: bool,
}

impl State {
    /// Room for episodes that may end with the next call, so that nothing fails after it was recorded.
    pub fn reserve(&mut self, episodes: usize) -> Result<()> {
        reserve(&mut self.waiting, episodes)?;
        reserve(&mut self.steps.places, 1)
    }

    /// Number of the first file of the journal that is still needed, if the episodes up to here are in the published store.
    /// What comes before it is no longer known.
    pub fn let_go(&mut self) -> Option<u64> {
        let waiting = self.waiting.iter().map(|finished| finished.episode.first).min();
        let needed = [waiting, self.oldest_running].into_iter().flatten().min();
        let place = match needed {
            Some(step) => self.steps.place(step).ok(),
            None => self.steps.latest(),
        };
        let file = place?.file;
        self.steps.forget_before(file);
        Some(file)
    }
}

/// The state, and who waits for it to change.
#[derive(Debug, Default)]
pub struct Progress {
    state: Mutex<State>,
    changed: Condvar,
}

impl Progress {
    /// Held for moments only: no disk is waited for with it.
    pub fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Change the state and wake whoever waits.
    pub fn tell<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let told = change(&mut self.lock());
        self.changed.notify_all();
        told
    }

    /// Wait for the next change, not longer than so long.
    pub fn wait<'a>(&self, state: MutexGuard<'a, State>, most: Option<Duration>) -> MutexGuard<'a, State> {
        match most {
            Some(most) => self.changed.wait_timeout(state, most).unwrap_or_else(PoisonError::into_inner).0,
            None => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
        }
    }

    /// Wait until the thread has done something, or has failed, or `interrupted` says yes.
    pub fn wait_until(&self, done: impl Fn(&State) -> bool, interrupted: &dyn Fn() -> bool) -> Result<()> {
        let mut state = self.lock();
        while !done(&state) {
            check(&state)?;
            state = self.wait(state, Some(LOOK_EVERY));
            drop(state);
            if interrupted() {
                return Err(Error::Interrupted);
            }
            state = self.lock();
        }
        Ok(())
    }
}

/// Raise what the thread failed with, each time anew, or that it has ended.
pub fn check(state: &State) -> Result<()> {
    match &state.failure {
        None if state.is_over => Err(Error::Invalid("the recording is over".into())),
        None => Ok(()),
        Some(Error::Io { path, source }) => Err(Error::io(path)(match source.raw_os_error() {
            Some(code) => std::io::Error::from_raw_os_error(code),
            None => std::io::Error::other(source.to_string()),
        })),
        Some(Error::OutOfMemory(why)) => Err(Error::OutOfMemory(why.clone())),
        Some(Error::Schema(why)) => Err(Error::Schema(why.clone())),
        Some(Error::Corrupt(why)) => Err(Error::Corrupt(why.clone())),
        Some(other) => Err(Error::Invalid(other.to_string())),
    }
}
