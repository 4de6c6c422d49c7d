//! Reading every byte of a store and comparing it with its checksum.

use std::os::unix::fs::FileExt;
use std::path::Path;

use super::column::{Key, column_path, show};
use super::manifest::{ColumnEntry, Manifest};
use super::map::{open_regular, refuse_linked_directories};
use super::reader::Store;
use super::tensordict::metadata_files;
use super::{DATA_PREFIX, NAMES, SEGMENT_FIELDS, SEGMENTS, checksum};
use crate::{Error, Result};

/// How often the check starts again when a build replaced the files under it.
const ATTEMPTS: usize = 5;

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

/// Check every file of the store in a directory, block by block, also where it is too damaged to be opened. Only a
/// manifest that cannot be read is an error.
///
/// `progress(done, total)` is told of bytes; when it returns false the check stops with `Error::Interrupted`.
pub fn verify(store: &Path, mut progress: impl FnMut(u64, u64) -> bool) -> Result<Vec<Damage>> {
    for _ in 0..ATTEMPTS {
        let manifest = Manifest::read(store)?;
        if let Some(damages) = verify_generation(store, &manifest, &mut progress)? {
            return Ok(damages);
        }
    }
    Err(Error::Changed(format!("{}: rebuilt again and again while it was being checked", store.display())))
}

impl Store {
    /// Check every file of this store, as `verify` does; an error if it has been rebuilt since it was opened.
    pub fn verify(&self, mut progress: impl FnMut(u64, u64) -> bool) -> Result<Vec<Damage>> {
        if self.uuid().is_empty() {
            return Err(Error::Invalid(format!(
                "{}: not written by this package, so there are no checksums",
                self.path().display()
            )));
        }
        let manifest = Manifest::read(self.path())?;
        let is_ours = manifest.uuid == self.uuid();
        let damages = if is_ours { verify_generation(self.path(), &manifest, &mut progress)? } else { None };
        damages.ok_or_else(|| Error::Changed(format!("{}: rebuilt since it was opened", self.path().display())))
    }
}

/// Damages of one generation; `None` if a build removed it meanwhile.
fn verify_generation(
    store: &Path,
    manifest: &Manifest,
    progress: &mut impl FnMut(u64, u64) -> bool,
) -> Result<Option<Vec<Damage>>> {
    let data_dir = store.join(format!("{DATA_PREFIX}{}", manifest.uuid));
    let mut damages = Vec::new();
    let table_bytes = manifest.num_segments.saturating_mul(8 * SEGMENT_FIELDS as u64);
    damages.extend(verify_small(&data_dir.join(SEGMENTS), Some(table_bytes), manifest.segments_crc32c));
    damages.extend(verify_small(&data_dir.join(NAMES), None, manifest.names_crc32c));
    for (file, expected) in metadata_files(&data_dir, manifest) {
        let found = std::fs::read(&file).map_err(|error| error.to_string()).and_then(|bytes| {
            serde_json::from_slice::<serde_json::Value>(&bytes).map_err(|error| format!("not JSON: {error}"))
        });
        match found {
            Ok(found) if found == expected => {}
            Ok(_) => damages.push(of_file(&file, "does not describe the columns to TensorDict".into())),
            Err(why) => damages.push(of_file(&file, why)),
        }
    }
    let total: u64 = manifest.columns.iter().map(|column| column.bytes).sum();
    let mut done = 0;
    for column in &manifest.columns {
        let path = column_path(&data_dir, column.kind, &column.key);
        if let Err(error) = refuse_linked_directories(&data_dir, &path) {
            damages.push(of_file(&path, error.to_string()));
        }
        let stopped = verify_column(&path, column, manifest.block_bytes, &mut damages, &mut |bytes| {
            done += bytes;
            !progress(done, total)
        });
        if stopped {
            return Err(Error::Interrupted);
        }
    }
    let was_replaced = !damages.is_empty() && Manifest::read(store).is_ok_and(|now| now.uuid != manifest.uuid);
    Ok((!was_replaced).then_some(damages))
}

fn of_file(path: &Path, what: String) -> Damage {
    Damage { file: path.display().to_string(), column: None, block: None, what }
}

fn verify_small(path: &Path, expected: Option<u64>, crc32c: u32) -> Option<Damage> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) => return Some(of_file(path, error.to_string())),
    };
    if let Some(expected) = expected.filter(|&expected| expected != bytes.len() as u64) {
        return Some(of_file(path, format!("expected {expected} bytes, found {}", bytes.len())));
    }
    let found = checksum::of(&bytes);
    (found != crc32c).then(|| of_file(path, format!("checksum is {found:#010x}, expected {crc32c:#010x}")))
}

/// Whether `stop`, which is told of the bytes of each block, has asked to stop.
fn verify_column(
    path: &Path,
    column: &ColumnEntry,
    block_bytes: u64,
    damages: &mut Vec<Damage>,
    stop: &mut impl FnMut(u64) -> bool,
) -> bool {
    let name = show(&column.key);
    let mut report = |block: Option<u64>, why: String| {
        let place = block.map_or_else(String::new, |block| format!(", block {block}"));
        let what = format!("column {name}{place}: {why}");
        damages.push(Damage { file: path.display().to_string(), column: Some(column.key.clone()), block, what });
    };
    let opened = open_regular(path).and_then(|file| {
        let bytes = file.metadata().map_err(|error| error.to_string())?.len();
        Ok((file, bytes))
    });
    let (file, found) = match opened {
        Ok(opened) => opened,
        Err(why) => {
            report(None, why);
            return stop(column.bytes);
        }
    };
    if found != column.bytes {
        report(None, format!("expected {} bytes, found {found}", column.bytes));
    }
    let mut buffer = vec![0; block_bytes.min(column.bytes) as usize];
    for (block, &expected) in (0..).zip(&column.crc32c) {
        let begin = block * block_bytes;
        let bytes = &mut buffer[..(column.bytes - begin).min(block_bytes) as usize];
        if begin + bytes.len() as u64 <= found {
            let found = file.read_exact_at(bytes, begin).map(|()| checksum::of(bytes));
            match found {
                Err(error) => report(Some(block), error.to_string()),
                Ok(found) if found == expected => {}
                Ok(found) => report(Some(block), format!("checksum is {found:#010x}, expected {expected:#010x}")),
            }
        }
        if stop(bytes.len() as u64) {
            return true;
        }
    }
    false
}
