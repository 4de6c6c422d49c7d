//! The one hot loop: rows of large columns -> dense output.
//!
//! All bounds are checked once per batch, before the first byte is written. Then rows are copied column by column in
//! blocks, with software prefetch, consecutive rows as one run, on several threads above a measured size.
#![allow(unsafe_code)]

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use crate::part::{Origin, Part, RowOf, fetched_bytes};
use crate::pieced_file::PiecedFile;
use crate::row_copy::{AHEAD, Rows};
use crate::row_read::FileRows;
use crate::segment::SegmentTable;
use crate::watch::Watch;
use crate::{Error, Result, parallel, streaming};

/// Rows per block of work: what is fetched ahead for several columns stays in the second-level cache until they are copied.
const BLOCK_ROWS: usize = 512;
/// Bytes of output from which a batch is split over threads. Below it, waking a thread costs more than it saves.
pub const PARALLEL_BYTES: usize = 768 << 10;
/// Bytes of output from which it is written past the caches. A smaller one is read from them by whoever asked for it.
const STREAM_BYTES: usize = 8 << 20;
/// Bytes of output per block of work at most, where rows are large: blocks are what can be interrupted between.
const BLOCK_BYTES: usize = 4 << 20;

/// Copy all parts. Nothing is written if anything is out of bounds.
///
/// `segments`, contiguous, tell states from transitions; only parts whose rows are states need them.
///
/// `interrupted` is asked now and then, on the calling thread only; when it says yes, copying stops with
/// `Error::Interrupted` and the outputs hold arbitrary bytes.
pub fn gather(
    parts: &[Part<'_>],
    index: &[i64],
    segments: Option<&SegmentTable>,
    threads: Option<usize>,
    interrupted: &(dyn Fn() -> bool + Sync),
) -> Result<()> {
    let count = index.len();
    check(parts, index, segments)?;
    // Without a part of states the table is not looked at.
    let segments = segments.filter(|_| parts.iter().any(|part| part.row_of != RowOf::Index));
    let needs_begins = parts.iter().any(|part| part.frames.is_some());
    let fetched = fetched_bytes(parts);
    let row_bytes: usize = parts.iter().map(|part| part.width).sum();
    let bytes = row_bytes.saturating_mul(count);
    let threads = match threads {
        _ if bytes < PARALLEL_BYTES => 1,
        Some(threads) => threads.max(1),
        None => parallel::num_threads(),
    };
    let streams = bytes >= STREAM_BYTES && streaming::is_available();
    let block_rows = (BLOCK_BYTES / row_bytes.max(1)).clamp(1, BLOCK_ROWS);
    let blocks = count.div_ceil(block_rows);
    let caller = std::thread::current().id();
    let next = AtomicUsize::new(0);
    let stop = AtomicBool::new(false);
    let failure = Mutex::new(None);
    let work = || {
        let looked = (std::thread::current().id() == caller).then(Instant::now);
        let mut watch = Watch { stop: &stop, interrupted, looked };
        loop {
            let block = next.fetch_add(1, Ordering::Relaxed);
            if block >= blocks {
                return;
            }
            let block =
                Block::new(index, segments, block * block_rows..count.min((block + 1) * block_rows), needs_begins);
            for (part, fetched) in parts.iter().zip(&fetched) {
                if let Err(error) = watch.look().and_then(|()| block.copy(part, fetched, streams, &mut watch)) {
                    // What is told first is the cause; threads that are stopped by it tell of an interruption.
                    failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                    return stop.store(true, Ordering::Relaxed);
                }
            }
        }
    };
    parallel::run(threads.min(blocks), &work);
    failure.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
}

fn check(parts: &[Part<'_>], index: &[i64], segments: Option<&SegmentTable>) -> Result<()> {
    let (least, greatest) = least_and_greatest(index);
    if least < 0 && !index.is_empty() {
        return Err(Error::OutOfRange(format!("index {least} is negative")));
    }
    for part in parts {
        let end = match part.frames {
            Some(frames) => Some(frames.least_stride()).filter(|_| frames.width() == part.width),
            None => part.offset.checked_add(part.width),
        };
        if end.is_none_or(|end| end > part.column.stride) || (part.frames.is_some() && part.row_of == RowOf::Index) {
            return Err(Error::Invalid(format!(
                "{} bytes from byte {} of a row of {}",
                part.width, part.offset, part.column.stride
            )));
        }
        if part.width.checked_mul(index.len()) != Some(part.out_len) {
            return Err(Error::Invalid(format!(
                "output of {} bytes for {} rows of {} bytes",
                part.out_len,
                index.len(),
                part.width
            )));
        }
        if index.is_empty() {
            continue;
        }
        // State rows grow with the index, so the greatest index has the greatest row.
        let last = match (part.row_of, segments) {
            (RowOf::Index, _) => Some(greatest),
            (RowOf::State, Some(segments)) => segments.state_of(greatest),
            (RowOf::NextState, Some(segments)) => segments.state_of(greatest).map(|row| row + 1),
            (_, None) => return Err(Error::Invalid("rows of states without segments".into())),
        };
        if last.is_none_or(|last| last as usize >= part.column.rows) {
            return Err(Error::OutOfRange(format!(
                "index {greatest} is outside a column of {} rows",
                part.column.rows
            )));
        }
    }
    Ok(())
}

/// The bounds of some rows. Written as two running extremes so that the compiler turns it into vector code.
pub(crate) fn least_and_greatest(rows: &[i64]) -> (i64, i64) {
    rows.iter().fold((i64::MAX, i64::MIN), |(least, greatest), &row| (least.min(row), greatest.max(row)))
}

/// Some consecutive items of the index, and the few after them, whose rows are fetched ahead.
struct Block<'a> {
    start: usize,
    count: usize,
    index: &'a [i64],
    states: [i64; BLOCK_ROWS + AHEAD],
    /// The first state of each one's segment, where frames are stacked.
    begins: Vec<i64>,
}

impl<'a> Block<'a> {
    fn new(index: &'a [i64], segments: Option<&SegmentTable>, range: Range<usize>, needs_begins: bool) -> Self {
        let some = &index[range.start..index.len().min(range.end + AHEAD)];
        let mut states = [0; BLOCK_ROWS + AHEAD];
        let mut begins = Vec::with_capacity(if needs_begins { some.len() } else { 0 });
        if let Some(segments) = segments {
            // Of a run of transitions, as windows and slices are, only the first is looked up in each segment.
            let (mut expected, mut position, mut within) = (i64::MIN, 0, i64::MIN..i64::MIN);
            for (state, &transition) in states.iter_mut().zip(some) {
                if transition != expected || transition >= within.end {
                    position = segments.position_of(transition);
                    within = segments.range_of(position);
                }
                expected = transition + 1;
                *state = transition + position as i64;
                if needs_begins {
                    begins.push(within.start + position as i64);
                }
            }
        }
        Self { start: range.start, count: range.len(), index: some, states, begins }
    }

    /// Copy this block of a part. Bounds were checked by `check`; concurrent calls are for different blocks.
    fn copy(&self, part: &Part<'_>, fetched: &Range<usize>, streams: bool, watch: &mut Watch<'_>) -> Result<()> {
        let rows = if part.row_of == RowOf::Index { self.index } else { &self.states[..self.index.len()] };
        // SAFETY: `start <= index.len()` and the output holds `width` bytes for each index, so this stays inside it.
        let out = unsafe { part.out.add(self.start * part.width) };
        match (part.column.origin, part.frames) {
            (Origin::Memory(memory, _), Some(frames)) => {
                let source = (memory, part.column.stride);
                let (rows, further) = (rows.iter().zip(&self.begins), part.further() as i64);
                // SAFETY: every row, and for a next state the one behind it, is below `column.rows`, its segment begins at or before
                // it, and a row has as many bytes as a frame needs (`check`); for the output as below.
                unsafe { frames.copy(source, rows, further, self.count, out, streams) }
                Ok(())
            }
            (Origin::Memory(memory, _), None) => {
                let rows = Rows {
                    memory: memory.wrapping_add(part.bytes().start),
                    stride: part.column.stride,
                    width: part.width,
                    index: rows,
                    count: self.count,
                    fetched: memory.wrapping_add(fetched.start),
                    fetched_bytes: fetched.len(),
                };
                // SAFETY: every row, and for a next state the one behind it, is below `column.rows`, and `offset + width <= stride`
                // (`check`), so each source range is inside the column; the output holds `width` bytes for each of the
                // `count` rows (above); `Part::new` promises that it is nobody else's, so source and output do not overlap.
                unsafe { rows.copy(out, streams) }
                Ok(())
            }
            (Origin::Files(files), _) => self.read(part, rows, files, out, watch),
            (Origin::Reopened(files), _) => self.read(part, rows, &files.reopen()?, out, watch),
        }
    }

    /// Read the rows of this block from files.
    fn read(
        &self,
        part: &Part<'_>,
        rows: &[i64],
        files: &PiecedFile,
        out: *mut u8,
        watch: &mut Watch<'_>,
    ) -> Result<()> {
        // SAFETY: the output holds `width` bytes for each of `count` rows from here on, initialised, and is ours alone.
        let out = unsafe { std::slice::from_raw_parts_mut(out, part.width * self.count) };
        let column = FileRows { files, stride: part.column.stride, rows: part.column.rows };
        let rows = &rows[..self.count];
        match part.frames {
            Some(frames) => frames.read(column, rows, &self.begins, part.further(), out, watch),
            None => column.copy(rows, part.further(), (part.offset, part.width), out, watch),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use proptest::prelude::*;

    use super::*;
    use crate::part::Column;
    use crate::pieced_file::Piece;

    fn file_of(bytes: &[u8]) -> PiecedFile {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        PiecedFile::new(vec![Piece { begin: 0, bytes: bytes.len() as u64, file, path: "x".into() }])
    }

    fn column(data: &[u8], stride: usize) -> Column<'_> {
        // SAFETY: the slice outlives the column.
        unsafe { Column::in_memory(data.as_ptr(), stride, data.len() / stride) }
    }

    fn part<'a>(column: Column<'a>, offset: usize, width: usize, out: &'a mut [u8]) -> Part<'a> {
        // SAFETY: the slice is borrowed mutably for as long as the part lives.
        unsafe { Part::new(column, RowOf::Index, offset, width, out.as_mut_ptr(), out.len()) }
    }

    proptest! {
        #[test]
        fn agrees_with_the_obvious_loop(
            stride in 1_usize..80,
            cut in (0_usize..80, 1_usize..80),
            rows in 1_usize..40,
            asks in prop::collection::vec((0_usize..40, 1_usize..5), 0..400),
        ) {
            let offset = cut.0 % stride;
            let width = (cut.1 - 1) % (stride - offset) + 1;
            let data: Vec<u8> = (0..stride * rows).map(|i| (i * 31 % 251) as u8).collect();
            // Runs of consecutive rows among single ones.
            let index: Vec<i64> =
                asks.iter().flat_map(|&(row, run)| (0..run).map(move |r| ((row + r) % rows) as i64)).collect();
            let expected: Vec<u8> = index
                .iter()
                .flat_map(|&row| data[row as usize * stride + offset..][..width].to_vec())
                .collect();

            let mut out = vec![0; width * index.len()];
            gather(&[part(column(&data, stride), offset, width, &mut out)], &index, None, None, &|| false).unwrap();
            prop_assert_eq!(&out, &expected);

            let file = file_of(&data);
            let mut out = vec![0; width * index.len()];
            let from_file = Column::in_files(&file, stride, rows);
            gather(&[part(from_file, offset, width, &mut out)], &index, None, None, &|| false).unwrap();
            prop_assert_eq!(&out, &expected);
        }
    }

    proptest! {
        #[test]
        fn states_of_runs_are_those_of_each_transition(
            lengths in prop::collection::vec(1_i64..9, 1..20),
            asks in prop::collection::vec((0_i64..1000, 1_i64..12), 0..40),
        ) {
            let starts: Vec<i64> = lengths.iter().scan(0, |end, length| { *end += length; Some(*end - length) }).collect();
            let ids = (0..lengths.len() as i64).collect();
            let total: i64 = lengths.iter().sum();
            let table = SegmentTable::new(vec![0; lengths.len()], ids, starts, lengths).unwrap();
            // Runs across the ends of segments, repeats, and jumps in either direction.
            let index: Vec<i64> =
                asks.iter().flat_map(|&(from, run)| (0..run).map(move |step| (from + step) % total)).collect();
            for start in (0..index.len()).step_by(BLOCK_ROWS) {
                let block = Block::new(&index, Some(&table), start..index.len().min(start + BLOCK_ROWS), false);
                for (state, &transition) in block.states.iter().zip(block.index) {
                    prop_assert_eq!(Some(*state), table.state_of(transition));
                }
            }
        }
    }

    #[test]
    fn same_bytes_on_any_number_of_threads() {
        let (stride, rows) = (284, 5000);
        let data: Vec<u8> = (0..stride * rows).map(|i| (i % 251) as u8).collect();
        // Single rows, and runs of 32; enough of them that the output is streamed.
        let index: Vec<i64> = (0..40_000_i64)
            .map(|i| if i < 20_000 { i * 7919 % rows as i64 } else { i / 32 * 7919 % 4900 + i % 32 })
            .collect();
        assert!(stride * index.len() > STREAM_BYTES);
        let run = |threads| {
            let mut out = vec![0; stride * index.len()];
            gather(&[part(column(&data, stride), 0, stride, &mut out)], &index, None, Some(threads), &|| false)
                .unwrap();
            out
        };
        let one = run(1);
        assert!(one.chunks(stride).zip(&index).all(|(row, &i)| row == &data[i as usize * stride..][..stride]));
        assert_eq!(one, run(2));
        assert_eq!(one, run(4));
    }

    #[test]
    fn out_of_bounds_writes_nothing() {
        let data = vec![1; 100];
        for bad in [-1, 10, i64::MAX, i64::MIN] {
            let mut out = vec![9; 30];
            let parts = [part(column(&data, 10), 0, 10, &mut out)];
            assert!(matches!(gather(&parts, &[0, bad, 1], None, None, &|| false), Err(Error::OutOfRange(_))));
            assert!(out.iter().all(|&byte| byte == 9));
        }
        let mut out = vec![9; 29];
        assert!(gather(&[part(column(&data, 10), 0, 10, &mut out)], &[0, 1, 2], None, None, &|| false).is_err());
        let mut out = vec![9; 30];
        assert!(gather(&[part(column(&data, 10), 1, 10, &mut out)], &[0, 1, 2], None, None, &|| false).is_err());
    }

    #[test]
    fn stops_when_interrupted() {
        let data = vec![1; 4096];
        let index = vec![0; 40_000];
        let mut out = vec![0; 4096 * index.len()];
        let result = gather(&[part(column(&data, 4096), 0, 4096, &mut out)], &index, None, Some(1), &|| true);
        assert!(matches!(result, Err(Error::Interrupted)));
    }

    #[test]
    fn a_small_batch_from_a_slow_file_stops_too() {
        let file = file_of(&[1; 8]);
        // Less than what is split over threads, and as many reads as take longer than the time between two looks.
        let index = vec![3; PARALLEL_BYTES - 1];
        let mut out = vec![0; index.len()];
        let column = Column::in_files(&file, 2, 4);
        let asked = AtomicUsize::new(0);
        let second_time = || asked.fetch_add(1, Ordering::Relaxed) == 1;
        let result = gather(&[part(column, 0, 1, &mut out)], &index, None, None, &second_time);
        assert!(matches!(result, Err(Error::Interrupted)));
        assert_eq!(asked.into_inner(), 2);
    }
}
