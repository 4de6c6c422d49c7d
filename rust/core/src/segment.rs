//! The segment table: (task, trajectory, step) <-> transition index <-> state row.

use crate::memory::{collected, with_room};
use crate::row_copy::prefetch;
use crate::{Error, Result};

/// Look-ups to fetch ahead.
const AHEAD: usize = 16;

/// Checked, immutable table of segments. A segment is a run of transitions of one trajectory.
#[derive(Debug)]
pub struct SegmentTable {
    task_id: Vec<i64>,
    traj_id: Vec<i64>,
    start: Vec<i64>,
    length: Vec<i64>,
    /// Positions of the segments in ascending order of (task, trajectory).
    by_id: Vec<u32>,
    /// Positions of the segments in ascending order of `start`.
    by_start: Vec<u32>,
    locator: Locator,
    num_transitions: i64,
    contiguous: bool,
}

impl SegmentTable {
    /// Check and take the four columns: equal lengths, ids unique, `start >= 0`, `length >= 1`, no overlap, sums in range.
    pub fn new(task_id: Vec<i64>, traj_id: Vec<i64>, start: Vec<i64>, length: Vec<i64>) -> Result<Self> {
        let count = task_id.len();
        if [traj_id.len(), start.len(), length.len()] != [count; 3] {
            return Err(Error::Invalid(format!(
                "segment columns differ in length: task_id {count}, traj_id {}, start {}, length {}",
                traj_id.len(),
                start.len(),
                length.len()
            )));
        }
        if u32::try_from(count).is_err() {
            return Err(Error::Invalid(format!("{count} segments; at most 2^32 - 1 are supported")));
        }
        let mut num_transitions = 0_i64;
        for k in 0..count {
            let name = || format!("task {}, trajectory {}", task_id[k], traj_id[k]);
            if start[k] < 0 || length[k] < 1 || start[k].checked_add(length[k]).is_none() {
                return Err(Error::Schema(format!(
                    "{}: start {} and length {} are no segment (start >= 0, length >= 1)",
                    name(),
                    start[k],
                    length[k]
                )));
            }
            // Segments do not overlap (checked below), so the sum is bounded by the largest end.
            num_transitions = num_transitions
                .checked_add(length[k])
                .ok_or_else(|| Error::Schema(format!("{}: segment lengths add up beyond 2^63", name())))?;
        }
        let mut by_id: Vec<u32> = collected(0..count as u32)?;
        let id = |k: u32| (task_id[k as usize], traj_id[k as usize]);
        by_id.sort_unstable_by_key(|&k| (id(k), k));
        if let Some(pair) = by_id.windows(2).find(|pair| id(pair[0]) == id(pair[1])) {
            let (task, trajectory) = id(pair[0]);
            return Err(Error::Duplicate(format!("task {task}, trajectory {trajectory} appears twice")));
        }
        let mut by_start: Vec<u32> = collected(0..count as u32)?;
        // Unstable sorts need no memory of their own.
        by_start.sort_unstable_by_key(|&k| (start[k as usize], k));
        for pair in by_start.windows(2) {
            let (a, b) = (pair[0] as usize, pair[1] as usize);
            if start[a] + length[a] > start[b] {
                return Err(Error::Schema(format!(
                    "task {}, trajectory {} (transitions {}..{}) overlaps task {}, trajectory {} (from {})",
                    task_id[a],
                    traj_id[a],
                    start[a],
                    start[a] + length[a],
                    task_id[b],
                    traj_id[b],
                    start[b]
                )));
            }
        }
        let locator = Locator::new(collected(by_start.iter().map(|&k| start[k as usize]))?)?;
        let mut end = 0;
        let contiguous =
            start.iter().zip(&length).all(|(&start, &length)| start == std::mem::replace(&mut end, start + length));
        Ok(Self { task_id, traj_id, start, length, by_id, by_start, locator, num_transitions, contiguous })
    }

    /// The first segments of a contiguous table.
    pub(crate) fn first(self, count: usize) -> Result<Self> {
        if count >= self.len() {
            return Ok(self);
        }
        let Self { mut task_id, mut traj_id, mut start, mut length, .. } = self;
        for column in [&mut task_id, &mut traj_id, &mut start, &mut length] {
            column.truncate(count);
        }
        Self::new(task_id, traj_id, start, length)
    }

    /// Number of segments.
    pub fn len(&self) -> usize {
        self.start.len()
    }

    /// Whether there is no segment.
    pub fn is_empty(&self) -> bool {
        self.start.is_empty()
    }

    /// Task id of each segment.
    pub fn task_id(&self) -> &[i64] {
        &self.task_id
    }

    /// Trajectory id of each segment.
    pub fn traj_id(&self) -> &[i64] {
        &self.traj_id
    }

    /// First transition of each segment.
    pub fn start(&self) -> &[i64] {
        &self.start
    }

    /// Number of transitions of each segment.
    pub fn length(&self) -> &[i64] {
        &self.length
    }

    /// Sum of the lengths.
    pub fn num_transitions(&self) -> i64 {
        self.num_transitions
    }

    /// Whether the segments follow one another from 0 without a gap, in table order, as those of a store do.
    pub fn is_contiguous(&self) -> bool {
        self.contiguous
    }

    /// Position of the segment with these ids.
    pub fn find(&self, task_id: i64, traj_id: i64) -> Result<usize> {
        self.by_id
            .binary_search_by_key(&(task_id, traj_id), |&k| (self.task_id[k as usize], self.traj_id[k as usize]))
            .map(|at| self.by_id[at] as usize)
            .map_err(|_| {
                Error::UnknownSegment(format!("no trajectory {traj_id} in task {task_id} (of {} segments)", self.len()))
            })
    }

    /// Position of the segment that holds a transition of a contiguous table; the transition must be within it.
    #[inline]
    pub(crate) fn position_of(&self, index: i64) -> usize {
        self.locator.find(index).unwrap_or(0)
    }

    /// The transitions of a segment of a contiguous table.
    #[inline]
    pub(crate) fn range_of(&self, position: usize) -> std::ops::Range<i64> {
        let start = |position: usize| self.locator.starts.get(position).copied().unwrap_or(self.num_transitions);
        start(position)..start(position + 1)
    }

    /// State row of a transition of a contiguous table: each segment has one state more than transitions.
    pub(crate) fn state_of(&self, transition: i64) -> Option<i64> {
        (0..self.num_transitions).contains(&transition).then(|| transition + self.position_of(transition) as i64)
    }

    /// Position of the segment that holds a transition, and the step within it.
    pub fn locate(&self, index: i64) -> Result<(usize, i64)> {
        let outside = || Error::OutOfRange(format!("transition {index} lies in no segment"));
        let k = self.by_start[self.locator.find(index).ok_or_else(outside)?] as usize;
        let step = index - self.start[k];
        if step < self.length[k] { Ok((k, step)) } else { Err(outside()) }
    }

    /// `locate` for many transitions.
    ///
    /// Where segments lie back to back, as they usually do, one look at the starts tells everything: other columns of the
    /// table are not touched, which for hundreds of thousands of segments lie outside the cache.
    pub fn locate_all(&self, index: &[i64]) -> Result<(Vec<i64>, Vec<i64>)> {
        let (mut segment, mut step) = (with_room(index.len())?, with_room(index.len())?);
        for (i, &transition) in index.iter().enumerate() {
            if let Some(&later) = index.get(i + AHEAD) {
                self.locator.fetch(later);
            }
            let (k, at) = if self.contiguous && (0..self.num_transitions).contains(&transition) {
                let (k, start) = self.locator.locate(transition);
                (k, transition - start)
            } else {
                self.locate(transition)?
            };
            segment.push(k as i64);
            step.push(at);
        }
        Ok((segment, step))
    }

    /// Check a segment position given by a caller.
    pub fn check_position(&self, segment: i64) -> Result<usize> {
        usize::try_from(segment)
            .ok()
            .filter(|&k| k < self.len())
            .ok_or_else(|| Error::OutOfRange(format!("segment {segment} of {}", self.len())))
    }
}

/// Something that begins somewhere.
pub trait Start: Copy {
    /// Where it begins.
    fn start(self) -> i64;
}

impl Start for i64 {
    fn start(self) -> i64 {
        self
    }
}

/// A start, and beside it, on the same line of memory, what whoever finds it wants to know.
impl Start for [i64; 2] {
    fn start(self) -> i64 {
        self[0]
    }
}

/// Finds the last of many ascending starts that is not above a value.
///
/// A table of about two buckets per start narrows the search to a handful of starts, so the cost depends neither on the
/// number of rows nor, for lengths of one order of magnitude, on the number of segments.
#[derive(Debug)]
pub struct Locator<T = i64> {
    starts: Vec<T>,
    /// `first[b]` = number of starts below the beginning of bucket `b`.
    first: Vec<u32>,
    shift: u32,
}

impl<T: Start> Locator<T> {
    /// Take ascending, non-negative starts.
    pub fn new(starts: Vec<T>) -> Result<Self> {
        let last = starts.last().map_or(0, |last| last.start()).max(0) as u64;
        let wanted = (2 * starts.len()).max(1) as u64;
        let mut shift = 0;
        while (last >> shift) >= wanted {
            shift += 1;
        }
        let buckets = (last >> shift) as usize + 1;
        let mut first = with_room(buckets + 1)?;
        let mut position = 0;
        for bucket in 0..buckets as u64 {
            while position < starts.len() && ((starts[position].start() as u64) >> shift) < bucket {
                position += 1;
            }
            first.push(position as u32);
        }
        first.push(starts.len() as u32);
        Ok(Self { starts, first, shift })
    }

    /// Fetch ahead what `find` will look at first.
    #[inline]
    pub(crate) fn fetch(&self, value: i64) {
        let bucket = (value as u64 >> self.shift) as usize;
        prefetch(self.first.as_ptr().wrapping_add(bucket).cast());
        // Where lengths are alike, starts lie in proportion.
        let near = bucket.wrapping_mul(self.starts.len()) / (self.first.len() - 1);
        prefetch(self.starts.as_ptr().wrapping_add(near).cast());
    }

    /// The last start that is `<= value`, which the first one is, and its position.
    #[inline]
    pub(crate) fn locate(&self, value: i64) -> (usize, T) {
        let position = self.find(value).unwrap_or(0);
        (position, self.starts[position])
    }

    /// Position of the last start that is `<= value`; `None` before the first.
    #[inline]
    pub fn find(&self, value: i64) -> Option<usize> {
        if value < 0 || self.starts.is_empty() {
            return None;
        }
        let bucket = ((value as u64 >> self.shift) as usize).min(self.first.len() - 2);
        let (mut low, mut high) = (self.first[bucket] as usize, self.first[bucket + 1] as usize);
        // Where lengths vary little a bucket has one start or none: a comparison that is no branch, as random values would
        // have the processor guess wrong half of the time. Where it has none, the next start is above `value`; there is
        // one, as the last bucket has a start.
        if high - low <= 1 {
            return (low + usize::from(self.starts[low].start() <= value)).checked_sub(1);
        }
        while low < high {
            let middle = usize::midpoint(low, high);
            if self.starts[middle].start() <= value {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low.checked_sub(1)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn table(lengths: &[i64]) -> SegmentTable {
        let ids: Vec<i64> = (0..lengths.len() as i64).collect();
        let start = lengths.iter().scan(0, |sum, &n| Some(std::mem::replace(sum, *sum + n))).collect();
        SegmentTable::new(vec![0; lengths.len()], ids, start, lengths.to_vec()).unwrap()
    }

    proptest! {
        #[test]
        fn locator_agrees_with_a_linear_search(
            gaps in prop::collection::vec(prop_oneof![1_i64..5, 1_i64..100_000], 1..200),
            value in -3_i64..200_000,
        ) {
            let starts: Vec<i64> = gaps.iter().scan(0, |sum, &gap| { *sum += gap; Some(*sum) }).collect();
            let expected = starts.iter().rposition(|&start| start <= value);
            prop_assert_eq!(Locator::new(starts).unwrap().find(value), expected);
        }

        #[test]
        fn locate_inverts_start_plus_step(lengths in prop::collection::vec(1_i64..50, 1..60)) {
            let table = table(&lengths);
            prop_assert!(table.is_contiguous());
            let mut index = 0;
            for (k, &length) in lengths.iter().enumerate() {
                for step in 0..length {
                    prop_assert_eq!(table.locate(index).unwrap(), (k, step));
                    prop_assert_eq!(table.locate_all(&[index]).unwrap(), (vec![k as i64], vec![step]));
                    index += 1;
                }
            }
            prop_assert!(table.locate(index).is_err());
            prop_assert!(table.locate(-1).is_err());
            prop_assert!(table.locate_all(&[0, index]).is_err());
            prop_assert!(table.locate_all(&[-1]).is_err());
        }
    }

    #[test]
    fn refuses_what_is_no_table() {
        let new = |start: &[i64], length: &[i64]| {
            let n = start.len();
            SegmentTable::new(vec![0; n], (0..n as i64).collect(), start.to_vec(), length.to_vec())
        };
        assert!(matches!(new(&[0], &[0]), Err(Error::Schema(_))));
        assert!(matches!(new(&[-1], &[1]), Err(Error::Schema(_))));
        assert!(matches!(new(&[i64::MAX], &[1]), Err(Error::Schema(_))));
        assert!(matches!(new(&[0, 2], &[3, 1]), Err(Error::Schema(_))));
        assert!(matches!(new(&[5, 0], &[3, 6]), Err(Error::Schema(_))));
        assert!(matches!(SegmentTable::new(vec![1, 1], vec![2, 2], vec![0, 1], vec![1, 1]), Err(Error::Duplicate(_))));
        assert!(matches!(SegmentTable::new(vec![1], vec![], vec![0], vec![1]), Err(Error::Invalid(_))));
    }
}
