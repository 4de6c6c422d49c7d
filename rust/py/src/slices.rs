//! `_core.SliceCut`; slices are drawn by `EpochShuffle.next_slices` and `UniformDraws.next_slices`.

use std::sync::Arc;

use iltools_core::index::{Ask, Cut, Draw, Drawn, IndexStream, Shape};
use iltools_core::slab::Buffer;
use numpy::{PyArray1, PyArray2, PyArrayMethods, PyUntypedArray};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::arrays::Indices;
use crate::errors::IntoPyResult;
use crate::stream::{Asked, Stream, Wanted};

/// How slices are cut from trajectories, or from all windows of them.
#[pyclass(frozen, module = "iltools_datasets._core")]
pub struct SliceCut {
    cut: Arc<Cut>,
}

#[pymethods]
impl SliceCut {
    #[new]
    #[expect(clippy::too_many_arguments, reason = "trajectories, and what a slice of them is")]
    #[pyo3(signature = (start, length, ring, slice_len, strict, padded, span, stride, holders))]
    fn new(
        py: Python<'_>,
        start: Indices<'_>,
        length: Indices<'_>,
        ring: i64,
        slice_len: i64,
        strict: bool,
        padded: bool,
        span: [Option<i64>; 2],
        stride: Option<i64>,
        holders: bool,
    ) -> PyResult<Self> {
        let shape = Shape { length: slice_len, strict, padded, span, stride, holders };
        let cut = Cut::new(start.as_slice()?, length.as_slice()?, ring, shape).into_py_result(py)?;
        Ok(Self { cut: Arc::new(cut) })
    }

    #[getter]
    fn total(&self) -> i64 {
        self.cut.total()
    }
}

type Array<'py, T> = Bound<'py, PyArray1<T>>;
type Column<'py, T> = Bound<'py, PyArray2<T>>;

/// Rows and the last one of each slice, both `[B, 1]`, what is no padding, positions of the rows' trajectories if the cut tells them,
/// some fields' rows, and whether those had been made ahead.
pub type Slices<'py> = (
    Column<'py, i64>,
    Column<'py, bool>,
    Option<Array<'py, bool>>,
    Option<Array<'py, i64>>,
    Vec<Bound<'py, PyUntypedArray>>,
    bool,
);

/// Draw slices, and with them some fields of a store: the flags that tell what a slice ends with, or the whole batch. Of one of
/// those fields, a flag of one byte per row, the last row of each slice is set.
pub fn draw<'py, S: IndexStream>(
    py: Python<'py>,
    stream: &Stream<S>,
    draw: Draw,
    cut: &SliceCut,
    asked: Option<&Asked<'py>>,
    end: Option<usize>,
) -> PyResult<Slices<'py>> {
    let ask = Ask { draw, cut: Some(Arc::clone(&cut.cut)) };
    let wanted = asked.map(Wanted::of).transpose()?;
    let (Drawn { rows, ends, real, holders }, mut found) = stream.draw_with(py, &ask, wanted)?;
    let arrays = match asked {
        Some((store, fields, _)) => {
            if let Some(field) = end {
                let of_field = fields.iter().position(|&known| known == field).and_then(|at| found.of.get_mut(at));
                mark(of_field.map_or(&mut [], Buffer::as_mut_slice), &ends)?;
            }
            store.get().arrays_over(py, fields, &[rows.len()], found.of)?
        }
        None => Vec::new(),
    };
    let column = [rows.len(), 1];
    let (rows, ends) = (PyArray1::from_vec(py, rows).reshape(column)?, PyArray1::from_vec(py, ends).reshape(column)?);
    let real = real.map(|real| PyArray1::from_vec(py, real));
    let holders = holders.map(|holders| PyArray1::from_vec(py, holders));
    Ok((rows, ends, real, holders, arrays, found.were_ready))
}

/// Set the flags of the last row of each slice.
fn mark(flags: &mut [u8], ends: &[bool]) -> PyResult<()> {
    if flags.len() != ends.len() {
        return Err(PyValueError::new_err(format!("{} bytes are no flags of {} rows", flags.len(), ends.len())));
    }
    for (flag, &ends) in flags.iter_mut().zip(ends) {
        *flag |= u8::from(ends);
    }
    Ok(())
}
