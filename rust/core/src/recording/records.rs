//! Records of a journal: their bytes, and what is believed of bytes that a kill may have cut.

use std::fs::File;
use std::os::unix::fs::FileExt;

use super::episodes::{Episodes, Missing};
use crate::{Error, Result};

const MAGIC: [u8; 4] = *b"ILJ2";
/// Of records whose checksum did not know which file they are in.
pub(super) const EARLIER_MAGIC: [u8; 4] = *b"ILJ1";
pub(super) const HEADER_BYTES: usize = 40;
/// Bytes of an ended env before its states: the env, its task, how it ended.
pub(super) const END_BYTES: usize = 9;

/// What a step holds: bytes of one env's row of each column, and which of them an end may hold, too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shape {
    /// Number of envs.
    pub num_envs: usize,
    /// Bytes of one row of each column.
    pub row_bytes: Vec<usize>,
    /// How many of the columns, the first ones, are states: an end holds their last rows.
    pub num_states: usize,
}

impl Shape {
    pub(super) fn step_bytes(&self) -> Result<usize> {
        let row = self.row_bytes.iter().try_fold(1_usize, |sum, &bytes| sum.checked_add(bytes));
        row.and_then(|row| row.checked_mul(self.num_envs))
            .filter(|&bytes| bytes < isize::MAX as usize / 2)
            .ok_or_else(|| Error::Schema(format!("{} envs of {:?} bytes a row", self.num_envs, self.row_bytes)))
    }

    /// Where a column begins within a step's body, after its mask.
    pub(super) fn column_offset(&self, column: usize) -> usize {
        self.num_envs * (1 + self.row_bytes[..column].iter().sum::<usize>())
    }

    pub(super) fn end_bytes(&self, ended: usize, with_states: bool) -> Option<usize> {
        let states: usize = if with_states { self.row_bytes[..self.num_states].iter().sum() } else { 0 };
        ended.checked_mul(END_BYTES + states)
    }
}

/// Where a record's body lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Number of the file.
    pub file: u64,
    /// First byte of the body.
    pub offset: u64,
}

/// The ends of some episodes, `[M]` each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct End {
    /// The envs.
    pub envs: Vec<u32>,
    /// Bit 0: terminated; bit 1: truncated; bit 2: its last row is in `states`.
    pub how: Vec<u8>,
    /// Which task each was of.
    pub tasks: Vec<u32>,
    /// The last rows of the state columns, `[M, bytes]` each; empty if no env says.
    pub states: Vec<Vec<u8>>,
}

/// A record of the journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record {
    /// At the beginning of each file: which episodes run, how many are over, how many rows were no data, which step comes next.
    Begin(Episodes),
    /// A step: which rows are data.
    Step(Vec<u8>),
    /// Ends after the step before; their last rows are in the record itself.
    End {
        /// The envs.
        envs: Vec<u32>,
        /// As in `End`.
        how: Vec<u8>,
        /// As in `End`.
        tasks: Vec<u32>,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    Begin = 1,
    Step = 2,
    End = 3,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Header {
    pub(super) kind: u8,
    pub(super) count: u32,
    pub(super) step: u64,
    pub(super) body_bytes: u64,
    pub(super) body_crc32c: u32,
}

impl Header {
    /// As it lies in the file of this number. The number goes into the checksum: a file whose room is used again is full of
    /// records that were good in their day, and of none that is good in it.
    pub(super) fn to_bytes(self, file: u64) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[..4].copy_from_slice(&MAGIC);
        bytes[4] = self.kind;
        bytes[8..12].copy_from_slice(&self.count.to_le_bytes());
        bytes[12..20].copy_from_slice(&self.step.to_le_bytes());
        bytes[20..28].copy_from_slice(&self.body_bytes.to_le_bytes());
        bytes[28..32].copy_from_slice(&self.body_crc32c.to_le_bytes());
        let crc32c = checksum(&bytes, file);
        bytes[32..36].copy_from_slice(&crc32c.to_le_bytes());
        bytes
    }

    fn from_bytes(bytes: &[u8; HEADER_BYTES], file: u64) -> Option<Self> {
        let u32_at = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let u64_at = |at: usize| u64::from(u32_at(at)) | u64::from(u32_at(at + 4)) << 32;
        if bytes[..4] != MAGIC || checksum(bytes, file) != u32_at(32) {
            return None;
        }
        Some(Self {
            kind: bytes[4],
            count: u32_at(8),
            step: u64_at(12),
            body_bytes: u64_at(20),
            body_crc32c: u32_at(28),
        })
    }
}

fn checksum(header: &[u8; HEADER_BYTES], file: u64) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&header[..32]), &file.to_le_bytes())
}

/// Where the row of an env lies within a step's body.
pub(super) fn row_offset(shape: &Shape, column: usize, env: u32) -> u64 {
    (shape.column_offset(column) + env as usize * shape.row_bytes[column]) as u64
}

/// Where a row of a state column lies within the body of the ends of `ended` envs.
pub(super) fn end_row_offset(shape: &Shape, ended: usize, column: usize, row: u32) -> u64 {
    let before: usize = shape.row_bytes[..column].iter().sum();
    (ended * (END_BYTES + before) + row as usize * shape.row_bytes[column]) as u64
}

/// The record at a byte of the file of a number, and the bytes of its body; `None` where there is no whole one.
pub(super) fn read_record(
    file: &File,
    number: u64,
    at: u64,
    length: u64,
    shape: &Shape,
    longest: u64,
) -> Result<Option<(Record, u64)>> {
    let mut header = [0; HEADER_BYTES];
    if length - at < HEADER_BYTES as u64 || file.read_exact_at(&mut header, at).is_err() {
        return Ok(None);
    }
    let Some(header) = Header::from_bytes(&header, number) else { return Ok(None) };
    let body_at = at + HEADER_BYTES as u64;
    if header.body_bytes > length - body_at || !fits(&header, shape, at == 0)? {
        return Ok(None);
    }
    // The part of the body that is wanted is kept; all of it goes into the checksum, a piece at a time.
    let wanted = match header.kind {
        kind if kind == Kind::Step as u8 => shape.num_envs,
        kind if kind == Kind::End as u8 => END_BYTES * header.count as usize,
        _ => header.body_bytes as usize,
    };
    let Some(kept) = checked_body(file, body_at, &header, wanted) else { return Ok(None) };
    let record = match header.kind {
        kind if kind == Kind::Step as u8 => Record::Step(kept),
        kind if kind == Kind::End as u8 => {
            let (numbers, how) = kept.split_at(8 * header.count as usize);
            let mut envs: Vec<u32> = numbers
                .chunks_exact(4)
                .map(|number| u32::from_le_bytes(number.try_into().unwrap_or_default()))
                .collect();
            let tasks = envs.split_off(header.count as usize);
            Record::End { envs, how: how.to_vec(), tasks }
        }
        _ => {
            let mut numbers = kept.chunks_exact(8).map(|n| u64::from_le_bytes(n.try_into().unwrap_or_default()));
            let [num_ended, left_out, invalid] = [(); 3].map(|()| numbers.next().unwrap_or_default());
            let missing = Missing { left_out, invalid };
            let running = numbers.map(|first| (first != u64::MAX).then_some(first)).collect();
            Record::Begin(Episodes::restore(running, num_ended, header.step, missing, longest))
        }
    };
    Ok(Some((record, header.body_bytes)))
}

/// Whether a record of this journal can look like this; each file begins with one of the first kind, and has no other.
fn fits(header: &Header, shape: &Shape, is_first: bool) -> Result<bool> {
    let (count, bytes) = (header.count as usize, header.body_bytes as usize);
    Ok(match header.kind {
        kind if kind == Kind::Begin as u8 => is_first && count == shape.num_envs && bytes == 8 * (count + 3),
        kind if kind == Kind::Step as u8 => !is_first && count == shape.num_envs && bytes == shape.step_bytes()?,
        kind if kind == Kind::End as u8 => {
            let sizes = [false, true].map(|with_states| shape.end_bytes(count, with_states));
            !is_first && count <= shape.num_envs && sizes.contains(&Some(bytes))
        }
        _ => false,
    })
}

fn checked_body(file: &File, at: u64, header: &Header, wanted: usize) -> Option<Vec<u8>> {
    const PIECE: usize = 1 << 20;
    let mut piece = vec![0; PIECE.min(header.body_bytes as usize)];
    let (mut kept, mut crc32c, mut done) = (Vec::with_capacity(wanted), 0, 0_u64);
    while done < header.body_bytes {
        let now = piece.len().min((header.body_bytes - done) as usize);
        file.read_exact_at(&mut piece[..now], at + done).ok()?;
        crc32c = crc32c::crc32c_append(crc32c, &piece[..now]);
        kept.extend_from_slice(&piece[..now.min(wanted - kept.len())]);
        done += now as u64;
    }
    (crc32c == header.body_crc32c).then_some(kept)
}
