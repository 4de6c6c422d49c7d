//! Rows of a column in memory, copied one behind another, with those that follow fetched ahead.
#![allow(unsafe_code)]

use crate::streaming;

/// Rows to look ahead: enough that a row's lines have come from memory, few enough that they are still in the cache.
pub const AHEAD: usize = 32;
/// Bytes of a cache line.
const LINE: usize = 64;

/// `width` bytes from `memory + row * stride` for the first `count` rows of `index`; the others are fetched ahead only.
#[derive(Clone, Copy)]
pub struct Rows<'a> {
    pub memory: *const u8,
    pub stride: usize,
    pub width: usize,
    pub index: &'a [i64],
    pub count: usize,
    /// What is fetched ahead for a row: so many bytes from `fetched + row * stride`, which need not be readable.
    pub fetched: *const u8,
    pub fetched_bytes: usize,
}

impl Rows<'_> {
    /// Copy the rows to `out`, densely; `streams` says past the caches.
    ///
    /// # Safety
    /// `count <= index.len()`. What is copied is readable; `count * width` bytes from `out` are writable, nobody else's, and
    /// overlap none of it. With `streams`, streaming stores are available.
    pub unsafe fn copy(self, out: *mut u8, streams: bool) {
        self.index.iter().take(AHEAD.min(self.count)).for_each(|&row| self.fetch(row));
        // Rows of a few bytes: a fixed-size move instead of a call.
        macro_rules! fixed {
            ($($size:literal)*) => {
                match self.width {
                    // SAFETY: passed on from the caller, with `width` equal to the constant.
                    $($size => unsafe { self.copy_fixed::<$size>(out) },)*
                    // Pieces of wider rows are put together in the stage, and leave it, at a greater cost than they save.
                    // SAFETY: passed on from the caller, for both.
                    _ if streams && self.stride == self.width => unsafe {
                        let mut output = streaming::Output::new(out);
                        self.for_each_run(|from, _, bytes| output.push(from, bytes));
                        output.finish();
                    },
                    _ => self.for_each_run(|from, at, bytes| {
                        // SAFETY: a run lies within what is copied, and belongs at `at` of the output (`for_each_run`); both
                        // are as the caller promised.
                        unsafe { std::ptr::copy_nonoverlapping(from, out.add(at), bytes) }
                    }),
                }
            };
        }
        fixed!(1 2 4 8 12 16 20 24 28 32);
    }

    /// # Safety
    /// As `copy`, with `width == WIDTH`.
    unsafe fn copy_fixed<const WIDTH: usize>(self, out: *mut u8) {
        for (i, &row) in self.index[..self.count].iter().enumerate() {
            if let Some(&ahead) = self.index.get(i + AHEAD) {
                self.fetch(ahead);
            }
            // SAFETY: promised by the caller.
            unsafe {
                self.memory
                    .add(row as usize * self.stride)
                    .cast::<[u8; WIDTH]>()
                    .copy_to_nonoverlapping(out.add(i * WIDTH).cast(), 1);
            }
        }
    }

    /// Call `copy` with where each run of rows lies, where it belongs in the output, and its bytes; consecutive rows without
    /// anything between them are one run. Runs come in order and make up the output.
    #[inline]
    fn for_each_run(self, mut copy: impl FnMut(*const u8, usize, usize)) {
        let rows = self.index;
        let dense = self.stride == self.width;
        let mut i = 0;
        while i < self.count {
            let row = rows[i];
            let mut run = 1;
            if dense {
                while i + run < self.count && rows[i + run] == row + run as i64 {
                    run += 1;
                }
            }
            let (first, last) = (rows.len().min(i + AHEAD), rows.len().min(i + run + AHEAD));
            rows[first..last].iter().for_each(|&ahead| self.fetch(ahead));
            copy(self.memory.wrapping_add(row as usize * self.stride), i * self.width, run * self.width);
            i += run;
        }
    }

    #[inline]
    fn fetch(self, row: i64) {
        fetch(self.fetched.wrapping_add(row as usize * self.stride), self.fetched_bytes);
    }
}

/// Fetch some bytes ahead, which need not be readable.
#[expect(clippy::inline_always, reason = "it is most of what look-ups of motion do per row")]
#[inline(always)]
pub fn fetch(start: *const u8, bytes: usize) {
    // Whole lines, beginning with the one that they begin in: the last one is missed otherwise.
    let before = start as usize % LINE;
    for line in (0..before + bytes).step_by(LINE) {
        prefetch(start.wrapping_sub(before).wrapping_add(line));
    }
}

/// Into the second-level cache: more lines can be under way to it at once than to the first.
#[inline]
pub fn prefetch(address: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch is a hint: it neither faults nor changes anything, whatever the address.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T1 }>(address.cast());
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: as above.
    unsafe {
        std::arch::asm!("prfm pldl2keep, [{}]", in(reg) address, options(nostack, preserves_flags, readonly));
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let _ = address;
}
