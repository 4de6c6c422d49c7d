//! `_core.StoreWriter`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::ThreadId;
use std::time::Duration;

use iltools_core::recording;
use iltools_core::store::{self, Array, Build, ColumnSpec, DType, Kind, Trajectory, View, show};
use numpy::{PyUntypedArray, PyUntypedArrayMethods};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;

use crate::arrays::lent_by;
use crate::errors::{IntoPyResult, interrupted};

type Columns<'py> = Vec<(Vec<String>, Bound<'py, PyUntypedArray>)>;
type Views = Vec<(Vec<String>, Vec<String>, usize, Vec<usize>)>;

/// Time between two looks for signals while another thread's call is waited for.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Writes a new generation of a store; nothing is visible to readers before `publish`.
///
/// A call takes the writer out while it works and holds no lock: signal handlers run in the middle of it, and they may call any
/// method. `abort` works then as at any other time. A handler's `append` or `publish` is refused, another thread's waits.
#[pyclass(frozen, module = "iltools_datasets._core")]
pub struct StoreWriter {
    build: Arc<Build>,
    state: Mutex<State>,
    changed: Condvar,
}

enum State {
    Idle(Box<store::StoreWriter>),
    /// A thread's call is under way.
    Busy(ThreadId),
    /// Published or aborted.
    Over,
}

/// The writer while a call has it; it goes back when the call ends, be it by a panic.
struct Taken<'a> {
    of: &'a StoreWriter,
    writer: Option<Box<store::StoreWriter>>,
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        let left = self.writer.take().filter(|_| !self.of.build.is_over());
        *self.of.lock() = left.map_or(State::Over, State::Idle);
        self.of.changed.notify_all();
    }
}

impl StoreWriter {
    fn of(writer: store::StoreWriter) -> Self {
        let build = Arc::clone(writer.build());
        Self { build, state: Mutex::new(State::Idle(Box::new(writer))), changed: Condvar::new() }
    }

    /// Held for a moment only, and never while Python runs.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Give the writer away, for good.
    pub fn give(&self, py: Python<'_>) -> PyResult<store::StoreWriter> {
        let writer = self.take(py)?.writer.take();
        writer.map(|writer| *writer).ok_or_else(|| self.build.over()).into_py_result(py)
    }

    fn take(&self, py: Python<'_>) -> PyResult<Taken<'_>> {
        let this_thread = std::thread::current().id();
        // The state in a forked process may be that of a thread that is not there.
        while !self.build.is_foreign() {
            let mut state = self.lock();
            match std::mem::replace(&mut *state, State::Busy(this_thread)) {
                State::Idle(writer) => return Ok(Taken { of: self, writer: Some(writer) }),
                State::Over => {
                    *state = State::Over;
                    break;
                }
                State::Busy(thread) => {
                    *state = State::Busy(thread);
                    drop(state);
                    if thread == this_thread {
                        return Err(PyValueError::new_err(
                            "this build is in the middle of another call; from within it, only abort() is possible",
                        ));
                    }
                    py.detach(|| {
                        let state = self.lock();
                        if matches!(*state, State::Busy(_)) {
                            drop(self.changed.wait_timeout(state, LOOK_EVERY));
                        }
                    });
                    py.check_signals()?;
                }
            }
        }
        Err(self.build.over()).into_py_result(py)
    }
}

#[pymethods]
impl StoreWriter {
    #[new]
    fn new(py: Python<'_>, path: PathBuf, overwrite: bool, attributes: &str) -> PyResult<Self> {
        py.detach(|| store::StoreWriter::begin(&path, overwrite, attributes)).into_py_result(py).map(Self::of)
    }

    /// Begin a generation behind those that a store has.
    #[staticmethod]
    fn add(py: Python<'_>, path: PathBuf) -> PyResult<Self> {
        py.detach(|| store::StoreWriter::add(&path)).into_py_result(py).map(Self::of)
    }

    #[expect(clippy::too_many_arguments, reason = "what a trajectory is, in one call")]
    fn append(
        &self,
        py: Python<'_>,
        task_id: i64,
        traj_id: i64,
        name: Option<String>,
        states: Columns<'_>,
        transitions: Columns<'_>,
        views: Views,
    ) -> PyResult<(i64, i64)> {
        let kinds = std::iter::repeat_n(Kind::State, states.len())
            .chain(std::iter::repeat_n(Kind::Transition, transitions.len()));
        let columns: Vec<_> = states.into_iter().chain(transitions).zip(kinds).collect();
        let mut arrays = Vec::with_capacity(columns.len());
        for ((key, array), kind) in &columns {
            let label = || format!("task {task_id}, trajectory {traj_id}: key {}", show(key));
            let Some((&rows, shape)) = array.shape().split_first() else {
                return Err(PyValueError::new_err(format!("{}: an array needs a time dimension", label())));
            };
            let name = array.dtype().to_string();
            let dtype = DType::from_name(&name)
                .ok_or_else(|| PyTypeError::new_err(format!("{}: dtype {name} cannot be stored", label())))?;
            let spec = ColumnSpec { key: key.clone(), kind: *kind, dtype, shape: shape.to_vec() };
            let bytes = lent_by(array).map_err(|error| PyValueError::new_err(format!("{}: {error}", label())))?;
            arrays.push(Array { spec, rows, bytes });
        }
        let views = views.into_iter().map(|(key, source, offset, shape)| View { key, source, offset, shape }).collect();
        let trajectory = Trajectory { task_id, traj_id, name, arrays, views };
        let mut taken = self.take(py)?;
        py.detach(|| match &mut taken.writer {
            Some(writer) => writer.append(trajectory, &interrupted),
            None => Err(self.build.over()),
        })
        .into_py_result(py)
    }

    fn set_attributes(&self, py: Python<'_>, attributes: &str) -> PyResult<()> {
        let mut taken = self.take(py)?;
        let writer = taken.writer.as_mut().ok_or_else(|| self.build.over()).into_py_result(py)?;
        writer.set_attributes(attributes).into_py_result(py)
    }

    fn publish(&self, py: Python<'_>, task_names: BTreeMap<i64, String>) -> PyResult<String> {
        let mut taken = self.take(py)?;
        let writer = taken.writer.take().ok_or_else(|| self.build.over()).into_py_result(py)?;
        py.detach(|| writer.publish(task_names, &interrupted)).into_py_result(py)
    }

    fn adopt(&self, py: Python<'_>, spool: PathBuf) -> PyResult<String> {
        let mut taken = self.take(py)?;
        let writer = taken.writer.take().ok_or_else(|| self.build.over()).into_py_result(py)?;
        py.detach(|| writer.adopt(&spool, &interrupted)).into_py_result(py)
    }

    fn abort(&self, py: Python<'_>) {
        if self.build.is_foreign() {
            return;
        }
        py.detach(|| {
            self.build.abort();
            let mut state = self.lock();
            if matches!(*state, State::Idle(_)) {
                *state = State::Over;
            }
        });
    }
}

/// Remove what dead builds left in a store directory, and finish a store that grew; returns the paths of what was removed.
#[pyfunction]
pub fn repair(py: Python<'_>, path: PathBuf) -> PyResult<Vec<String>> {
    let removed = py.detach(|| recording::repair(&path, &interrupted)).into_py_result(py)?;
    Ok(removed.iter().map(|path| path.display().to_string()).collect())
}
