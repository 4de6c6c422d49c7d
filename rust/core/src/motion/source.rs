//! Where the numbers of a key lie in a store, and how they come into one run of floats.
#![allow(unsafe_code)]

use super::mix::{Kind, Piece, Shape};
use super::picks::READ_BEHIND;
use super::runs::{Run, fetched, joined, merged, starts};
use crate::part::{Column, Origin, RowOf};
use crate::row_copy::fetch;
use crate::slab::Buffer;
use crate::store::{DType, Store, show};
use crate::{Error, Result};

/// What a number is in the store, and what it becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Numbers {
    /// f32, as they are.
    Single,
    /// f64, as they are.
    Double,
    /// f16 to f32.
    Half,
    /// bf16 to f32.
    Brain,
    /// Bytes that are only ever copied.
    Raw,
}

/// One key of a look-up: which numbers of which field, in the order in which they are returned, and what they are.
#[derive(Debug, Clone)]
pub struct Key {
    field: usize,
    per_state: bool,
    numbers: Numbers,
    /// Bytes of a stored number.
    size: usize,
    runs: Vec<Run>,
    pieces: Vec<Piece>,
    /// Bytes of a returned row.
    row_bytes: usize,
    /// Bytes of each run, where they are alike.
    run_bytes: Option<usize>,
    /// Where its points or rotations begin, if they are picked from f32 and there are enough of them for a vector.
    starts: Vec<u32>,
    /// Ranges of bytes to fetch ahead, from the key's first one in a row.
    fetched: Vec<(usize, usize)>,
}

impl Key {
    /// Check and take a key: the numbers `runs` name of a field, which make up `pieces`.
    pub fn new(store: &Store, field: usize, runs: Vec<Run>, pieces: &[Piece]) -> Result<Self> {
        let known = store.fields();
        let about = known.get(field).ok_or_else(|| Error::OutOfRange(format!("field {field} of {}", known.len())))?;
        let refuse = |why: String| Err(Error::Invalid(format!("key {}: {why}", show(&about.key))));
        let elements: usize = about.shape.iter().product();
        let inside = |run: &Run| run.from.checked_add(run.len).is_some_and(|end| run.len > 0 && end <= elements);
        if runs.is_empty() {
            return refuse("no numbers are asked for".into());
        }
        if let Some(run) = runs.iter().find(|run| !inside(run)) {
            return refuse(format!("numbers {} to {} of {elements}", run.from, run.from.saturating_add(run.len)));
        }
        let width = runs.iter().try_fold(0_usize, |sum, run| sum.checked_add(run.len));
        let pieced = pieces.iter().try_fold(0_usize, |sum, piece| sum.checked_add(piece.len));
        let Some(width) = width.filter(|_| width == pieced) else {
            return refuse(format!("{width:?} numbers in pieces of {pieced:?}"));
        };
        if let Some(piece) = pieces.iter().find(|piece| piece.len == 0 || piece.len % piece.kind.width() != 0) {
            return refuse(format!("a piece of {} numbers of kind {:?}", piece.len, piece.kind));
        }
        let held = pieces.iter().all(|piece| piece.kind == Kind::Hold);
        if about.frames.is_some() {
            return refuse("is a stack of frames; look its source up".into());
        }
        let per_state = about.rows == RowOf::State;
        let numbers = match about.dtype {
            _ if held => Numbers::Raw,
            DType::Float32 => Numbers::Single,
            DType::Float64 => Numbers::Double,
            DType::Float16 => Numbers::Half,
            DType::Bfloat16 => Numbers::Brain,
            other => return refuse(format!("{} cannot be mixed; its kind is 'hold'", other.name())),
        };
        if about.rows == RowOf::NextState || !(per_state || held) {
            return refuse("belongs to a transition; its kind is 'hold'".into());
        }
        let size = about.dtype.size();
        let returned = if matches!(numbers, Numbers::Half | Numbers::Brain) { 4 } else { size };
        let (fetched, runs) = (fetched(&runs, size), merged(runs));
        let run_bytes = runs.iter().all(|run| run.len == runs[0].len).then(|| runs[0].len * size);
        let pieces = joined(pieces);
        let starts = if numbers == Numbers::Single { starts(&runs, &pieces, elements) } else { vec![] };
        Ok(Self {
            field,
            per_state,
            numbers,
            size,
            row_bytes: width * returned,
            run_bytes,
            starts,
            fetched,
            runs,
            pieces,
        })
    }

    /// What the numbers are.
    pub fn numbers(&self) -> Numbers {
        self.numbers
    }

    /// What a returned row is made of.
    pub fn shape(&self) -> Shape<'_> {
        Shape { pieces: &self.pieces, starts: &self.starts }
    }

    /// Whether there is a row per state; else there is one per transition.
    pub fn is_per_state(&self) -> bool {
        self.per_state
    }

    /// Whether there are quaternions.
    pub fn has_quaternions(&self) -> bool {
        self.pieces.iter().any(|piece| piece.kind == Kind::Quaternion)
    }

    /// Bytes of a returned row.
    #[inline]
    pub fn row_bytes(&self) -> usize {
        self.row_bytes
    }

    /// The numbers' columns, ready to be read.
    pub fn open<'a>(&'a self, store: &'a Store) -> Result<Rows<'a>> {
        let (column, offset) = (store.rows_of(self.field), store.fields()[self.field].offset);
        let (memory, from_file) = match column.origin {
            Origin::Memory(memory, _) => (memory.wrapping_add(offset), false),
            Origin::Files(..) | Origin::Reopened(..) => (std::ptr::dangling(), true),
        };
        let converted = matches!(self.numbers, Numbers::Half | Numbers::Brain);
        let direct = !from_file && self.runs.len() == 1 && !converted;
        let span = self.runs.iter().map(|run| run.from + run.len).max().unwrap_or(0) * self.size;
        let picked = if direct { 0 } else { self.row_bytes() };
        Ok(Rows {
            key: self,
            column,
            offset,
            memory: if direct { memory.wrapping_add(self.runs[0].from * self.size) } else { memory },
            stride: column.stride,
            how: if direct {
                How::Direct
            } else if from_file {
                How::FromFile
            } else {
                How::Picked
            },
            read: Buffer::take(if from_file { span } else { 0 })?,
            picked: [Buffer::take(picked)?, Buffer::take(picked)?],
        })
    }
}

/// The rows of a key in an open store, and room for one or two of them: each thread has its own.
pub struct Rows<'a> {
    key: &'a Key,
    column: Column<'a>,
    offset: usize,
    /// Where row 0 lies: the key's first number, or where `how` is direct the first that is returned.
    memory: *const u8,
    stride: usize,
    how: How,
    read: Buffer,
    picked: [Buffer; 2],
}

/// How a row's numbers come together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum How {
    /// They lie in memory as they are needed.
    Direct,
    /// They are picked, or converted.
    Picked,
    /// The row is read, then they are picked.
    FromFile,
}

impl<'a> Rows<'a> {
    /// Whose they are.
    pub fn key(&self) -> &'a Key {
        self.key
    }

    /// Fetch a row ahead.
    #[inline(always)]
    pub fn fetch(&self, row: i64) {
        let row = self.memory.wrapping_add(row as usize * self.stride);
        if self.how == How::Direct {
            fetch(row, self.key.row_bytes);
        } else if self.how == How::Picked {
            self.key.fetched.iter().for_each(|&(from, to)| fetch(row.wrapping_add(from), to - from));
        }
    }

    /// The greatest row that may be read as it is stored, with a number behind its last; -1 for none.
    pub fn last_readable(&self) -> i64 {
        let end = self.key.fetched.last().map_or(0, |&(_, end)| end) + READ_BEHIND * self.key.size;
        let fits = self.offset + end <= self.stride;
        if self.how == How::Picked { self.column.rows as i64 - if fits { 1 } else { 2 } } else { -1 }
    }

    /// The address of a row as it is stored.
    #[inline(always)]
    pub fn stored(&self, row: i64) -> *const u8 {
        self.memory.wrapping_add(row as usize * self.stride)
    }

    /// Copy a row's numbers, converted and in order.
    ///
    /// # Safety
    /// The row is below the number of rows of the column; `out` has room for a returned one.
    #[inline(always)]
    pub unsafe fn copy(&self, row: i64, out: *mut u8) -> Result<()> {
        let stored = if self.how == How::FromFile { self.read(row)? } else { self.stored(row) };
        // SAFETY: promised by the caller; the runs lie within what is stored (`Key::new`).
        unsafe {
            match self.how {
                How::Direct => std::ptr::copy_nonoverlapping(stored, out, self.key.row_bytes),
                How::Picked | How::FromFile => self.pick(stored, out),
            }
        }
        Ok(())
    }

    /// The address of a row's numbers, converted and in order; valid until the next call with the same `slot`.
    ///
    /// # Safety
    /// The row is below the number of rows of the column.
    #[inline(always)]
    pub unsafe fn get(&mut self, row: i64, slot: usize) -> Result<*const u8> {
        let stored = self.memory.wrapping_add(row as usize * self.stride);
        let stored = match self.how {
            How::Direct => return Ok(stored),
            How::Picked => stored,
            How::FromFile => self.read(row)?,
        };
        let out = self.picked[slot].as_ptr();
        // SAFETY: the runs lie within what is stored (`Key::new`), and `picked` has room for all of them together.
        unsafe { self.pick(stored, out) };
        Ok(out)
    }

    fn read(&self, row: i64) -> Result<*const u8> {
        let reopened;
        let files = match self.column.origin {
            Origin::Files(files) => files,
            Origin::Reopened(files) => {
                reopened = files.reopen()?;
                &reopened
            }
            Origin::Memory(..) => return Ok(self.read.as_ptr()),
        };
        // SAFETY: the buffer has that many initialised bytes, and this thread is the only one that knows them.
        let bytes = unsafe { std::slice::from_raw_parts_mut(self.read.as_ptr(), self.read.len()) };
        let at = row as u64 * self.column.stride as u64 + self.offset as u64;
        files.read_exact_at(bytes, at)?;
        Ok(self.read.as_ptr())
    }

    /// Copy the runs of a stored row behind one another, converted.
    #[inline(always)]
    unsafe fn pick(&self, stored: *const u8, out: *mut u8) {
        let key = self.key;
        // SAFETY: passed on from the caller.
        unsafe {
            match (key.numbers, key.run_bytes) {
                (Numbers::Half, _) => self.convert(stored, out, half_to_single),
                (Numbers::Brain, _) => self.convert(stored, out, |bits| f32::from_bits(u32::from(bits) << 16)),
                // One body's numbers: moves of a fixed size instead of calls.
                (_, Some(12)) => self.pick_fixed::<12>(stored, out),
                (_, Some(16)) => self.pick_fixed::<16>(stored, out),
                _ => {
                    let mut out = out;
                    for run in &key.runs {
                        std::ptr::copy_nonoverlapping(stored.add(run.from * key.size), out, run.len * key.size);
                        out = out.add(run.len * key.size);
                    }
                }
            }
        }
    }

    /// # Safety
    /// As `pick`, where every run has `BYTES` bytes.
    #[inline(always)]
    unsafe fn pick_fixed<const BYTES: usize>(&self, stored: *const u8, out: *mut u8) {
        for (i, run) in self.key.runs.iter().enumerate() {
            // SAFETY: passed on from the caller.
            unsafe {
                let number = stored.add(run.from * self.key.size).cast::<[u8; BYTES]>();
                out.add(i * BYTES).cast::<[u8; BYTES]>().write_unaligned(number.read_unaligned());
            }
        }
    }

    /// # Safety
    /// As `pick`, where numbers have two bytes and become f32.
    #[inline(always)]
    unsafe fn convert(&self, stored: *const u8, out: *mut u8, f: impl Fn(u16) -> f32) {
        let mut out = out.cast::<[u8; 4]>();
        for run in &self.key.runs {
            for i in run.from..run.from + run.len {
                // SAFETY: passed on from the caller.
                unsafe {
                    let bits = u16::from_ne_bytes(stored.cast::<[u8; 2]>().add(i).read());
                    out.write(f(bits).to_ne_bytes());
                    out = out.add(1);
                }
            }
        }
    }
}

/// IEEE half to single precision, exactly.
#[inline(always)]
fn half_to_single(bits: u16) -> f32 {
    let (sign, rest) = (u32::from(bits & 0x8000) << 16, u32::from(bits & 0x7FFF) << 13);
    // The exponent's bias differs by 112; the product is exact, for subnormal halves, too. The greatest exponent stays.
    let scaled = (f32::from_bits(rest) * f32::from_bits((127 + 112) << 23)).to_bits();
    let value = if bits & 0x7C00 == 0x7C00 { rest | 0x7F80_0000 } else { scaled };
    f32::from_bits(sign | value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_half_is_converted_exactly() {
        for bits in 0..=u16::MAX {
            let (negative, exponent, fraction) = (bits >> 15 == 1, i32::from(bits >> 10 & 31), f64::from(bits & 1023));
            let size = match exponent {
                0 => fraction * 2.0_f64.powi(-24),
                31 if fraction == 0.0 => f64::INFINITY,
                31 => f64::NAN,
                _ => (1024.0 + fraction) * 2.0_f64.powi(exponent - 25),
            };
            let found = f64::from(half_to_single(bits));
            assert!(found.is_nan() && size.is_nan() || found.abs().to_bits() == size.to_bits(), "{bits:#x}");
            assert_eq!(found.is_sign_negative(), negative);
        }
    }
}
