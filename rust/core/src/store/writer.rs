//! Building a store: what is added is checked whole, then written; readers see the old generation, or none, until `publish`.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::value::RawValue;

use super::build::Build;
use super::checksum;
use super::column::{ColumnSpec, Key};
use super::column_file::{ColumnFile, GoOn};
use super::files::{LARGEST_JSON, sync_directories, write_durably};
use super::history::History;
use super::lent::Lent;
use super::lock::BuildLock;
use super::manifest::{Generation, Manifest, View, checked_attributes};
use super::map::Backend;
use super::names::{Names, read_names};
use super::pieces::pieces;
use super::reader::{Store, read_segments};
use super::tensordict::metadata_files;
use super::trajectory::{Array, Trajectory, check_first, check_lengths, check_like_first};
use super::{DATA_PREFIX, JOURNAL, NAMES, SEGMENTS};
use crate::{Error, Result};

/// Writes one new generation.
#[derive(Debug)]
pub struct StoreWriter {
    pub(super) build: Arc<Build>,
    pub(super) uuid: String,
    pub(super) attributes: Box<RawValue>,
    pub(super) columns: Vec<ColumnFile>,
    pub(super) views: Vec<View>,
    pub(super) histories: Vec<History>,
    pub(super) segments: Vec<[i64; 3]>,
    /// Whether the segments lie on disk already.
    pub(super) has_table: bool,
    pub(super) seen: HashSet<(i64, i64)>,
    pub(super) names: Names,
    pub(super) num_states: u64,
    pub(super) num_transitions: u64,
    /// The generations that are there, where one is added to them.
    before: Vec<Generation>,
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
            histories: Vec::new(),
            segments: Vec::new(),
            has_table: false,
            seen: HashSet::new(),
            names: Names::default(),
            num_states: 0,
            num_transitions: 0,
            before: Vec::new(),
        }
    }

    /// Begin a generation behind those that a store has: what is appended comes behind what is there, whose files stay as they are.
    ///
    /// It keeps its uuid, its attributes as long as no others are set, and readers keep what they have.
    pub fn add(store: &Path) -> Result<Self> {
        let (build, manifest) = Build::add(store, &uuid::Uuid::new_v4().to_string())?;
        let count = manifest.columns.len();
        let columns = build.step(|place| {
            let add = |(number, entry)| {
                let last = pieces(store, &manifest, entry).pop();
                ColumnFile::add(store, &place.data_dir, entry.clone(), last, number, count)
            };
            manifest.columns.iter().enumerate().map(add).collect()
        });
        let columns = columns.inspect_err(|_| build.abort())?;
        let before = manifest.all_generations();
        let mut this = Self::behind(build, manifest, columns)?;
        this.before = before;
        Ok(this)
    }

    /// Go on behind what a manifest describes.
    pub(super) fn behind(build: Build, manifest: Manifest, columns: Vec<ColumnFile>) -> Result<Self> {
        // From here on a failure ends the build.
        let mut this = Self::of(build, manifest.uuid.clone(), manifest.attributes.clone());
        let table = read_segments(this.build.store(), &manifest)?;
        this.names = read_names(this.build.store(), &manifest)?;
        let ids = table.task_id().iter().zip(table.traj_id());
        this.seen = ids.clone().map(|(&task, &trajectory)| (task, trajectory)).collect();
        this.segments = ids.zip(table.length()).map(|((&task, &id), &length)| [task, id, length]).collect();
        (this.columns, this.views, this.histories) = (columns, manifest.views, manifest.histories);
        (this.num_states, this.num_transitions) = (manifest.num_states, manifest.num_transitions);
        Ok(this)
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

    /// Have these keys be histories of columns that come with the trajectories, the first of which is checked with them.
    pub fn set_histories(&mut self, histories: Vec<History>) {
        self.histories = histories;
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
            check_first(&specs, views, &self.histories)
        } else {
            {
                let specs: Vec<&ColumnSpec> = self.columns.iter().map(ColumnFile::spec).collect();
                check_like_first(&specs, &self.views, arrays, views)
            }
        };
        checked.map(|()| states).map_err(|why| Error::Schema(format!("{label}: {why}")))
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
        if self.before.last().is_some_and(|before| before.num_transitions == self.num_transitions) {
            return Err(Error::Schema(format!("{}: no trajectory was added", build.store().display())));
        }
        self.names.tasks.extend(task_names);
        let names = serde_json::to_vec(&self.names).map_err(|error| Error::Invalid(format!("names: {error}")))?;
        if names.len() as u64 > LARGEST_JSON {
            return Err(Error::Invalid(format!("names: {} bytes, more than {LARGEST_JSON}", names.len())));
        }
        let table: Vec<u8> = self.segments.iter().flatten().flat_map(|value| value.to_le_bytes()).collect();
        let mut manifest = Manifest::new(self.uuid.clone(), std::mem::take(&mut self.attributes))
            .with_histories(std::mem::take(&mut self.histories));
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
        let is_added = !self.before.is_empty();
        build.step(|place| {
            if is_added {
                let directory = place.data_dir.file_name().and_then(OsStr::to_str).unwrap_or_default();
                let uuid = directory.trim_start_matches(DATA_PREFIX).to_owned();
                let (num_states, num_transitions) = (self.num_states, self.num_transitions);
                manifest.generations = std::mem::take(&mut self.before);
                manifest.generations.push(Generation { uuid, num_states, num_transitions });
            }
            if !self.has_table {
                write_durably(&place.data_dir.join(SEGMENTS), &table)?;
            }
            write_durably(&place.data_dir.join(NAMES), &names)?;
            // A generation that was added is no TensorDict: its columns begin in the middle of a row.
            let metadata = if is_added { Vec::new() } else { metadata_files(&place.data_dir, &manifest) };
            for (file, content) in metadata {
                write_durably(&file, content.to_string().as_bytes())?;
            }
            sync_directories(&place.data_dir)
        })?;
        Ok(manifest.of_own_version())
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
        if !self.columns.is_empty() || spool.parent() != Some(build.store()) {
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
