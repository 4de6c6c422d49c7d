//! `_core.MotionBins` and `_core.Tracker`: clips cut into bins, and many envs, each at its own time of a clip.

use std::sync::Arc;

use iltools_core::motion::Clip;
use iltools_core::tracking::{self, Bins, Draws, Envs, Saved, Scheme, Setting, Statistic, Statistics};
use numpy::{PyArray1, PyArrayMethods};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::arrays::Indices;
use crate::errors::IntoPyResult;

type Floats<'py> = Bound<'py, PyArray1<f64>>;
type Whole<'py> = Bound<'py, PyArray1<i64>>;
type Mask<'py> = Bound<'py, PyArray1<bool>>;

/// Clips cut into bins of time.
#[pyclass(frozen, module = "iltools_datasets._core")]
pub struct MotionBins {
    bins: Arc<Bins>,
}

#[pymethods]
impl MotionBins {
    #[new]
    fn new(py: Python<'_>, last: Indices<'_>, fps: Floats<'_>, control_dt: f64, bin_s: f64) -> PyResult<Self> {
        let (last, fps) = (last.as_slice()?, copied(&fps)?);
        if last.len() != fps.len() {
            return Err(PyValueError::new_err(format!("{} clips but {} rates", last.len(), fps.len())));
        }
        let clips: Vec<Clip> = last.iter().zip(fps).map(|(&last, fps)| Clip { first: 0, last, fps }).collect();
        Ok(Self { bins: Arc::new(Bins::new(&clips, control_dt, bin_s).into_py_result(py)?) })
    }

    fn __len__(&self) -> usize {
        self.bins.len()
    }

    #[getter]
    fn clip<'py>(&self, py: Python<'py>) -> Whole<'py> {
        PyArray1::from_iter(py, (0..self.bins.len()).map(|bin| self.bins.clip_of(bin) as i64))
    }

    #[getter]
    fn begin<'py>(&self, py: Python<'py>) -> Floats<'py> {
        PyArray1::from_iter(py, (0..self.bins.len()).map(|bin| self.bins.span(bin).0))
    }

    #[getter]
    fn end<'py>(&self, py: Python<'py>) -> Floats<'py> {
        PyArray1::from_iter(py, (0..self.bins.len()).map(|bin| self.bins.span(bin).1))
    }

    /// The bin of each time; -1 in a clip that has none.
    fn at<'py>(&self, py: Python<'py>, clip: Indices<'_>, time: Floats<'_>) -> PyResult<Whole<'py>> {
        let (clip, time) = (clip.as_slice()?, copied(&time)?);
        let clips = 0..self.bins.num_clips() as i64;
        if clip.len() != time.len() || clip.iter().any(|k| !clips.contains(k)) {
            return Err(PyValueError::new_err("a clip of those there are is needed for each time"));
        }
        let bin = |(&k, seconds): (&i64, f64)| self.bins.at(k as usize, seconds).0.map_or(-1, i64::from);
        Ok(PyArray1::from_vec(py, clip.iter().zip(time).map(bin).collect()))
    }
}

/// Where many envs stand in their clips, what happened in each bin of these, and where the envs start next.
#[pyclass(module = "iltools_datasets._core")]
pub struct Tracker {
    tracker: tracking::Tracker,
}

/// The numbers of an array, copied: another thread might write to the caller's meanwhile.
fn copied<T: numpy::Element + Copy>(array: &Bound<'_, PyArray1<T>>) -> PyResult<Vec<T>> {
    let array = array.try_readonly().map_err(|error| PyValueError::new_err(error.to_string()))?;
    Ok(array.as_array().iter().copied().collect())
}

fn copied_if<T: numpy::Element + Copy>(array: Option<&Bound<'_, PyArray1<T>>>) -> PyResult<Option<Vec<T>>> {
    array.map(copied).transpose()
}

#[pymethods]
impl Tracker {
    #[new]
    #[expect(clippy::too_many_arguments, reason = "what a tracker is made of, in one call")]
    #[pyo3(signature = (bins, masses, num_envs, uniform, cap, prior, half_life, look_back, counts_failures, any_time, seed, rank,
        world_size))]
    fn new(
        py: Python<'_>,
        bins: &MotionBins,
        masses: Floats<'_>,
        num_envs: usize,
        uniform: f64,
        cap: Option<f64>,
        prior: f64,
        half_life: Option<(f64, f64)>,
        look_back: (usize, f64),
        counts_failures: bool,
        any_time: bool,
        seed: u64,
        rank: u32,
        world_size: u32,
    ) -> PyResult<Self> {
        let statistic = if counts_failures { Statistic::Count } else { Statistic::Rate };
        let scheme = Scheme { uniform, cap, prior, half_life, look_back, statistic };
        let draws = Draws { seed, rank, world_size, uniform, any_time };
        let setting = Setting { num_envs, scheme, draws };
        Ok(Self {
            tracker: tracking::Tracker::new(Arc::clone(&bins.bins), setting, copied(&masses)?).into_py_result(py)?,
        })
    }

    #[getter]
    fn clip<'py>(&self, py: Python<'py>) -> Whole<'py> {
        PyArray1::from_slice(py, &self.tracker.envs().clip)
    }

    #[getter]
    fn time<'py>(&self, py: Python<'py>) -> Floats<'py> {
        let (envs, control_dt) = (self.tracker.envs(), self.tracker.bins().control_dt());
        PyArray1::from_iter(py, (0..envs.len()).map(|env| envs.time(env, control_dt)))
    }

    #[getter]
    fn base<'py>(&self, py: Python<'py>) -> Floats<'py> {
        PyArray1::from_slice(py, self.tracker.base().weights())
    }

    /// What bins will weigh from the next sync on.
    fn next_base<'py>(&self, py: Python<'py>) -> PyResult<Floats<'py>> {
        Ok(PyArray1::from_vec(py, self.tracker.next_base().into_py_result(py)?))
    }

    #[getter]
    fn adaptive<'py>(&self, py: Python<'py>) -> Floats<'py> {
        PyArray1::from_slice(py, self.tracker.table().adaptive())
    }

    fn probabilities<'py>(&self, py: Python<'py>) -> PyResult<Floats<'py>> {
        let (table, base) = (self.tracker.table(), self.tracker.base());
        Ok(PyArray1::from_vec(py, table.probabilities(base.weights()).into_py_result(py)?))
    }

    fn report(&mut self, py: Python<'_>, ids: Indices<'_>, failed: Mask<'_>, counting: bool) -> PyResult<()> {
        self.tracker.report(ids.as_slice()?, &copied(&failed)?, counting).into_py_result(py)
    }

    fn reset(&mut self, py: Python<'_>, ids: Indices<'_>, failed: Option<Mask<'_>>, counting: bool) -> PyResult<()> {
        let failed = copied_if(failed.as_ref())?;
        self.tracker.reset(ids.as_slice()?, failed.as_deref(), counting).into_py_result(py)
    }

    fn place(
        &mut self,
        py: Python<'_>,
        ids: Indices<'_>,
        clip: Indices<'_>,
        time: Floats<'_>,
        failed: Option<Mask<'_>>,
        counting: bool,
    ) -> PyResult<()> {
        let (failed, time) = (copied_if(failed.as_ref())?, copied(&time)?);
        let (ids, clip) = (ids.as_slice()?, clip.as_slice()?);
        self.tracker.place(ids, clip, &time, failed.as_deref(), counting).into_py_result(py)
    }

    /// Starts drawn so far: those that count, and those that do not.
    #[getter]
    fn drawn(&self) -> (u64, u64) {
        self.tracker.drawn().into()
    }

    /// Clips and times of starts that come, from a number on; nothing is drawn by that.
    fn starts<'py>(
        &mut self,
        py: Python<'py>,
        first: u64,
        count: usize,
        counting: bool,
    ) -> PyResult<(Whole<'py>, Floats<'py>)> {
        let (clips, times) = self.tracker.starts(first, count, counting).into_py_result(py)?;
        Ok((PyArray1::from_vec(py, clips), PyArray1::from_vec(py, times)))
    }

    fn step<'py>(&mut self, py: Python<'py>, counting: bool) -> PyResult<Mask<'py>> {
        Ok(PyArray1::from_vec(py, self.tracker.step(counting).into_py_result(py)?))
    }

    /// Counts since the last sync, four per bin.
    fn since<'py>(&self, py: Python<'py>) -> PyResult<Whole<'py>> {
        Ok(PyArray1::from_vec(py, self.tracker.since().into_py_result(py)?))
    }

    /// Counts up to the last sync, four per bin.
    fn totals<'py>(&self, py: Python<'py>) -> PyResult<Whole<'py>> {
        Ok(PyArray1::from_vec(py, self.tracker.totals().into_py_result(py)?))
    }

    /// How often an env was put into each clip, up to the last sync.
    fn clip_starts<'py>(&self, py: Python<'py>) -> PyResult<Whole<'py>> {
        Ok(PyArray1::from_vec(py, self.tracker.clip_starts().into_py_result(py)?))
    }

    /// Passes and failures of each bin once some counts are taken up.
    fn folded<'py>(&self, py: Python<'py>, counted: Option<Whole<'py>>) -> PyResult<(Floats<'py>, Floats<'py>)> {
        let counted = copied_if(counted.as_ref())?;
        let Statistics { passes, failures } = self.tracker.folded(counted.as_deref()).into_py_result(py)?;
        Ok((PyArray1::from_vec(py, passes), PyArray1::from_vec(py, failures)))
    }

    fn sync(&mut self, py: Python<'_>, counted: Option<Whole<'_>>, scores: Option<Floats<'_>>) -> PyResult<()> {
        let (counted, scores) = (copied_if(counted.as_ref())?, copied_if(scores.as_ref())?);
        py.detach(|| self.tracker.sync(counted.as_deref(), scores.as_deref())).into_py_result(py)
    }

    fn set_masses(&mut self, py: Python<'_>, masses: Floats<'_>) -> PyResult<()> {
        self.tracker.set_masses(copied(&masses)?).into_py_result(py)
    }

    /// Everything that changes.
    fn save<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let saved = self.tracker.save().into_py_result(py)?;
        let found = PyDict::new(py);
        found.set_item("clip", PyArray1::from_vec(py, saved.envs.clip))?;
        found.set_item("start", PyArray1::from_vec(py, saved.envs.start))?;
        found.set_item("steps", PyArray1::from_vec(py, saved.envs.steps))?;
        found.set_item("drawn", PyArray1::from_slice(py, &saved.drawn))?;
        found.set_item("syncs", PyArray1::from_slice(py, &[saved.syncs]))?;
        found.set_item("passes", PyArray1::from_vec(py, saved.statistics.passes))?;
        found.set_item("failures", PyArray1::from_vec(py, saved.statistics.failures))?;
        found.set_item("since", PyArray1::from_vec(py, saved.since))?;
        found.set_item("totals", PyArray1::from_vec(py, saved.totals))?;
        found.set_item("masses", PyArray1::from_vec(py, saved.masses))?;
        found.set_item("next_masses", PyArray1::from_vec(py, saved.next_masses))?;
        found.set_item("scores", PyArray1::from_vec(py, saved.scores.unwrap_or_default()))?;
        Ok(found)
    }

    #[expect(clippy::too_many_arguments, reason = "everything that changes, as `save` gives it")]
    fn restore(
        &mut self,
        py: Python<'_>,
        clip: Whole<'_>,
        start: Floats<'_>,
        steps: Whole<'_>,
        drawn: (u64, u64),
        syncs: u64,
        passes: Floats<'_>,
        failures: Floats<'_>,
        since: Whole<'_>,
        totals: Whole<'_>,
        masses: Floats<'_>,
        next_masses: Floats<'_>,
        scores: Option<Floats<'_>>,
    ) -> PyResult<()> {
        let saved = Saved {
            envs: Envs { clip: copied(&clip)?, start: copied(&start)?, steps: copied(&steps)? },
            drawn: drawn.into(),
            syncs,
            statistics: Statistics { passes: copied(&passes)?, failures: copied(&failures)? },
            since: copied(&since)?,
            totals: copied(&totals)?,
            masses: copied(&masses)?,
            next_masses: copied(&next_masses)?,
            scores: copied_if(scores.as_ref())?,
        };
        self.tracker.restore(saved).into_py_result(py)
    }
}
