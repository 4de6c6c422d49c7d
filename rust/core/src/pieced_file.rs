//! Bytes that lie in files, one behind the other, as those of a column do in a store that was added to.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use crate::{Error, Result};

/// A file that holds some of the bytes.
#[derive(Debug)]
pub struct Piece {
    /// Which of all bytes is the first of this file.
    pub begin: u64,
    /// Bytes that the file has to have.
    pub bytes: u64,
    /// The file, open.
    pub file: File,
    /// Where it lies.
    pub path: PathBuf,
}

/// The files, open, each beginning where the one before it ends, or earlier: what two have is read from the later one.
#[derive(Debug)]
pub struct PiecedFile {
    /// At least one, the first of which begins at 0.
    pieces: Vec<Piece>,
}

impl PiecedFile {
    /// Files, the first one first.
    pub fn new(pieces: Vec<Piece>) -> Self {
        Self { pieces }
    }

    /// Fill `out` with the bytes from `at` on.
    pub fn read_exact_at(&self, mut out: &mut [u8], mut at: u64) -> Result<()> {
        let mut number = self.pieces.partition_point(|piece| piece.begin <= at).saturating_sub(1);
        loop {
            let piece = &self.pieces[number];
            let next = self.pieces.get(number + 1).map(|piece| piece.begin);
            let here = next.map_or(out.len() as u64, |next| (next - at).min(out.len() as u64)) as usize;
            let (now, later) = out.split_at_mut(here);
            piece.file.read_exact_at(now, at - piece.begin).map_err(|error| match error.kind() {
                std::io::ErrorKind::UnexpectedEof => {
                    let found = piece.file.metadata().map_or(0, |metadata| metadata.len());
                    Error::Corrupt(format!(
                        "{}: truncated while open: expected {} bytes, found {found}",
                        piece.path.display(),
                        piece.bytes
                    ))
                }
                _ => Error::io(&piece.path)(error),
            })?;
            if later.is_empty() {
                return Ok(());
            }
            (out, at, number) = (later, at + here as u64, number + 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use proptest::prelude::*;

    use super::*;

    fn pieced(begins: &[u64], bytes: &[u8]) -> PiecedFile {
        let piece = |&begin: &u64| {
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(&bytes[begin as usize..]).unwrap();
            Piece { begin, bytes: bytes.len() as u64 - begin, file, path: PathBuf::from(begin.to_string()) }
        };
        PiecedFile::new(begins.iter().map(piece).collect())
    }

    proptest! {
        #[test]
        fn any_range_is_read_over_any_pieces(
            mut cuts in prop::collection::vec(0_u64..300, 0..5), at in 0_usize..300, length in 0_usize..300
        ) {
            let bytes: Vec<u8> = (0..300).map(|i| (i * 7 % 251) as u8).collect();
            cuts.sort_unstable();
            cuts.insert(0, 0);
            let length = length.min(300 - at);
            let mut out = vec![0; length];
            pieced(&cuts, &bytes).read_exact_at(&mut out, at as u64).unwrap();
            prop_assert_eq!(&out, &bytes[at..at + length]);
        }
    }

    #[test]
    fn a_piece_that_was_cut_is_named() {
        let file = pieced(&[0, 100], &[1; 200]);
        file.pieces[1].file.set_len(50).unwrap();
        let error = file.read_exact_at(&mut [0; 100], 90).unwrap_err();
        assert!(error.to_string().contains("100: truncated while open: expected 100 bytes, found 50"), "{error}");
    }
}
