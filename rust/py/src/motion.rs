//! `_core.Motion`: clips at any time.

use std::sync::Arc;

use iltools_core::motion::{self, Anchor, Frame, Key, Kind, Numbers, Orders, Piece, Request, Run};
use iltools_core::slab::Buffer;
use numpy::{PyArray1, PyArray2, PyArrayDescr, PyArrayMethods, PyUntypedArray};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;

use crate::arrays::{Indices, array_over};
use crate::errors::{IntoPyResult, interrupted};
use crate::gather::{Outputs, Shared, Wanted};
use crate::store::Store;

/// Field, runs of numbers (first, count), pieces (kind, numbers) and shape of one returned row.
type KeyArgument = (usize, Vec<(usize, usize)>, Vec<(String, usize)>, Vec<usize>);
/// Field and first number.
type Place = (usize, usize);
type Looked<'py> = (Vec<Bound<'py, PyUntypedArray>>, Bound<'py, PyUntypedArray>);

/// Some keys of a store, looked up at any time of its clips.
#[pyclass(frozen, module = "iltools_datasets._core")]
pub struct Motion {
    lookup: Arc<motion::Motion>,
    dtypes: Vec<Py<PyArrayDescr>>,
    shapes: Vec<Vec<usize>>,
}

fn key(
    store: &Store,
    field: usize,
    runs: Vec<(usize, usize)>,
    pieces: &[(String, usize)],
) -> iltools_core::Result<Key> {
    let pieces = pieces
        .iter()
        .map(|(kind, len)| Ok(Piece { kind: kind.parse::<Kind>()?, len: *len }))
        .collect::<iltools_core::Result<Vec<_>>>()?;
    let runs = runs.into_iter().map(|(from, len)| Run { from, len }).collect();
    Key::new(store.core(), field, runs, &pieces)
}

fn frame(name: &str) -> PyResult<Frame> {
    Ok(match name {
        "world" => Frame::World,
        "robot" => Frame::Robot { relative: true },
        "robot by difference" => Frame::Robot { relative: false },
        "heading" => Frame::Heading,
        "anchor" => Frame::Anchor,
        _ => return Err(PyValueError::new_err(format!("{name:?} is no frame"))),
    })
}

/// The numbers of a float array, copied: another thread might write to the caller's meanwhile.
fn floats<T: numpy::Element + Copy>(array: &Bound<'_, PyArray1<T>>) -> PyResult<Vec<T>> {
    let array = array.try_readonly().map_err(|error| PyValueError::new_err(error.to_string()))?;
    Ok(array.as_array().iter().copied().collect())
}

fn rows(array: Option<Bound<'_, PyArray2<f32>>>, width: usize, what: &str) -> PyResult<Option<Vec<f32>>> {
    let Some(array) = array else { return Ok(None) };
    let array = array.try_readonly().map_err(|error| PyValueError::new_err(error.to_string()))?;
    let array = array.as_array();
    if array.ncols() != width {
        return Err(PyValueError::new_err(format!("{what}: rows of {} numbers, expected {width}", array.ncols())));
    }
    Ok(Some(array.iter().copied().collect()))
}

#[pymethods]
impl Motion {
    #[new]
    #[pyo3(signature = (store, fps, keys, anchor, stored_xyzw, wanted_xyzw))]
    fn new(
        py: Python<'_>,
        store: &Store,
        fps: Bound<'_, PyArray1<f64>>,
        keys: Vec<KeyArgument>,
        anchor: Option<(Place, Place)>,
        stored_xyzw: bool,
        wanted_xyzw: bool,
    ) -> PyResult<Self> {
        let clips = motion::clips_of(store.core().segments(), &floats(&fps)?).into_py_result(py)?;
        let (mut known, mut dtypes, mut shapes) = (Vec::new(), Vec::new(), Vec::new());
        for (field, runs, pieces, shape) in keys {
            let made = key(store, field, runs, &pieces).into_py_result(py)?;
            let dtype = match made.numbers() {
                Numbers::Single | Numbers::Half | Numbers::Brain => numpy::dtype::<f32>(py),
                Numbers::Double => numpy::dtype::<f64>(py),
                Numbers::Raw => store.dtype(py, field),
            };
            dtypes.push(dtype.unbind());
            shapes.push(shape);
            known.push(made);
        }
        let body = |(field, first): Place, kind: &str, len: usize| {
            key(store, field, vec![(first, len)], &[(kind.to_owned(), len)]).into_py_result(py)
        };
        let anchor = anchor
            .map(|(position, rotation)| {
                PyResult::Ok(Anchor {
                    position: body(position, "position", 3)?,
                    rotation: body(rotation, "quaternion", 4)?,
                })
            })
            .transpose()?;
        let orders = Orders { stored_xyzw, wanted_xyzw };
        let lookup = motion::Motion::new(Arc::clone(store.core()), clips, known, anchor, orders);
        Ok(Self { lookup: Arc::new(lookup), dtypes, shapes })
    }

    /// What the rows of each key come as.
    #[getter]
    fn dtypes<'py>(&self, py: Python<'py>) -> Vec<Bound<'py, PyArrayDescr>> {
        self.dtypes.iter().map(|dtype| dtype.bind(py).clone()).collect()
    }

    #[expect(clippy::too_many_arguments, reason = "what is asked of a look-up, in one call")]
    #[pyo3(signature = (keys, clip, time, offsets, frame="world", anchor_pos=None, anchor_quat=None, origins=None,
        refuses_outside=false, out=None, threads=None))]
    #[allow(unsafe_code)]
    fn lookup<'py>(
        &self,
        py: Python<'py>,
        keys: Vec<usize>,
        clip: Indices<'py>,
        time: Bound<'py, PyArray1<f64>>,
        offsets: Bound<'py, PyArray1<f64>>,
        frame: &str,
        anchor_pos: Option<Bound<'py, PyArray2<f32>>>,
        anchor_quat: Option<Bound<'py, PyArray2<f32>>>,
        origins: Option<Bound<'py, PyArray2<f32>>>,
        refuses_outside: bool,
        out: Option<Vec<Bound<'py, PyUntypedArray>>>,
        threads: Option<usize>,
    ) -> PyResult<Looked<'py>> {
        let frame = self::frame(frame)?;
        let (clip, time, offsets) = (clip.as_slice()?.to_vec(), floats(&time)?, floats(&offsets)?);
        let robot = rows(anchor_pos, 3, "anchor_pos")?.zip(rows(anchor_quat, 4, "anchor_quat")?);
        let origins = rows(origins, 3, "origins")?;
        let batch = [clip.len(), offsets.len()];
        let count = clip.len().checked_mul(offsets.len()).ok_or_else(|| PyValueError::new_err("too many rows"))?;
        if let Some(number) = keys.iter().find(|&&number| number >= self.shapes.len()) {
            return Err(PyTypeError::new_err(format!("key {number} of {}", self.shapes.len())));
        }
        let wanted = keys
            .iter()
            .map(|&number| Wanted {
                dtype: self.dtypes[number].bind(py).clone(),
                shape: [batch.as_slice(), &self.shapes[number]].concat(),
            })
            .collect();
        let outputs = Outputs::prepare(py, wanted, out)?;
        let flags = Buffer::take(count).into_py_result(py)?;
        let shared = Shared((&outputs.addresses, (flags.as_ptr(), flags.len())));
        let request = Request {
            clip: &clip,
            time: &time,
            offsets: &offsets,
            frame,
            robot: robot.as_ref().map(|(at, turn)| (at.as_slice(), turn.as_slice())),
            origins: origins.as_deref(),
            refuses_outside,
        };
        py.detach(|| {
            let (addresses, valid) = shared.get();
            // SAFETY: `outputs` keeps the arrays alive, and has made sure that they are writeable, long enough and apart;
            // the flags were made here.
            unsafe { self.lookup.lookup(&keys, &request, addresses, *valid, threads, &interrupted) }
        })
        .into_py_result(py)?;
        let valid = array_over(py, flags, &numpy::dtype::<bool>(py), &batch)?;
        Ok((outputs.into_arrays(), valid))
    }
}
