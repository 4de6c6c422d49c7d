//! Runs of numbers within a row: which are wanted, and which bytes they lie in.

use super::lanes::LANES;
use super::mix::Piece;

const LINE: usize = 64;

/// Consecutive numbers of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// The first one, counted from the key's own first.
    pub from: usize,
    /// How many.
    pub len: usize,
}

/// Where the points or rotations of some runs begin, or nothing where they are not all of one kind, lie in one run or are few.
pub(super) fn starts(runs: &[Run], pieces: &[Piece], elements: usize) -> Vec<u32> {
    let [piece] = pieces else { return vec![] };
    let width = piece.kind.width();
    let grouped = width > 1 && runs.len() > 1 && runs.iter().all(|run| run.len % width == 0);
    if !grouped || piece.len / width < LANES || u32::try_from(elements).is_err() {
        return vec![];
    }
    runs.iter().flat_map(|run| (run.from..run.from + run.len).step_by(width)).map(|start| start as u32).collect()
}

/// Join what lies back to back.
pub(super) fn merged(runs: Vec<Run>) -> Vec<Run> {
    let mut merged: Vec<Run> = Vec::with_capacity(runs.len());
    for run in runs {
        match merged.last_mut() {
            Some(last) if last.from + last.len == run.from => last.len += run.len,
            _ => merged.push(run),
        }
    }
    merged
}

/// The same for pieces of one kind.
pub(super) fn joined(pieces: &[Piece]) -> Vec<Piece> {
    let mut joined: Vec<Piece> = Vec::with_capacity(pieces.len());
    for &piece in pieces {
        match joined.last_mut() {
            Some(last) if last.kind == piece.kind => last.len += piece.len,
            _ => joined.push(piece),
        }
    }
    joined
}

/// The bytes that some runs lie in; what lies closer than a line is one range.
pub(super) fn fetched(runs: &[Run], size: usize) -> Vec<(usize, usize)> {
    let mut ranges: Vec<(usize, usize)> =
        runs.iter().map(|run| (run.from * size, (run.from + run.len) * size)).collect();
    ranges.sort_unstable();
    let mut fetched: Vec<(usize, usize)> = Vec::with_capacity(ranges.len());
    for (from, to) in ranges {
        match fetched.last_mut() {
            Some(last) if from < last.1 + LINE => last.1 = last.1.max(to),
            _ => fetched.push((from, to)),
        }
    }
    fetched
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_together_is_one() {
        let run = |from, len| Run { from, len };
        assert_eq!(merged(vec![run(0, 3), run(3, 3), run(9, 3)]), [run(0, 6), run(9, 3)]);
        assert_eq!(merged(vec![run(9, 3), run(0, 3)]), [run(9, 3), run(0, 3)]);
        assert_eq!(fetched(&[run(90, 3), run(0, 3), run(18, 3)], 4), [(0, 84), (360, 372)]);
    }
}
