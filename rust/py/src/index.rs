//! `_core.IndexStream` and its kinds `SequentialCursors`, `EpochShuffle` and `UniformDraws`; `_core.window_rows`.

use std::sync::Arc;

use iltools_core::index::{self, Domain, Draw, Share};
use numpy::{PyArray1, PyUntypedArray};
use pyo3::PyClass;
use pyo3::prelude::*;

use crate::arrays::Indices;
use crate::errors::IntoPyResult;
use crate::segments::SegmentTable;
use crate::store::Store;
use crate::stream::{RunsAhead, Stream};

type Index<'py> = Bound<'py, PyArray1<i64>>;
type Rows<'py> = Option<Vec<Bound<'py, PyUntypedArray>>>;

/// What every index stream can do in Python: have batches made ahead of it.
#[pyclass(subclass, frozen, module = "iltools_datasets._core")]
pub struct IndexStream {
    stream: Arc<dyn RunsAhead>,
}

impl IndexStream {
    /// A stream of one of the kinds, which gets at the stream itself through `kind`.
    fn of<S: index::IndexStream, T: PyClass<BaseType = Self>>(
        stream: S,
        kind: impl FnOnce(Arc<Stream<S>>) -> T,
    ) -> PyClassInitializer<T> {
        let stream = Arc::new(Stream::new(stream));
        PyClassInitializer::from(Self { stream: Arc::clone(&stream) as Arc<dyn RunsAhead> }).add_subclass(kind(stream))
    }
}

#[pymethods]
impl IndexStream {
    fn look_ahead(&self, store: &Bound<'_, Store>, fields: Vec<usize>, depth: usize) -> PyResult<()> {
        self.stream.look_ahead(store, fields, depth)
    }

    fn num_ready(&self, py: Python<'_>) -> usize {
        self.stream.num_ready(py)
    }

    fn depth_ahead(&self, store: &Bound<'_, Store>) -> usize {
        self.stream.depth(store)
    }

    fn rows_of<'py>(&self, store: &Bound<'py, Store>, index: &Index<'py>) -> PyResult<Rows<'py>> {
        self.stream.rows_of(store, index)
    }
}

/// One cursor per env; `next` returns the transitions under the cursors and moves each by one, wrapping.
#[pyclass(frozen, extends = IndexStream, module = "iltools_datasets._core")]
pub struct SequentialCursors {
    stream: Arc<Stream<index::SequentialCursors>>,
}

#[pymethods]
impl SequentialCursors {
    #[new]
    fn new(
        py: Python<'_>,
        table: &SegmentTable,
        segment: Indices<'_>,
        step: Indices<'_>,
    ) -> PyResult<PyClassInitializer<Self>> {
        let cursors = index::SequentialCursors::new(Arc::clone(&table.table), segment.as_slice()?, step.as_slice()?);
        Ok(IndexStream::of(cursors.into_py_result(py)?, |stream| Self { stream }))
    }

    fn __len__(&self, py: Python<'_>) -> usize {
        self.stream.with(py, |cursors| cursors.len())
    }

    #[getter]
    fn segment<'py>(&self, py: Python<'py>) -> Index<'py> {
        PyArray1::from_vec(py, self.stream.with(py, |cursors| cursors.segment()))
    }

    #[getter]
    fn step<'py>(&self, py: Python<'py>) -> Index<'py> {
        PyArray1::from_vec(py, self.stream.with(py, |cursors| cursors.step()))
    }

    fn next<'py>(&self, py: Python<'py>) -> Index<'py> {
        self.stream.draw(py, Draw::Batch(0))
    }

    fn update(&self, py: Python<'_>, env: Indices<'_>, segment: Indices<'_>, step: Indices<'_>) -> PyResult<()> {
        let (env, segment, step) = (env.as_slice()?, segment.as_slice()?, step.as_slice()?);
        self.stream.with(py, |cursors| cursors.update(env, segment, step)).into_py_result(py)
    }
}

/// Every item exactly once per epoch, in an order computed per position by a keyed permutation.
#[pyclass(frozen, extends = IndexStream, module = "iltools_datasets._core")]
pub struct EpochShuffle {
    stream: Arc<Stream<index::EpochShuffle>>,
}

#[pymethods]
impl EpochShuffle {
    #[new]
    #[expect(clippy::too_many_arguments, reason = "keywords with defaults in Python")]
    #[pyo3(signature = (total, seed, epoch=0, position=0, shuffle=true, rank=0, world_size=1))]
    fn new(
        py: Python<'_>,
        total: i64,
        seed: u64,
        epoch: u64,
        position: i64,
        shuffle: bool,
        rank: u32,
        world_size: u32,
    ) -> PyResult<PyClassInitializer<Self>> {
        let made = Domain::all(total).and_then(|all| index::EpochShuffle::new(all, seed, epoch, position, shuffle));
        Self::shared(py, made, rank, world_size)
    }

    #[staticmethod]
    #[expect(clippy::too_many_arguments, reason = "keywords with defaults in Python")]
    #[pyo3(signature = (table, segment, seed, epoch=0, position=0, rank=0, world_size=1))]
    fn over_segments(
        py: Python<'_>,
        table: &SegmentTable,
        segment: Indices<'_>,
        seed: u64,
        epoch: u64,
        position: i64,
        rank: u32,
        world_size: u32,
    ) -> PyResult<Py<Self>> {
        let made = Domain::segments(&table.table, segment.as_slice()?)
            .and_then(|chosen| index::EpochShuffle::new(chosen, seed, epoch, position, true));
        Py::new(py, Self::shared(py, made, rank, world_size)?)
    }

    #[getter]
    fn total(&self, py: Python<'_>) -> i64 {
        self.stream.with(py, |shuffle| shuffle.domain().total())
    }

    #[getter]
    fn seed(&self, py: Python<'_>) -> u64 {
        self.stream.with(py, |shuffle| shuffle.seed())
    }

    #[getter]
    fn epoch(&self, py: Python<'_>) -> u64 {
        self.stream.with(py, |shuffle| shuffle.epoch())
    }

    #[getter]
    fn position(&self, py: Python<'_>) -> i64 {
        self.stream.with(py, |shuffle| shuffle.position())
    }

    #[getter]
    fn place(&self, py: Python<'_>) -> (u64, i64) {
        self.stream.with(py, |shuffle| (shuffle.epoch(), shuffle.position()))
    }

    fn next<'py>(&self, py: Python<'py>, count: usize) -> Index<'py> {
        self.stream.draw(py, Draw::Batch(count))
    }

    fn next_within_epoch<'py>(&self, py: Python<'py>, count: usize) -> Index<'py> {
        self.stream.draw(py, Draw::WithinEpoch(count))
    }

    fn restore(&self, py: Python<'_>, seed: u64, epoch: u64, position: i64) -> PyResult<()> {
        self.stream.with(py, |shuffle| shuffle.restore(seed, epoch, position)).into_py_result(py)
    }
}

impl EpochShuffle {
    fn shared(
        py: Python<'_>,
        shuffle: iltools_core::Result<index::EpochShuffle>,
        rank: u32,
        world_size: u32,
    ) -> PyResult<PyClassInitializer<Self>> {
        let share = Share::new(rank, world_size).into_py_result(py)?;
        Ok(IndexStream::of(shuffle.into_py_result(py)?.shared(share), |stream| Self { stream }))
    }
}

/// Independent uniform draws, with replacement; the n-th draw depends on (seed, n) alone.
#[pyclass(frozen, extends = IndexStream, module = "iltools_datasets._core")]
pub struct UniformDraws {
    stream: Arc<Stream<index::UniformDraws>>,
}

#[pymethods]
impl UniformDraws {
    #[new]
    #[pyo3(signature = (total, seed, position=0, rank=0, world_size=1))]
    fn new(
        py: Python<'_>,
        total: i64,
        seed: u64,
        position: u64,
        rank: u32,
        world_size: u32,
    ) -> PyResult<PyClassInitializer<Self>> {
        Self::shared(py, Domain::all(total), seed, position, rank, world_size)
    }

    #[staticmethod]
    #[pyo3(signature = (table, segment, seed, position=0, rank=0, world_size=1))]
    fn over_segments(
        py: Python<'_>,
        table: &SegmentTable,
        segment: Indices<'_>,
        seed: u64,
        position: u64,
        rank: u32,
        world_size: u32,
    ) -> PyResult<Py<Self>> {
        let chosen = Domain::segments(&table.table, segment.as_slice()?);
        Py::new(py, Self::shared(py, chosen, seed, position, rank, world_size)?)
    }

    #[getter]
    fn total(&self, py: Python<'_>) -> i64 {
        self.stream.with(py, |draws| draws.domain().total())
    }

    #[getter]
    fn seed(&self, py: Python<'_>) -> u64 {
        self.stream.with(py, |draws| draws.seed())
    }

    #[getter]
    fn position(&self, py: Python<'_>) -> u64 {
        self.stream.with(py, |draws| draws.position())
    }

    fn next<'py>(&self, py: Python<'py>, count: usize) -> Index<'py> {
        self.stream.draw(py, Draw::Batch(count))
    }

    fn restore(&self, py: Python<'_>, seed: u64, position: u64) {
        self.stream.with(py, |draws| draws.restore(seed, position));
    }
}

impl UniformDraws {
    fn shared(
        py: Python<'_>,
        domain: iltools_core::Result<Domain>,
        seed: u64,
        position: u64,
        rank: u32,
        world_size: u32,
    ) -> PyResult<PyClassInitializer<Self>> {
        let share = Share::new(rank, world_size).into_py_result(py)?;
        let draws = index::UniformDraws::new(domain.into_py_result(py)?, seed, position).shared(share);
        Ok(IndexStream::of(draws, |stream| Self { stream }))
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
