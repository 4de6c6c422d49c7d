//! Building a store: what is added is checked whole, then written; readers see the old generation, or none, until `publish`.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::value::RawValue;

use super::build::Build;
use super::checksum;
use super::column::{ColumnSpec, Key, Kind, check_apart, check_key, show};
use super::column_file::{ColumnFile, GoOn};
use super::fields::check_fields;
use super::files::{LARGEST_JSON, sync_directories, write_durably};
use super::lent::Lent;
use super::lock::BuildLock;
use super::manifest::{Manifest, View, checked_attributes};
use super::map::Backend;
use super::names::Names;
use super::reader::Store;
use super::tensordict::metadata_files;
use super::{DATA_PREFIX, JOURNAL, NAMES, SEGMENTS};
use crate::{Error, Result};

/// One array of a trajectory: what it is and its bytes in C order.
#[derive(Debug)]
pub struct Array<'a> {
    /// Where it goes.
    pub spec: ColumnSpec,
    /// Number of rows.
    pub rows: usize,
    /// `rows` times the row's bytes.
    pub bytes: Lent<'a>,
}

/// A trajectory to be added.
#[derive(Debug)]
pub struct Trajectory<'a> {
    /// Its task.
    pub task_id: i64,
    /// Its number within the task.
    pub traj_id: i64,
    /// Where it came from.
    pub name: Option<String>,
    /// Its arrays.
    pub arrays: Vec<Array<'a>>,
    /// Keys that are read from part of one of them; the same for every trajectory.
    pub views: Vec<View>,
}

/// Writes one new generation.
#[derive(Debug)]
pub struct StoreWriter {
    pub(super) build: Arc<Build>,
    pub(super) uuid: String,
    pub(super) attributes: Box<RawValue>,
    pub(super) columns: Vec<ColumnFile>,
    pub(super) views: Vec<View>,
    pub(super) segments: Vec<[i64; 3]>,
    /// Whether the segments lie on disk already.
    pub(super) has_table: bool,
    pub(super) seen: HashSet<(i64, i64)>,
    pub(super) names: Names,
    pub(super) num_states: u64,
    pub(super) num_transitions: u64,
}

impl StoreWriter {
    /// Begin a generation. Takes the build lock and removes what dead builds left behind.
    ///
    /// `attributes`, JSON, are kept with the data to the letter.
    pub fn begin(store: &Path, overwrite: bool, attributes: &str) -> Result<Self> {
        let attributes = checked_attributes(attributes)?;
        let uuid = uuid::Uuid::new_v4().to_string();
        Ok(Self::of(Build::begin(store, &uuid, overwrite)?, uuid, attributes))
    }

    pub(super) fn of(build: Build, uuid: String, attributes: Box<RawValue>) -> Self {
        Self {
            build: Arc::new(build),
            uuid,
            attributes,
            columns: Vec::new(),
            views: Vec::new(),
            segments: Vec::new(),
            has_table: false,
            seen: HashSet::new(),
            names: Names::default(),
            num_states: 0,
            num_transitions: 0,
        }
    }

    /// The build, for whoever may have to end it while it is being written.
    pub fn build(&self) -> &Arc<Build> {
        &self.build
    }

    /// Directory of a journal beside the columns, which a store needs as long as it grows.
    pub fn journal(&self) -> Result<PathBuf> {
        self.build.step(|place| Ok(place.data_dir.join(JOURNAL)))
    }

    /// Replace the attributes given to `begin`.
    pub fn set_attributes(&mut self, attributes: &str) -> Result<()> {
        self.attributes = checked_attributes(attributes)?;
        Ok(())
    }

    /// Append one trajectory; returns its first transition and their number. Everything is checked before any of it is written.
    ///
    /// `interrupted` is asked now and then. If it says yes, if the build is aborted meanwhile, or if a write fails, the build is
    /// over, as after `abort`: its columns may be of different lengths then.
    pub fn append(&mut self, trajectory: Trajectory<'_>, interrupted: &dyn Fn() -> bool) -> Result<(i64, i64)> {
        if self.build.is_over() {
            return Err(self.build.over());
        }
        let states = self.check(&trajectory)?;
        let build = Arc::clone(&self.build);
        if let Err(error) = self.write(&trajectory.arrays, &|| build.go_on(interrupted)) {
            build.abort();
            return Err(error);
        }
        let Trajectory { task_id, traj_id, name, views, .. } = trajectory;
        let (start, length) = (self.num_transitions as i64, states as i64 - 1);
        self.views = views;
        self.segments.push([task_id, traj_id, length]);
        self.seen.insert((task_id, traj_id));
        self.names.trajectories.push(name);
        self.num_states += states as u64;
        self.num_transitions += length as u64;
        Ok((start, length))
    }

    fn write(&mut self, arrays: &[Array<'_>], go_on: GoOn<'_>) -> Result<()> {
        if self.columns.is_empty() {
            self.create_columns(arrays.iter().map(|array| array.spec.clone()).collect())?;
        }
        let bytes: HashMap<&Key, Lent<'_>> = arrays.iter().map(|array| (&array.spec.key, array.bytes)).collect();
        for column in &mut self.columns {
            if let Some(&bytes) = bytes.get(&column.spec().key) {
                column.append(bytes, go_on).map_err(|error| self.build.ended(error))?;
            }
        }
        Ok(())
    }

    pub(super) fn create_columns(&mut self, specs: Vec<ColumnSpec>) -> Result<()> {
        let count = specs.len();
        let specs = specs.into_iter().enumerate();
        self.columns = self.build.step(|place| {
            specs.map(|(number, spec)| ColumnFile::create(&place.data_dir, spec, number, count)).collect()
        })?;
        Ok(())
    }

    /// Number of states of a trajectory that may be appended.
    fn check(&self, trajectory: &Trajectory<'_>) -> Result<usize> {
        let Trajectory { task_id, traj_id, name, arrays, views } = trajectory;
        let label = match name {
            Some(name) => format!("task {task_id}, trajectory {traj_id} ({name})"),
            None => format!("task {task_id}, trajectory {traj_id}"),
        };
        if self.seen.contains(&(*task_id, *traj_id)) {
            return Err(Error::Duplicate(format!("{label}: this id was added before")));
        }
        let states = check_lengths(arrays).map_err(|why| Error::Schema(format!("{label}: {why}")))?;
        let checked = if self.columns.is_empty() {
            let specs: Vec<ColumnSpec> = arrays.iter().map(|array| array.spec.clone()).collect();
            check_first(&specs, views)
        } else {
            self.check_like_first(arrays, views)
        };
        checked.map(|()| states).map_err(|why| Error::Schema(format!("{label}: {why}")))
    }

    /// Whether arrays and views are those of the trajectories before: the parts as well as the wholes.
    fn check_like_first(&self, arrays: &[Array<'_>], views: &[View]) -> std::result::Result<(), String> {
        for (expected, found) in self.views.iter().zip(views) {
            let key = show(&found.key);
            if (&expected.key, expected.shape.as_slice()) != (&found.key, &found.shape) {
                return Err(format!("key {key}: expected shape {:?}, found {:?}", expected.shape, found.shape));
            }
            if expected != found {
                return Err(format!(
                    "key {key}: expected elements from {} of {}, found from {} of {}",
                    expected.offset,
                    show(&expected.source),
                    found.offset,
                    show(&found.source)
                ));
            }
        }
        if self.views.len() != views.len() {
            return Err(format!("{} views, earlier trajectories have {}", views.len(), self.views.len()));
        }
        let found: HashMap<&Key, &ColumnSpec> = arrays.iter().map(|array| (&array.spec.key, &array.spec)).collect();
        for expected in self.columns.iter().map(ColumnFile::spec) {
            let key = show(&expected.key);
            match found.get(&expected.key) {
                None => return Err(format!("key {key} is missing; earlier trajectories have it")),
                Some(found) if *found != expected => {
                    return Err(format!(
                        "key {key}: expected {:?} {} {:?}, found {:?} {} {:?}",
                        expected.kind,
                        expected.dtype.name(),
                        expected.shape,
                        found.kind,
                        found.dtype.name(),
                        found.shape
                    ));
                }
                Some(_) => {}
            }
        }
        if found.len() > self.columns.len() {
            let known: HashSet<&Key> = self.columns.iter().map(|column| &column.spec().key).collect();
            let extra = arrays.iter().find(|array| !known.contains(&array.spec.key));
            return Err(format!(
                "key {} is new; earlier trajectories lack it",
                extra.map_or_else(String::new, |array| show(&array.spec.key))
            ));
        }
        if arrays.len() == found.len() { Ok(()) } else { Err("a key is there twice".into()) }
    }

    /// Make everything durable, then visible in one rename. Returns the new generation's uuid.
    ///
    /// Where `interrupted` says yes before the rename, or the build is aborted before it, the old store stays.
    pub fn publish(mut self, task_names: BTreeMap<i64, String>, interrupted: &dyn Fn() -> bool) -> Result<String> {
        let manifest = self.write_out(task_names, interrupted)?;
        self.build.go_on(interrupted)?;
        self.build.publish(&manifest)?;
        Ok(manifest.uuid)
    }

    /// Bring everything but the manifest to disk.
    fn write_out(&mut self, task_names: BTreeMap<i64, String>, interrupted: &dyn Fn() -> bool) -> Result<Manifest> {
        let build = Arc::clone(&self.build);
        if build.is_over() {
            return Err(build.over());
        }
        if self.segments.is_empty() {
            let store = build.store().display();
            return Err(Error::Schema(format!("{store}: no trajectory with two states was added")));
        }
        self.names.tasks = task_names;
        let names = serde_json::to_vec(&self.names).map_err(|error| Error::Invalid(format!("names: {error}")))?;
        if names.len() as u64 > LARGEST_JSON {
            return Err(Error::Invalid(format!("names: {} bytes, more than {LARGEST_JSON}", names.len())));
        }
        let table: Vec<u8> = self.segments.iter().flatten().flat_map(|value| value.to_le_bytes()).collect();
        let mut manifest = Manifest::new(self.uuid.clone(), std::mem::take(&mut self.attributes));
        manifest.num_states = self.num_states;
        manifest.num_transitions = self.num_transitions;
        manifest.num_segments = self.segments.len() as u64;
        manifest.segments_crc32c = checksum::of(&table);
        manifest.names_crc32c = checksum::of(&names);
        manifest.views = std::mem::take(&mut self.views);
        for column in self.columns.drain(..) {
            let entry = column.finish(&|| build.go_on(interrupted)).map_err(|error| build.ended(error))?;
            manifest.columns.push(entry);
        }
        build.step(|place| {
            if !self.has_table {
                write_durably(&place.data_dir.join(SEGMENTS), &table)?;
            }
            write_durably(&place.data_dir.join(NAMES), &names)?;
            for (file, content) in metadata_files(&place.data_dir, &manifest) {
                write_durably(&file, content.to_string().as_bytes())?;
            }
            sync_directories(&place.data_dir)
        })?;
        Ok(manifest)
    }

    /// Make the finished store in `spool`, a directory within this store's, the new generation, in the same way and in its place:
    /// it is moved, not copied. Returns its uuid. The attributes are this build's, everything else is the spool's.
    ///
    /// What is wrong with the spool is an error before anything moves, and the build is over then, as after `abort`.
    pub fn adopt(mut self, spool: &Path, interrupted: &dyn Fn() -> bool) -> Result<String> {
        let build = Arc::clone(&self.build);
        if build.is_over() {
            return Err(build.over());
        }
        if !self.segments.is_empty() || spool.parent() != Some(build.store()) {
            return Err(Error::Invalid(format!(
                "{}: adopts a directory within it, and only as long as nothing was added; {} was given",
                build.store().display(),
                spool.display()
            )));
        }
        let _nobody_writes_it = BuildLock::take(spool)?;
        let mut manifest = Manifest::read(spool)?;
        if Store::open_unless(spool, Backend::Mmap, interrupted)?.uuid() != manifest.uuid {
            return Err(Error::Changed(format!("{}: rebuilt meanwhile", spool.display())));
        }
        manifest.attributes = std::mem::take(&mut self.attributes);
        build.go_on(interrupted)?;
        build.step(|place| {
            let name = format!("{DATA_PREFIX}{}", manifest.uuid);
            place.others.push(spool.to_path_buf());
            let mine = std::mem::replace(&mut place.data_dir, build.store().join(&name));
            fs::remove_dir(&mine).map_err(Error::io(&mine))?;
            fs::rename(spool.join(&name), &place.data_dir).map_err(Error::io(&place.data_dir))
        })?;
        build.publish(&manifest)?;
        Ok(manifest.uuid)
    }
}

impl Drop for StoreWriter {
    fn drop(&mut self) {
        self.columns.clear();
        self.build.abort();
    }
}

/// Number of states of some arrays, which is the same for all.
fn check_lengths(arrays: &[Array<'_>]) -> std::result::Result<usize, String> {
    let states_of = |array: &Array<'_>| array.rows + usize::from(array.spec.kind == Kind::Transition);
    let Some(first) = arrays.first() else { return Err("no arrays".into()) };
    let states = states_of(first);
    for array in arrays {
        let key = show(&array.spec.key);
        check_key(&array.spec.key).map_err(|error| error.to_string())?;
        if states_of(array) != states {
            let expected = states.saturating_sub(usize::from(array.spec.kind == Kind::Transition));
            let found = array.rows;
            return Err(format!(
                "key {key}: expected {expected} rows, found {found} (as {} has)",
                show(&first.spec.key)
            ));
        }
        let row_bytes = array.spec.row_bytes().map_err(|error| error.to_string())?;
        if row_bytes.checked_mul(array.rows) != Some(array.bytes.len()) {
            return Err(format!("key {key}: {} bytes for {} rows", array.bytes.len(), array.rows));
        }
    }
    if states < 2 { Err(format!("expected at least 2 states, found {states}")) } else { Ok(states) }
}

/// Whether a store may consist of such arrays and views.
pub(super) fn check_first(specs: &[ColumnSpec], views: &[View]) -> std::result::Result<(), String> {
    let on_disk = [Kind::State, Kind::Transition]
        .into_iter()
        .try_for_each(|kind| check_apart(specs.iter().filter(|spec| spec.kind == kind).map(|spec| &spec.key)));
    on_disk.and_then(|()| check_fields(specs, views)).map_err(|error| error.to_string())
}
