//! What all index streams share in Python: a lock, and batches made ahead.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use iltools_core::index::{Ask, Drawn, IndexStream};
use iltools_core::lookahead::{LookAhead, Made, Taken};
use iltools_core::slab::Buffer;
use numpy::PyUntypedArray;
use pyo3::exceptions::PyOSError;
use pyo3::prelude::*;

use crate::errors::IntoPyResult;
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
    unfetched: VecDeque<(Made, Arc<Source>)>,
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

    /// Draw, and copy some fields' rows of a store out of the batch, if it was made ahead and has them.
    ///
    /// While a batch is being made, signal handlers are run now and then, and never under a lock: they may draw, too.
    pub fn draw_with(
        &self,
        py: Python<'_>,
        ask: &Ask,
        wanted: Option<(&Arc<iltools_core::store::Store>, &[usize])>,
    ) -> PyResult<(Drawn, Option<Vec<Buffer>>)> {
        loop {
            let taken = py.detach(|| {
                let state = &mut *lock(&self.state);
                let Some(ahead) = state.ahead.as_ref().filter(|ahead| ahead.thread.is_alive()) else {
                    return Ok(Some((state.stream.draw(ask)?, None)));
                };
                let (drawn, made) = match ahead.thread.take(&mut state.stream, ask)? {
                    Taken::Underway => return Ok(None),
                    Taken::Drawn(drawn) => return Ok(Some((drawn, None))),
                    Taken::Made(drawn, made) => (drawn, made),
                };
                let copies = wanted.map_or(Ok(None), |(store, fields)| copies(&made, &ahead.source, store, fields))?;
                if state.unfetched.len() == UNFETCHED {
                    state.unfetched.pop_front();
                }
                state.unfetched.push_back((made, Arc::clone(&ahead.source)));
                Ok(Some((drawn, copies)))
            });
            match taken.into_py_result(py)? {
                Some(drawn) => return Ok(drawn),
                None => py.check_signals()?,
            }
        }
    }
}

/// Copies of some fields' rows in a batch; `None` if it is of another store or lacks one of them.
fn copies(
    made: &Made,
    source: &Source,
    store: &Arc<iltools_core::store::Store>,
    fields: &[usize],
) -> iltools_core::Result<Option<Vec<Buffer>>> {
    let place = |field| source.fields.iter().position(|known| known == field);
    let places: Option<Vec<usize>> = fields.iter().map(place).collect();
    match places {
        Some(places) if source.is(store) => {
            places.iter().map(|&at| made.rows[at].copy()).collect::<Result<_, _>>().map(Some)
        }
        _ => Ok(None),
    }
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

    fn rows_of<'py>(
        &self,
        store: &Bound<'py, Store>,
        index: &[i64],
    ) -> PyResult<Option<Vec<Bound<'py, PyUntypedArray>>>> {
        let (py, core) = (store.py(), store.get().core());
        let found = self.locked(py, |State { unfetched, .. }| {
            let position = unfetched.iter().position(|(made, source)| source.is(core) && made.index == index);
            position.and_then(|position| unfetched.remove(position))
        });
        found.map(|(made, source)| store.get().arrays_over(py, &source.fields, &[index.len()], made.rows)).transpose()
    }
}
