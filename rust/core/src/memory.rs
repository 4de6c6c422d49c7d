//! Vectors whose size a caller or a file chose: where there is no memory for them that is an error, not the end of the process.

use crate::{Error, Result};

/// An empty vector with room for `len` items.
pub fn with_room<T>(len: usize) -> Result<Vec<T>> {
    let mut items = Vec::new();
    items
        .try_reserve_exact(len)
        .map_err(|_| Error::OutOfMemory(format!("cannot allocate {len} items of {} bytes", size_of::<T>())))?;
    Ok(items)
}

/// `len` times a value.
pub fn filled<T: Clone>(len: usize, value: T) -> Result<Vec<T>> {
    let mut items = with_room(len)?;
    items.resize(len, value);
    Ok(items)
}

/// The items of an iterator that knows how many there are.
pub fn collected<T>(from: impl ExactSizeIterator<Item = T>) -> Result<Vec<T>> {
    refilled(Vec::new(), from)
}

/// The same, in the memory of a vector that nobody needs any more: fresh pages cost as much as what is written to them.
pub fn refilled<T>(memory: Vec<T>, from: impl ExactSizeIterator<Item = T>) -> Result<Vec<T>> {
    let mut items = emptied(memory, from.len())?;
    items.extend(from);
    Ok(items)
}

/// A vector that nobody needs any more, empty and with room for so many items.
pub fn emptied<T>(mut memory: Vec<T>, len: usize) -> Result<Vec<T>> {
    memory.clear();
    if memory.capacity() < len {
        return with_room(len);
    }
    Ok(memory)
}

/// A copy of a slice.
pub fn copied<T: Copy>(from: &[T]) -> Result<Vec<T>> {
    collected(from.iter().copied())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_had_is_an_error() {
        for len in [1 << 50, usize::MAX >> 3, usize::MAX] {
            assert!(matches!(with_room::<i64>(len), Err(Error::OutOfMemory(_))), "{len}");
            assert!(filled(len, 0_i64).is_err());
            assert!(collected((0..len).map(|i| i as i64)).is_err());
        }
        assert_eq!(filled(3, 7).unwrap(), [7, 7, 7]);
        assert_eq!(copied(&[1, 2]).unwrap(), [1, 2]);
    }
}
