//! Where windows lie, by their numbers: a look-up takes one line of memory, however many trajectories there are.
//!
//! Windows are numbered through, trajectory after trajectory, and the numbers are cut into blocks of one size. A block's
//! line holds where trajectories begin within it and what their rows are.

use crate::memory::with_room;
use crate::row_copy::prefetch;
use crate::{Error, Result};

/// Trajectories that may begin within a block and have room in its line.
const ROOM: usize = 6;
/// Trajectories that begin within a block on average: so few that where lengths vary hardly any block has more than `ROOM`.
const USUAL: usize = 2;
/// Bits of a place within a block: `u32::MAX` is none.
const PLACE_BITS: u32 = 31;

/// Number and row of the first window of a trajectory.
type First = [i64; 2];

/// Finds trajectories and rows of windows.
#[derive(Debug)]
pub(super) struct WindowTable {
    lines: Vec<Line>,
    /// The trajectories of blocks that have more than a line has room for.
    crowded: Vec<First>,
    /// Blocks per window, in parts of 2^64.
    scale: u64,
    /// Rows from one window to the next.
    stride: i64,
}

/// A block: the trajectory that it begins in, and those that begin within it.
#[derive(Debug)]
#[repr(align(64))]
struct Line {
    /// Row, less number times stride, of the windows of the trajectory that the block begins in, modulo 2^64; of a crowded
    /// block, where its trajectories begin in `crowded`.
    skew: i64,
    /// The trajectory that the block begins in.
    rank: u32,
    /// Where further trajectories begin, and behind them `u32::MAX`; of a crowded block, how many it has with the first.
    places: [u32; ROOM],
    /// What to add to the skew before the first of them, which is nothing, and from each of them on; of a crowded block, -1.
    added: [i32; ROOM + 1],
}

const _: () = assert!(size_of::<Line>() == 64);

impl WindowTable {
    /// Take the first windows of trajectories in ascending order, of which the first is number 0, and how many windows the
    /// trajectories have together.
    pub fn new(firsts: &[First], total: i64, stride: i64) -> Result<Self> {
        let blocks = firsts.len().div_ceil(USUAL);
        // Rounded down, so that the last window lies in the last block.
        let scale = ((blocks as u128) << u64::BITS) / u128::from(total.max(1) as u64);
        let scale = u64::try_from(scale).unwrap_or(u64::MAX);
        let mut table = Self { lines: with_room(blocks)?, crowded: Vec::new(), scale, stride };
        let mut rank = 0;
        for block in 0..blocks {
            let further = firsts[rank + 1..].iter().take_while(|&&[number, _]| table.find(number).0 == block).count();
            let trajectories = &firsts[rank..=rank + further];
            let line = match table.line(rank as u32, trajectories) {
                Some(line) => line,
                None => table.crowded_line(rank as u32, trajectories)?,
            };
            table.lines.push(line);
            rank += further;
        }
        Ok(table)
    }

    /// The line of a block that begins in the first of some trajectories, where it has room for them.
    fn line(&self, rank: u32, trajectories: &[First]) -> Option<Line> {
        let skew = |&[number, row]: &First| row.wrapping_sub(number.wrapping_mul(self.stride));
        let (first, further) = trajectories.split_first()?;
        // In blocks of more than 2^31 windows several would share a place.
        let room = if self.scale >> (u64::BITS - PLACE_BITS) > 0 { ROOM } else { 0 };
        if further.len() > room {
            return None;
        }
        let mut line = Line { skew: skew(first), rank, places: [u32::MAX; ROOM], added: [0; ROOM + 1] };
        for (i, first) in further.iter().enumerate() {
            line.places[i] = self.find(first[0]).1;
            line.added[i + 1] = i32::try_from(skew(first).wrapping_sub(line.skew)).ok()?;
        }
        Some(line)
    }

    /// The line of a block whose trajectories lie elsewhere.
    fn crowded_line(&mut self, rank: u32, trajectories: &[First]) -> Result<Line> {
        let (begin, count) = (self.crowded.len(), trajectories.len());
        let refused = |_| Error::OutOfMemory(format!("cannot allocate {count} more trajectories of windows"));
        self.crowded.try_reserve(count).map_err(refused)?;
        self.crowded.extend(trajectories);
        Ok(Line { skew: begin as i64, rank, places: [count as u32; ROOM], added: [-1; ROOM + 1] })
    }

    /// The block of a window and its place within: the integer part of a product, and the first bits of its fraction.
    #[inline]
    fn find(&self, number: i64) -> (usize, u32) {
        let product = u128::from(number as u64) * u128::from(self.scale);
        ((product >> u64::BITS) as usize, (product as u64 >> (u64::BITS - PLACE_BITS)) as u32)
    }

    /// Fetch ahead what `locate` will look at.
    #[inline]
    pub fn fetch(&self, number: i64) {
        prefetch(self.lines.as_ptr().wrapping_add(self.find(number).0).cast());
    }

    /// Which of the trajectories has a window, and the row that the window begins with.
    #[inline]
    pub fn locate(&self, number: i64) -> (u32, i64) {
        let (block, place) = self.find(number);
        let line = &self.lines[block];
        if line.added[0] != 0 {
            return self.locate_in_crowd(line, number);
        }
        // Counted without a branch: of random numbers the processor would guess it wrong half of the time.
        let further: u32 = line.places.iter().map(|&begin| u32::from(begin <= place)).sum();
        let skew = line.skew.wrapping_add(i64::from(line.added[further as usize]));
        (line.rank + further, number.wrapping_mul(self.stride).wrapping_add(skew))
    }

    fn locate_in_crowd(&self, line: &Line, number: i64) -> (u32, i64) {
        let trajectories = &self.crowded[line.skew as usize..][..line.places[0] as usize];
        let further = trajectories.partition_point(|first| first[0] <= number) - 1;
        let [first, row] = trajectories[further];
        (line.rank + further as u32, row + (number - first) * self.stride)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The table of trajectories with so many windows and such first rows.
    fn table(windows: &[(i64, i64)], stride: i64) -> (WindowTable, Vec<First>) {
        let mut total = 0;
        let mut firsts = Vec::new();
        for &(count, row) in windows {
            firsts.push([total, row]);
            total += count;
        }
        (WindowTable::new(&firsts, total, stride).unwrap(), firsts)
    }

    proptest! {
        #[test]
        fn every_window_is_found_where_its_trajectory_has_it(
            windows in prop::collection::vec(
                (
                    prop_oneof![6 => 1_i64..5, 3 => 1_i64..3000, 1 => 1_i64..1 << 20],
                    prop_oneof![9 => 0_i64..100_000, 1 => 0_i64..1 << 50],
                ),
                1..120,
            ),
            long in prop::option::of((0_usize..120, 1_i64..1 << 52)),
            stride in prop_oneof![1_i64..4, 1_i64..500],
        ) {
            let mut windows = windows;
            if let Some((k, count)) = long {
                let k = k % windows.len();
                windows[k].0 = count;
            }
            let (table, firsts) = table(&windows, stride);
            for (k, (&[first, row], &(count, _))) in firsts.iter().zip(&windows).enumerate() {
                for step in [0, 1, count / 3, count / 2, count - 2, count - 1] {
                    if (0..count).contains(&step) {
                        table.fetch(first + step);
                        prop_assert_eq!(table.locate(first + step), (k as u32, row + step * stride));
                    }
                }
            }
        }

        #[test]
        fn lengths_that_are_alike_have_room_in_lines(
            windows in 1_i64..1 << 24, spread in 0_i64..3, count in 1_usize..2000, stride in 1_i64..9,
        ) {
            let row = |k: i64| k * (windows + 40) * stride;
            let windows: Vec<_> = (0..count as i64).map(|k| (windows + k % (spread + 1), row(k))).collect();
            let (table, firsts) = table(&windows, stride);
            prop_assert!(table.lines.len() == count.div_ceil(USUAL) && table.crowded.is_empty());
            for (k, &[first, row]) in firsts.iter().enumerate() {
                prop_assert_eq!(table.locate(first), (k as u32, row));
            }
        }
    }

    #[test]
    fn crowded_blocks_and_blocks_beyond_places() {
        // Nine share the first block, and the last of them has the others to itself.
        let few: Vec<_> = (0..8).map(|k| (1, 10 * k)).chain([(1000, 90)]).collect();
        assert_eq!(table(&few, 1).0.crowded.len(), 9);
        // Rows too far apart, and windows too many for places of their own.
        assert_eq!(table(&[(5, 0), (5, 1 << 40)], 1).0.crowded.len(), 2);
        let long = [(1 << 33, 0), (1 << 33, 1 << 33)];
        let (table, _) = table(&long, 1);
        assert_eq!(table.crowded.len(), 2);
        for number in [(1 << 33) - 1, 1 << 33, (1 << 33) + 1] {
            assert_eq!(table.locate(number), (u32::from(number >= 1 << 33), number));
        }
    }
}
