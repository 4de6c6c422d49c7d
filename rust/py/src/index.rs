//! `_core.IndexStream` and its kinds `SequentialCursors`, `EpochShuffle` and `UniformDraws`; `_core.window_rows`.

use std::sync::Arc;

use iltools_core::index::{self, Ask, Domain, Draw, Share};
use iltools_core::memory::copied;
use numpy::{PyArray1, PyUntypedArray};
use pyo3::PyClass;
use pyo3::prelude::*;

use crate::arrays::Indices;
use crate::errors::IntoPyResult;
use crate::segments::SegmentTable;
use crate::slices::{self, SliceCut, Slices};
use crate::store::Store;
use crate::stream::{Asked, RunsAhead, Stream, Wanted};

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

    /// The next items of an epoch or beyond its end, their rows of a store, and whether those had been made ahead.
    fn next_rows<'py>(
        &self,
        py: Python<'py>,
        count: usize,
        within_epoch: bool,
        wanted: Asked<'py>,
    ) -> PyResult<(Index<'py>, Vec<Bound<'py, PyUntypedArray>>, bool)> {
        let ask = Ask { draw: draw(count, within_epoch), cut: None };
        let (drawn, found) = self.stream.next_rows(py, &ask, Wanted::of(&wanted)?)?;
        let (store, fields, _) = &wanted;
        let arrays = store.get().arrays_over(py, fields, &[drawn.rows.len()], found.of)?;
        Ok((PyArray1::from_vec(py, drawn.rows), arrays, found.were_ready))
    }

    fn rows_of<'py>(&self, store: &Bound<'py, Store>, index: Indices<'_>) -> PyResult<Rows<'py>> {
        // A copy, as in `SequentialCursors.update`.
        let index = copied(index.as_slice()?).into_py_result(store.py())?;
        self.stream.rows_of(store, &index)
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
    fn segment<'py>(&self, py: Python<'py>) -> PyResult<Index<'py>> {
        let segment = self.stream.with(py, |cursors| cursors.segment()).into_py_result(py)?;
        Ok(PyArray1::from_vec(py, segment))
    }

    #[getter]
    fn step<'py>(&self, py: Python<'py>) -> PyResult<Index<'py>> {
        let step = self.stream.with(py, |cursors| cursors.step()).into_py_result(py)?;
        Ok(PyArray1::from_vec(py, step))
    }

    fn next<'py>(&self, py: Python<'py>) -> PyResult<Index<'py>> {
        items(py, &self.stream, Draw::Batch(0))
    }

    fn update(&self, py: Python<'_>, env: Indices<'_>, segment: Indices<'_>, step: Indices<'_>) -> PyResult<()> {
        // Copies: where the lock has to be waited for, others may write to the caller's arrays meanwhile.
        let copy = |indices: &Indices<'_>| copied(indices.as_slice()?).into_py_result(py);
        let (env, segment, step) = (copy(&env)?, copy(&segment)?, copy(&step)?);
        self.stream.with(py, |cursors| cursors.update(&env, &segment, &step)).into_py_result(py)
    }
}

/// Every item exactly once per epoch, in an order computed per position by a keyed permutation.
#[pyclass(frozen, extends = IndexStream, module = "iltools_datasets._core")]
pub struct EpochShuffle {
    stream: Arc<Stream<index::EpochShuffle>>,
}

/// What a shuffle or draws run over: so many transitions, or those of some segments of a table.
#[derive(FromPyObject)]
pub enum Items<'py> {
    All(i64),
    Segments(PyRef<'py, SegmentTable>, Indices<'py>),
}

impl Items<'_> {
    fn domain(&self, py: Python<'_>) -> PyResult<Domain> {
        match self {
            Self::All(total) => Domain::all(*total),
            Self::Segments(table, segment) => Domain::segments(&table.table, segment.as_slice()?),
        }
        .into_py_result(py)
    }
}

#[pymethods]
impl EpochShuffle {
    #[new]
    #[expect(clippy::too_many_arguments, reason = "keywords with defaults in Python")]
    #[pyo3(signature = (items, seed, epoch=0, position=0, shuffle=true, rank=0, world_size=1, places=0))]
    fn new(
        py: Python<'_>,
        items: Items<'_>,
        seed: u64,
        epoch: u64,
        position: i64,
        shuffle: bool,
        rank: u32,
        world_size: u32,
        places: u64,
    ) -> PyResult<PyClassInitializer<Self>> {
        let share = Share::new(rank, world_size).into_py_result(py)?;
        let stream = index::EpochShuffle::new(items.domain(py)?, seed, epoch, position, shuffle).into_py_result(py)?;
        Ok(IndexStream::of(stream.shared(share).after_places(places), |stream| Self { stream }))
    }

    /// Run over more from the next epoch on; what was made ahead is forgotten.
    fn grow(&self, py: Python<'_>, items: Items<'_>) -> PyResult<()> {
        let domain = items.domain(py)?;
        self.stream.changed(py, |shuffle| shuffle.grow(domain));
        Ok(())
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

    #[getter]
    fn places(&self, py: Python<'_>) -> u64 {
        self.stream.with(py, |shuffle| shuffle.places())
    }

    fn next<'py>(&self, py: Python<'py>, count: usize) -> PyResult<Index<'py>> {
        items(py, &self.stream, Draw::Batch(count))
    }

    fn next_within_epoch<'py>(&self, py: Python<'py>, count: usize) -> PyResult<Index<'py>> {
        items(py, &self.stream, Draw::WithinEpoch(count))
    }

    fn next_slices<'py>(
        &self,
        py: Python<'py>,
        count: usize,
        cut: &SliceCut,
        within_epoch: bool,
        asked: Option<Asked<'py>>,
        end: Option<usize>,
    ) -> PyResult<Slices<'py>> {
        slices::draw(py, &self.stream, draw(count, within_epoch), cut, asked.as_ref(), end)
    }

    #[pyo3(signature = (seed, epoch, position, places=None))]
    fn restore(&self, py: Python<'_>, seed: u64, epoch: u64, position: i64, places: Option<u64>) -> PyResult<()> {
        let go = |shuffle: &mut index::EpochShuffle| {
            shuffle.restore(seed, epoch, position)?;
            if let Some(places) = places {
                shuffle.restore_places(places);
            }
            Ok(())
        };
        self.stream.with(py, go).into_py_result(py)
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
    #[pyo3(signature = (items, seed, position=0, rank=0, world_size=1))]
    fn new(
        py: Python<'_>,
        items: Items<'_>,
        seed: u64,
        position: u64,
        rank: u32,
        world_size: u32,
    ) -> PyResult<PyClassInitializer<Self>> {
        let share = Share::new(rank, world_size).into_py_result(py)?;
        let stream = index::UniformDraws::new(items.domain(py)?, seed, position).shared(share);
        Ok(IndexStream::of(stream, |stream| Self { stream }))
    }

    fn grow(&self, py: Python<'_>, items: Items<'_>) -> PyResult<()> {
        let domain = items.domain(py)?;
        self.stream.changed(py, |draws| draws.grow(domain));
        Ok(())
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

    fn next<'py>(&self, py: Python<'py>, count: usize) -> PyResult<Index<'py>> {
        items(py, &self.stream, Draw::Batch(count))
    }

    fn next_slices<'py>(
        &self,
        py: Python<'py>,
        count: usize,
        cut: &SliceCut,
        asked: Option<Asked<'py>>,
        end: Option<usize>,
    ) -> PyResult<Slices<'py>> {
        slices::draw(py, &self.stream, Draw::Batch(count), cut, asked.as_ref(), end)
    }

    fn restore(&self, py: Python<'_>, seed: u64, position: u64) {
        self.stream.with(py, |draws| draws.restore(seed, position));
    }
}

fn draw(count: usize, within_epoch: bool) -> Draw {
    if within_epoch { Draw::WithinEpoch(count) } else { Draw::Batch(count) }
}

fn items<'py, S: index::IndexStream>(py: Python<'py>, stream: &Stream<S>, draw: Draw) -> PyResult<Index<'py>> {
    Ok(PyArray1::from_vec(py, stream.draw(py, &Ask { draw, cut: None })?.rows))
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
    // Copies: another thread might write to the caller's arrays meanwhile.
    let copy = |indices: &Indices<'_>| copied(indices.as_slice()?).into_py_result(py);
    let (segment, step) = (copy(&segment)?, copy(&step)?);
    let boundary: index::Boundary = boundary.parse().into_py_result(py)?;
    let found = py.detach(|| index::window_rows(&table.table, &segment, &step, length, boundary)).into_py_result(py)?;
    let rows = PyArray1::from_vec(py, found.rows);
    Ok((rows, found.mask.map(|mask| PyArray1::from_vec(py, mask))))
}
