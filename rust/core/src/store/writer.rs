//! Building a store. Readers see the old generation, or none, until `publish` renames the new manifest into place.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File};
use std::io::Write;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use super::checksum;
use super::column::{ColumnSpec, Key, Kind, check_apart, check_key, show};
use super::column_file::ColumnFile;
use super::fields::check_fields;
use super::leftovers::{remove_leftovers, remove_other_generations};
use super::lock::BuildLock;
use super::manifest::{Manifest, Names, ViewEntry};
use super::tensordict::metadata_files;
use super::{DATA_PREFIX, MANIFEST, NAMES, SEGMENTS, UNPUBLISHED};
use crate::{Error, Result};

/// One array of a trajectory: what it is and its bytes in C order.
#[derive(Debug)]
pub struct Array<'a> {
    /// Where it goes.
    pub spec: ColumnSpec,
    /// Number of rows.
    pub rows: usize,
    /// `rows` times the row's bytes.
    pub bytes: &'a [u8],
}

/// Writes one new generation.
#[derive(Debug)]
pub struct StoreWriter {
    store: PathBuf,
    data_dir: PathBuf,
    uuid: String,
    /// Taken on publish and abort.
    lock: Option<BuildLock>,
    /// A process that was forked during the build has a copy of the writer, which must touch nothing.
    pid: u32,
    made_directory: bool,
    columns: Vec<ColumnFile>,
    views: Vec<ViewEntry>,
    segments: Vec<[i64; 3]>,
    seen: std::collections::HashSet<(i64, i64)>,
    names: Names,
    num_states: u64,
    num_transitions: u64,
}

impl StoreWriter {
    /// Begin a generation. Takes the build lock and removes what dead builds left behind.
    pub fn begin(store: &Path, overwrite: bool) -> Result<Self> {
        if fs::metadata(store).is_ok_and(|metadata| !metadata.is_dir()) {
            return Err(Error::Exists(format!("{}: is a file, not a directory", store.display())));
        }
        let made_directory = !store.exists();
        DirBuilder::new().recursive(true).mode(0o777).create(store).map_err(Error::io(store))?;
        let lock = BuildLock::take(store).inspect_err(|_| {
            if made_directory {
                // Fails, as it should, if another builder works in it meanwhile.
                let _ = fs::remove_dir(store);
            }
        })?;
        let manifest = store.join(MANIFEST);
        if manifest.exists() && !overwrite {
            return Err(Error::Exists(format!(
                "{}: a store is here already; pass overwrite=True to replace it",
                store.display()
            )));
        }
        // A manifest that cannot be read may still be mended by hand, so its data stays.
        match remove_leftovers(store) {
            Ok(_) | Err(Error::Corrupt(_) | Error::Version(_)) => {}
            Err(error) => return Err(error),
        }
        let uuid = uuid::Uuid::new_v4().to_string();
        let data_dir = store.join(format!("{DATA_PREFIX}{uuid}"));
        let mut this = Self {
            store: store.to_path_buf(),
            data_dir,
            uuid,
            lock: Some(lock),
            pid: std::process::id(),
            made_directory,
            columns: Vec::new(),
            views: Vec::new(),
            segments: Vec::new(),
            seen: std::collections::HashSet::new(),
            names: Names::default(),
            num_states: 0,
            num_transitions: 0,
        };
        if let Err(error) = fs::create_dir(&this.data_dir).map_err(Error::io(&this.data_dir)) {
            this.abort();
            return Err(error);
        }
        Ok(this)
    }

    /// Declare a key that is read from part of another column's row.
    pub fn add_view(&mut self, key: Key, source: Key, offset: usize, shape: Vec<usize>) -> Result<()> {
        check_key(&key)?;
        self.views.push(ViewEntry { key, source, offset, shape });
        Ok(())
    }

    fn is_over(&self) -> bool {
        self.lock.is_none() || self.pid != std::process::id()
    }

    /// Append one trajectory; returns its first transition and their number. All arrays are checked before any is written.
    ///
    /// `interrupted` is asked now and then. If it says yes, or if a write fails, the build is over, as after `abort`: its
    /// columns may be of different lengths then.
    pub fn append(
        &mut self,
        task_id: i64,
        traj_id: i64,
        name: Option<String>,
        arrays: &[Array<'_>],
        interrupted: &dyn Fn() -> bool,
    ) -> Result<(i64, i64)> {
        if self.is_over() {
            return Err(Error::Invalid(format!("{}: this build is over", self.store.display())));
        }
        let label = match &name {
            Some(name) => format!("task {task_id}, trajectory {traj_id} ({name})"),
            None => format!("task {task_id}, trajectory {traj_id}"),
        };
        let states = self.check(task_id, traj_id, &label, arrays)?;
        if let Err(error) = self.write(arrays, interrupted) {
            self.abort();
            return Err(error);
        }
        let (start, length) = (self.num_transitions as i64, states as i64 - 1);
        self.segments.push([task_id, traj_id, length]);
        self.seen.insert((task_id, traj_id));
        self.names.trajectories.push(name);
        self.num_states += states as u64;
        self.num_transitions += length as u64;
        Ok((start, length))
    }

    fn write(&mut self, arrays: &[Array<'_>], interrupted: &dyn Fn() -> bool) -> Result<()> {
        if self.columns.is_empty() {
            for array in arrays {
                self.columns.push(ColumnFile::create(&self.data_dir, array.spec.clone())?);
            }
        }
        for column in &mut self.columns {
            if let Some(array) = arrays.iter().find(|array| array.spec.key == column.spec().key) {
                column.append(array.bytes, interrupted)?;
            }
        }
        Ok(())
    }

    /// Number of states of a trajectory that may be appended.
    fn check(&self, task_id: i64, traj_id: i64, label: &str, arrays: &[Array<'_>]) -> Result<usize> {
        let refuse = |why: String| Err(Error::Schema(format!("{label}: {why}")));
        if self.seen.contains(&(task_id, traj_id)) {
            return Err(Error::Duplicate(format!("{label}: this id was added before")));
        }
        let states_of = |array: &Array<'_>| array.rows + usize::from(array.spec.kind == Kind::Transition);
        let Some(first) = arrays.first() else { return refuse("no arrays".into()) };
        let states = states_of(first);
        for array in arrays {
            let key = show(&array.spec.key);
            check_key(&array.spec.key).map_err(|error| Error::Schema(format!("{label}: {error}")))?;
            if states_of(array) != states {
                let expected = states - usize::from(array.spec.kind == Kind::Transition);
                return refuse(format!(
                    "key {key}: expected {expected} rows, found {} (as {} has)",
                    array.rows,
                    show(&first.spec.key)
                ));
            }
            if array.spec.row_bytes()?.checked_mul(array.rows) != Some(array.bytes.len()) {
                return refuse(format!("key {key}: {} bytes for {} rows", array.bytes.len(), array.rows));
            }
        }
        if states < 2 {
            return refuse(format!("expected at least 2 states, found {states}"));
        }
        if self.columns.is_empty() {
            return self
                .check_first(arrays)
                .map(|()| states)
                .map_err(|error| Error::Schema(format!("{label}: {error}")));
        }
        for expected in self.columns.iter().map(ColumnFile::spec) {
            let key = show(&expected.key);
            match arrays.iter().find(|array| array.spec.key == expected.key) {
                None => return refuse(format!("key {key} is missing; earlier trajectories have it")),
                Some(array) if array.spec != *expected => {
                    return refuse(format!(
                        "key {key}: expected {:?} {} {:?}, found {:?} {} {:?}",
                        expected.kind,
                        expected.dtype.name(),
                        expected.shape,
                        array.spec.kind,
                        array.spec.dtype.name(),
                        array.spec.shape
                    ));
                }
                Some(_) => {}
            }
        }
        let known = |array: &&Array<'_>| self.columns.iter().any(|column| column.spec().key == array.spec.key);
        if let Some(extra) = arrays.iter().find(|array| !known(array)) {
            return refuse(format!("key {} is new; earlier trajectories lack it", show(&extra.spec.key)));
        }
        if arrays.len() != self.columns.len() {
            return refuse("a key is there twice".into());
        }
        Ok(states)
    }

    fn check_first(&self, arrays: &[Array<'_>]) -> Result<()> {
        for kind in [Kind::State, Kind::Transition] {
            check_apart(arrays.iter().filter(|array| array.spec.kind == kind).map(|array| &array.spec.key))?;
        }
        if let Some(array) = arrays.iter().find(|array| array.spec.kind == Kind::State && array.spec.key[0] == "next") {
            return Err(Error::Schema(format!("key {}: the next of a state is not a state", show(&array.spec.key))));
        }
        let specs: Vec<ColumnSpec> = arrays.iter().map(|array| array.spec.clone()).collect();
        check_fields(&specs, &self.views)
    }

    /// Make everything durable, then visible in one rename. Returns the new generation's uuid.
    ///
    /// Where `interrupted` says yes before the rename, the old store stays.
    pub fn publish(
        mut self,
        task_names: BTreeMap<i64, String>,
        attributes: serde_json::Value,
        interrupted: &dyn Fn() -> bool,
    ) -> Result<String> {
        let result = self.publish_inner(task_names, attributes, interrupted);
        if result.is_err() {
            self.abort();
        }
        result
    }

    fn publish_inner(
        &mut self,
        task_names: BTreeMap<i64, String>,
        attributes: serde_json::Value,
        interrupted: &dyn Fn() -> bool,
    ) -> Result<String> {
        if self.is_over() {
            return Err(Error::Invalid(format!("{}: this build is over", self.store.display())));
        }
        if self.segments.is_empty() {
            return Err(Error::Schema(format!("{}: no trajectory with two states was added", self.store.display())));
        }
        let specs: Vec<ColumnSpec> = self.columns.iter().map(|column| column.spec().clone()).collect();
        check_fields(&specs, &self.views)?;
        self.names.tasks = task_names;
        let mut manifest = Manifest::new(self.uuid.clone());
        manifest.num_states = self.num_states;
        manifest.num_transitions = self.num_transitions;
        manifest.num_segments = self.segments.len() as u64;
        manifest.views = std::mem::take(&mut self.views);
        manifest.attributes = attributes;
        for column in self.columns.drain(..) {
            manifest.columns.push(column.finish(interrupted)?);
        }
        let table: Vec<u8> = self.segments.iter().flatten().flat_map(|value| value.to_le_bytes()).collect();
        manifest.segments_crc32c = checksum::of(&table);
        write_durably(&self.data_dir.join(SEGMENTS), &table)?;
        let names = serde_json::to_vec(&self.names).map_err(|error| Error::Invalid(format!("names: {error}")))?;
        manifest.names_crc32c = checksum::of(&names);
        write_durably(&self.data_dir.join(NAMES), &names)?;
        for (file, content) in metadata_files(&self.data_dir, &manifest) {
            write_durably(&file, content.to_string().as_bytes())?;
        }
        sync_directories(&self.data_dir)?;

        let bytes = manifest.to_bytes()?;
        // What no reader would take (attributes nested too deep for the parser, say) must not replace a good store.
        Manifest::from_bytes(&bytes).map_err(|error| Error::Invalid(format!("{}: {error}", self.store.display())))?;
        if interrupted() {
            return Err(Error::Interrupted);
        }
        let unpublished = self.store.join(UNPUBLISHED);
        write_durably(&unpublished, &bytes)?;
        fs::rename(&unpublished, self.store.join(MANIFEST)).map_err(Error::io(&unpublished))?;
        // From here on the new generation is the store, whatever happens: `abort` has nothing to undo without the lock, and the
        // old generation goes now or with the next build.
        let _lock = self.lock.take();
        sync_directory(&self.store)?;
        let _ = remove_other_generations(&self.store, Some(&self.data_dir), &mut Vec::new());
        Ok(self.uuid.clone())
    }

    /// Leave everything as it was before `begin`. In a forked copy of the process that builds, do nothing.
    pub fn abort(&mut self) {
        let Some(lock) = self.lock.take() else { return };
        self.columns.clear();
        if self.pid != std::process::id() {
            return;
        }
        let _ = fs::remove_file(self.store.join(UNPUBLISHED));
        let _ = fs::remove_dir_all(&self.data_dir);
        if self.made_directory {
            lock.remove();
            // Fails, as it should, if somebody has put something there meanwhile.
            let _ = fs::remove_dir(&self.store);
        }
    }
}

impl Drop for StoreWriter {
    fn drop(&mut self) {
        self.abort();
    }
}

fn write_durably(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut file = File::create(path).map_err(Error::io(path))?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(Error::io(path))
}

fn sync_directory(path: &Path) -> Result<()> {
    File::open(path).and_then(|directory| directory.sync_all()).map_err(Error::io(path))
}

fn sync_directories(path: &Path) -> Result<()> {
    for entry in fs::read_dir(path).map_err(Error::io(path))? {
        let child = entry.map_err(Error::io(path))?.path();
        if child.is_dir() {
            sync_directories(&child)?;
        }
    }
    sync_directory(path)
}
