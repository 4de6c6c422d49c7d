//! Output that is written past the caches.
//!
//! An ordinary store first reads the line it writes to, and pushes another one out of the cache. For an output that is
//! larger than the cache anyway that doubles its traffic; streaming stores of whole lines do neither. Rows seldom begin or
//! end with a line, so they are put together in a few kilobytes that stay in the first-level cache, and leave from there. Runs
//! of more than that go straight from where they lie, but for their first and last lines: what lies in a row comes by itself,
//! while of single rows the stores would wait for each.
#![allow(unsafe_code)]

use std::ptr::copy_nonoverlapping;

const LINE: usize = 64;
const STAGE: usize = 4096;
/// Bytes that `Output::room` gives at most.
pub const ROOM: usize = STAGE / 2;

/// Whether this machine has streaming stores that are worth it.
pub fn is_available() -> bool {
    #[cfg(target_arch = "x86_64")]
    return std::arch::is_x86_feature_detected!("avx");
    #[cfg(not(target_arch = "x86_64"))]
    false
}

#[repr(align(64))]
struct Stage([u8; STAGE]);

/// A range of memory that is written from its beginning to its end.
pub struct Output {
    stage: Stage,
    /// Where the stage's first byte belongs: the beginning of a line, which may lie before the range.
    to: *mut u8,
    /// Bytes of the stage that lie before the range.
    before: usize,
    /// Bytes of the stage that are in use, those before the range included.
    used: usize,
}

impl Output {
    /// A range that begins at `to`. Dropping it does not write what is still staged: see `finish`.
    ///
    /// # Safety
    /// Streaming stores are available. As many bytes from `to` as will be pushed are writable, and nobody else reads or
    /// writes them until `finish` has returned.
    pub unsafe fn new(to: *mut u8) -> Self {
        let before = to as usize % LINE;
        Self { stage: Stage([0; STAGE]), to: to.wrapping_sub(before), before, used: before }
    }

    /// Write `bytes` from `from` behind what was written before.
    ///
    /// # Safety
    /// They are readable, and not part of the output.
    #[inline]
    pub unsafe fn push(&mut self, mut from: *const u8, mut bytes: usize) {
        if bytes >= STAGE {
            let first = self.used.next_multiple_of(LINE) - self.used;
            let whole = (bytes - first) / LINE * LINE;
            // SAFETY: `from` has `first + whole` bytes (caller). The stage has room up to the end of its last line; flushed, it
            // is empty and `to` begins a line of what is writable and ours, for as many bytes as will be pushed (`new`).
            unsafe {
                copy_nonoverlapping(from, self.stage.0.as_mut_ptr().add(self.used), first);
                self.used += first;
                self.flush();
                stream(from.add(first), self.to, whole);
                from = from.add(first + whole);
            }
            self.to = self.to.wrapping_add(whole);
            bytes -= first + whole;
        }
        while bytes > 0 {
            let now = bytes.min(STAGE - self.used);
            // SAFETY: `from` has that many bytes (caller), the stage has room for them (line above), and is ours alone.
            unsafe {
                copy_nonoverlapping(from, self.stage.0.as_mut_ptr().add(self.used), now);
                from = from.add(now);
            }
            (self.used, bytes) = (self.used + now, bytes - now);
            if self.used == STAGE {
                self.flush();
            }
        }
    }

    /// Room for some bytes behind what was written before, to be filled before they are `took`.
    ///
    /// # Safety
    /// At most `ROOM`.
    #[inline]
    pub unsafe fn room(&mut self, bytes: usize) -> *mut u8 {
        if STAGE - self.used < bytes {
            self.drain();
        }
        // SAFETY: `used` is at most `STAGE`.
        unsafe { self.stage.0.as_mut_ptr().add(self.used) }
    }

    /// Take the bytes that were put into the room.
    ///
    /// # Safety
    /// They were.
    #[inline]
    pub unsafe fn took(&mut self, bytes: usize) {
        self.used += bytes;
    }

    /// Write the whole lines of a stage that is more than half full; what is left begins the next.
    fn drain(&mut self) {
        let whole = self.used - self.used % LINE;
        let rest = self.used - whole;
        self.used = whole;
        self.flush();
        // SAFETY: the stage has these bytes, and those at its beginning are written; they are apart, as `whole` is several lines.
        unsafe {
            let stage = self.stage.0.as_mut_ptr();
            copy_nonoverlapping(stage.add(whole), stage, rest);
        }
        self.used = rest;
    }

    /// Write the rest, and make all of it visible to whoever is told of it.
    pub fn finish(mut self) {
        self.flush();
        #[cfg(target_arch = "x86_64")]
        // SAFETY: an instruction without operands that every x86-64 has. Streaming stores are not ordered with the stores
        // that tell others that a batch is there.
        unsafe {
            std::arch::x86_64::_mm_sfence();
        }
    }

    fn flush(&mut self) {
        let stage = self.stage.0.as_ptr();
        let first = self.before.next_multiple_of(LINE).min(self.used);
        let last = (self.used - self.used % LINE).max(first);
        // SAFETY: `to + before` up to `to + used` is the part of the output that was pushed since the last flush, which is
        // writable and ours (`new`); the stage holds as many bytes. Whole lines begin at multiples of 64 on both sides.
        unsafe {
            copy_nonoverlapping(stage.add(self.before), self.to.wrapping_add(self.before), first - self.before);
            stream(stage.add(first), self.to.wrapping_add(first), last - first);
            copy_nonoverlapping(stage.add(last), self.to.wrapping_add(last), self.used - last);
        }
        // Only whole lines are followed by more.
        self.to = self.to.wrapping_add(self.used);
        (self.before, self.used) = (0, 0);
    }
}

/// Copy whole lines.
///
/// # Safety
/// `bytes` is a multiple of 64, as is the address `to`; the ranges are readable, writable, and apart; AVX is there.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx")]
#[expect(clippy::cast_ptr_alignment, reason = "the caller promises more")]
unsafe fn stream(from: *const u8, to: *mut u8, bytes: usize) {
    use std::arch::x86_64::{__m256i, _mm256_loadu_si256, _mm256_stream_si256};
    let (from, to) = (from.cast::<__m256i>(), to.cast::<__m256i>());
    for half in (0..bytes / 32).step_by(2) {
        // SAFETY: promised by the caller.
        unsafe {
            let (a, b) = (_mm256_loadu_si256(from.add(half)), _mm256_loadu_si256(from.add(half + 1)));
            _mm256_stream_si256(to.add(half), a);
            _mm256_stream_si256(to.add(half + 1), b);
        }
    }
}

/// Never called: `is_available` says so.
#[cfg(not(target_arch = "x86_64"))]
unsafe fn stream(from: *const u8, to: *mut u8, bytes: usize) {
    // SAFETY: passed on from the caller.
    unsafe { copy_nonoverlapping(from, to, bytes) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn writes_what_was_pushed_and_nothing_else(
            begin in 0_usize..130,
            pieces in prop::collection::vec(prop_oneof![0_usize..100, 0_usize..9000], 0..12),
        ) {
            if !is_available() {
                return Ok(());
            }
            let total: usize = pieces.iter().sum();
            let data: Vec<u8> = (0..total).map(|i| (i * 31 % 251) as u8).collect();
            let mut memory = vec![255; begin + total + 100];
            // SAFETY: the vector has room for all pieces from there on, and is not looked at before `finish`.
            let mut output = unsafe { Output::new(memory.as_mut_ptr().add(begin)) };
            let mut at = 0;
            for piece in pieces {
                // SAFETY: the pieces make up `data`.
                unsafe { output.push(data.as_ptr().add(at), piece) };
                at += piece;
            }
            output.finish();
            prop_assert!(memory[..begin].iter().all(|&byte| byte == 255));
            prop_assert_eq!(&memory[begin..begin + total], &data);
            prop_assert!(memory[begin + total..].iter().all(|&byte| byte == 255));
        }
    }
}
