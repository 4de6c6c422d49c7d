//! `_core.gather` over any row-major numpy columns, and what all gathers share: checked outputs.

use iltools_core::gather::gather as gather_parts;
use iltools_core::parallel;
use iltools_core::part::{Column, Part, RowOf};
use iltools_core::slab::{self, Buffer};
use numpy::{PyArrayDescr, PyArrayDescrMethods, PyUntypedArray, PyUntypedArrayMethods};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;

use crate::arrays::{Indices, array_over, bytes_of, is_writeable};
use crate::errors::{IntoPyResult, interrupted};

/// Where one gathered array goes: its dtype, its shape, and a caller's array if there is one.
pub struct Wanted<'py> {
    pub dtype: Bound<'py, PyArrayDescr>,
    pub shape: Vec<usize>,
}

/// Addresses to gather to, valid while the outputs are held.
pub struct Outputs<'py> {
    arrays: Vec<Bound<'py, PyUntypedArray>>,
    pub addresses: Vec<(*mut u8, usize)>,
}

impl<'py> Outputs<'py> {
    /// Check a caller's arrays, or make new ones.
    pub fn prepare(
        py: Python<'py>,
        wanted: Vec<Wanted<'py>>,
        given: Option<Vec<Bound<'py, PyUntypedArray>>>,
    ) -> PyResult<Self> {
        let Some(arrays) = given else {
            let mut outputs =
                Self { arrays: Vec::with_capacity(wanted.len()), addresses: Vec::with_capacity(wanted.len()) };
            for Wanted { dtype, shape } in wanted {
                let elements = shape.iter().try_fold(dtype.itemsize(), |bytes, &extent| bytes.checked_mul(extent));
                let bytes = elements.ok_or_else(|| PyValueError::new_err(format!("shape {shape:?} overflows")))?;
                let buffer = Buffer::take(bytes).into_py_result(py)?;
                outputs.addresses.push((buffer.as_ptr(), buffer.len()));
                outputs.arrays.push(array_over(py, buffer, &dtype, &shape)?);
            }
            return Ok(outputs);
        };
        if arrays.len() != wanted.len() {
            return Err(PyValueError::new_err(format!("out: {} arrays, expected {}", arrays.len(), wanted.len())));
        }
        let mut addresses = Vec::with_capacity(arrays.len());
        for (i, (array, want)) in arrays.iter().zip(&wanted).enumerate() {
            if array.shape() != want.shape {
                return Err(PyValueError::new_err(format!(
                    "out[{i}]: shape is {:?}, expected {:?}",
                    array.shape(),
                    want.shape
                )));
            }
            if !array.dtype().is_equiv_to(&want.dtype) {
                return Err(PyTypeError::new_err(format!(
                    "out[{i}]: dtype is {}, expected {}",
                    array.dtype(),
                    want.dtype
                )));
            }
            if !is_writeable(array) {
                return Err(PyValueError::new_err(format!("out[{i}]: is read-only")));
            }
            let (address, bytes) =
                bytes_of(array).map_err(|_| PyValueError::new_err(format!("out[{i}]: is not C-contiguous")))?;
            if addresses.iter().any(|&other| overlap(other, (address, bytes))) {
                return Err(PyValueError::new_err(format!("out[{i}]: shares memory with another output")));
            }
            addresses.push((address, bytes));
        }
        Ok(Self { arrays, addresses })
    }

    /// Check that no output lies over what is read.
    pub fn check_apart_from(&self, columns: impl Iterator<Item = (*mut u8, usize)>) -> PyResult<()> {
        for (j, column) in columns.enumerate() {
            if let Some(i) = self.addresses.iter().position(|&output| overlap(output, column)) {
                return Err(PyValueError::new_err(format!("out[{i}]: shares memory with columns[{j}]")));
            }
        }
        Ok(())
    }

    /// The arrays, after they have been filled.
    pub fn into_arrays(self) -> Vec<Bound<'py, PyUntypedArray>> {
        self.arrays
    }
}

/// Whether two ranges of memory, each an address and a length, have a byte in common.
fn overlap((a, a_len): (*mut u8, usize), (b, b_len): (*mut u8, usize)) -> bool {
    (a as usize) < b as usize + b_len && (b as usize) < a as usize + a_len && a_len.min(b_len) > 0
}

/// Addresses that may cross into a closure that runs without the interpreter.
pub struct Shared<T>(pub T);

impl<T> Shared<T> {
    pub fn get(&self) -> &T {
        &self.0
    }
}

#[allow(unsafe_code)]
mod sharing {
    use super::Shared;
    // SAFETY: used for addresses alone, whose arrays the caller keeps alive and untouched until the closure has returned.
    unsafe impl<T> Send for Shared<T> {}
    // SAFETY: as above.
    unsafe impl<T> Sync for Shared<T> {}
}

/// Gather rows of row-major columns: for each column `[rows, ...]`, an array `[len(index), ...]`.
#[pyfunction]
#[pyo3(signature = (columns, index, out=None, threads=None))]
#[allow(unsafe_code)]
pub fn gather<'py>(
    py: Python<'py>,
    columns: Vec<Bound<'py, PyUntypedArray>>,
    index: Indices<'py>,
    out: Option<Vec<Bound<'py, PyUntypedArray>>>,
    threads: Option<usize>,
) -> PyResult<Vec<Bound<'py, PyUntypedArray>>> {
    // A copy: another thread might write to the caller's array after the bounds check.
    let rows = index.as_slice()?.to_vec();
    let mut wanted = Vec::with_capacity(columns.len());
    let mut sources = Vec::with_capacity(columns.len());
    for (i, column) in columns.iter().enumerate() {
        let Some((&count, row_shape)) = column.shape().split_first() else {
            return Err(PyValueError::new_err(format!("columns[{i}]: has no dimension")));
        };
        let dtype = column.dtype();
        if dtype.has_object() {
            return Err(PyTypeError::new_err(format!("columns[{i}]: holds Python objects")));
        }
        let (address, bytes) =
            bytes_of(column).map_err(|_| PyValueError::new_err(format!("columns[{i}]: is not C-contiguous")))?;
        let row_bytes = row_shape.iter().product::<usize>() * dtype.itemsize();
        debug_assert_eq!(bytes, row_bytes * count);
        sources.push((address, row_bytes, count));
        wanted.push(Wanted { dtype, shape: [&[rows.len()], row_shape].concat() });
    }
    let outputs = Outputs::prepare(py, wanted, out)?;
    outputs.check_apart_from(sources.iter().map(|&(address, row_bytes, count)| (address, row_bytes * count)))?;
    let shared = Shared((sources, &outputs.addresses));
    py.detach(|| {
        let (sources, addresses) = shared.get();
        let parts: Vec<Part<'_>> = sources
            .iter()
            .zip(addresses.iter())
            .map(|(&(source, stride, count), &(target, bytes))| {
                // SAFETY: `columns` keeps the source alive and `bytes_of` measured it; `outputs` keeps the target alive, checked to be
                // writeable and apart from other outputs. That nobody writes to either meanwhile is the caller's part, as in numpy.
                unsafe { Part::new(Column::in_memory(source, stride, count), RowOf::Index, 0, stride, target, bytes) }
            })
            .collect();
        gather_parts(&parts, &rows, None, threads, &interrupted)
    })
    .into_py_result(py)?;
    Ok(outputs.into_arrays())
}

/// Threads a large gather uses when the caller names no number.
#[pyfunction]
pub fn num_threads() -> usize {
    parallel::num_threads()
}

/// Set the default number of threads of this process; None = as many as there are cores.
#[pyfunction]
#[pyo3(signature = (count))]
pub fn set_num_threads(count: Option<usize>) {
    parallel::set_num_threads(count);
}

/// Give memory kept for re-use back to the system.
#[pyfunction]
pub fn release_memory() {
    slab::release_kept();
}
