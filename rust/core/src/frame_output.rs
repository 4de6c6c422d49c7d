//! Where stacked frames are written to: memory, through the caches or past them.
#![allow(unsafe_code)]

use std::ptr::{copy_nonoverlapping, write_bytes};

use crate::streaming;

/// Where stacks are written to, from beginning to end.
pub trait Output {
    /// Room for a few bytes in the cache, to be filled before they are `took`, if that is where they go first.
    ///
    /// # Safety
    /// The output has room for so many.
    unsafe fn room(&mut self, bytes: usize) -> Option<*mut u8>;

    /// # Safety
    /// So many bytes were put into the room.
    unsafe fn took(&mut self, bytes: usize);

    /// # Safety
    /// `bytes` from `from` are readable and no part of the output, which has room for them.
    unsafe fn push(&mut self, from: *const u8, bytes: usize);

    /// # Safety
    /// The output has room for so many.
    unsafe fn zeros(&mut self, bytes: usize);
}

pub struct Plain(pub *mut u8);

impl Output for Plain {
    #[inline]
    unsafe fn room(&mut self, _: usize) -> Option<*mut u8> {
        None
    }

    unsafe fn took(&mut self, _: usize) {}

    #[inline]
    unsafe fn push(&mut self, from: *const u8, bytes: usize) {
        // SAFETY: promised by the caller.
        unsafe {
            copy_nonoverlapping(from, self.0, bytes);
            self.0 = self.0.add(bytes);
        }
    }

    #[inline]
    unsafe fn zeros(&mut self, bytes: usize) {
        // SAFETY: promised by the caller.
        unsafe {
            write_bytes(self.0, 0, bytes);
            self.0 = self.0.add(bytes);
        }
    }
}

pub struct Streamed(pub streaming::Output);

impl Output for Streamed {
    #[inline]
    unsafe fn room(&mut self, bytes: usize) -> Option<*mut u8> {
        // SAFETY: it is not more than there may be.
        (bytes <= streaming::ROOM).then(|| unsafe { self.0.room(bytes) })
    }

    #[inline]
    unsafe fn took(&mut self, bytes: usize) {
        // SAFETY: promised by the caller.
        unsafe { self.0.took(bytes) }
    }

    #[inline]
    unsafe fn push(&mut self, from: *const u8, bytes: usize) {
        // SAFETY: promised by the caller.
        unsafe { self.0.push(from, bytes) }
    }

    #[inline]
    unsafe fn zeros(&mut self, mut bytes: usize) {
        const ZEROS: [u8; 256] = [0; 256];
        while bytes > 0 {
            let now = bytes.min(ZEROS.len());
            // SAFETY: promised by the caller.
            unsafe { self.0.push(ZEROS.as_ptr(), now) };
            bytes -= now;
        }
    }
}
