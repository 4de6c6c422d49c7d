//! numpy arrays in and out: reading an array's address, and making an array over a buffer.
#![allow(unsafe_code)]

use iltools_core::slab::Buffer;
use iltools_core::store::Lent;
use numpy::npyffi::{NPY_ARRAY_WRITEABLE, NpyTypes, PY_ARRAY_API, get_type_object, npy_intp};
use numpy::{
    PyArray1, PyArrayDescr, PyArrayDescrMethods, PyArrayMethods, PyReadonlyArray1, PyUntypedArray,
    PyUntypedArrayMethods,
};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;

use crate::errors::IntoPyResult;

/// Owner of an output array's memory; the memory goes back to the pool when the last array over it is gone.
#[pyclass(frozen, module = "iltools_datasets._core")]
pub struct Memory {
    _buffer: Buffer,
}

/// A new writeable array over a buffer, which it owns.
pub fn array_over<'py>(
    py: Python<'py>,
    buffer: Buffer,
    dtype: &Bound<'py, PyArrayDescr>,
    shape: &[usize],
) -> PyResult<Bound<'py, PyUntypedArray>> {
    let address = buffer.as_ptr();
    let elements = shape.iter().product::<usize>();
    if elements * dtype.itemsize() != buffer.len() {
        return Err(PyValueError::new_err(format!("{} bytes are no array of shape {shape:?}", buffer.len())));
    }
    let owner = Bound::new(py, Memory { _buffer: buffer })?;
    let mut extents: Vec<npy_intp> = shape.iter().map(|&extent| extent as npy_intp).collect();
    // SAFETY: the address holds as many bytes as shape and dtype need (checked above), aligned to 64; the array keeps `owner`, and
    // with it the memory, alive through its base; both calls consume the references they are given.
    unsafe {
        let array = PY_ARRAY_API.PyArray_NewFromDescr(
            py,
            get_type_object(py, NpyTypes::PyArray_Type),
            dtype.clone().into_dtype_ptr(),
            extents.len() as i32,
            extents.as_mut_ptr(),
            std::ptr::null_mut(),
            address.cast(),
            NPY_ARRAY_WRITEABLE,
            std::ptr::null_mut(),
        );
        let array = Bound::from_owned_ptr_or_err(py, array)?;
        if PY_ARRAY_API.PyArray_SetBaseObject(py, array.as_ptr().cast(), owner.into_any().into_ptr()) < 0 {
            return Err(PyErr::fetch(py));
        }
        Ok(array.cast_into_unchecked())
    }
}

/// Initialise what is made at first use: numpy's tables and the type of `Memory`.
///
/// A process that forks while another of its threads is at it would leave the child waiting for that thread for ever.
pub fn initialise(py: Python<'_>) -> PyResult<()> {
    let index = array_over(py, Buffer::take(8).into_py_result(py)?, &numpy::dtype::<i64>(py), &[1])?;
    index.into_any().extract::<Indices<'_>>()?.as_slice().map(drop)
}

/// Address and length in bytes of a C-contiguous array.
pub fn bytes_of(array: &Bound<'_, PyUntypedArray>) -> PyResult<(*mut u8, usize)> {
    if !array.is_c_contiguous() {
        return Err(PyValueError::new_err("array is not C-contiguous"));
    }
    // SAFETY: the object is a numpy array, so the struct behind it has these fields; only the address is read.
    let address = unsafe { (*array.as_array_ptr()).data };
    Ok((address.cast(), array.len() * array.dtype().itemsize()))
}

/// Whether an array may be written to.
pub fn is_writeable(array: &Bound<'_, PyUntypedArray>) -> bool {
    // SAFETY: as in `bytes_of`; only the flags are read.
    unsafe { (*array.as_array_ptr()).flags & NPY_ARRAY_WRITEABLE != 0 }
}

/// The bytes of a C-contiguous array, which other threads may write to where the interpreter is released.
pub fn lent_by<'a>(array: &'a Bound<'_, PyUntypedArray>) -> PyResult<Lent<'a>> {
    let (address, len) = bytes_of(array)?;
    // SAFETY: a C-contiguous array's data is one range of that many bytes, kept alive by the borrowed reference.
    Ok(unsafe { Lent::new(address, len) })
}

/// An int64 vector from a caller.
pub struct Indices<'py>(PyReadonlyArray1<'py, i64>);

impl Indices<'_> {
    /// Its values.
    pub fn as_slice(&self) -> PyResult<&[i64]> {
        self.0.as_slice().map_err(|_| PyValueError::new_err("index is not contiguous"))
    }
}

impl<'a, 'py> FromPyObject<'a, 'py> for Indices<'py> {
    type Error = PyErr;

    fn extract(object: Borrowed<'a, 'py, PyAny>) -> PyResult<Self> {
        let array = object
            .cast::<PyArray1<i64>>()
            .map_err(|_| PyTypeError::new_err("expected an int64 array of one dimension"))?;
        let array = array.try_readonly().map_err(|error| PyValueError::new_err(error.to_string()))?;
        Ok(Self(array))
    }
}
