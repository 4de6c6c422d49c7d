//! What all index streams share in Python: a lock, and batches made ahead.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use iltools_core::index::{Draw, IndexStream};
use iltools_core::lookahead::LookAhead;
use iltools_core::slab::Buffer;
use numpy::{PyArray1, PyUntypedArray};
use pyo3::exceptions::PyOSError;
use pyo3::prelude::*;

use crate::arrays::address_of;
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
    drawn: VecDeque<Drawn>,
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

struct Drawn {
    address: usize,
    /// Kept alive, so that no other array can come to lie at its address while it stands for this batch.
    _index: Py<PyArray1<i64>>,
    rows: iltools_core::Result<Vec<Buffer>>,
    source: Arc<Source>,
}

/// State is valid after every statement, so a panic elsewhere while it was locked does not spoil it.
fn lock<S: IndexStream>(state: &Mutex<State<S>>) -> MutexGuard<'_, State<S>> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<S: IndexStream> Stream<S> {
    pub fn new(stream: S) -> Self {
        Self { state: Mutex::new(State { stream, ahead: None, drawn: VecDeque::new() }) }
    }

    /// Look at or change the stream itself.
    pub fn with<T: Send>(&self, py: Python<'_>, act: impl FnOnce(&mut S) -> T + Send) -> T {
        self.locked(py, |state| act(&mut state.stream))
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

    /// Draw indices, from what was made ahead if it fits.
    pub fn draw<'py>(&self, py: Python<'py>, draw: Draw) -> Bound<'py, PyArray1<i64>> {
        let (index, made) = py.detach(|| {
            let state = &mut *lock(&self.state);
            match &state.ahead {
                Some(ahead) if ahead.thread.is_alive() => {
                    let (index, rows) = ahead.thread.take(&mut state.stream, draw);
                    (index, rows.map(|rows| (rows, Arc::clone(&ahead.source))))
                }
                _ => (state.stream.draw(draw), None),
            }
        });
        let index = PyArray1::from_vec(py, index);
        if let Some((rows, source)) = made {
            let drawn = Drawn { address: address_of(&index), _index: index.clone().unbind(), rows, source };
            let _unfetched = self.locked(py, |state| {
                state.drawn.push_back(drawn);
                if state.drawn.len() > UNFETCHED { state.drawn.pop_front() } else { None }
            });
        }
        index
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

    /// The rows of a store for a draw that was made ahead; `None` if it was not, or from another store.
    fn rows_of<'py>(
        &self,
        store: &Bound<'py, Store>,
        index: &Bound<'py, PyArray1<i64>>,
    ) -> PyResult<Option<Vec<Bound<'py, PyUntypedArray>>>>;
}

impl<S: IndexStream> RunsAhead for Stream<S> {
    fn look_ahead(&self, store: &Bound<'_, Store>, fields: Vec<usize>, depth: usize) -> PyResult<()> {
        let py = store.py();
        let ahead = if depth == 0 {
            None
        } else {
            let core = Arc::clone(store.get().core());
            let thread = LookAhead::start(core, fields.clone(), depth).map_err(PyOSError::new_err)?;
            Some(Ahead { thread, source: Arc::new(Source { store: store.clone().unbind(), fields }), depth })
        };
        let (old, _drawn) =
            self.locked(py, |state| (std::mem::replace(&mut state.ahead, ahead), std::mem::take(&mut state.drawn)));
        // The thread is joined without the interpreter; what it gathered from is released with it.
        if let Some(Ahead { thread, source, .. }) = old {
            py.detach(|| drop(thread));
            drop(source);
        }
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
        index: &Bound<'py, PyArray1<i64>>,
    ) -> PyResult<Option<Vec<Bound<'py, PyUntypedArray>>>> {
        let (py, address, core) = (index.py(), address_of(index), store.get().core());
        let found = self.locked(py, |State { drawn, .. }| {
            let position = drawn.iter().position(|drawn| drawn.address == address && drawn.source.is(core));
            position.and_then(|position| drawn.remove(position))
        });
        let Some(drawn) = found else { return Ok(None) };
        let rows = drawn.rows.into_py_result(py)?;
        drawn.source.store.get().arrays_over(py, &drawn.source.fields, &[index.len()?], rows).map(Some)
    }
}
