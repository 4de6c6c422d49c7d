//! `_core.SegmentTable`.

use std::sync::Arc;

use iltools_core::segment;
use numpy::{PyArray1, ToPyArray};
use pyo3::exceptions::PyIndexError;
use pyo3::prelude::*;

use crate::arrays::Indices;
use crate::errors::IntoPyResult;

type Index<'py> = Bound<'py, PyArray1<i64>>;

/// Checked, immutable table of segments over the transitions of a data set.
#[pyclass(frozen, module = "iltools_datasets._core")]
pub struct SegmentTable {
    pub table: Arc<segment::SegmentTable>,
}

#[pymethods]
impl SegmentTable {
    #[new]
    fn new(
        py: Python<'_>,
        task_id: Indices<'_>,
        traj_id: Indices<'_>,
        start: Indices<'_>,
        length: Indices<'_>,
    ) -> PyResult<Self> {
        let column = |indices: &Indices<'_>| indices.as_slice().map(<[i64]>::to_vec);
        let table = segment::SegmentTable::new(column(&task_id)?, column(&traj_id)?, column(&start)?, column(&length)?);
        Ok(Self { table: Arc::new(table.into_py_result(py)?) })
    }

    fn __len__(&self) -> usize {
        self.table.len()
    }

    fn row(&self, position: usize) -> PyResult<(i64, i64, i64, i64)> {
        let table = &self.table;
        if position >= table.len() {
            return Err(PyIndexError::new_err(format!("segment {position} of {}", table.len())));
        }
        let of = |column: &[i64]| column[position];
        Ok((of(table.task_id()), of(table.traj_id()), of(table.start()), of(table.length())))
    }

    #[getter]
    fn task_id<'py>(&self, py: Python<'py>) -> Index<'py> {
        self.table.task_id().to_pyarray(py)
    }

    #[getter]
    fn traj_id<'py>(&self, py: Python<'py>) -> Index<'py> {
        self.table.traj_id().to_pyarray(py)
    }

    #[getter]
    fn start<'py>(&self, py: Python<'py>) -> Index<'py> {
        self.table.start().to_pyarray(py)
    }

    #[getter]
    fn length<'py>(&self, py: Python<'py>) -> Index<'py> {
        self.table.length().to_pyarray(py)
    }

    #[getter]
    fn num_transitions(&self) -> i64 {
        self.table.num_transitions()
    }

    fn find<'py>(&self, py: Python<'py>, task_id: Indices<'_>, traj_id: Indices<'_>) -> PyResult<Index<'py>> {
        let pairs = task_id.as_slice()?.iter().zip(traj_id.as_slice()?);
        let found: iltools_core::Result<Vec<i64>> =
            pairs.map(|(&task, &trajectory)| self.table.find(task, trajectory).map(|k| k as i64)).collect();
        Ok(found.into_py_result(py)?.to_pyarray(py))
    }

    fn locate<'py>(&self, py: Python<'py>, index: Indices<'_>) -> PyResult<(Index<'py>, Index<'py>)> {
        let (segment, step) = self.table.locate_all(index.as_slice()?).into_py_result(py)?;
        Ok((PyArray1::from_vec(py, segment), PyArray1::from_vec(py, step)))
    }
}
