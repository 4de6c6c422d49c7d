//! `iltools_datasets._core`: argument checks, borrowed arrays, release of the interpreter and error mapping; no logic.
#![deny(unsafe_code)]
// PyO3 hands arguments over by value.
#![allow(clippy::needless_pass_by_value)]

mod arrays;
mod errors;
mod gather;
mod index;
mod motion;
mod recorder;
mod segments;
mod slices;
mod store;
mod stream;
mod tracker;
mod writer;

use pyo3::prelude::*;

#[pymodule]
mod _core {
    use super::PyModuleInit;
    #[pymodule_export]
    use super::gather::{gather, num_threads, release_memory, set_num_threads};
    #[pymodule_export]
    use super::index::{EpochShuffle, IndexStream, SequentialCursors, UniformDraws, window_rows};
    #[pymodule_export]
    use super::motion::Motion;
    #[pymodule_export]
    use super::recorder::Recorder;
    #[pymodule_export]
    use super::segments::SegmentTable;
    #[pymodule_export]
    use super::slices::SliceCut;
    #[pymodule_export]
    use super::store::{Field, History, Store, verify};
    #[pymodule_export]
    use super::tracker::{MotionBins, Tracker};
    #[pymodule_export]
    use super::writer::{StoreWriter, repair};
    use pyo3::prelude::*;

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        PyModuleInit::add_constants(module)?;
        super::arrays::initialise(module.py())
    }
}

struct PyModuleInit;

impl PyModuleInit {
    fn add_constants(module: &Bound<'_, PyModule>) -> PyResult<()> {
        module.add("__version__", env!("CARGO_PKG_VERSION"))?;
        module.add("DEBUG_BUILD", cfg!(debug_assertions))
    }
}
