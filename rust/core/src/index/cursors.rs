//! Sequential sampling: one cursor per env, moving by one and wrapping at the end of its segment.

use std::sync::Arc;

use super::slices::Drawn;
use super::stream::{Ask, IndexStream};
use crate::memory::{collected, with_room};
use crate::segment::SegmentTable;
use crate::{Error, Result};

/// What a change other than a step adds to the count of moves: a copy that runs ahead, counting its steps, never gets there.
const JUMP: u64 = 1 << 32;

/// The cursors of `num_envs` envs.
#[derive(Debug, Clone)]
pub struct SequentialCursors {
    table: Arc<SegmentTable>,
    /// Kept beside the segment so that a step touches no table: the first transition and the length.
    cursors: Vec<Cursor>,
    /// Counts whatever changed the cursors.
    moves: u64,
}

#[derive(Debug, Clone, Copy)]
struct Cursor {
    segment: i64,
    start: i64,
    length: i64,
    step: i64,
}

impl SequentialCursors {
    /// One cursor per entry of `segment` and `step`.
    pub fn new(table: Arc<SegmentTable>, segment: &[i64], step: &[i64]) -> Result<Self> {
        if segment.len() != step.len() {
            return Err(Error::Invalid(format!("{} segments but {} steps", segment.len(), step.len())));
        }
        let mut cursors = with_room(segment.len())?;
        for env in 0..segment.len() {
            cursors.push(place(&table, env, segment[env], step[env])?);
        }
        Ok(Self { table, cursors, moves: 0 })
    }

    /// Number of envs.
    pub fn len(&self) -> usize {
        self.cursors.len()
    }

    /// Whether there is no env.
    pub fn is_empty(&self) -> bool {
        self.cursors.is_empty()
    }

    /// Segment position of each env.
    pub fn segment(&self) -> Result<Vec<i64>> {
        collected(self.cursors.iter().map(|cursor| cursor.segment))
    }

    /// Step of each env.
    pub fn step(&self) -> Result<Vec<i64>> {
        collected(self.cursors.iter().map(|cursor| cursor.step))
    }

    /// The transition under each cursor; then each moves by one, wrapping.
    pub fn next_rows(&mut self) -> Result<Vec<i64>> {
        let rows = collected(self.cursors.iter_mut().map(|cursor| {
            let row = cursor.start + cursor.step;
            cursor.step += 1;
            if cursor.step == cursor.length {
                cursor.step = 0;
            }
            row
        }))?;
        self.moves = self.moves.wrapping_add(1);
        Ok(rows)
    }

    /// Put some envs elsewhere: all of them, or, on any error, none.
    pub fn update(&mut self, env: &[i64], segment: &[i64], step: &[i64]) -> Result<()> {
        if env.len() != segment.len() || env.len() != step.len() {
            return Err(Error::Invalid(format!(
                "{} envs, {} segments, {} steps: one of each is needed per env",
                env.len(),
                segment.len(),
                step.len()
            )));
        }
        let mut moves = with_room(env.len())?;
        for (i, &number) in env.iter().enumerate() {
            let env = usize::try_from(number)
                .ok()
                .filter(|&env| env < self.len())
                .ok_or_else(|| Error::OutOfRange(format!("env {number} of {}", self.len())))?;
            moves.push((env, place(&self.table, env, segment[i], step[i])?));
        }
        for (env, cursor) in moves {
            self.cursors[env] = cursor;
        }
        self.moves = self.moves.wrapping_add(JUMP);
        Ok(())
    }
}

impl IndexStream for SequentialCursors {
    type Position = u64;

    fn position(&self) -> u64 {
        self.moves
    }

    fn draw(&mut self, _: &Ask) -> Result<Drawn> {
        Ok(Drawn { rows: self.next_rows()?, ..Drawn::default() })
    }
}

fn place(table: &SegmentTable, env: usize, segment: i64, step: i64) -> Result<Cursor> {
    let k = table.check_position(segment)?;
    let length = table.length()[k];
    if step < 0 {
        return Err(Error::OutOfRange(format!("env {env}: step {step} is negative")));
    }
    Ok(Cursor { segment, start: table.start()[k], length, step: step % length })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn table() -> Arc<SegmentTable> {
        Arc::new(SegmentTable::new(vec![0, 0, 1], vec![0, 1, 0], vec![0, 3, 8], vec![3, 5, 1]).unwrap())
    }

    proptest! {
        #[test]
        fn march_like_the_obvious_loop(
            envs in prop::collection::vec((0_i64..3, 0_i64..12), 1..20),
            rounds in 1_i64..12,
        ) {
            let (segment, step): (Vec<i64>, Vec<i64>) = envs.iter().copied().unzip();
            let table = table();
            let mut cursors = SequentialCursors::new(Arc::clone(&table), &segment, &step).unwrap();
            for round in 0..rounds {
                let out = cursors.next_rows().unwrap();
                for (i, &(k, step)) in envs.iter().enumerate() {
                    let k = k as usize;
                    prop_assert_eq!(out[i], table.start()[k] + (step + round) % table.length()[k]);
                }
            }
            for (i, &(k, step)) in envs.iter().enumerate() {
                prop_assert_eq!(cursors.step().unwrap()[i], (step + rounds) % table.length()[k as usize]);
            }
        }
    }

    #[test]
    fn a_bad_update_moves_nothing() {
        let mut cursors = SequentialCursors::new(table(), &[0, 1], &[1, 2]).unwrap();
        let before = (cursors.segment().unwrap(), cursors.step().unwrap());
        assert!(cursors.update(&[0, 1], &[1, 3], &[0, 0]).is_err());
        assert!(cursors.update(&[0, 2], &[1, 1], &[0, 0]).is_err());
        assert!(cursors.update(&[0, -1], &[1, 1], &[0, 0]).is_err());
        assert!(cursors.update(&[0, 1], &[1, 1], &[0, -1]).is_err());
        assert!(cursors.update(&[0, 1], &[1], &[0]).is_err());
        assert_eq!((cursors.segment().unwrap(), cursors.step().unwrap()), before);
        cursors.update(&[1], &[2], &[7]).unwrap();
        assert_eq!((cursors.segment().unwrap(), cursors.step().unwrap()), (vec![0, 2], vec![1, 0]));
    }
}
