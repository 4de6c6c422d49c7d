//! Bytes that somebody else may write to while they are read.
#![allow(unsafe_code)]

use std::marker::PhantomData;

/// Bytes in memory that stays readable for `'a`, but is not ours: another thread may write to it at any moment, as Python's may
/// to an array while the interpreter is released. They are copied from, and never seen as a slice, which would promise that
/// they stay the same.
#[derive(Debug, Clone, Copy)]
pub struct Lent<'a> {
    from: *const u8,
    len: usize,
    lifetime: PhantomData<&'a [u8]>,
}

// SAFETY: the memory behind the pointer is only read, and `'a` keeps it readable, on whichever thread.
unsafe impl Send for Lent<'_> {}
// SAFETY: as above.
unsafe impl Sync for Lent<'_> {}

impl Lent<'_> {
    /// Bytes at an address.
    ///
    /// # Safety
    /// `len` bytes from `from` stay readable for `'a`.
    pub unsafe fn new(from: *const u8, len: usize) -> Self {
        Self { from, len, lifetime: PhantomData }
    }

    /// Number of bytes.
    pub fn len(self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(self) -> bool {
        self.len == 0
    }

    /// The first bytes, at most `count`, and the others.
    pub fn split_at_most(self, count: usize) -> (Self, Self) {
        let count = count.min(self.len);
        // SAFETY: `count` is within the bytes, so the pointer moves to one of them or to their end.
        let rest = unsafe { self.from.add(count) };
        (Self { len: count, ..self }, Self { from: rest, len: self.len - count, ..self })
    }

    /// Add a copy of them to a vector, which has room for them if they are to stay within its capacity.
    pub fn copy_to(self, to: &mut Vec<u8>) {
        let begin = to.len();
        to.reserve(self.len);
        // SAFETY: there are `len` readable bytes (`new`), and room for as many behind the vector's own, which nobody else has;
        // all of them have been written when the length says so. A byte that is written to meanwhile is copied as it was or as
        // it becomes.
        unsafe {
            to.as_mut_ptr().add(begin).copy_from_nonoverlapping(self.from, self.len);
            to.set_len(begin + self.len);
        }
    }
}

impl<'a> From<&'a [u8]> for Lent<'a> {
    fn from(bytes: &'a [u8]) -> Self {
        // SAFETY: a slice stays readable for its lifetime.
        unsafe { Self::new(bytes.as_ptr(), bytes.len()) }
    }
}

impl<'a> From<&'a Vec<u8>> for Lent<'a> {
    fn from(bytes: &'a Vec<u8>) -> Self {
        bytes.as_slice().into()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

    use super::*;

    #[test]
    fn pieces_are_the_whole() {
        let bytes: Vec<u8> = (0..200).collect();
        for most in [1, 7, 199, 200, 201] {
            let (mut copy, mut left) = (Vec::new(), Lent::from(&bytes));
            while !left.is_empty() {
                let (now, later) = left.split_at_most(most);
                assert!(now.len() <= most);
                now.copy_to(&mut copy);
                left = later;
            }
            assert_eq!(copy, bytes);
        }
        assert_eq!(Lent::from(&[][..]).split_at_most(3).1.len(), 0);
    }

    #[test]
    fn what_is_written_meanwhile_is_copied_as_it_was_or_as_it_becomes() {
        let bytes: Vec<AtomicU8> = (0..4096).map(|_| AtomicU8::new(1)).collect();
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    for byte in &bytes {
                        byte.store(3 - byte.load(Ordering::Relaxed), Ordering::Relaxed);
                    }
                }
            });
            for _ in 0..if cfg!(miri) { 0 } else { 200 } {
                let mut copy = Vec::new();
                // SAFETY: the bytes outlive the scope.
                unsafe { Lent::new(bytes.as_ptr().cast(), bytes.len()) }.copy_to(&mut copy);
                assert!(copy.iter().all(|&byte| byte == 1 || byte == 2));
            }
            done.store(true, Ordering::Relaxed);
        });
    }
}
