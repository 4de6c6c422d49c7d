//! What all index streams share in Python: a lock, and batches made ahead.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use iltools_core::index::{Ask, Drawn, IndexStream};
use iltools_core::lookahead::{LookAhead, Taken};
use iltools_core::memory::copied;
use iltools_core::slab::Buffer;
use iltools_core::store::gather_memory;
use numpy::PyUntypedArray;
use pyo3::exceptions::PyOSError;
use pyo3::prelude::*;

use crate::errors::{IntoPyResult, interrupted};
use crate::store::Store;

/// Batches that were made ahead, drawn, and not fetched yet. More than one only if several threads draw.
const UNFETCHED: usize = 8;

/// An index stream behind a lock, and the thread that runs ahead of it, if there is one.
pub struct Stream<S: IndexStream> {
    state: Mutex<State<S>>,
}

struct State<S: IndexStream> {
    stream: S,
    ahead: Option<Ahead<S>>,
    unfetched: VecDeque<Made>,
}

/// The rows of a batch, and which they are: whoever has an index can tell whether they are its rows.
struct Made {
    index: Vec<i64>,
    rows: Vec<Buffer>,
    source: Arc<Source>,
}

struct Ahead<S: IndexStream> {
    thread: LookAhead<S>,
    source: Arc<Source>,
    depth: usize,
}

/// What is gathered ahead.
struct Source {
    store: Py<Store>,
    fields: Vec<usize>,
}

impl Source {
    fn is(&self, store: &Arc<iltools_core::store::Store>) -> bool {
        Arc::ptr_eq(self.store.get().core(), store)
    }
}

/// State is valid after every statement, so a panic elsewhere while it was locked does not spoil it.
fn lock<S: IndexStream>(state: &Mutex<State<S>>) -> MutexGuard<'_, State<S>> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<S: IndexStream> Stream<S> {
    pub fn new(stream: S) -> Self {
        Self { state: Mutex::new(State { stream, ahead: None, unfetched: VecDeque::new() }) }
    }

    /// Look at or change the stream itself.
    pub fn with<T: Send>(&self, py: Python<'_>, act: impl FnOnce(&mut S) -> T + Send) -> T {
        self.locked(py, |state| act(&mut state.stream))
    }

    /// Change the stream in a way that its position does not tell; whoever runs ahead of it is ended.
    pub fn changed<T: Send>(&self, py: Python<'_>, act: impl FnOnce(&mut S) -> T + Send) -> T {
        let (done, _ahead) = self.locked(py, |state| {
            state.unfetched.clear();
            (act(&mut state.stream), state.ahead.take())
        });
        done
    }

    /// Do something short to the state.
    ///
    /// Whoever holds the lock may wait for a batch, so it is never waited for with the interpreter: two threads would wait
    /// for each other.
    fn locked<T: Send>(&self, py: Python<'_>, act: impl FnOnce(&mut State<S>) -> T + Send) -> T {
        match self.state.try_lock() {
            Ok(mut state) => act(&mut state),
            Err(_) => py.detach(|| act(&mut lock(&self.state))),
        }
    }

    /// Draw, from what was made ahead if it fits.
    pub fn draw(&self, py: Python<'_>, ask: &Ask) -> PyResult<Drawn> {
        self.draw_with(py, ask, None).map(|(drawn, _)| drawn)
    }

    /// Draw, and with that the rows of what is wanted: those that were made ahead, or gathered now.
    ///
    /// While a batch is being made, signal handlers are run now and then, and never under a lock: they may draw, too.
    pub fn draw_with(&self, py: Python<'_>, ask: &Ask, wanted: Option<Wanted<'_>>) -> PyResult<(Drawn, Rows)> {
        loop {
            let taken = py.detach(|| {
                let (drawn, rows) = match (self.take(ask, wanted.as_ref())?, &wanted) {
                    (None, _) => return Ok(None),
                    (Some((drawn, None)), Some(wanted)) => {
                        let rows = wanted.gather(&drawn.rows)?;
                        (drawn, Rows { of: rows, were_ready: false })
                    }
                    (Some((drawn, rows)), _) => {
                        let were_ready = rows.is_some();
                        (drawn, Rows { of: rows.unwrap_or_default(), were_ready })
                    }
                };
                Ok(Some((drawn, rows)))
            });
            match taken.into_py_result(py)? {
                Some(drawn) => return Ok(drawn),
                None => py.check_signals()?,
            }
        }
    }

    /// A draw, with the rows of what is wanted if they were made ahead; `None` while they are being made.
    fn take(
        &self,
        ask: &Ask,
        wanted: Option<&Wanted<'_>>,
    ) -> iltools_core::Result<Option<(Drawn, Option<Vec<Buffer>>)>> {
        let state = &mut *lock(&self.state);
        let Some(ahead) = state.ahead.as_ref().filter(|ahead| ahead.thread.is_alive()) else {
            return Ok(Some((state.stream.draw(ask)?, None)));
        };
        let (drawn, rows) = match ahead.thread.take(&mut state.stream, ask)? {
            Taken::Underway => return Ok(None),
            Taken::Drawn(drawn) => return Ok(Some((drawn, None))),
            Taken::Made(drawn, rows) => (drawn, rows),
        };
        let copies = match wanted.filter(|wanted| ahead.source.is(wanted.store)) {
            Some(wanted) if wanted.fields == ahead.source.fields => return Ok(Some((drawn, Some(rows)))),
            Some(wanted) => copies(&rows, &ahead.source.fields, wanted.fields)?,
            None => None,
        };
        if state.unfetched.len() == UNFETCHED {
            state.unfetched.pop_front();
        }
        // The caller may write to its index: what tells whose rows these are is another.
        state.unfetched.push_back(Made { index: copied(&drawn.rows)?, rows, source: Arc::clone(&ahead.source) });
        Ok(Some((drawn, copies)))
    }
}

/// Rows that a draw is to come with.
pub struct Wanted<'a> {
    pub store: &'a Arc<iltools_core::store::Store>,
    pub fields: &'a [usize],
    pub threads: Option<usize>,
}

/// The same as it comes from Python.
pub type Asked<'py> = (Bound<'py, Store>, Vec<usize>, Option<usize>);

impl<'a> Wanted<'a> {
    /// Check that the store has the fields.
    pub fn of((store, fields, threads): &'a Asked<'_>) -> PyResult<Self> {
        store.get().check_fields(fields)?;
        Ok(Self { store: store.get().core(), fields, threads: *threads })
    }

    fn gather(&self, index: &[i64]) -> iltools_core::Result<Vec<Buffer>> {
        gather_memory(self.store, self.fields, index, self.threads, &interrupted)
    }
}

/// Rows that a draw came with, per field, and whether they had been made ahead.
pub struct Rows {
    pub of: Vec<Buffer>,
    pub were_ready: bool,
}

/// Copies of some fields' rows in a batch; `None` if it lacks one of them.
fn copies(rows: &[Buffer], known: &[usize], fields: &[usize]) -> iltools_core::Result<Option<Vec<Buffer>>> {
    let place = |field| known.iter().position(|known| known == field);
    let places: Option<Vec<usize>> = fields.iter().map(place).collect();
    places.map(|places| places.iter().map(|&at| rows[at].copy()).collect()).transpose()
}

/// What can be asked of a stream of any kind.
pub trait RunsAhead: Send + Sync {
    /// Keep `depth` batches of `fields` ready; 0 stops.
    fn look_ahead(&self, store: &Bound<'_, Store>, fields: Vec<usize>, depth: usize) -> PyResult<()>;

    /// How many batches of a store are kept ready here: 0 for any other store than the one that is gathered from, and in a
    /// process that was forked from one where they are.
    fn depth(&self, store: &Bound<'_, Store>) -> usize;

    /// How many batches are ready.
    fn num_ready(&self, py: Python<'_>) -> usize;

    /// Draw rows of a store.
    fn next_rows(&self, py: Python<'_>, ask: &Ask, wanted: Wanted<'_>) -> PyResult<(Drawn, Rows)>;

    /// The rows of a store at an index that was drawn ahead; `None` if they are not there. What counts is the content: one
    /// that was changed since it was drawn is another index.
    fn rows_of<'py>(
        &self,
        store: &Bound<'py, Store>,
        index: &[i64],
    ) -> PyResult<Option<Vec<Bound<'py, PyUntypedArray>>>>;
}

impl<S: IndexStream> RunsAhead for Stream<S> {
    fn look_ahead(&self, store: &Bound<'_, Store>, fields: Vec<usize>, depth: usize) -> PyResult<()> {
        let py = store.py();
        store.get().check_fields(&fields)?;
        let ahead = if depth == 0 {
            None
        } else {
            let core = Arc::clone(store.get().core());
            let thread = LookAhead::start(core, fields.clone(), depth).map_err(PyOSError::new_err)?;
            Some(Ahead { thread, source: Arc::new(Source { store: store.clone().unbind(), fields }), depth })
        };
        let _old =
            self.locked(py, |state| (std::mem::replace(&mut state.ahead, ahead), std::mem::take(&mut state.unfetched)));
        Ok(())
    }

    fn depth(&self, store: &Bound<'_, Store>) -> usize {
        let core = store.get().core();
        self.locked(store.py(), |State { ahead, .. }| {
            ahead
                .as_ref()
                .filter(|ahead| ahead.thread.is_alive() && ahead.source.is(core))
                .map_or(0, |ahead| ahead.depth)
        })
    }

    fn num_ready(&self, py: Python<'_>) -> usize {
        self.locked(py, |state| state.ahead.as_ref().map_or(0, |ahead| ahead.thread.num_ready()))
    }

    fn next_rows(&self, py: Python<'_>, ask: &Ask, wanted: Wanted<'_>) -> PyResult<(Drawn, Rows)> {
        self.draw_with(py, ask, Some(wanted))
    }

    fn rows_of<'py>(
        &self,
        store: &Bound<'py, Store>,
        index: &[i64],
    ) -> PyResult<Option<Vec<Bound<'py, PyUntypedArray>>>> {
        let (py, core) = (store.py(), store.get().core());
        let found = self.locked(py, |State { unfetched, .. }| {
            let position = unfetched.iter().position(|made| made.source.is(core) && made.index == index);
            position.and_then(|position| unfetched.remove(position))
        });
        found.map(|made| store.get().arrays_over(py, &made.source.fields, &[index.len()], made.rows)).transpose()
    }
}
