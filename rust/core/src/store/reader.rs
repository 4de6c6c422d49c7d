//! Opening a store and gathering from it.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::value::RawValue;

use super::column::{ColumnSpec, Key, Kind, show};
use super::fields::{Field, fields};
use super::files::{Refusal, is_there, open_of_length};
use super::manifest::Manifest;
use super::map::{Backend, ColumnBytes, RowsInFile};
use super::names::{Names, read_names};
use super::pieces::{ColumnPiece, pieces};
use super::{MANIFEST, SEGMENT_FIELDS, SEGMENTS, checksum};
use crate::gather::{gather, least_and_greatest};
use crate::part::{Column, Part};
use crate::segment::SegmentTable;
use crate::slab::Buffer;
use crate::{Error, Result};

/// How often a reader starts again when a build replaced the files under it.
const ATTEMPTS: usize = 5;

/// An open store: immutable, and a snapshot of the generation that was current when it was opened.
#[derive(Debug)]
pub struct Store {
    path: PathBuf,
    data_dirs: Vec<PathBuf>,
    uuid: String,
    is_growing: bool,
    backend: Backend,
    segments: Arc<SegmentTable>,
    num_states: usize,
    specs: Vec<ColumnSpec>,
    columns: Vec<ColumnBytes>,
    fields: Vec<Field>,
    names: Names,
    attributes: Box<RawValue>,
}

impl Store {
    /// Open the current generation of a store.
    pub fn open(path: &Path, backend: Backend) -> Result<Self> {
        Self::open_unless(path, backend, &|| false)
    }

    /// Open the current generation of a store; `interrupted` is asked while a backend reads the data.
    pub fn open_unless(path: &Path, backend: Backend, interrupted: &dyn Fn() -> bool) -> Result<Self> {
        Self::open_some(path, None, backend, interrupted)
    }

    /// Open the first so many trajectories of the generation `uuid`: what a store that grows was at some time.
    pub fn open_prefix(
        path: &Path,
        uuid: &str,
        trajectories: u64,
        backend: Backend,
        interrupted: &dyn Fn() -> bool,
    ) -> Result<Self> {
        Self::open_some(path, Some((uuid, trajectories)), backend, interrupted)
    }

    fn open_some(
        path: &Path,
        prefix: Option<(&str, u64)>,
        backend: Backend,
        interrupted: &dyn Fn() -> bool,
    ) -> Result<Self> {
        let mut last = None;
        for _ in 0..ATTEMPTS {
            let manifest = Manifest::read(path)?;
            let trajectories = match prefix {
                None => manifest.num_segments,
                Some((uuid, _)) if uuid != manifest.uuid => {
                    let (path, found) = (path.display(), &manifest.uuid);
                    let changed =
                        format!("{path}: expected build {uuid}, found {found}: the store was rebuilt meanwhile");
                    return Err(Error::Changed(changed));
                }
                Some((_, wanted)) if wanted > manifest.num_segments => {
                    let (path, found) = (path.display(), manifest.num_segments);
                    return Err(Error::Changed(format!("{path}: expected {wanted} trajectories, found {found}")));
                }
                Some((_, wanted)) => wanted,
            };
            match Self::open_generation(path, &manifest, trajectories as usize, backend, interrupted) {
                // A build may have replaced this generation since its manifest was read; if it did, read the new one.
                Err(error @ Error::Corrupt(_)) if Manifest::read(path).is_ok_and(|now| now.replaces(&manifest)) => {
                    last = Some(error);
                }
                other => return other,
            }
        }
        Err(last.unwrap_or_else(|| Error::Corrupt(format!("{}: replaced again and again", path.display()))))
    }

    fn open_generation(
        path: &Path,
        manifest: &Manifest,
        trajectories: usize,
        backend: Backend,
        interrupted: &dyn Fn() -> bool,
    ) -> Result<Self> {
        let segments = read_segments(path, manifest)?.first(trajectories)?;
        let mut names = read_names(path, manifest)?;
        names.trajectories.truncate(trajectories);
        let is_whole = trajectories as u64 == manifest.num_segments;
        let num_transitions = segments.num_transitions() as usize;
        let num_states = if is_whole { manifest.num_states as usize } else { num_transitions + trajectories };
        let mut specs = Vec::with_capacity(manifest.columns.len());
        let mut columns = Vec::with_capacity(manifest.columns.len());
        for entry in &manifest.columns {
            let (wanted, there) = match entry.kind {
                Kind::State => (num_states, manifest.num_states as usize),
                Kind::Transition => (num_transitions, manifest.num_transitions as usize),
            };
            let rows = RowsInFile { wanted, there, grows: !manifest.sealed };
            let spec = entry.spec();
            let files = pieces(path, manifest, entry);
            let what = format!("column {}", show(&entry.key));
            columns.push(ColumnBytes::open(
                columns.len(),
                path,
                files,
                &what,
                spec.row_bytes()?,
                rows,
                backend,
                interrupted,
            )?);
            specs.push(spec);
        }
        let fields = fields(&specs, &manifest.views, &manifest.histories)
            .map_err(|error| Error::Corrupt(format!("{}: {error}", path.join(MANIFEST).display())))?;
        Ok(Self {
            path: path.to_path_buf(),
            data_dirs: manifest.data_dirs(path),
            uuid: manifest.uuid.clone(),
            is_growing: !manifest.sealed,
            backend,
            segments: Arc::new(segments),
            num_states,
            specs,
            columns,
            fields,
            names,
            attributes: manifest.attributes.clone(),
        })
    }

    /// Treat files that somebody else wrote, one row per transition, as a store. There is no manifest and no checksum.
    ///
    /// A column of no bytes needs no file.
    pub(super) fn over_files(
        path: &Path,
        files: Vec<(ColumnSpec, PathBuf)>,
        segments: SegmentTable,
        backend: Backend,
        interrupted: &dyn Fn() -> bool,
    ) -> Result<Self> {
        let rows = segments.num_transitions() as usize;
        let (mut specs, mut columns) = (Vec::with_capacity(files.len()), Vec::with_capacity(files.len()));
        for (spec, file) in files {
            let (what, row_bytes) = (format!("column {}", show(&spec.key)), spec.row_bytes()?);
            columns.push(if row_bytes == 0 && !is_there(&file) {
                ColumnBytes::empty(rows)
            } else {
                let bytes = (row_bytes as u64).saturating_mul(rows as u64);
                let files = vec![ColumnPiece { path: file, begin: 0, bytes }];
                let rows = RowsInFile::all(rows);
                ColumnBytes::open(columns.len(), path, files, &what, row_bytes, rows, backend, interrupted)?
            });
            specs.push(spec);
        }
        let fields = fields(&specs, &[], &[])?;
        Ok(Self {
            path: path.to_path_buf(),
            data_dirs: vec![path.to_path_buf()],
            uuid: String::new(),
            is_growing: false,
            backend,
            num_states: rows + segments.len(),
            names: Names { trajectories: vec![None; segments.len()], ..Names::default() },
            segments: Arc::new(segments),
            specs,
            columns,
            fields,
            attributes: RawValue::NULL.to_owned(),
        })
    }

    /// Directory of the store.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Directories of the data: one, and one for each time that the store was added to.
    pub fn data_dirs(&self) -> &[PathBuf] {
        &self.data_dirs
    }

    /// Identity of this generation; empty for foreign files.
    pub fn uuid(&self) -> &str {
        &self.uuid
    }

    /// Whether more trajectories may have come, or will come, behind the ones that were there when it was opened.
    pub fn is_growing(&self) -> bool {
        self.is_growing
    }

    /// Where the data is while it is read.
    pub fn backend(&self) -> Backend {
        self.backend
    }

    /// The segment table.
    pub fn segments(&self) -> &Arc<SegmentTable> {
        &self.segments
    }

    /// Number of states.
    pub fn num_states(&self) -> usize {
        self.num_states
    }

    /// Number of transitions.
    pub fn num_transitions(&self) -> usize {
        self.segments.num_transitions() as usize
    }

    /// Everything that can be gathered.
    pub fn fields(&self) -> &[Field] {
        &self.fields
    }

    /// Name of each task that has one.
    pub fn task_names(&self) -> &std::collections::BTreeMap<i64, String> {
        &self.names.tasks
    }

    /// Name of each trajectory, in table order.
    pub fn trajectory_names(&self) -> &[Option<String>] {
        &self.names.trajectories
    }

    /// What the builder kept with the data, as JSON, to the letter.
    pub fn attributes(&self) -> &str {
        self.attributes.get()
    }

    /// Key of the column that a field is read from.
    pub fn column_of(&self, field: &Field) -> &Key {
        &self.specs[field.column].key
    }

    /// Bytes of one gathered row of a field.
    pub fn field_bytes(&self, field: usize) -> usize {
        let field = &self.fields[field];
        field.shape.iter().product::<usize>() * field.dtype.size()
    }

    /// The rows of the column that a field is read from.
    pub(crate) fn rows_of(&self, field: usize) -> Column<'_> {
        self.columns[self.fields[field].column].column()
    }

    /// Copy the rows of `fields` for the transitions `index` into `outputs`, one `(address, bytes)` per field.
    ///
    /// # Safety
    /// Each output stays writable, initialised and nobody else's for the length of the call.
    #[allow(unsafe_code)]
    pub unsafe fn gather_into(
        &self,
        fields: &[usize],
        index: &[i64],
        outputs: &[(*mut u8, usize)],
        threads: Option<usize>,
        interrupted: &(dyn Fn() -> bool + Sync),
    ) -> Result<()> {
        // Bounds first, in the caller's terms; the gather checks the derived rows again in its own.
        let total = self.segments.num_transitions();
        let (least, greatest) = least_and_greatest(index);
        if (least < 0 || greatest >= total)
            && let Some(&bad) = index.iter().find(|&&i| i < 0 || i >= total)
        {
            return Err(Error::OutOfRange(format!(
                "index {bad} is outside the {total} transitions of {}",
                self.path.display()
            )));
        }
        let parts: Vec<Part<'_>> = fields
            .iter()
            .zip(outputs)
            .map(|(&number, &(out, bytes))| {
                let field = &self.fields[number];
                let column = self.columns[field.column].column();
                // SAFETY: promised by the caller.
                let part = unsafe { Part::new(column, field.rows, field.offset, self.field_bytes(number), out, bytes) };
                part.stacked(field.frames.as_deref())
            })
            .collect();
        gather(&parts, index, Some(&self.segments), threads, interrupted)
    }
}

/// Bytes of the segment table that are read at a time: whole rows.
const TABLE_BYTES: usize = (1 << 16) * 8 * SEGMENT_FIELDS;

pub(super) fn read_segments(store: &Path, manifest: &Manifest) -> Result<SegmentTable> {
    const WHAT: &str = "segment table";
    let path = manifest.table_dir(store).join(SEGMENTS);
    let corrupt = |why: String| Error::Corrupt(format!("{}: {WHAT}: {why}", path.display()));
    let expected = manifest
        .num_segments
        .checked_mul(8 * SEGMENT_FIELDS as u64)
        .ok_or_else(|| corrupt(format!("{} segments", manifest.num_segments)))?;
    let mut file =
        open_of_length(store, &path, expected, !manifest.sealed).map_err(|refusal| refusal.about(&path, WHAT))?;
    let [mut task, mut trajectory, mut start, mut length] = [const { Vec::<i64>::new() }; 4];
    let mut end = 0_i64;
    let mut crc32c = 0;
    // Bit by bit, and each row looked at as it comes: a file that is one large hole takes no memory.
    let mut piece = vec![0; TABLE_BYTES.min(expected as usize)];
    let mut left = expected as usize;
    while left > 0 {
        let bytes = &mut piece[..left.min(TABLE_BYTES)];
        file.read_exact(bytes).map_err(|error| Refusal::from(error).about(&path, WHAT))?;
        crc32c = checksum::append(crc32c, bytes);
        left -= bytes.len();
        for row in bytes.chunks_exact(8 * SEGMENT_FIELDS) {
            let field = |i: usize| i64::from_le_bytes(row[8 * i..8 * (i + 1)].try_into().unwrap_or_default());
            if field(2) < 1 {
                return Err(corrupt(format!("trajectory {} has {} transitions", start.len(), field(2))));
            }
            for (column, value) in [&mut task, &mut trajectory, &mut start, &mut length].into_iter().zip([
                field(0),
                field(1),
                end,
                field(2),
            ]) {
                column
                    .try_reserve(1)
                    .map_err(|_| Error::OutOfMemory(format!("{}: no memory for the {WHAT}", path.display())))?;
                column.push(value);
            }
            end = end.checked_add(field(2)).ok_or_else(|| corrupt("lengths add up beyond 2^63".into()))?;
        }
    }
    if crc32c != manifest.segments_crc32c {
        return Err(corrupt(checksum::differs(crc32c, manifest.segments_crc32c)));
    }
    if end as u64 != manifest.num_transitions {
        return Err(corrupt(format!("{end} transitions, expected {}", manifest.num_transitions)));
    }
    SegmentTable::new(task, trajectory, start, length).map_err(|error| corrupt(error.to_string()))
}

/// Gathered rows of a store in memory of their own, one buffer per field.
#[allow(unsafe_code)]
pub fn gather_memory(
    store: &Store,
    fields: &[usize],
    index: &[i64],
    threads: Option<usize>,
    interrupted: &(dyn Fn() -> bool + Sync),
) -> Result<Vec<Buffer>> {
    let outputs =
        fields.iter().map(|&field| Buffer::take(store.field_bytes(field) * index.len())).collect::<Result<Vec<_>>>()?;
    let addresses: Vec<_> = outputs.iter().map(|buffer| (buffer.as_ptr(), buffer.len())).collect();
    // SAFETY: the buffers were made here, are initialised and known to nobody else.
    unsafe { store.gather_into(fields, index, &addresses, threads, interrupted)? };
    Ok(outputs)
}
