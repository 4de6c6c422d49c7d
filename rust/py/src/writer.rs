//! `_core.StoreWriter`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use iltools_core::store::{self, Array, ColumnSpec, DType, Kind, show};
use numpy::{PyUntypedArray, PyUntypedArrayMethods};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;

use crate::arrays::slice_of;
use crate::errors::{IntoPyResult, interrupted};

type Columns<'py> = Vec<(Vec<String>, Bound<'py, PyUntypedArray>)>;

/// Writes a new generation of a store; nothing is visible to readers before `publish`.
#[pyclass(frozen, module = "iltools_datasets._core")]
pub struct StoreWriter {
    /// `None` after publish or abort.
    writer: Mutex<Option<store::StoreWriter>>,
}

impl StoreWriter {
    /// The lock is only ever waited for without the interpreter: its holder may need it to look for signals.
    fn take(&self, py: Python<'_>) -> Option<store::StoreWriter> {
        py.detach(|| self.writer.lock().unwrap_or_else(PoisonError::into_inner).take())
    }
}

fn over() -> PyErr {
    PyValueError::new_err("this build is over")
}

#[pymethods]
impl StoreWriter {
    #[new]
    fn new(py: Python<'_>, path: PathBuf, overwrite: bool) -> PyResult<Self> {
        let writer = py.detach(|| store::StoreWriter::begin(&path, overwrite)).into_py_result(py)?;
        Ok(Self { writer: Mutex::new(Some(writer)) })
    }

    fn append(
        &self,
        py: Python<'_>,
        task_id: i64,
        traj_id: i64,
        name: Option<String>,
        states: Columns<'_>,
        transitions: Columns<'_>,
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
            let bytes = slice_of(py, array).map_err(|error| PyValueError::new_err(format!("{}: {error}", label())))?;
            arrays.push(Array { spec, rows, bytes });
        }
        let writer = &self.writer;
        py.detach(|| {
            let mut writer = writer.lock().unwrap_or_else(PoisonError::into_inner);
            writer.as_mut().map(|writer| writer.append(task_id, traj_id, name, &arrays, &interrupted))
        })
        .ok_or_else(over)?
        .into_py_result(py)
    }

    fn add_view(
        &self,
        py: Python<'_>,
        key: Vec<String>,
        source: Vec<String>,
        offset: usize,
        shape: Vec<usize>,
    ) -> PyResult<()> {
        py.detach(|| {
            let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
            writer.as_mut().map(|writer| writer.add_view(key, source, offset, shape))
        })
        .ok_or_else(over)?
        .into_py_result(py)
    }

    fn publish(&self, py: Python<'_>, task_names: BTreeMap<i64, String>, attributes: &str) -> PyResult<String> {
        let attributes = serde_json::from_str(attributes)
            .map_err(|error| PyValueError::new_err(format!("attributes are not JSON: {error}")))?;
        let writer = self.take(py).ok_or_else(over)?;
        py.detach(|| writer.publish(task_names, attributes, &interrupted)).into_py_result(py)
    }

    fn abort(&self, py: Python<'_>) {
        let writer = self.take(py);
        py.detach(|| drop(writer));
    }
}

/// Remove what dead builds left in a store directory; returns the paths of what was removed.
#[pyfunction]
pub fn repair(py: Python<'_>, path: PathBuf) -> PyResult<Vec<String>> {
    let removed = py.detach(|| store::repair(&path)).into_py_result(py)?;
    Ok(removed.iter().map(|path| path.display().to_string()).collect())
}
