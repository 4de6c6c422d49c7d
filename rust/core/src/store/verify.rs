//! Reading every byte of a store and comparing it with its checksum.

use std::fs::File;
use std::io::Read;

use super::column::{Key, column_path, show};
use super::manifest::Manifest;
use super::reader::Store;
use super::{DATA_PREFIX, checksum};
use crate::{Error, Result};

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// File concerned.
    pub file: String,
    /// Column, if it is a column's file.
    pub column: Option<Key>,
    /// Number of the damaged block within the file.
    pub block: Option<u64>,
    /// What is wrong, in words.
    pub what: String,
}

impl Store {
    /// Compare every block of every column with its checksum. `progress(done, total)` is told of bytes; when it returns false
    /// the check stops with `Error::Interrupted`.
    pub fn verify(&self, mut progress: impl FnMut(u64, u64) -> bool) -> Result<Vec<Damage>> {
        if self.uuid().is_empty() {
            return Err(Error::Invalid(format!(
                "{}: not written by this package, so there are no checksums",
                self.path().display()
            )));
        }
        let manifest = Manifest::read(self.path())?;
        if manifest.uuid != self.uuid() {
            return Err(Error::Corrupt(format!("{}: has been rebuilt since it was opened", self.path().display())));
        }
        let data_dir = self.path().join(format!("{DATA_PREFIX}{}", manifest.uuid));
        let total: u64 = manifest.columns.iter().map(|column| column.bytes).sum();
        let mut done = 0;
        let mut damages = Vec::new();
        let mut buffer = vec![0; manifest.block_bytes as usize];
        for column in &manifest.columns {
            let path = column_path(&data_dir, column.kind, &column.key);
            let mut report = |block, what: String| {
                let file = path.display().to_string();
                damages.push(Damage { file, column: Some(column.key.clone()), block, what });
            };
            let mut file = match File::open(&path) {
                Ok(file) => file,
                Err(error) => {
                    report(None, format!("column {}: {error}", show(&column.key)));
                    continue;
                }
            };
            let mut left = column.bytes;
            for (block, &expected) in column.crc32c.iter().enumerate() {
                let bytes = &mut buffer[..left.min(manifest.block_bytes) as usize];
                if let Err(error) = file.read_exact(bytes) {
                    report(Some(block as u64), format!("column {}, block {block}: {error}", show(&column.key)));
                    break;
                }
                let found = checksum::of(bytes);
                if found != expected {
                    report(
                        Some(block as u64),
                        format!(
                            "column {}, block {block}: checksum is {found:#010x}, expected {expected:#010x}",
                            show(&column.key)
                        ),
                    );
                }
                left -= bytes.len() as u64;
                done += bytes.len() as u64;
                if !progress(done, total) {
                    return Err(Error::Interrupted);
                }
            }
            let found = file.metadata().map_err(Error::io(&path))?.len();
            if found != column.bytes {
                report(None, format!("column {}: expected {} bytes, found {found}", show(&column.key), column.bytes));
            }
        }
        Ok(damages)
    }
}
