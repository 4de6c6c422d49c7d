//! Slices of consecutive rows of trajectories: where one begins within its trajectory, and the rows of a batch of them.

use std::iter::repeat_n;

use super::window_table::WindowTable;
use crate::memory::{collected, filled, with_room};
use crate::row_copy::prefetch;
use crate::{Error, Result};

/// Slices to look ahead: what tells where they lie is mostly outside the second-level cache where trajectories are hundreds
/// of thousands, and in the time that a line takes from there dozens of slices are written.
const AHEAD: usize = 48;

/// What slices are asked for.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// Rows of a slice.
    pub length: i64,
    /// Leave out trajectories that are shorter, or take all that they have.
    pub strict: bool,
    /// Repeat the last row of slices of shorter trajectories up to the length.
    pub padded: bool,
    /// How many rows slices may begin before, and end behind, their trajectories, which is cut off then; `None` is as many
    /// as leave one.
    pub span: [Option<i64>; 2],
    /// Rows from one window to the next, where every window is an item and not every trajectory.
    pub stride: Option<i64>,
    /// Tell of each row which trajectory it is of.
    pub holders: bool,
}

/// How slices are cut from trajectories within the rows of a ring, or from all windows of them. A trajectory that passes the
/// last row goes on at row 0.
#[derive(Debug)]
pub struct Cut {
    /// First row and number of rows of each trajectory.
    spans: Vec<[i64; 2]>,
    ring: i64,
    shape: Shape,
    /// Whether some trajectory is shorter than a slice.
    some_are_short: bool,
    /// Where only long enough ones count, their positions.
    counted: Option<Vec<u32>>,
    /// Where windows are the items, those of the trajectories that count.
    windows: Option<WindowTable>,
    total: i64,
}

/// Rows, and of slices what is known of them beside.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Drawn {
    /// Transition indices.
    pub rows: Vec<i64>,
    /// The last row of each slice.
    pub ends: Vec<bool>,
    /// Where slices were padded: the rows that are no padding.
    pub real: Option<Vec<bool>>,
    /// Positions of the trajectories that the rows are of, if that was asked for.
    pub holders: Option<Vec<i64>>,
}

/// One slice: its trajectory, where that is told of rows, first row and number of rows.
type Slice = (u32, i64, i64);

/// Items, each of which was fetched some time ahead.
fn fetched<T: Copy>(items: &[T], fetch: impl Fn(T)) -> impl Iterator<Item = T> {
    items.iter().take(AHEAD).for_each(|&item| fetch(item));
    items.iter().enumerate().map(move |(i, &item)| {
        if let Some(&later) = items.get(i + AHEAD) {
            fetch(later);
        }
        item
    })
}

impl Cut {
    /// Take first rows and numbers of rows of trajectories in a ring of rows, and work out what the shape needs to know.
    pub fn new(start: &[i64], length: &[i64], ring: i64, shape: Shape) -> Result<Self> {
        let (count, stride, span) = (start.len(), shape.stride, shape.span);
        if length.len() != count || u32::try_from(count).is_err() || ring < 1 {
            return Err(Error::Invalid(format!(
                "{count} starts and {} lengths in a ring of {ring} rows",
                length.len()
            )));
        }
        if shape.length < 1 || stride.is_some_and(|stride| stride < 1) || span.iter().flatten().any(|&rows| rows < 0) {
            return Err(Error::Invalid(format!("no slices can be cut as {shape:?}")));
        }
        let spans = collected(start.iter().zip(length).map(|(&start, &length)| [start, length]))?;
        let bad = |&&[start, length]: &&[i64; 2]| start < 0 || length < 1 || start.checked_add(length).is_none();
        if let Some([start, length]) = spans.iter().find(bad) {
            return Err(Error::Invalid(format!("{length} rows from row {start} are no trajectory")));
        }
        let some_are_short = length.iter().any(|&length| length < shape.length);
        let mut cut = Self { total: count as i64, spans, ring, shape, some_are_short, counted: None, windows: None };
        if some_are_short && (shape.strict || stride.is_some()) {
            let mut counted = with_room(count)?;
            counted.extend((0..count as u32).filter(|&k| length[k as usize] >= shape.length));
            cut.counted = Some(counted);
        }
        if let Some(stride) = stride {
            let mut first = with_room(cut.choices())?;
            cut.total = 0;
            for i in 0..cut.choices() {
                let k = cut.choice(i) as usize;
                first.push([cut.total, start[k]]);
                let windows = (length[k] - shape.length) / stride + 1;
                let too_many = || Error::Invalid("trajectories have more than 2^63 windows together".into());
                cut.total = cut.total.checked_add(windows).ok_or_else(too_many)?;
            }
            cut.windows = Some(WindowTable::new(&first, cut.total, stride)?);
        }
        Ok(cut)
    }

    /// Number of items that an epoch consists of: trajectories, or windows.
    pub fn total(&self) -> i64 {
        self.total
    }

    fn choices(&self) -> usize {
        self.counted.as_ref().map_or(self.spans.len(), Vec::len)
    }

    fn choice(&self, i: usize) -> u32 {
        self.counted.as_ref().map_or(i as u32, |counted| counted[i])
    }

    /// Slices of trajectories that fractions of [0, 1) choose, each where a further one says.
    pub(super) fn choose(&self, count: usize, mut fractions: impl Iterator<Item = f64>) -> Result<Drawn> {
        let choices = self.choices();
        if choices == 0 {
            return Err(Error::Invalid(format!("no trajectory has {} rows", self.shape.length)));
        }
        let mut chosen = with_room(count)?;
        let choice = |fraction: f64| self.choice((fraction * choices as f64) as usize);
        chosen.extend(fractions.by_ref().take(count).map(choice));
        self.place(&chosen, fractions)
    }

    /// Of some trajectories those that slices may be of, in ascending order where any might be left out.
    pub(super) fn keep(&self, items: &[i64]) -> Result<Vec<u32>> {
        let mut kept = collected(items.iter().map(|&k| k as u32))?;
        if self.counted.is_some() {
            kept.retain(|&k| self.spans[k as usize][1] >= self.shape.length);
            kept.sort_unstable();
        }
        Ok(kept)
    }

    /// One slice in each trajectory, a fraction of the way from the first place where it may begin to behind the last.
    pub(super) fn place(&self, trajectories: &[u32], fractions: impl Iterator<Item = f64>) -> Result<Drawn> {
        let fetch = |k: u32| prefetch(self.spans.as_ptr().wrapping_add(k as usize).cast());
        let slices = fetched(trajectories, fetch).zip(fractions).map(|(k, fraction)| self.place_one(k, fraction));
        let Shape { length, span, .. } = self.shape;
        if !self.is_ragged() && span == [Some(0); 2] {
            return self.write(slices, trajectories.len().checked_mul(length as usize));
        }
        let mut placed: Vec<Slice> = with_room(trajectories.len())?;
        for slice in slices {
            placed.push(slice?);
        }
        let total = placed.iter().try_fold(0_usize, |total, &(_, _, rows)| total.checked_add(self.extent(rows)));
        self.write(placed.into_iter().map(Ok), total)
    }

    #[inline]
    fn place_one(&self, k: u32, fraction: f64) -> Result<Slice> {
        let [left, right] = self.shape.span;
        let [start, available] = self.spans[k as usize];
        let length = self.shape.length.min(available);
        if [left, right].into_iter().flatten().any(|rows| rows >= length) {
            return Err(Error::Invalid(
                "The right and left span must be strictly lower than the sequence length".into(),
            ));
        }
        // The first possible step, and one past the last.
        let before = left.map_or(1 - length, |rows| -rows);
        let behind = available - right.map_or(0, |rows| if rows == 0 { length - 1 } else { rows });
        let step = (fraction * (behind - before) as f64).floor() as i64 + before;
        let (begin, end) = (step.max(0), (step + length).min(available));
        Ok((k, start + begin, end - begin))
    }

    /// The slices that are windows, by their numbers; `None` where items are trajectories.
    pub(super) fn windows(&self, numbers: &[i64]) -> Option<Result<Drawn>> {
        let table = self.windows.as_ref()?;
        let slices = fetched(numbers, |number| table.fetch(number)).map(|number| {
            let (i, row) = table.locate(number);
            // Which of all trajectories that is takes a line of its own, and is looked up only where it is told.
            Ok((if self.shape.holders { self.choice(i as usize) } else { i }, row, self.shape.length))
        });
        Some(self.write(slices, numbers.len().checked_mul(self.shape.length as usize)))
    }

    /// Whether slices have the rows that their trajectories have, where those are fewer than asked for.
    fn is_ragged(&self) -> bool {
        self.some_are_short && !self.shape.strict
    }

    /// Rows of a slice with its padding.
    fn extent(&self, rows: i64) -> usize {
        (if self.shape.padded && self.is_ragged() { self.shape.length } else { rows }) as usize
    }

    /// The rows of slices, one slice after another, `total` in all.
    ///
    /// Slices are made as they are written: while one is, what the next ones look at is under way.
    fn write(&self, slices: impl Iterator<Item = Result<Slice>>, total: Option<usize>) -> Result<Drawn> {
        let total = total.ok_or_else(|| Error::OutOfMemory("slices have more rows than can be counted".into()))?;
        let is_padded = self.shape.padded && self.is_ragged();
        let mut drawn = Drawn {
            rows: with_room(total)?,
            ends: filled(total, false)?,
            real: is_padded.then(|| filled(total, false)).transpose()?,
            holders: self.shape.holders.then(|| with_room(total)).transpose()?,
        };
        for slice in slices {
            let (k, first, length) = slice?;
            let (begin, end) = (drawn.rows.len(), first + length);
            if end <= self.ring {
                drawn.rows.extend(first..end);
            } else {
                drawn.rows.extend((first..end).map(|row| row % self.ring));
            }
            let last = drawn.rows.len() - 1;
            drawn.ends[last] = true;
            if let Some(real) = &mut drawn.real {
                real[begin..=last].fill(true);
                drawn.rows.extend(repeat_n(drawn.rows[last], self.extent(length) - length as usize));
            }
            if let Some(holders) = &mut drawn.holders {
                holders.extend(repeat_n(i64::from(k), self.extent(length)));
            }
        }
        Ok(drawn)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PLAIN: Shape =
        Shape { length: 3, strict: true, padded: false, span: [Some(0); 2], stride: None, holders: true };

    /// First rows of trajectories that lie one behind the other in a ring, from a row on.
    fn starts(lengths: &[i64], from: i64) -> (Vec<i64>, i64) {
        let ring = lengths.iter().sum::<i64>();
        (lengths.iter().scan(from, |at, n| Some(std::mem::replace(at, *at + n) % ring)).collect(), ring)
    }

    /// The rows of each slice, without padding, and the trajectory it is of.
    fn slices(drawn: &Drawn, padded_to: Option<i64>) -> Vec<(i64, Vec<i64>)> {
        let real = drawn.real.clone().unwrap_or_else(|| vec![true; drawn.rows.len()]);
        let holders = drawn.holders.as_ref().unwrap();
        let mut found = Vec::new();
        let mut rows = Vec::new();
        for (i, &is_real) in real.iter().enumerate() {
            if is_real {
                rows.push(drawn.rows[i]);
            } else {
                // Padding repeats the row before, and is nobody's end.
                assert_eq!((drawn.rows[i], holders[i], drawn.ends[i]), (drawn.rows[i - 1], holders[i - 1], false));
            }
            if drawn.ends[i] {
                found.push((holders[i], std::mem::take(&mut rows)));
            }
        }
        assert!(rows.is_empty() && drawn.ends.len() == drawn.rows.len() && holders.len() == drawn.rows.len());
        if let Some(length) = padded_to {
            assert_eq!(drawn.rows.len() as i64, length * found.len() as i64);
        }
        found
    }

    proptest! {
        #[test]
        fn every_place_of_a_trajectory_is_as_likely(
            lengths in prop::collection::vec(1_i64..12, 1..6), from in 0_i64..12, length in 1_i64..9,
            strict: bool, padded: bool, spans in prop::array::uniform2(prop::option::of(0_i64..3)),
        ) {
            let (start, ring) = starts(&lengths, from);
            let shape = Shape { length, strict, padded, span: spans, ..PLAIN };
            let cut = Cut::new(&start, &lengths, ring, shape).unwrap();
            let kept = cut.keep(&(0..lengths.len() as i64).rev().collect::<Vec<_>>()).unwrap();
            let some_are_short = lengths.iter().any(|&n| n < length);
            prop_assert_eq!(kept.len(), lengths.iter().filter(|&&n| !strict || n >= length).count());
            for k in kept {
                let n = lengths[k as usize];
                let wanted = length.min(n);
                // Where a slice may begin: so that it lies within its trajectory but for the spans, and one row remains.
                let [left, right] = spans;
                let first = -left.unwrap_or(wanted - 1);
                let last = right.map_or(n - 1, |right| if right == 0 { n - wanted } else { n - right - 1 });
                if spans.iter().flatten().any(|&rows| rows >= wanted) {
                    prop_assert!(cut.place(&[k], std::iter::once(0.5)).is_err());
                    continue;
                }
                let places = (last - first + 1) as usize;
                let fractions = (0..places).map(|i| (i as f64 + 0.5) / places as f64);
                let drawn = cut.place(&vec![k; places], fractions).unwrap();
                prop_assert_eq!(drawn.real.is_some(), padded && !strict && some_are_short);
                let expected: Vec<_> = (first..=last)
                    .map(|step| {
                        let inside = (step..step + wanted).filter(|at| (0..n).contains(at));
                        (i64::from(k), inside.map(|at| (start[k as usize] + at) % ring).collect::<Vec<_>>())
                    })
                    .collect();
                prop_assert_eq!(slices(&drawn, drawn.real.as_ref().map(|_| length)), expected);
            }
        }

        #[test]
        fn windows_are_numbered_through(
            lengths in prop::collection::vec(prop_oneof![9 => 1_i64..12, 1 => 1_i64..300], 1..40), from in 0_i64..12,
            length in 1_i64..9, stride in 1_i64..4,
        ) {
            let (start, ring) = starts(&lengths, from);
            let cut = Cut::new(&start, &lengths, ring, Shape { length, stride: Some(stride), ..PLAIN }).unwrap();
            let mut expected = Vec::new();
            for (k, &n) in lengths.iter().enumerate() {
                for step in (0..=n - length).step_by(stride as usize) {
                    expected.push((k as i64, (step..step + length).map(|at| (start[k] + at) % ring).collect::<Vec<_>>()));
                }
            }
            prop_assert_eq!(cut.total(), expected.len() as i64);
            let numbers: Vec<i64> = (0..cut.total()).collect();
            prop_assert_eq!(slices(&cut.windows(&numbers).unwrap().unwrap(), None), expected);
        }

        #[test]
        fn trajectories_are_chosen_alike_and_nothing_is_drawn_where_none_can_be(
            lengths in prop::collection::vec(1_i64..12, 1..9), length in 1_i64..12,
        ) {
            let (start, ring) = starts(&lengths, 0);
            let cut = Cut::new(&start, &lengths, ring, Shape { length, ..PLAIN }).unwrap();
            let counted: Vec<i64> = (0..).zip(&lengths).filter(|(_, n)| **n >= length).map(|(k, _)| k).collect();
            let count = counted.len();
            let fractions = (0..count).map(|i| (i as f64 + 0.5) / count as f64).chain(std::iter::repeat(0.0));
            let drawn = cut.choose(count, fractions);
            prop_assert_eq!(drawn.is_err(), count == 0);
            let chosen: Vec<_> = drawn.iter().flat_map(|drawn| slices(drawn, None)).map(|(k, _)| k).collect();
            prop_assert_eq!(chosen, counted);
        }
    }

    #[test]
    fn impossible_trajectories_and_shapes_are_refused() {
        for (start, length, ring) in [(-1, 3, 9), (0, 0, 9), (i64::MAX, 1, 9), (0, 3, 0)] {
            assert!(Cut::new(&[start], &[length], ring, PLAIN).is_err(), "{start} {length} {ring}");
        }
        assert!(Cut::new(&[0], &[], 9, PLAIN).is_err());
        assert!(Cut::new(&[0, 1], &[i64::MAX, i64::MAX - 1], 9, Shape { stride: Some(1), ..PLAIN }).is_err());
        for shape in [
            Shape { length: 0, ..PLAIN },
            Shape { stride: Some(0), ..PLAIN },
            Shape { span: [Some(-1), None], ..PLAIN },
            Shape { span: [None, Some(-1)], ..PLAIN },
        ] {
            assert!(Cut::new(&[0], &[3], 9, shape).is_err(), "{shape:?}");
        }
    }

    #[test]
    fn sizes_that_cannot_be_had_are_errors() {
        let long = Shape { length: 1 << 50, strict: false, padded: true, ..PLAIN };
        let cut = Cut::new(&[0], &[3], 9, long).unwrap();
        assert!(matches!(cut.place(&[0, 0], [0.5; 2].into_iter()), Err(Error::OutOfMemory(_))));
        let endless = Cut::new(&[0], &[i64::MAX], i64::MAX, Shape { length: 1 << 62, ..PLAIN }).unwrap();
        for count in [1, 4, 1 << 50, usize::MAX] {
            assert!(matches!(endless.choose(count, std::iter::repeat(0.5)), Err(Error::OutOfMemory(_))), "{count}");
        }
    }
}
