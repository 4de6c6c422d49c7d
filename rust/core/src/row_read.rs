//! Rows of a column that lies in files.

use crate::Result;
use crate::pieced_file::PiecedFile;
use crate::watch::Watch;

/// A column that fills files from their beginning.
#[derive(Clone, Copy)]
pub struct FileRows<'a> {
    pub files: &'a PiecedFile,
    pub stride: usize,
    pub rows: usize,
}

impl FileRows<'_> {
    /// Fill `out` from byte `offset` of a row on.
    pub fn read(&self, row: u64, offset: usize, out: &mut [u8]) -> Result<()> {
        self.files.read_exact_at(out, row * self.stride as u64 + offset as u64)
    }

    /// Fill `out` with `width` bytes from `offset` of each of some rows, or with `further` of the ones that many rows behind.
    pub fn copy(
        &self,
        rows: &[i64],
        further: usize,
        (offset, width): (usize, usize),
        out: &mut [u8],
        watch: &mut Watch<'_>,
    ) -> Result<()> {
        let dense = self.stride == width;
        let mut i = 0;
        while i < rows.len() {
            // Each row may come from a slow disk, so few of them can take as long as many.
            watch.look()?;
            let mut run = 1;
            while dense && rows.get(i + run).is_some_and(|&following| following == rows[i] + run as i64) {
                run += 1;
            }
            self.read(rows[i] as u64 + further as u64, offset, &mut out[i * width..(i + run) * width])?;
            i += run;
        }
        Ok(())
    }
}
