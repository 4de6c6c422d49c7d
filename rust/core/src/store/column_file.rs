//! A column while it is being written.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::HELD_OPEN;
use super::checksum::BlockSums;
use super::column::{ColumnSpec, column_path, show};
use super::files::{is_there, open_of_length, open_to_append, open_to_resume};
use super::lent::Lent;
use super::manifest::ColumnEntry;
use super::pieces::{ColumnPiece, begin_of_next};
use crate::{Error, Result};

/// Bytes of a column that are gathered before they are written: short clips cost no system call each.
const MOST_PENDING: usize = 1 << 20;
/// What all columns of a build gather together, and what one may gather however many there are.
const ALL_PENDING: usize = 32 << 20;
const LEAST_PENDING: usize = 4 << 10;
/// Written bytes after which the disk is waited for. One sync of everything at the end could not be interrupted.
const SYNC_BYTES: usize = 16 << 20;

/// Asked now and then: whether to go on, or the error to stop with.
pub(super) type GoOn<'a> = &'a dyn Fn() -> Result<()>;

/// A new file that grows by whole rows.
#[derive(Debug)]
pub(super) struct ColumnFile {
    spec: ColumnSpec,
    path: PathBuf,
    /// While it stays open.
    file: Option<File>,
    pending: Vec<u8>,
    most_pending: usize,
    unsynced: usize,
    bytes: u64,
    sums: BlockSums,
}

impl ColumnFile {
    /// Make the file of the `number`-th of `count` columns.
    pub fn create(data_dir: &Path, spec: ColumnSpec, number: usize, count: usize) -> Result<Self> {
        let path = column_path(data_dir, spec.kind, &spec.key);
        let parent = path.parent().unwrap_or(data_dir);
        fs::create_dir_all(parent).map_err(Error::io(parent))?;
        let file = File::create_new(&path).map_err(Error::io(&path))?;
        Ok(Self::empty(spec, path, file, number, count))
    }

    /// Go on with the file of the `number`-th of `count` columns, of which `entry` says what is published: the rest is cut off.
    pub fn resume(data_dir: &Path, entry: ColumnEntry, number: usize, count: usize) -> Result<Self> {
        let spec = entry.spec();
        let path = column_path(data_dir, spec.kind, &spec.key);
        let file = open_to_resume(&path, entry.bytes, &format!("column {}", show(&spec.key)))?;
        Ok(Self {
            sums: BlockSums::resume(entry.crc32c, entry.bytes),
            bytes: entry.bytes,
            ..Self::empty(spec, path, file, number, count)
        })
    }

    /// Make the file of the `number`-th of `count` columns that comes behind `last`, the last one of those that it has: it begins with
    /// what the two share.
    pub fn add(
        store: &Path,
        data_dir: &Path,
        entry: ColumnEntry,
        last: Option<ColumnPiece>,
        number: usize,
        count: usize,
    ) -> Result<Self> {
        let begin = begin_of_next(entry.bytes);
        let mut shared = vec![0; (entry.bytes - begin) as usize];
        if let Some(last) = last.filter(|_| !shared.is_empty()) {
            let what = format!("column {}", show(&entry.key));
            let file = open_of_length(store, &last.path, last.bytes, false)
                .map_err(|refusal| refusal.about(&last.path, &what))?;
            file.read_exact_at(&mut shared, begin - last.begin).map_err(Error::io(&last.path))?;
        }
        let mut this = Self::create(data_dir, entry.spec(), number, count)?;
        let (mut file, stays_open) = this.open()?;
        file.write_all(&shared).map_err(Error::io(&this.path))?;
        this.keep((file, stays_open));
        // Not summed up again: what has changed on the disk since it was written is to be found.
        (this.sums, this.bytes) = (BlockSums::resume(entry.crc32c, entry.bytes), entry.bytes);
        this.unsynced = shared.len();
        Ok(this)
    }

    fn empty(spec: ColumnSpec, path: PathBuf, file: File, number: usize, count: usize) -> Self {
        Self {
            spec,
            path,
            file: (number < HELD_OPEN).then_some(file),
            pending: Vec::new(),
            most_pending: (ALL_PENDING / count.max(1)).clamp(LEAST_PENDING, MOST_PENDING),
            unsynced: 0,
            bytes: 0,
            sums: BlockSums::default(),
        }
    }

    pub fn spec(&self) -> &ColumnSpec {
        &self.spec
    }

    /// Bytes of what is there, written or not.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Add bytes at the end. After an error the file may hold any part of them.
    pub fn append(&mut self, mut bytes: Lent<'_>, go_on: GoOn<'_>) -> Result<()> {
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at_most(self.most_pending - self.pending.len());
            bytes = later;
            let begin = self.pending.len();
            self.reserve(now.len());
            now.copy_to(&mut self.pending);
            // Of the copy: it is what will be written.
            self.sums.update(&self.pending[begin..]);
            self.bytes += now.len() as u64;
            if self.pending.len() == self.most_pending {
                let file = self.open()?;
                self.flush(&file.0, go_on)?;
                self.keep(file);
            }
        }
        Ok(())
    }

    /// Room for more bytes: doubled, as vectors grow, but never beyond what may be pending.
    fn reserve(&mut self, more: usize) {
        let needed = self.pending.len() + more;
        if needed > self.pending.capacity() {
            let capacity = (2 * needed).min(self.most_pending);
            self.pending.reserve_exact(capacity - self.pending.len());
        }
    }

    /// The file, and whether it is one that stays open.
    fn open(&mut self) -> Result<(File, bool)> {
        match self.file.take() {
            Some(file) => Ok((file, true)),
            // What the disk failed to write since the file was closed is told to whoever opens and syncs it next.
            None => Ok((open_to_append(&self.path)?, false)),
        }
    }

    fn keep(&mut self, (file, stays_open): (File, bool)) {
        self.file = stays_open.then_some(file);
    }

    fn flush(&mut self, mut file: &File, go_on: GoOn<'_>) -> Result<()> {
        file.write_all(&self.pending).map_err(Error::io(&self.path))?;
        self.unsynced += self.pending.len();
        self.pending.clear();
        if self.unsynced >= SYNC_BYTES {
            file.sync_data().map_err(Error::io(&self.path))?;
            self.unsynced = 0;
        }
        go_on()
    }

    /// Make durable what is there, and describe it.
    pub fn so_far(&mut self, go_on: GoOn<'_>) -> Result<ColumnEntry> {
        if !self.pending.is_empty() || self.unsynced > 0 {
            let file = self.open()?;
            self.flush(&file.0, go_on)?;
            file.0.sync_data().map_err(Error::io(&self.path))?;
            self.unsynced = 0;
            self.keep(file);
        }
        Ok(self.entry())
    }

    /// Remove the files that columns would have, where there are some.
    pub fn remove_left(data_dir: &Path, specs: &[ColumnSpec]) -> Result<()> {
        let paths = specs.iter().map(|spec| column_path(data_dir, spec.kind, &spec.key));
        paths.filter(|path| is_there(path)).try_for_each(|path| fs::remove_file(&path).map_err(Error::io(&path)))
    }

    /// Remove the file.
    pub fn remove(self) -> Result<()> {
        fs::remove_file(&self.path).map_err(Error::io(&self.path))
    }

    /// What is there, written or not.
    pub fn entry(&self) -> ColumnEntry {
        let ColumnSpec { key, kind, dtype, shape } = self.spec.clone();
        ColumnEntry { key, kind, dtype, shape, bytes: self.bytes, crc32c: self.sums.so_far() }
    }

    /// Make it durable and read-only.
    pub fn finish(mut self, go_on: GoOn<'_>) -> Result<ColumnEntry> {
        let (file, _) = self.open()?;
        self.flush(&file, go_on)?;
        file.set_permissions(fs::Permissions::from_mode(0o444)).map_err(Error::io(&self.path))?;
        file.sync_all().map_err(Error::io(&self.path))?;
        Ok(self.entry())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{DType, Kind};

    #[test]
    fn what_is_pending_and_open_stays_within_bounds() {
        let directory = tempfile::tempdir().unwrap();
        let count = HELD_OPEN + 2;
        let column = |number| {
            let spec =
                ColumnSpec { key: vec![format!("c{number}")], kind: Kind::State, dtype: DType::Uint8, shape: vec![1] };
            ColumnFile::create(directory.path(), spec, number, count).unwrap()
        };
        let bytes: Vec<u8> = (0..3 * MOST_PENDING + 17).map(|i| (i % 249) as u8).collect();
        for number in [0, HELD_OPEN - 1, HELD_OPEN, HELD_OPEN + 1] {
            let mut column = column(number);
            for piece in bytes.chunks(100_003) {
                column.append(piece.into(), &|| Ok(())).unwrap();
                assert!(column.pending.capacity() <= ALL_PENDING / count);
                assert_eq!(column.file.is_some(), number < HELD_OPEN);
            }
            let path = column.path.clone();
            let entry = column.finish(&|| Ok(())).unwrap();
            assert_eq!(entry.bytes, bytes.len() as u64);
            assert_eq!(fs::read(path).unwrap(), bytes);
        }
    }
}
