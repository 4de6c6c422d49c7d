//! `_core.Recorder`.

use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use iltools_core::recording::{self, End, Episode, Last, Shape};
use numpy::{PyReadonlyArray1, PyReadwriteArray1};
use pyo3::exceptions::{PyOSError, PyValueError};
use pyo3::prelude::*;

use crate::errors::IntoPyResult;

/// Number, env, first step, number of rows, terminated, truncated, whether its last next state is known.
type EpisodeRow = (u64, u32, u64, usize, bool, bool, bool);

/// The journal of a recording and the episodes in it.
///
/// Everything is done with the interpreter: callers' memory is read and written, and nobody else gets at it then. Only the
/// wait for the disk is without it.
#[pyclass(frozen, module = "iltools_datasets._core")]
pub struct Recorder {
    recorder: Mutex<recording::Recorder>,
}

impl Recorder {
    /// Never waits: whoever holds the lock has the interpreter.
    fn lock(&self) -> MutexGuard<'_, recording::Recorder> {
        self.recorder.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[pymethods]
impl Recorder {
    #[new]
    fn new(
        py: Python<'_>,
        directory: PathBuf,
        num_envs: usize,
        row_bytes: Vec<usize>,
        num_states: usize,
        longest: u64,
        resume: bool,
    ) -> PyResult<Self> {
        if num_states > row_bytes.len() {
            return Err(PyValueError::new_err(format!("{num_states} state columns of {}", row_bytes.len())));
        }
        let shape = Shape { num_envs, row_bytes, num_states };
        let open = if resume { recording::Recorder::resume } else { recording::Recorder::begin };
        let recorder = py.detach(|| open(&directory, shape, longest)).into_py_result(py)?;
        Ok(Self { recorder: Mutex::new(recorder) })
    }

    #[getter]
    fn num_steps(&self) -> usize {
        self.lock().num_steps()
    }

    #[getter]
    fn num_episodes(&self) -> u64 {
        self.lock().episodes().num_ended()
    }

    #[getter]
    fn running(&self) -> Vec<u32> {
        self.lock().running()
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
        match due {
            Some(file) => py.detach(|| file.sync_data()).map_err(PyOSError::new_err),
            None => Ok(()),
        }
    }

    fn end(&self, py: Python<'_>, envs: Vec<u32>, how: Vec<u8>, states: Vec<Vec<u8>>) -> PyResult<()> {
        self.lock().end(&End { envs, how, states }).into_py_result(py)
    }

    fn sync(&self, py: Python<'_>) -> PyResult<()> {
        self.lock().sync().into_py_result(py)
    }

    /// The episodes that are over, from one number on.
    #[pyo3(signature = (from_))]
    fn episodes(&self, from_: usize) -> Vec<EpisodeRow> {
        let row = |e: &Episode| (e.number, e.env, e.first, e.rows(), e.terminated, e.truncated, e.end != Last::Unknown);
        self.lock().finished().skip(from_).map(row).collect()
    }

    fn read_step(
        &self,
        py: Python<'_>,
        step: usize,
        column: usize,
        mut out: PyReadwriteArray1<'_, u8>,
    ) -> PyResult<()> {
        self.lock().read_step(step, column, out.as_slice_mut()?).into_py_result(py)
    }

    fn read_mask(&self, py: Python<'_>, step: usize, mut out: PyReadwriteArray1<'_, u8>) -> PyResult<()> {
        self.lock().read_mask(step, out.as_slice_mut()?).into_py_result(py)
    }

    fn read_episode(
        &self,
        py: Python<'_>,
        number: usize,
        column: usize,
        mut out: PyReadwriteArray1<'_, u8>,
    ) -> PyResult<bool> {
        self.lock().read_episode(number, column, out.as_slice_mut()?).into_py_result(py)
    }
}
