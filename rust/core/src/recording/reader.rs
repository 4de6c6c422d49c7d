//! Rows out of a journal, whose files are mapped: an episode's rows lie one in each of many records.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use super::episodes::{Episode, Last};
use super::journal::FILE_BYTES;
use super::journal_files::path_of;
use super::records::{Place, Shape, end_row_offset, row_offset};
use crate::store::AppendedFile;
use crate::{Error, Result};

/// Rows to fetch ahead: they lie a whole step apart, which the machine does not foresee.
const AHEAD: usize = 12;

/// An episode that is over, of which task, and where its last next state lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Finished {
    /// Its rows.
    pub episode: Episode,
    /// The record that ended it, and how many episodes that one ended.
    pub end: Option<(Place, u32)>,
    /// Its task.
    pub task: u32,
}

impl Finished {
    /// The steps whose records hold its rows, the last next state among them, as a range.
    pub fn steps(&self) -> std::ops::Range<u64> {
        let further = matches!(self.episode.end, Last::Step(_));
        self.episode.first..self.episode.last + 1 + u64::from(further)
    }
}

/// Reads a journal while it is written, or after.
#[derive(Debug)]
pub struct JournalReader {
    directory: PathBuf,
    shape: Shape,
    files: HashMap<u64, AppendedFile>,
}

impl JournalReader {
    /// Read the journal in a directory.
    pub fn new(directory: &Path, shape: Shape) -> Self {
        Self { directory: directory.to_path_buf(), shape, files: HashMap::new() }
    }

    /// Let go of files that come before one.
    pub fn forget_before(&mut self, number: u64) {
        self.files.retain(|&file, _| file >= number);
    }

    /// Copy one column of a step, `[num_envs, bytes]`.
    pub fn step(&mut self, place: Place, column: usize, out: &mut [u8]) -> Result<()> {
        self.check_column(column, self.shape.num_envs, out)?;
        let offset = row_offset(&self.shape, column, 0);
        self.file(place.file)?.read(place.offset + offset, out)
    }

    /// Copy the mask of a step, `[num_envs]`.
    pub fn mask(&mut self, place: Place, out: &mut [u8]) -> Result<()> {
        if out.len() != self.shape.num_envs {
            return Err(Error::Invalid(format!("{} bytes for {} envs", out.len(), self.shape.num_envs)));
        }
        self.file(place.file)?.read(place.offset, out)
    }

    /// Copy one column of an episode, whose steps lie at `steps`: `[rows, bytes]`, or with room for one row more its last next
    /// state behind them. The last row stands in for that where it is not known.
    pub fn episode(&mut self, finished: &Finished, steps: &[Place], column: usize, out: &mut [u8]) -> Result<()> {
        let Finished { episode, end, .. } = finished;
        let bytes = *self.shape.row_bytes.get(column).ok_or_else(|| self.no_column(column))?;
        let rows = episode.rows();
        let with_next = bytes > 0 && out.len() > bytes * rows;
        self.check_column(column, rows + usize::from(with_next), out)?;
        if bytes == 0 {
            return Ok(());
        }
        let in_step = row_offset(&self.shape, column, episode.env);
        let mut places = &steps[..rows];
        let mut rows = out.chunks_exact_mut(bytes);
        while let Some(first) = places.first() {
            let run = places.iter().take_while(|place| place.file == first.file).count();
            let file = self.file(first.file)?;
            for (at, (place, row)) in places[..run].iter().zip(&mut rows).enumerate() {
                if let Some(ahead) = places[..run].get(at + AHEAD) {
                    file.fetch(ahead.offset + in_step, bytes);
                }
                file.read(place.offset + in_step, row)?;
            }
            places = &places[run..];
        }
        let Some(last) = rows.next() else { return Ok(()) };
        let (place, offset) = match (episode.end, end) {
            (Last::Step(_), _) => (steps[steps.len() - 1], in_step),
            (Last::End(row), Some((place, ended))) => {
                (*place, end_row_offset(&self.shape, *ended as usize, column, row))
            }
            _ => (steps[episode.rows() - 1], in_step),
        };
        self.file(place.file)?.read(place.offset + offset, last)
    }

    fn no_column(&self, column: usize) -> Error {
        Error::OutOfRange(format!("column {column} of {}", self.shape.row_bytes.len()))
    }

    fn check_column(&self, column: usize, rows: usize, out: &[u8]) -> Result<()> {
        match self.shape.row_bytes.get(column) {
            Some(&bytes) if bytes.checked_mul(rows) == Some(out.len()) => Ok(()),
            Some(&bytes) => Err(Error::Invalid(format!("{} bytes for {rows} rows of {bytes} bytes", out.len()))),
            None => Err(self.no_column(column)),
        }
    }

    fn file(&mut self, number: u64) -> Result<&mut AppendedFile> {
        // A file takes one record more than would make it full.
        let most = FILE_BYTES + 2 * (self.shape.step_bytes()? as u64) + FILE_BYTES / 8;
        match self.files.entry(number) {
            std::collections::hash_map::Entry::Occupied(file) => Ok(file.into_mut()),
            std::collections::hash_map::Entry::Vacant(room) => {
                Ok(room.insert(AppendedFile::open(path_of(&self.directory, number), most)?))
            }
        }
    }
}
