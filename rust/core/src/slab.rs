//! Output memory: 64-byte aligned, handed out per array and taken back when its last owner is gone.
//!
//! Fresh pages cost as much as the copy into them, so freed slabs are kept for the next batch, the latest ones up to a
//! limit. A slab is only ever owned once: it comes back through `Drop`, which is what makes re-use safe.
#![allow(unsafe_code)]

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::ptr::NonNull;
use std::sync::Mutex;

use crate::{Error, Result};

/// Alignment of every slab: a cache line, and what XLA needs to take host memory without a copy.
pub const ALIGNMENT: usize = 64;
/// Freed memory that is kept for re-use, at most.
const KEPT_BYTES: usize = 512 << 20;
const KEPT_SLABS: usize = 64;
/// Bytes from which a slab asks for large pages.
const HUGE_PAGES: usize = 4 << 20;

static FREE: Mutex<Vec<Slab>> = Mutex::new(Vec::new());

/// Uniquely owned, initialised (zero or stale) bytes, some of which are skipped so that the rest is aligned.
#[derive(Debug)]
struct Slab {
    base: NonNull<u8>,
    memory: NonNull<u8>,
    capacity: usize,
}

// SAFETY: a slab is plain memory with one owner; nothing about it is bound to a thread.
unsafe impl Send for Slab {}

impl Slab {
    /// Zeroed memory with room for `capacity` aligned bytes.
    ///
    /// Of the system's own alignment: pages that are zero already are not written for it, while memory asked for with a
    /// greater one is zeroed by hand, which takes as long as filling it and cannot be interrupted.
    fn new(capacity: usize) -> Option<Self> {
        let layout = Self::layout(capacity)?;
        // SAFETY: the layout's size is at least one alignment, hence not zero.
        let base = NonNull::new(unsafe { alloc_zeroed(layout) })?;
        if capacity >= HUGE_PAGES {
            ask_for_huge_pages(base, capacity);
        }
        // SAFETY: less than `ALIGNMENT` bytes are skipped, and that many were allocated on top of `capacity`.
        let memory = unsafe { base.add(base.align_offset(ALIGNMENT)) };
        Some(Self { base, memory, capacity })
    }

    fn layout(capacity: usize) -> Option<Layout> {
        Layout::from_size_align(capacity.checked_add(ALIGNMENT)?, 1).ok()
    }
}

impl Drop for Slab {
    fn drop(&mut self) {
        if let Some(layout) = Self::layout(self.capacity) {
            // SAFETY: `base` came from `alloc_zeroed` with this very layout and is freed only here.
            unsafe { dealloc(self.base.as_ptr(), layout) }
        }
    }
}

/// Ask for large pages, as numpy does for its arrays: an output of megabytes otherwise waits for thousands of page tables.
fn ask_for_huge_pages(base: NonNull<u8>, capacity: usize) {
    #[cfg(target_os = "linux")]
    {
        const PAGE: usize = 4096;
        let skipped = base.align_offset(PAGE);
        let bytes = capacity.saturating_sub(skipped) / PAGE * PAGE;
        // SAFETY: the range begins with a page and lies within memory that is ours; the advice changes none of its bytes. A
        // refusal costs only speed.
        unsafe { libc::madvise(base.as_ptr().add(skipped).cast(), bytes, libc::MADV_HUGEPAGE) };
    }
    #[cfg(not(target_os = "linux"))]
    let _ = (base, capacity);
}

/// An output buffer; its memory returns to the pool when it is dropped.
#[derive(Debug)]
pub struct Buffer {
    slab: Option<Slab>,
    len: usize,
}

// SAFETY: shared access to a `Buffer` only reads its address and length.
unsafe impl Sync for Buffer {}

impl Buffer {
    /// Memory for `len` bytes. Its content is arbitrary: the caller overwrites all of it before anybody reads.
    pub fn take(len: usize) -> Result<Self> {
        let refused = || Error::OutOfMemory(format!("cannot allocate {len} bytes"));
        let capacity = len.max(1).checked_next_multiple_of(ALIGNMENT).ok_or_else(refused)?;
        if let Some(slab) = reuse(capacity) {
            return Ok(Self { slab: Some(slab), len });
        }
        Ok(Self { slab: Some(Slab::new(capacity).ok_or_else(refused)?), len })
    }

    /// Number of bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Another buffer with the same content.
    pub fn copy(&self) -> Result<Self> {
        let copy = Self::take(self.len)?;
        // SAFETY: both slabs have at least `len` initialised bytes; the new one is nobody else's, so they do not overlap.
        unsafe { std::ptr::copy_nonoverlapping(self.as_ptr(), copy.as_ptr(), self.len) };
        Ok(copy)
    }

    /// The content, to be changed.
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: the slab has at least `len` initialised bytes, and is borrowed mutably for as long; whoever else was handed its
        // address has promised `Buffer`'s owner to be through with it.
        unsafe { std::slice::from_raw_parts_mut(self.as_ptr(), self.len) }
    }

    /// A copy of the content.
    pub fn to_vec(&self) -> Vec<u8> {
        // SAFETY: the slab has at least `len` initialised bytes, and `self` is borrowed while they are read.
        unsafe { std::slice::from_raw_parts(self.as_ptr(), self.len) }.to_vec()
    }

    /// Address of the first byte, valid until the buffer is dropped.
    pub fn as_ptr(&self) -> *mut u8 {
        self.slab.as_ref().map_or(std::ptr::dangling_mut(), |slab| slab.memory.as_ptr())
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let Some(slab) = self.slab.take() else { return };
        if slab.capacity > KEPT_BYTES {
            return;
        }
        // Never wait here: drops happen in garbage collection and after a fork, when another thread may have held the lock.
        let Ok(mut free) = FREE.try_lock() else { return };
        free.push(slab);
        // Those that were freed longest ago give way: of a size, it may be, that nobody asks for any more.
        let mut kept = 0;
        let fitting = free.iter().rev().take(KEPT_SLABS).take_while(|slab| {
            kept += slab.capacity;
            kept <= KEPT_BYTES
        });
        let excess = free.len() - fitting.count();
        let given_up: Vec<Slab> = free.drain(..excess).collect();
        drop(free);
        drop(given_up);
    }
}

fn reuse(capacity: usize) -> Option<Slab> {
    let mut free = FREE.try_lock().ok()?;
    // Newest first: its pages are the likeliest to be in the cache.
    let position = free.iter().rposition(|slab| slab.capacity == capacity)?;
    Some(free.remove(position))
}

/// Give all kept memory back to the system.
pub fn release_kept() {
    if let Ok(mut free) = FREE.try_lock() {
        free.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_comes_back_only_after_its_owner_is_gone() {
        let len = 12_345_678;
        let first = Buffer::take(len).unwrap();
        let second = Buffer::take(len).unwrap();
        assert_ne!(first.as_ptr(), second.as_ptr());
        assert_eq!(first.as_ptr() as usize % ALIGNMENT, 0);
        let address = first.as_ptr() as usize;
        drop(first);
        let third = Buffer::take(len).unwrap();
        assert_eq!(third.as_ptr() as usize, address);
        assert_ne!(third.as_ptr(), second.as_ptr());
        assert_eq!(Buffer::take(0).unwrap().len(), 0);

        // What was freed long ago does not keep what is in use now from being kept. (In one test: the memory is shared.)
        let sizes = || (0..2 * KEPT_SLABS).map(|k| Buffer::take(1_000_000 + 64 * k).unwrap());
        sizes().for_each(drop);
        let latest = Buffer::take(len).unwrap();
        let address = latest.as_ptr() as usize;
        drop(latest);
        assert_eq!(Buffer::take(len).unwrap().as_ptr() as usize, address);
        assert!(FREE.lock().unwrap().len() <= KEPT_SLABS);
        drop(Buffer::take(KEPT_BYTES + 1).unwrap());
        assert!(FREE.lock().unwrap().iter().all(|slab| slab.capacity <= KEPT_BYTES));
    }
}
