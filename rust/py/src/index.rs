//! `_core.SequentialCursors`, `_core.EpochShuffle`, `_core.UniformDraws`, `_core.window_rows`.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use iltools_core::index;
use numpy::{PyArray1, ToPyArray};
use pyo3::prelude::*;

use crate::arrays::{Indices, new_indices};
use crate::errors::IntoPyResult;
use crate::segments::SegmentTable;

type Index<'py> = Bound<'py, PyArray1<i64>>;

/// State is valid after every statement, so a panic elsewhere while it was locked does not spoil it.
fn locked<T>(state: &Mutex<T>) -> MutexGuard<'_, T> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One cursor per env; `next` returns the transitions under the cursors and moves each by one, wrapping.
#[pyclass(frozen, module = "iltools_datasets._core")]
pub struct SequentialCursors {
    cursors: Mutex<index::SequentialCursors>,
}

#[pymethods]
impl SequentialCursors {
    #[new]
    fn new(py: Python<'_>, table: &SegmentTable, segment: Indices<'_>, step: Indices<'_>) -> PyResult<Self> {
        let cursors = index::SequentialCursors::new(Arc::clone(&table.table), segment.as_slice()?, step.as_slice()?);
        Ok(Self { cursors: Mutex::new(cursors.into_py_result(py)?) })
    }

    fn __len__(&self) -> usize {
        locked(&self.cursors).len()
    }

    #[getter]
    fn segment<'py>(&self, py: Python<'py>) -> Index<'py> {
        locked(&self.cursors).segment().to_pyarray(py)
    }

    #[getter]
    fn step<'py>(&self, py: Python<'py>) -> Index<'py> {
        locked(&self.cursors).step().to_pyarray(py)
    }

    fn next<'py>(&self, py: Python<'py>) -> PyResult<Index<'py>> {
        let mut cursors = locked(&self.cursors);
        new_indices(py, cursors.len(), |out| cursors.next(out))
    }

    fn peek<'py>(&self, py: Python<'py>) -> PyResult<Index<'py>> {
        let cursors = locked(&self.cursors);
        new_indices(py, cursors.len(), |out| cursors.peek(out))
    }

    fn advance(&self, count: i64) {
        locked(&self.cursors).advance(count);
    }

    fn update(&self, py: Python<'_>, env: Indices<'_>, segment: Indices<'_>, step: Indices<'_>) -> PyResult<()> {
        locked(&self.cursors).update(env.as_slice()?, segment.as_slice()?, step.as_slice()?).into_py_result(py)
    }
}

/// Every item exactly once per epoch, in an order computed per position by a keyed permutation.
#[pyclass(frozen, module = "iltools_datasets._core")]
pub struct EpochShuffle {
    shuffle: Mutex<index::EpochShuffle>,
}

#[pymethods]
impl EpochShuffle {
    #[new]
    #[pyo3(signature = (total, seed, epoch=0, position=0, shuffle=true))]
    fn new(py: Python<'_>, total: i64, seed: u64, epoch: u64, position: i64, shuffle: bool) -> PyResult<Self> {
        let made =
            index::Domain::all(total).and_then(|all| index::EpochShuffle::new(all, seed, epoch, position, shuffle));
        Ok(Self { shuffle: Mutex::new(made.into_py_result(py)?) })
    }

    #[staticmethod]
    #[pyo3(signature = (table, segment, seed, epoch=0, position=0))]
    fn over_segments(
        py: Python<'_>,
        table: &SegmentTable,
        segment: Indices<'_>,
        seed: u64,
        epoch: u64,
        position: i64,
    ) -> PyResult<Self> {
        let made = index::Domain::segments(&table.table, segment.as_slice()?)
            .and_then(|chosen| index::EpochShuffle::new(chosen, seed, epoch, position, true));
        Ok(Self { shuffle: Mutex::new(made.into_py_result(py)?) })
    }

    #[getter]
    fn total(&self) -> i64 {
        locked(&self.shuffle).domain().total()
    }

    #[getter]
    fn seed(&self) -> u64 {
        locked(&self.shuffle).seed()
    }

    #[getter]
    fn epoch(&self) -> u64 {
        locked(&self.shuffle).epoch()
    }

    #[getter]
    fn position(&self) -> i64 {
        locked(&self.shuffle).position()
    }

    fn next<'py>(&self, py: Python<'py>, count: usize) -> PyResult<Index<'py>> {
        let mut shuffle = locked(&self.shuffle);
        new_indices(py, count, |out| shuffle.next(out))
    }

    fn next_within_epoch<'py>(&self, py: Python<'py>, count: usize) -> PyResult<Index<'py>> {
        let mut shuffle = locked(&self.shuffle);
        let left = (shuffle.domain().total() - shuffle.position()) as usize;
        new_indices(py, count.min(left), |out| {
            shuffle.next_within_epoch(out);
        })
    }

    fn restore(&self, py: Python<'_>, seed: u64, epoch: u64, position: i64) -> PyResult<()> {
        locked(&self.shuffle).restore(seed, epoch, position).into_py_result(py)
    }
}

/// Independent uniform draws, with replacement; the n-th draw depends on (seed, n) alone.
#[pyclass(frozen, module = "iltools_datasets._core")]
pub struct UniformDraws {
    draws: Mutex<index::UniformDraws>,
}

#[pymethods]
impl UniformDraws {
    #[new]
    #[pyo3(signature = (total, seed, position=0))]
    fn new(py: Python<'_>, total: i64, seed: u64, position: u64) -> PyResult<Self> {
        let domain = index::Domain::all(total).into_py_result(py)?;
        Ok(Self { draws: Mutex::new(index::UniformDraws::new(domain, seed, position)) })
    }

    #[staticmethod]
    #[pyo3(signature = (table, segment, seed, position=0))]
    fn over_segments(
        py: Python<'_>,
        table: &SegmentTable,
        segment: Indices<'_>,
        seed: u64,
        position: u64,
    ) -> PyResult<Self> {
        let domain = index::Domain::segments(&table.table, segment.as_slice()?).into_py_result(py)?;
        Ok(Self { draws: Mutex::new(index::UniformDraws::new(domain, seed, position)) })
    }

    #[getter]
    fn total(&self) -> i64 {
        locked(&self.draws).domain().total()
    }

    #[getter]
    fn seed(&self) -> u64 {
        locked(&self.draws).seed()
    }

    #[getter]
    fn position(&self) -> u64 {
        locked(&self.draws).position()
    }

    fn next<'py>(&self, py: Python<'py>, count: usize) -> PyResult<Index<'py>> {
        let mut draws = locked(&self.draws);
        new_indices(py, count, |out| draws.next(out))
    }

    fn restore(&self, seed: u64, position: u64) {
        locked(&self.draws).restore(seed, position);
    }
}

type Mask<'py> = Bound<'py, PyArray1<bool>>;

/// Transition indices of windows, `[B * length]`, and for boundary "mask" which of them are real.
#[pyfunction]
pub fn window_rows<'py>(
    py: Python<'py>,
    table: &SegmentTable,
    segment: Indices<'_>,
    step: Indices<'_>,
    length: usize,
    boundary: &str,
) -> PyResult<(Index<'py>, Option<Mask<'py>>)> {
    let (segment, step) = (segment.as_slice()?, step.as_slice()?);
    let boundary: index::Boundary = boundary.parse().into_py_result(py)?;
    let found = py.detach(|| index::window_rows(&table.table, segment, step, length, boundary)).into_py_result(py)?;
    let rows = PyArray1::from_vec(py, found.rows);
    Ok((rows, found.mask.map(|mask| PyArray1::from_vec(py, mask))))
}
