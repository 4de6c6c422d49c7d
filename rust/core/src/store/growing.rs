//! A store that grows: what it holds is published again and again, and each time it is longer, until it is sealed.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::build::Build;
use super::checksum;
use super::column::ColumnSpec;
use super::column_file::ColumnFile;
use super::files::{is_there, open_to_resume, sync_directories};
use super::history::History;
use super::manifest::{Manifest, View};
use super::names::Line;
use super::tensordict::metadata_files;
use super::trajectory::{Trajectory, check_first};
use super::writer::StoreWriter;
use super::{NAMES, NAMES_LOG, SEGMENT_FIELDS, SEGMENTS};
use crate::{Error, Result};

/// Appends trajectories to a store that is there all along. What is published never changes, and no file ever gets shorter.
///
/// After an error the build is over: what was published stays, and `resume` goes on with it.
#[derive(Debug)]
pub struct GrowingStore {
    writer: StoreWriter,
    segments: Log,
    names: Log,
    /// Trajectories that are in both logs.
    logged: usize,
    published_bytes: u64,
}

impl GrowingStore {
    /// Publish the empty beginning of a generation with these columns, views and histories.
    pub fn begin(
        mut writer: StoreWriter,
        specs: Vec<ColumnSpec>,
        views: Vec<View>,
        histories: Vec<History>,
        task_names: BTreeMap<i64, String>,
    ) -> Result<Self> {
        check_first(&specs, &views, &histories).map_err(Error::Schema)?;
        writer.create_columns(specs)?;
        (writer.views, writer.histories, writer.has_table) = (views, histories, true);
        let log = |name: &str| writer.build.step(|place| Log::create(place.data_dir.join(name)));
        let (segments, names) = (log(SEGMENTS)?, log(NAMES_LOG)?);
        let mut this = Self { writer, segments, names, logged: 0, published_bytes: 0 };
        this.name_tasks(task_names)?;
        this.writer.build.step(|place| sync_directories(&place.data_dir))?;
        this.publish()?;
        Ok(this)
    }

    /// Go on with a store that was growing when its builder died: what it had not published is cut off.
    pub fn resume(store: &Path) -> Result<Self> {
        let (build, manifest) = Build::resume(store)?;
        let data_dir = build.step(|place| Ok(place.data_dir.clone()))?;
        let table_bytes = manifest.num_segments * 8 * SEGMENT_FIELDS as u64;
        let segments = Log::resume(data_dir.join(SEGMENTS), table_bytes, manifest.segments_crc32c)?;
        let names = Log::resume(data_dir.join(NAMES_LOG), manifest.names_bytes, manifest.names_crc32c)?;
        let count = manifest.columns.len();
        let resume = |(number, entry)| ColumnFile::resume(&data_dir, entry, number, count);
        let columns = manifest.columns.iter().cloned().enumerate().map(resume).collect::<Result<_>>()?;
        let mut writer = StoreWriter::behind(build, manifest, columns)?;
        writer.has_table = true;
        let logged = writer.segments.len();
        Ok(Self { writer, segments, names, logged, published_bytes: 0 })
    }

    /// Publish other columns, views and histories in the place of those that were begun with; there must be no trajectory.
    pub fn begin_anew(&mut self, specs: &[ColumnSpec], views: Vec<View>, histories: Vec<History>) -> Result<()> {
        if !self.writer.segments.is_empty() {
            return Err(Error::Invalid("columns are begun anew as long as there are no trajectories".into()));
        }
        check_first(specs, &views, &histories).map_err(Error::Schema)?;
        let old = std::mem::take(&mut self.writer.columns);
        let is_kept = |column: &ColumnFile| specs.contains(column.spec());
        let (kept, dropped): (Vec<_>, Vec<_>) = old.into_iter().partition(is_kept);
        let new: Vec<ColumnSpec> =
            specs.iter().filter(|spec| !kept.iter().any(|column| column.spec() == *spec)).cloned().collect();
        // What an earlier try left, which no manifest ever named.
        self.writer.build.step(|place| ColumnFile::remove_left(&place.data_dir, &new))?;
        self.writer.create_columns(new)?;
        self.writer.columns.extend(kept);
        self.writer.columns.sort_by_key(|column| specs.iter().position(|spec| spec == column.spec()));
        (self.writer.views, self.writer.histories) = (views, histories);
        self.publish()?;
        // Readers of what was published before open their files until here.
        dropped.into_iter().try_for_each(ColumnFile::remove)
    }

    /// Directory of what is to become columns.
    pub fn journal(&self) -> Result<PathBuf> {
        self.writer.journal()
    }

    /// Number of trajectories.
    pub fn num_trajectories(&self) -> usize {
        self.writer.segments.len()
    }

    /// Number of transitions.
    pub fn num_transitions(&self) -> u64 {
        self.writer.num_transitions
    }

    /// Number of trajectories of each task.
    pub fn trajectories_by_task(&self) -> BTreeMap<i64, i64> {
        let mut counts = BTreeMap::new();
        for [task, ..] in &self.writer.segments {
            *counts.entry(*task).or_default() += 1;
        }
        counts
    }

    /// Whether there is something that is not published yet, and how many bytes of columns it is.
    pub fn unpublished(&self) -> Option<u64> {
        let bytes: u64 = self.writer.columns.iter().map(ColumnFile::bytes).sum();
        (self.logged < self.writer.segments.len()).then(|| bytes - self.published_bytes)
    }

    /// Give tasks names, known from the next publication on.
    pub fn name_tasks(&mut self, task_names: BTreeMap<i64, String>) -> Result<()> {
        for (id, name) in task_names {
            if self.writer.names.tasks.get(&id) != Some(&name) {
                self.names.append(&Line::Task(id, name.clone()).to_bytes()?)?;
                self.writer.names.tasks.insert(id, name);
            }
        }
        Ok(())
    }

    /// Keep these attributes, JSON, with the data from the next publication on.
    pub fn set_attributes(&mut self, attributes: &str) -> Result<()> {
        self.writer.set_attributes(attributes)
    }

    /// Append a trajectory; see `StoreWriter::append`. Nobody sees it before the next publication.
    pub fn append(&mut self, trajectory: Trajectory<'_>, interrupted: &dyn Fn() -> bool) -> Result<(i64, i64)> {
        self.writer.append(trajectory, interrupted)
    }

    /// Bring to disk what was appended, and let readers see it.
    pub fn publish(&mut self) -> Result<()> {
        let build = Arc::clone(&self.writer.build);
        self.write_prefix().and_then(|manifest| build.publish(&manifest)).inspect_err(|_| build.abort())?;
        self.published_bytes = self.writer.columns.iter().map(ColumnFile::bytes).sum();
        Ok(())
    }

    fn write_prefix(&mut self) -> Result<Manifest> {
        self.log_new()?;
        let writer = &mut self.writer;
        let build = Arc::clone(&writer.build);
        let mut manifest =
            Manifest::new(writer.uuid.clone(), writer.attributes.clone()).with_histories(writer.histories.clone());
        manifest.num_states = writer.num_states;
        manifest.num_transitions = writer.num_transitions;
        manifest.num_segments = writer.segments.len() as u64;
        manifest.segments_crc32c = self.segments.crc32c;
        manifest.names_crc32c = self.names.crc32c;
        manifest.views.clone_from(&writer.views);
        for column in &mut writer.columns {
            manifest.columns.push(column.so_far(&|| build.go_on(&|| false))?);
        }
        Ok(manifest.grows(self.names.bytes))
    }

    fn log_new(&mut self) -> Result<()> {
        let (mut table, mut names) = (Vec::new(), Vec::new());
        let new = self.writer.segments[self.logged..].iter().zip(&self.writer.names.trajectories[self.logged..]);
        for (segment, name) in new {
            table.extend(segment.iter().flat_map(|value| value.to_le_bytes()));
            names.extend(Line::Trajectory(name.clone()).to_bytes()?);
        }
        self.segments.append(&table)?;
        self.names.append(&names)?;
        self.segments.sync()?;
        self.names.sync()?;
        self.logged = self.writer.segments.len();
        Ok(())
    }

    /// Make it an ordinary store, in which nothing is copied: columns become read-only, names and metadata are written, the journal
    /// goes. Returns its uuid.
    ///
    /// Where `interrupted` says yes before the rename, the store is as it was published last.
    pub fn seal(mut self, interrupted: &dyn Fn() -> bool) -> Result<String> {
        if !self.writer.segments.is_empty() {
            self.log_new()?;
            // What an earlier try left, which no manifest ever named.
            self.writer.build.step(|place| {
                let manifest = Manifest::new(self.writer.uuid.clone(), self.writer.attributes.clone());
                let entries = self.writer.columns.iter().map(ColumnFile::entry).collect();
                let metadata = metadata_files(&place.data_dir, &Manifest { columns: entries, ..manifest });
                let names = place.data_dir.join(NAMES);
                for file in metadata.into_iter().map(|(file, _)| file).chain([names]).filter(|file| is_there(file)) {
                    fs::remove_file(&file).map_err(Error::io(&file))?;
                }
                Ok(())
            })?;
        }
        let task_names = std::mem::take(&mut self.writer.names.tasks);
        self.writer.publish(task_names, interrupted)
    }

    /// Remove the store; readers that have it open keep their files.
    pub fn discard(self) -> Result<()> {
        self.writer.build.discard()
    }
}

/// Whether a store says that it grows. Its builder may be dead.
pub fn grows(store: &Path) -> Result<bool> {
    Ok(!Manifest::read(store)?.sealed)
}

/// A file that grows, and the checksum of what is in it.
#[derive(Debug)]
struct Log {
    path: PathBuf,
    file: File,
    bytes: u64,
    crc32c: u32,
}

impl Log {
    fn create(path: PathBuf) -> Result<Self> {
        let file = File::create_new(&path).map_err(Error::io(&path))?;
        Ok(Self { path, file, bytes: 0, crc32c: 0 })
    }

    /// Go on with one of which so many bytes are published.
    fn resume(path: PathBuf, bytes: u64, crc32c: u32) -> Result<Self> {
        let file = open_to_resume(&path, bytes, "a log")?;
        Ok(Self { path, file, bytes, crc32c })
    }

    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).map_err(Error::io(&self.path))?;
        self.crc32c = checksum::append(self.crc32c, bytes);
        self.bytes += bytes.len() as u64;
        Ok(())
    }

    fn sync(&self) -> Result<()> {
        self.file.sync_data().map_err(Error::io(&self.path))
    }
}
