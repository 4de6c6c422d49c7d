//! `_core.Store`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use iltools_core::Frames;
use iltools_core::index::{Boundary, window_rows};
use iltools_core::part::RowOf;
use iltools_core::slab::Buffer;
use iltools_core::store::{self, Backend, DType};
use numpy::{PyArray1, PyArrayDescr, PyUntypedArray};
use pyo3::exceptions::PyIndexError;
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use crate::arrays::{Indices, array_over};
use crate::errors::IntoPyResult;
use crate::errors::interrupted;
use crate::gather::{Outputs, Shared, Wanted};
use crate::segments::SegmentTable;

/// Something that can be gathered: which bytes of which rows of which column.
#[pyclass(frozen, get_all, module = "iltools_datasets._core")]
pub struct Field {
    key: Py<PyTuple>,
    column: Py<PyTuple>,
    rows: &'static str,
    offset: usize,
    width: usize,
    dtype: &'static str,
    shape: Py<PyTuple>,
    history: Option<Py<History>>,
}

/// How a key is put together that is read as a history of frames; parts are elements of the column's row.
#[pyclass(frozen, get_all, module = "iltools_datasets._core")]
pub struct History {
    parts: Vec<(usize, usize)>,
    length: usize,
    lag: usize,
    oldest_first: bool,
    repeats_first: bool,
}

impl History {
    fn of(frames: &Frames, dtype: DType) -> Self {
        Self {
            parts: frames.parts().iter().map(|part| (part.start / dtype.size(), part.len() / dtype.size())).collect(),
            length: frames.length(),
            lag: frames.lag(),
            oldest_first: frames.oldest_first(),
            repeats_first: frames.repeats_first(),
        }
    }
}

/// An open store; what can be gathered is addressed by its position in `layout`.
#[pyclass(frozen, module = "iltools_datasets._core")]
pub struct Store {
    store: Arc<store::Store>,
    /// Made once: looking a dtype up costs more than a small gather.
    dtypes: Vec<Py<PyArrayDescr>>,
}

impl Store {
    fn new(py: Python<'_>, store: store::Store) -> PyResult<Self> {
        let dtypes = store
            .fields()
            .iter()
            .map(|field| Ok(PyArrayDescr::new(py, numpy_name(field.dtype))?.unbind()))
            .collect::<PyResult<_>>()?;
        Ok(Self { store: Arc::new(store), dtypes })
    }
}

impl Store {
    /// The store itself.
    pub fn core(&self) -> &Arc<store::Store> {
        &self.store
    }

    /// The dtype of a field, which is there.
    pub fn dtype<'py>(&self, py: Python<'py>, field: usize) -> Bound<'py, PyArrayDescr> {
        self.dtypes[field].bind(py).clone()
    }

    /// Arrays `[batch.., ...]` over the gathered rows of some fields, which are there.
    pub fn arrays_over<'py>(
        &self,
        py: Python<'py>,
        fields: &[usize],
        batch: &[usize],
        rows: Vec<Buffer>,
    ) -> PyResult<Vec<Bound<'py, PyUntypedArray>>> {
        let known = self.store.fields();
        let over = |(&number, buffer): (&usize, Buffer)| {
            let shape = [batch, known[number].shape.as_slice()].concat();
            array_over(py, buffer, self.dtypes[number].bind(py), &shape)
        };
        fields.iter().zip(rows).map(over).collect()
    }

    /// Refuse fields that are not there.
    pub fn check_fields(&self, fields: &[usize]) -> PyResult<()> {
        let known = self.store.fields().len();
        match fields.iter().find(|&&number| number >= known) {
            Some(number) => Err(PyIndexError::new_err(format!("field {number} of {known}"))),
            None => Ok(()),
        }
    }
}

/// numpy has no bfloat16: its bits travel as uint16.
fn numpy_name(dtype: DType) -> &'static str {
    if dtype == DType::Bfloat16 { "uint16" } else { dtype.name() }
}

type Windows<'py> = (Vec<Bound<'py, PyUntypedArray>>, Option<Bound<'py, PyArray1<bool>>>);
type Damage = (String, Option<Vec<String>>, Option<u64>, String);

#[pymethods]
impl Store {
    #[staticmethod]
    fn open(py: Python<'_>, path: PathBuf, backend: &str) -> PyResult<Self> {
        let backend: Backend = backend.parse().into_py_result(py)?;
        let store = py.detach(|| store::Store::open_unless(&path, backend, &interrupted)).into_py_result(py)?;
        Self::new(py, store)
    }

    #[staticmethod]
    fn open_prefix(py: Python<'_>, path: PathBuf, uuid: &str, trajectories: u64, backend: &str) -> PyResult<Self> {
        let backend: Backend = backend.parse().into_py_result(py)?;
        let open = || store::Store::open_prefix(&path, uuid, trajectories, backend, &interrupted);
        let store = py.detach(open).into_py_result(py)?;
        Self::new(py, store)
    }

    #[staticmethod]
    #[pyo3(signature = (path, traj_key, end_key, backend))]
    fn open_foreign(
        py: Python<'_>,
        path: PathBuf,
        traj_key: Option<Vec<String>>,
        end_key: Option<Vec<String>>,
        backend: &str,
    ) -> PyResult<Self> {
        let backend: Backend = backend.parse().into_py_result(py)?;
        let open = || store::Store::open_foreign(&path, traj_key.as_ref(), end_key.as_ref(), backend, &interrupted);
        let store = py.detach(open).into_py_result(py)?;
        Self::new(py, store)
    }

    #[getter]
    fn path(&self) -> &Path {
        self.store.path()
    }

    #[getter]
    fn data_dirs(&self) -> Vec<&Path> {
        self.store.data_dirs().iter().map(PathBuf::as_path).collect()
    }

    #[getter]
    fn uuid(&self) -> &str {
        self.store.uuid()
    }

    #[getter]
    fn is_growing(&self) -> bool {
        self.store.is_growing()
    }

    #[getter]
    fn backend(&self) -> &'static str {
        self.store.backend().name()
    }

    #[getter]
    fn num_transitions(&self) -> usize {
        self.store.num_transitions()
    }

    #[getter]
    fn num_states(&self) -> usize {
        self.store.num_states()
    }

    #[getter]
    fn layout(&self, py: Python<'_>) -> PyResult<Vec<Field>> {
        let described = |(number, field): (usize, &store::Field)| {
            Ok(Field {
                key: PyTuple::new(py, &field.key)?.unbind(),
                column: PyTuple::new(py, self.store.column_of(field))?.unbind(),
                rows: match field.rows {
                    RowOf::Index => "transition",
                    RowOf::State => "state",
                    RowOf::NextState => "next_state",
                },
                offset: field.offset,
                width: self.store.field_bytes(number),
                dtype: field.dtype.name(),
                shape: PyTuple::new(py, &field.shape)?.unbind(),
                history: match &field.frames {
                    Some(frames) => Some(Py::new(py, History::of(frames, field.dtype))?),
                    None => None,
                },
            })
        };
        self.store.fields().iter().enumerate().map(described).collect()
    }

    #[getter]
    fn segments(&self) -> SegmentTable {
        SegmentTable { table: self.store.segments().clone() }
    }

    #[getter]
    fn task_names(&self) -> BTreeMap<i64, String> {
        self.store.task_names().clone()
    }

    #[getter]
    fn trajectory_names(&self) -> Vec<Option<String>> {
        self.store.trajectory_names().to_vec()
    }

    #[getter]
    fn attributes(&self) -> &str {
        self.store.attributes()
    }

    #[pyo3(signature = (fields, index, out=None, threads=None))]
    #[allow(unsafe_code)]
    fn gather<'py>(
        &self,
        py: Python<'py>,
        fields: Vec<usize>,
        index: Indices<'py>,
        out: Option<Vec<Bound<'py, PyUntypedArray>>>,
        threads: Option<usize>,
    ) -> PyResult<Vec<Bound<'py, PyUntypedArray>>> {
        // A copy: another thread might write to the caller's array after the bounds check.
        let rows = index.as_slice()?.to_vec();
        self.check_fields(&fields)?;
        let known = self.store.fields();
        let wanted = fields
            .iter()
            .map(|&number| Wanted {
                dtype: self.dtypes[number].bind(py).clone(),
                shape: [&[rows.len()], known[number].shape.as_slice()].concat(),
            })
            .collect();
        let outputs = Outputs::prepare(py, wanted, out)?;
        let addresses = Shared(&outputs.addresses);
        py.detach(|| {
            // SAFETY: `outputs` keeps the arrays alive, and has made sure that they are writeable, long enough and apart.
            unsafe { self.store.gather_into(&fields, &rows, addresses.get(), threads, &interrupted) }
        })
        .into_py_result(py)?;
        Ok(outputs.into_arrays())
    }

    #[expect(clippy::too_many_arguments, reason = "what a window is, in one call")]
    #[pyo3(signature = (fields, segment, step, length, boundary, threads=None))]
    fn windows<'py>(
        &self,
        py: Python<'py>,
        fields: Vec<usize>,
        segment: Indices<'py>,
        step: Indices<'py>,
        length: usize,
        boundary: &str,
        threads: Option<usize>,
    ) -> PyResult<Windows<'py>> {
        let boundary: Boundary = boundary.parse().into_py_result(py)?;
        self.check_fields(&fields)?;
        // Copies: another thread might write to the caller's arrays meanwhile.
        let (segment, step) = (segment.as_slice()?.to_vec(), step.as_slice()?.to_vec());
        let (windows, rows) = py
            .detach(|| {
                let windows = window_rows(self.store.segments(), &segment, &step, length, boundary)?;
                let rows = store::gather_memory(&self.store, &fields, &windows.rows, threads, &interrupted)?;
                Ok((windows, rows))
            })
            .into_py_result(py)?;
        let mask = windows.mask.map(|mask| PyArray1::from_vec(py, mask));
        Ok((self.arrays_over(py, &fields, &[segment.len(), length], rows)?, mask))
    }

    #[pyo3(signature = (progress=None))]
    fn verify(&self, py: Python<'_>, progress: Option<Py<PyAny>>) -> PyResult<Vec<Damage>> {
        verify_with(py, progress, |told| self.store.verify(told))
    }
}

/// Check every file of the store in a directory, also where it is too damaged to be opened.
#[pyfunction]
#[pyo3(signature = (path, progress=None))]
pub fn verify(py: Python<'_>, path: PathBuf, progress: Option<Py<PyAny>>) -> PyResult<Vec<Damage>> {
    verify_with(py, progress, |told| store::verify(&path, told))
}

fn verify_with(
    py: Python<'_>,
    progress: Option<Py<PyAny>>,
    check: impl FnOnce(&mut dyn FnMut(u64, u64) -> bool) -> iltools_core::Result<Vec<store::Damage>> + Send,
) -> PyResult<Vec<Damage>> {
    let mut raised = None;
    let result = py.detach(|| {
        check(&mut |done, total| {
            Python::attach(|py| {
                let told = py.check_signals().and_then(|()| match &progress {
                    Some(progress) => progress.call1(py, (done, total)).map(drop),
                    None => Ok(()),
                });
                raised = told.err();
                raised.is_none()
            })
        })
    });
    if let Some(raised) = raised {
        return Err(raised);
    }
    let damages = result.into_py_result(py)?;
    Ok(damages.into_iter().map(|damage| (damage.file, damage.column, damage.block, damage.what)).collect())
}
