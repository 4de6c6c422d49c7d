//! Core errors as the exception classes of `iltools_datasets.errors`.

use iltools_core::Error;
use pyo3::exceptions::{PyMemoryError, PyOSError, PyRuntimeError};
use pyo3::prelude::*;

/// Turn a core result into a Python one.
pub trait IntoPyResult<T> {
    /// Map the error, if there is one.
    fn into_py_result(self, py: Python<'_>) -> PyResult<T>;
}

impl<T> IntoPyResult<T> for iltools_core::Result<T> {
    fn into_py_result(self, py: Python<'_>) -> PyResult<T> {
        self.map_err(|error| to_python(py, &error))
    }
}

fn to_python(py: Python<'_>, error: &Error) -> PyErr {
    let class = match error {
        Error::Io { path, source } => {
            let path = path.display().to_string();
            return match source.raw_os_error() {
                // Two arguments and a file name make Python choose the subclass (PermissionError, ...) and set errno.
                Some(code) => PyOSError::new_err((code, source.to_string(), path)),
                None => PyOSError::new_err(format!("{path}: {source}")),
            };
        }
        Error::NotFound(_) => "StoreNotFoundError",
        Error::Exists(_) => "StoreExistsError",
        Error::Busy(_) => "StoreBusyError",
        Error::Corrupt(_) => "StoreCorruptError",
        Error::Changed(_) => "StoreChangedError",
        Error::Version(_) => "StoreVersionError",
        Error::Schema(_) => "SchemaError",
        Error::MissingKey(_) => "MissingKeyError",
        Error::Duplicate(_) => "DuplicateTrajectoryError",
        Error::UnknownSegment(_) => "UnknownSegmentError",
        Error::OutOfRange(_) => "OutOfRangeError",
        Error::State(_) => "StateError",
        Error::Invalid(_) => "ArgumentError",
        Error::OutOfMemory(why) => return PyMemoryError::new_err(why.clone()),
        // The interrupt check raised; a signal handler's exception, usually KeyboardInterrupt, is pending or was taken by it.
        Error::Interrupted => return PyErr::take(py).unwrap_or_else(|| PyRuntimeError::new_err("interrupted")),
    };
    let raised = py
        .import("iltools_datasets.errors")
        .and_then(|module| module.getattr(class))
        .and_then(|class| class.call1((error.to_string(),)));
    match raised {
        Ok(instance) => PyErr::from_value(instance),
        Err(failure) => failure,
    }
}

/// Whether a signal handler has raised (Ctrl-C). The exception is put back, for `to_python` to find.
pub fn interrupted() -> bool {
    Python::attach(|py| match py.check_signals() {
        Ok(()) => false,
        Err(raised) => {
            raised.restore(py);
            true
        }
    })
}
