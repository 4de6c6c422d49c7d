//! Stacks of frames: what a row of a column, and those before it in the same episode, hold of some parts.
#![allow(unsafe_code)]

use std::ops::Range;

use crate::frame_output::{Output, Plain, Streamed};
use crate::memory::with_room;
use crate::row_copy::{AHEAD, fetch};
use crate::row_read::FileRows;
use crate::streaming;
use crate::watch::Watch;
use crate::{Error, Result};

/// How frames of an episode are put side by side: part by part, of each part one frame behind the other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frames {
    parts: Vec<Range<usize>>,
    length: usize,
    lag: usize,
    oldest_first: bool,
    repeats_first: bool,
    width: usize,
}

impl Frames {
    /// The most frames of a stack.
    pub const MOST: usize = 1 << 16;

    /// Stack `length` frames of `parts`, ranges of a row's bytes, the newest `lag` rows before the row that is asked for. Before
    /// the episode's first row there is that one, with `repeats_first`, or zeros.
    pub fn new(
        parts: Vec<Range<usize>>,
        length: usize,
        lag: usize,
        oldest_first: bool,
        repeats_first: bool,
    ) -> Result<Self> {
        let invalid = |why: String| Error::Invalid(why);
        if !(1..=Self::MOST).contains(&length) {
            return Err(invalid(format!("length: expected 1 to {}, found {length}", Self::MOST)));
        }
        if lag > 1 {
            return Err(invalid(format!("lag: expected 0 or 1, found {lag}")));
        }
        if parts.is_empty() || parts.iter().any(Range::is_empty) {
            return Err(invalid("parts: expected at least one, and none of no width".into()));
        }
        let frame = parts.iter().try_fold(0_usize, |sum, part| sum.checked_add(part.len()));
        let width = frame.and_then(|frame| frame.checked_mul(length)).filter(|&width| isize::try_from(width).is_ok());
        let width = width.ok_or_else(|| invalid(format!("{length} frames are larger than memory can be")))?;
        Ok(Self { parts, length, lag, oldest_first, repeats_first, width })
    }

    /// Ranges of a row's bytes.
    pub fn parts(&self) -> &[Range<usize>] {
        &self.parts
    }

    /// Number of frames.
    pub fn length(&self) -> usize {
        self.length
    }

    /// How many rows before the one that is asked for the newest frame lies.
    pub fn lag(&self) -> usize {
        self.lag
    }

    /// Whether the oldest frame comes first, else the newest.
    pub fn oldest_first(&self) -> bool {
        self.oldest_first
    }

    /// Whether the episode's first frame stands where there is none, else zeros.
    pub fn repeats_first(&self) -> bool {
        self.repeats_first
    }

    /// Bytes of a stack.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Bytes that a row of the column has at least.
    pub fn least_stride(&self) -> usize {
        self.parts.iter().map(|part| part.end).max().unwrap_or(0)
    }

    /// The rows that are read for a row of the episode that begins at `begin`: at least one.
    #[inline]
    fn rows(&self, row: i64, begin: i64) -> Range<i64> {
        let newest = row - self.lag as i64;
        (newest + 1 - self.length as i64).max(begin)..newest.max(begin) + 1
    }

    /// Copy the stacks of the first `count` rows to `out`, densely; `streams` says past the caches. Further rows are fetched ahead
    /// only. With each row comes the one that its episode begins with; the rows meant are the ones `further` behind.
    ///
    /// # Safety
    /// There are `count` rows, none before its begin, and each from there to the one that is meant lies at `memory + row * stride`,
    /// readable and at least `least_stride` bytes long. `count * width` bytes from `out` are writable, nobody else's, and overlap none of it.
    /// With `streams`, streaming stores are available.
    pub unsafe fn copy<'a>(
        &self,
        source: (*const u8, usize),
        rows: impl Iterator<Item = (&'a i64, &'a i64)> + Clone,
        further: i64,
        count: usize,
        out: *mut u8,
        streams: bool,
    ) {
        let rows = rows.map(|(&row, &begin)| (row + further, begin));
        // SAFETY: passed on from the caller.
        unsafe {
            if streams {
                let mut output = Streamed(streaming::Output::new(out));
                self.copy_to(source, rows, count, &mut output);
                output.0.finish();
            } else {
                self.copy_to(source, rows, count, &mut Plain(out));
            }
        }
    }

    /// # Safety
    /// As `copy`; the output takes that many bytes.
    #[inline]
    unsafe fn copy_to(
        &self,
        (memory, stride): (*const u8, usize),
        rows: impl Iterator<Item = (i64, i64)> + Clone,
        count: usize,
        out: &mut impl Output,
    ) {
        let fetch = |(row, begin): (i64, i64)| {
            let rows = self.rows(row, begin);
            fetch(memory.wrapping_add(rows.start as usize * stride), (rows.end - rows.start) as usize * stride);
        };
        let mut ahead = rows.clone();
        ahead.by_ref().take(AHEAD.min(count)).for_each(fetch);
        for (row, begin) in rows.take(count) {
            if let Some(later) = ahead.next() {
                fetch(later);
            }
            // SAFETY: passed on from the caller.
            unsafe { self.stack(memory, stride, row, begin, out) };
        }
    }

    /// # Safety
    /// As `copy`, of one row.
    #[inline]
    unsafe fn stack(&self, memory: *const u8, stride: usize, row: i64, begin: i64, out: &mut impl Output) {
        let newest = row - self.lag as i64;
        let there = (newest + 1 - begin).clamp(0, self.length as i64) as usize;
        let at = |row: i64| memory.wrapping_add(row as usize * stride);
        for part in &self.parts {
            let frames = Known {
                newest: at(newest.max(begin)).wrapping_add(part.start),
                first: at(begin).wrapping_add(part.start),
                stride,
                bytes: part.len(),
                there,
            };
            // SAFETY: rows from `begin` to `newest`, and `begin` itself, are within what the caller says is readable; the room is for
            // as many bytes as the part has.
            unsafe {
                match out.room(part.len() * self.length) {
                    Some(room) => {
                        self.part(frames, &mut Plain(room));
                        out.took(part.len() * self.length);
                    }
                    None => self.part(frames, out),
                }
            }
        }
    }

    /// # Safety
    /// The frames that are there are readable, as is the first one; the output has room for a part.
    #[inline]
    unsafe fn part(&self, frames: Known, out: &mut impl Output) {
        let Known { newest, first, stride, bytes, there } = frames;
        let at = |back: usize| newest.wrapping_sub(back * stride);
        // SAFETY: promised by the caller.
        unsafe {
            if self.oldest_first {
                self.pad(self.length - there, first, bytes, out);
                (0..there).rev().for_each(|back| out.push(at(back), bytes));
            } else {
                (0..there).for_each(|back| out.push(at(back), bytes));
                self.pad(self.length - there, first, bytes, out);
            }
        }
    }

    /// # Safety
    /// `bytes` from `first` are readable; the output takes `count` times as many.
    #[inline]
    unsafe fn pad(&self, count: usize, first: *const u8, bytes: usize, out: &mut impl Output) {
        if count == 0 {
            return;
        }
        // SAFETY: promised by the caller.
        unsafe {
            if self.repeats_first {
                (0..count).for_each(|_| out.push(first, bytes));
            } else {
                out.zeros(count * bytes);
            }
        }
    }

    /// The same of a column in a file: `out` takes the stacks of all rows.
    pub fn read(
        &self,
        column: FileRows<'_>,
        rows: &[i64],
        begins: &[i64],
        further: usize,
        out: &mut [u8],
        watch: &mut Watch<'_>,
    ) -> Result<()> {
        let stride = column.stride;
        let mut read: Vec<u8> = Vec::new();
        for ((&row, &begin), out) in rows.iter().zip(begins).zip(out.chunks_exact_mut(self.width)) {
            watch.look()?;
            let row = row + further as i64;
            let wanted = self.rows(row, begin);
            let count = (wanted.end - wanted.start) as usize;
            if read.is_empty() {
                // What the longest stack needs, or all rows there are.
                read = with_room(self.length.min(column.rows) * stride)?;
                read.resize(self.length.min(column.rows) * stride, 0);
            }
            column.read(wanted.start as u64, 0, &mut read[..count * stride])?;
            // Where row 0 would lie if the rows before were there, too: only those that were read are looked at.
            let memory = read.as_ptr().wrapping_sub(wanted.start as usize * stride);
            // SAFETY: `stack` reads the rows in `wanted`, which `read` has whole; `out` is one stack.
            unsafe { self.stack(memory, stride, row, begin, &mut Plain(out.as_mut_ptr())) };
        }
        Ok(())
    }
}

/// What is known of a part of a row's frames: where the newest and the episode's first one lie, how far apart they are, their
/// bytes, and how many are there.
#[derive(Clone, Copy)]
struct Known {
    newest: *const u8,
    first: *const u8,
    stride: usize,
    bytes: usize,
    there: usize,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_cannot_be_stacked_is_refused() {
        let new = |ends: &[(usize, usize)], length, lag| {
            let parts = ends.iter().map(|&(start, end)| start..end).collect();
            Frames::new(parts, length, lag, false, false)
        };
        new(&[(0, 4)], Frames::MOST, 1).unwrap();
        for refused in [
            new(&[], 1, 0),
            new(&[(0, 4), (4, 4)], 1, 0),
            new(&[(0, 4)], 0, 0),
            new(&[(0, 4)], Frames::MOST + 1, 0),
            new(&[(0, 4)], 2, 2),
            new(&[(0, usize::MAX / 2)], 3, 0),
            new(&[(0, usize::MAX), (0, usize::MAX)], 1, 0),
        ] {
            assert!(matches!(refused, Err(Error::Invalid(_))));
        }
    }

    proptest! {
        #[test]
        fn agree_with_the_definition(
            // Parts that fit into what is put together in the cache, and larger ones.
            stride in prop_oneof![1_usize..40, 400_usize..700],
            cuts in prop::collection::vec((0_usize..700, 1_usize..700), 1..4),
            (length, lag) in (1_usize..7, 0_usize..2),
            (oldest_first, repeats_first) in any::<(bool, bool)>(),
            asks in prop::collection::vec((0_i64..30, 0_i64..12), 0..70),
            behind in 0_usize..40,
        ) {
            let parts: Vec<_> = cuts
                .iter()
                .map(|&(from, width)| (from % stride)..(from % stride) + (width - 1) % (stride - from % stride) + 1)
                .collect();
            let frames = Frames::new(parts.clone(), length, lag, oldest_first, repeats_first).unwrap();
            let data: Vec<u8> = (0..stride * 45).map(|i| (i * 31 % 250 + 1) as u8).collect();
            let begins: Vec<i64> = asks.iter().map(|&(begin, _)| begin).collect();
            let rows: Vec<i64> = asks.iter().map(|&(begin, step)| begin + step).collect();
            let count = rows.len().saturating_sub(behind);
            let mut expected = Vec::new();
            for (&row, &begin) in rows.iter().zip(&begins).take(count) {
                for part in &parts {
                    let mut of_part: Vec<Vec<u8>> = (0..length as i64).map(|back| {
                        let at = row - lag as i64 - back;
                        match (at >= begin, repeats_first) {
                            (false, false) => vec![0; part.len()],
                            (there, _) => {
                                let at = if there { at } else { begin } as usize * stride;
                                data[at + part.start..at + part.end].to_vec()
                            }
                        }
                    }).collect();
                    if oldest_first { of_part.reverse(); }
                    expected.extend(of_part.concat());
                }
            }
            for (streams, further) in [(false, 0), (false, 1), (true, 0), (true, 1)] {
                if streams && !streaming::is_available() { continue; }
                let mut out = vec![255; frames.width() * count];
                let named: Vec<i64> = rows.iter().map(|row| row - further).collect();
                let source = (data.as_ptr(), stride);
                // SAFETY: rows 0 to 41 are within the 45 of `data`; `out` has room for `count` stacks.
                unsafe { frames.copy(source, named.iter().zip(&begins), further, count, out.as_mut_ptr(), streams) };
                prop_assert_eq!(&out, &expected);
            }
        }
    }
}
