//! What the three index streams share in Python: a lock, and batches made ahead.

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
    ///
    /// The lock is taken without the interpreter, so a thread that waits for a batch and one that waits for the lock cannot
    /// wait for each other.
    pub fn with<T: Send>(&self, py: Python<'_>, act: impl FnOnce(&mut S) -> T + Send) -> T {
        py.detach(|| act(&mut lock(&self.state).stream))
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
            let _unfetched = py.detach(|| {
                let drawn_before = &mut lock(&self.state).drawn;
                drawn_before.push_back(drawn);
                if drawn_before.len() > UNFETCHED { drawn_before.pop_front() } else { None }
            });
        }
        index
    }

    /// Keep `depth` batches of `fields` ready; 0 stops.
    pub fn look_ahead(&self, store: &Bound<'_, Store>, fields: Vec<usize>, depth: usize) -> PyResult<()> {
        let py = store.py();
        let ahead = if depth == 0 {
            None
        } else {
            let core = Arc::clone(store.get().core());
            let thread = LookAhead::start(core, fields.clone(), depth).map_err(PyOSError::new_err)?;
            Some(Ahead { thread, source: Arc::new(Source { store: store.clone().unbind(), fields }), depth })
        };
        let (old, _drawn) = py.detach(|| {
            let state = &mut *lock(&self.state);
            (std::mem::replace(&mut state.ahead, ahead), std::mem::take(&mut state.drawn))
        });
        // The thread is joined without the interpreter; what it gathered from is released with it.
        if let Some(Ahead { thread, source, .. }) = old {
            py.detach(|| drop(thread));
            drop(source);
        }
        Ok(())
    }

    /// How many batches are kept ready here: 0 in a process that was forked from one where they are.
    pub fn depth(&self, py: Python<'_>) -> usize {
        py.detach(|| {
            lock(&self.state).ahead.as_ref().map_or(0, |ahead| if ahead.thread.is_alive() { ahead.depth } else { 0 })
        })
    }

    /// The rows of a draw that was made ahead; `None` if it was not.
    pub fn rows_of<'py>(&self, index: &Bound<'py, PyArray1<i64>>) -> PyResult<Option<Vec<Bound<'py, PyUntypedArray>>>> {
        let (py, address) = (index.py(), address_of(index));
        let found = py.detach(|| {
            let drawn = &mut lock(&self.state).drawn;
            let position = drawn.iter().position(|drawn| drawn.address == address);
            position.and_then(|position| drawn.remove(position))
        });
        let Some(drawn) = found else { return Ok(None) };
        let rows = drawn.rows.into_py_result(py)?;
        drawn.source.store.get().arrays_over(py, &drawn.source.fields, rows).map(Some)
    }
}
