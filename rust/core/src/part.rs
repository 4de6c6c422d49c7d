//! What is copied: which bytes of which rows of a column, and whereto.
#![allow(unsafe_code)]

use std::marker::PhantomData;
use std::ops::Range;

use crate::pieced_file::PiecedFile;
use crate::{Frames, Result};

/// Where the rows of a column lie.
#[derive(Debug, Clone, Copy)]
pub enum Origin<'a> {
    /// In memory that stays mapped for `'a`. It may change under us (a shared map), so it is never seen as a slice.
    Memory(*const u8, PhantomData<&'a [u8]>),
    /// In files, read row by row.
    Files(&'a PiecedFile),
    /// In files that are opened whenever rows of them are read, as a process may have only so many open.
    Reopened(&'a dyn Reopen),
}

/// Files that are not kept open.
pub trait Reopen: std::fmt::Debug + Sync {
    /// Open them, as long as they are the ones they were.
    fn reopen(&self) -> Result<PiecedFile>;
}

// SAFETY: the memory behind the pointer is only read, and `'a` keeps it mapped, on whichever thread.
unsafe impl Send for Origin<'_> {}
// SAFETY: as above.
unsafe impl Sync for Origin<'_> {}

/// A column: `rows` rows that lie `stride` bytes apart.
#[derive(Debug, Clone, Copy)]
pub struct Column<'a> {
    pub(crate) origin: Origin<'a>,
    pub(crate) stride: usize,
    pub(crate) rows: usize,
}

impl<'a> Column<'a> {
    /// A column in memory.
    ///
    /// # Safety
    /// `stride * rows` bytes from `memory` stay readable for `'a`.
    pub unsafe fn in_memory(memory: *const u8, stride: usize, rows: usize) -> Self {
        Self { origin: Origin::Memory(memory, PhantomData), stride, rows }
    }

    /// A column that fills files from their beginning.
    pub fn in_files(files: &'a PiecedFile, stride: usize, rows: usize) -> Self {
        Self { origin: Origin::Files(files), stride, rows }
    }

    /// The same in files that are not kept open.
    pub fn in_reopened(files: &'a dyn Reopen, stride: usize, rows: usize) -> Self {
        Self { origin: Origin::Reopened(files), stride, rows }
    }
}

/// Which row of a column an index names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowOf {
    /// The row of that number.
    Index,
    /// The state that the transition of that number leads from.
    State,
    /// The state that it leads to.
    NextState,
}

/// One output array: for each index, `width` bytes from `offset` within the row it names, or that row's stack of frames.
#[derive(Debug)]
pub struct Part<'a> {
    pub(crate) column: Column<'a>,
    pub(crate) row_of: RowOf,
    pub(crate) offset: usize,
    pub(crate) width: usize,
    pub(crate) out: *mut u8,
    pub(crate) out_len: usize,
    pub(crate) frames: Option<&'a Frames>,
    lifetime: PhantomData<&'a mut [u8]>,
}

// SAFETY: a part is the only holder of its output for `'a`, and threads write disjoint ranges of it.
unsafe impl Send for Part<'_> {}
// SAFETY: as above; through a shared reference only disjoint ranges are written (see `gather::Block::copy`).
unsafe impl Sync for Part<'_> {}

impl<'a> Part<'a> {
    /// Copy bytes `offset..offset + width` of each row to `out`, densely.
    ///
    /// # Safety
    /// `out_len` bytes from `out` stay writable for `'a`, and nothing else reads or writes them meanwhile.
    pub unsafe fn new(
        column: Column<'a>,
        row_of: RowOf,
        offset: usize,
        width: usize,
        out: *mut u8,
        out_len: usize,
    ) -> Self {
        Self { column, row_of, offset, width, out, out_len, frames: None, lifetime: PhantomData }
    }

    /// Copy the stack of frames of each row, which is a state, instead.
    #[must_use]
    pub fn stacked(self, frames: Option<&'a Frames>) -> Self {
        Self { frames, ..self }
    }

    /// The bytes that are copied, counted from the beginning of the row that the index names.
    pub(crate) fn bytes(&self) -> Range<usize> {
        let start = self.offset + self.further() * self.column.stride;
        start..start + self.width
    }

    /// How many rows behind the one that the index names.
    pub(crate) fn further(&self) -> usize {
        usize::from(self.row_of == RowOf::NextState)
    }

    /// Whether an index names the same row of the same memory here and there.
    pub(crate) fn names_the_rows_of(&self, other: &Self) -> bool {
        let same_memory = match (self.column.origin, other.column.origin) {
            (Origin::Memory(here, _), Origin::Memory(there, _)) => here == there,
            _ => false,
        };
        same_memory && (self.row_of == RowOf::Index) == (other.row_of == RowOf::Index)
    }
}

/// Bytes of a row that are fetched for several parts at once, at most: those of a block's rows have to be in the second-level
/// cache still when the later parts copy them, beside what was written meanwhile.
const MOST_FETCHED: usize = 640;

/// The bytes, from the row that is named, that are fetched ahead with each part: what it copies, and what later parts copy
/// right beside it, which then need not fetch. Stacks of frames fetch their own. Observation and next observation, if they are no wider, are one range of two rows this way.
pub(crate) fn fetched_bytes(parts: &[Part<'_>]) -> Vec<Range<usize>> {
    let mut fetched: Vec<Range<usize>> =
        parts.iter().map(|part| if part.frames.is_some() { 0..0 } else { part.bytes() }).collect();
    for first in 0..parts.len() {
        for later in first + 1..parts.len() {
            let (a, b) = (fetched[first].clone(), fetched[later].clone());
            let is_beside = a.start <= b.end && b.start <= a.end;
            let both = a.start.min(b.start)..a.end.max(b.end);
            let is_kept = both.len() <= MOST_FETCHED;
            if is_beside && is_kept && !a.is_empty() && !b.is_empty() && parts[first].names_the_rows_of(&parts[later]) {
                fetched[first] = both;
                fetched[later] = 0..0;
            }
        }
    }
    fetched
}
