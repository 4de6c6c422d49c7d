//! `_core.Recorder`.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use iltools_core::recording::{self, End, Ending, Layout, Pace, State};
use numpy::{PyReadonlyArray1, PyReadwriteArray1};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::errors::{IntoPyResult, interrupted};
use crate::writer::StoreWriter;

/// The journal of a recording, and the store that grows out of it.
///
/// Callers' memory is read and written with the interpreter, so that nobody else gets at it then. What waits, for the disk or
/// for the thread that builds the store, or writes a store, is without it and without the lock: signal handlers and other
/// threads may call any method meanwhile.
#[pyclass(frozen, module = "iltools_datasets._core")]
pub struct Recorder {
    recorder: Mutex<recording::Recorder>,
    /// Nanoseconds that steps waited for the disk.
    stalled: AtomicU64,
}

impl Recorder {
    fn of(py: Python<'_>, open: impl FnOnce() -> iltools_core::Result<recording::Recorder> + Send) -> PyResult<Self> {
        let recorder = py.detach(open).into_py_result(py)?;
        Ok(Self { recorder: Mutex::new(recorder), stalled: AtomicU64::new(0) })
    }

    /// Never waits: whoever holds the lock has the interpreter.
    fn lock(&self) -> MutexGuard<'_, recording::Recorder> {
        self.recorder.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait(&self, py: Python<'_>, done: impl Fn(&State) -> bool + Send) -> PyResult<()> {
        let progress = Arc::clone(self.lock().progress());
        py.detach(|| progress.wait_until(done, &interrupted)).into_py_result(py)
    }
}

fn pace(every: f64, bytes: u64) -> PyResult<Pace> {
    let every = Duration::try_from_secs_f64(every).map_err(|error| PyValueError::new_err(error.to_string()))?;
    Ok(Pace { every, bytes })
}

#[pymethods]
impl Recorder {
    #[staticmethod]
    fn begin(py: Python<'_>, directory: PathBuf, layout: &str) -> PyResult<Self> {
        let layout = Layout::parse(layout).into_py_result(py)?;
        Self::of(py, || recording::Recorder::begin(&directory, layout))
    }

    #[staticmethod]
    fn grow(py: Python<'_>, writer: &StoreWriter, layout: &str, every: f64, bytes: u64) -> PyResult<Self> {
        let layout = Layout::parse(layout).into_py_result(py)?;
        let pace = pace(every, bytes)?;
        let writer = writer.give(py)?;
        Self::of(py, || recording::Recorder::grow(writer, layout, pace))
    }

    #[staticmethod]
    fn resume(py: Python<'_>, store: PathBuf, attributes: Option<&str>, every: f64, bytes: u64) -> PyResult<Self> {
        let pace = pace(every, bytes)?;
        Self::of(py, || recording::Recorder::resume(&store, attributes, pace))
    }

    #[getter]
    fn layout(&self) -> String {
        self.lock().layout().text().to_owned()
    }

    /// Number of steps that were recorded.
    #[getter]
    fn num_steps(&self) -> u64 {
        self.lock().episodes().next_step()
    }

    /// The first step that the journal still has.
    #[getter]
    fn first_step(&self) -> u64 {
        self.lock().steps().start
    }

    #[getter]
    fn num_rows(&self) -> u64 {
        self.lock().num_rows()
    }

    #[getter]
    fn num_episodes(&self) -> u64 {
        self.lock().episodes().num_ended()
    }

    /// Rows that were no data: left out as there were enough episodes, and all others.
    #[getter]
    fn num_missing(&self) -> (u64, u64) {
        let missing = self.lock().episodes().missing();
        (missing.left_out, missing.invalid)
    }

    /// Env and first step of each episode that runs, or is over and not in a store yet.
    #[getter]
    fn begins(&self) -> Vec<(u32, u64)> {
        self.lock().begins()
    }

    #[getter]
    fn running(&self) -> Vec<u32> {
        self.lock().running()
    }

    #[getter]
    fn stalled_seconds(&self) -> f64 {
        Duration::from_nanos(self.stalled.load(Ordering::Relaxed)).as_secs_f64()
    }

    fn step(
        &self,
        py: Python<'_>,
        mask: PyReadonlyArray1<'_, u8>,
        columns: Vec<PyReadonlyArray1<'_, u8>>,
    ) -> PyResult<()> {
        let due = {
            let mut recorder = self.lock();
            let columns = columns.iter().map(|column| column.as_slice()).collect::<Result<Vec<_>, _>>()?;
            recorder.step(mask.as_slice()?, &columns).into_py_result(py)?;
            recorder.due_for_sync().into_py_result(py)?
        };
        let Some(due) = due else { return Ok(()) };
        let began = Instant::now();
        let synced = py.detach(|| due.sync());
        self.stalled.fetch_add(began.elapsed().as_nanos() as u64, Ordering::Relaxed);
        synced.into_py_result(py)
    }

    fn end(&self, py: Python<'_>, envs: Vec<u32>, how: Vec<u8>, tasks: Vec<u32>, states: Vec<Vec<u8>>) -> PyResult<()> {
        self.lock().end(&End { envs, how, tasks, states }).into_py_result(py)
    }

    fn end_running(&self, py: Python<'_>) -> PyResult<()> {
        self.lock().end_running().into_py_result(py)
    }

    /// Begin another file of the journal.
    fn next_file(&self, py: Python<'_>) -> PyResult<()> {
        self.lock().next_file().into_py_result(py)
    }

    fn set_layout(&self, py: Python<'_>, layout: &str) -> PyResult<()> {
        let layout = Layout::parse(layout).into_py_result(py)?;
        self.lock().set_layout(layout).into_py_result(py)
    }

    /// Bring the journal to disk, and have what is over published.
    fn flush(&self, py: Python<'_>) -> PyResult<()> {
        let unsynced = self.lock().unsynced().into_py_result(py)?;
        py.detach(|| unsynced.sync()).into_py_result(py)?;
        let published = self.lock().ask_to_publish();
        self.wait(py, published)
    }

    fn write_store(&self, py: Python<'_>, writer: &StoreWriter) -> PyResult<String> {
        let saving = self.lock().saving().into_py_result(py)?;
        let writer = writer.give(py)?;
        // Signal handlers run meanwhile, and other threads, which may all ask for the recorder: nobody has it.
        py.detach(|| saving.write(writer, &interrupted)).into_py_result(py)
    }

    /// Finish the store that grows: when this returns, or raises anything but an interruption, the thread has ended.
    fn seal(&self, py: Python<'_>) -> PyResult<()> {
        self.lock().finish(Ending::Seal);
        self.wait(py, |state| state.is_over && state.failure.is_none())
    }

    /// Remove the store that grows.
    fn discard(&self, py: Python<'_>) -> PyResult<()> {
        self.lock().finish(Ending::Discard);
        self.wait(py, |state| state.is_over && state.failure.is_none())
    }

    fn read_step(&self, py: Python<'_>, step: u64, column: usize, mut out: PyReadwriteArray1<'_, u8>) -> PyResult<()> {
        self.lock().read_step(step, column, out.as_slice_mut()?).into_py_result(py)
    }

    fn read_mask(&self, py: Python<'_>, step: u64, mut out: PyReadwriteArray1<'_, u8>) -> PyResult<()> {
        self.lock().read_mask(step, out.as_slice_mut()?).into_py_result(py)
    }
}
