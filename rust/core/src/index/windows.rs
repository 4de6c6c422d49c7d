//! Windows of consecutive transitions of one segment, with four ways to treat its end.

use crate::memory::with_room;
use crate::segment::SegmentTable;
use crate::{Error, Result};

/// What a window does where it leaves its segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Boundary {
    /// Continue at the other end.
    Wrap,
    /// Repeat the first or last transition.
    Clamp,
    /// As `Clamp`, with a mask that is false there.
    Mask,
    /// Refuse.
    Error,
}

impl std::str::FromStr for Boundary {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        match name {
            "wrap" => Ok(Self::Wrap),
            "clamp" => Ok(Self::Clamp),
            "mask" => Ok(Self::Mask),
            "error" => Ok(Self::Error),
            _ => {
                Err(Error::Invalid(format!("boundary is {name:?}; one of 'wrap', 'clamp', 'mask', 'error' is needed")))
            }
        }
    }
}

/// Transition indices of a batch of windows, `[batch * length]`, and with `Boundary::Mask` which of them are real.
#[derive(Debug, PartialEq, Eq)]
pub struct WindowRows {
    /// Row-major `[batch, length]`.
    pub rows: Vec<i64>,
    /// Row-major `[batch, length]`.
    pub mask: Option<Vec<bool>>,
}

/// Windows of `length` transitions that begin at `step` of `segment`, one per entry. Negative steps lie before the start.
pub fn window_rows(
    table: &SegmentTable,
    segment: &[i64],
    step: &[i64],
    length: usize,
    boundary: Boundary,
) -> Result<WindowRows> {
    if segment.len() != step.len() {
        return Err(Error::Invalid(format!("{} segments but {} steps", segment.len(), step.len())));
    }
    if length == 0 {
        return Err(Error::Invalid("a window needs a length of at least 1".into()));
    }
    let total = segment.len().checked_mul(length).ok_or_else(|| {
        Error::OutOfMemory(format!("{} windows of {length} rows do not fit in memory", segment.len()))
    })?;
    let mut rows = with_room(total)?;
    let mut mask = if boundary == Boundary::Mask { Some(with_room(total)?) } else { None };
    for (window, (&segment, &step)) in segment.iter().zip(step).enumerate() {
        let k = table.check_position(segment)?;
        let (start, count) = (table.start()[k], table.length()[k]);
        let end = step
            .checked_add(length as i64)
            .ok_or_else(|| Error::OutOfRange(format!("window {window}: step {step} + length {length} exceeds 2^63")))?;
        if step >= 0 && end <= count {
            rows.extend(start + step..start + end);
            if let Some(mask) = &mut mask {
                mask.extend(std::iter::repeat_n(true, length));
            }
            continue;
        }
        match boundary {
            Boundary::Wrap => {
                let mut at = step.rem_euclid(count);
                for _ in 0..length {
                    rows.push(start + at);
                    at += 1;
                    if at == count {
                        at = 0;
                    }
                }
            }
            Boundary::Clamp | Boundary::Mask => {
                rows.extend((step..end).map(|at| start + at.clamp(0, count - 1)));
                if let Some(mask) = &mut mask {
                    mask.extend((step..end).map(|at| (0..count).contains(&at)));
                }
            }
            Boundary::Error => {
                return Err(Error::OutOfRange(format!(
                    "window {window}: steps {step}..{end} leave task {}, trajectory {} of {count} transitions",
                    table.task_id()[k],
                    table.traj_id()[k]
                )));
            }
        }
    }
    Ok(WindowRows { rows, mask })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn agree_with_the_definition(
            lengths in prop::collection::vec(1_i64..9, 1..6),
            asks in prop::collection::vec((0_usize..6, -12_i64..12), 0..8),
            length in 1_usize..14,
        ) {
            let count = lengths.len();
            let start: Vec<i64> = lengths.iter().scan(0, |sum, &n| Some(std::mem::replace(sum, *sum + n))).collect();
            let ids = (0..count as i64).collect();
            let table = SegmentTable::new(vec![0; count], ids, start.clone(), lengths.clone()).unwrap();
            let segment: Vec<i64> = asks.iter().map(|&(k, _)| (k % count) as i64).collect();
            let step: Vec<i64> = asks.iter().map(|&(_, step)| step).collect();
            let places = || asks.iter().flat_map(|&(k, step)| (0..length as i64).map(move |t| (k % count, step + t)));

            let wrap = window_rows(&table, &segment, &step, length, Boundary::Wrap).unwrap();
            let expected: Vec<i64> = places().map(|(k, t)| start[k] + t.rem_euclid(lengths[k])).collect();
            prop_assert_eq!(wrap.rows, expected);

            let mask = window_rows(&table, &segment, &step, length, Boundary::Mask).unwrap();
            let expected: Vec<i64> = places().map(|(k, t)| start[k] + t.max(0).min(lengths[k] - 1)).collect();
            let inside: Vec<bool> = places().map(|(k, t)| t >= 0 && t < lengths[k]).collect();
            let clamp = window_rows(&table, &segment, &step, length, Boundary::Clamp).unwrap();
            prop_assert_eq!(&clamp.rows, &expected);
            prop_assert_eq!(mask.rows, expected);
            let all_inside = inside.iter().all(|&inside| inside);
            prop_assert_eq!(mask.mask.unwrap(), inside);
            let strict = window_rows(&table, &segment, &step, length, Boundary::Error);
            prop_assert_eq!(strict.is_ok(), all_inside);
        }
    }
}
