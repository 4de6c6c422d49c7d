//! Reading every byte of a store and comparing it with its checksum.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::column::{Key, show};
use super::files::{self, LARGEST_JSON};
use super::manifest::{ColumnEntry, Manifest};
use super::pieces::pieces;
use super::reader::Store;
use super::tensordict::metadata_files;
use super::{NAMES, NAMES_LOG, SEGMENT_FIELDS, SEGMENTS, checksum};
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
    let table_dir = manifest.table_dir(store);
    let mut damages = Vec::new();
    let table_bytes = manifest.num_segments.saturating_mul(8 * SEGMENT_FIELDS as u64);
    let total = manifest.columns.iter().fold(0_u64, |total, column| total.saturating_add(column.bytes));
    let table = (SEGMENTS, Some(table_bytes), manifest.segments_crc32c);
    let names = if manifest.sealed {
        (NAMES, None, manifest.names_crc32c)
    } else {
        (NAMES_LOG, Some(manifest.names_bytes), manifest.names_crc32c)
    };
    for (name, length, crc32c) in [table, names] {
        let length = length.map(|bytes| (bytes, !manifest.sealed));
        damages.extend(verify_small(store, &table_dir.join(name), length, crc32c, &mut |_| progress(0, total))?);
    }
    // TensorDict is told of the columns once they have a length.
    let first = manifest.data_dirs(store).into_iter().next().filter(|_| manifest.sealed);
    for (file, expected) in first.map_or_else(Vec::new, |data_dir| metadata_files(&data_dir, manifest)) {
        let found = files::read(store, &file, LARGEST_JSON).map_err(|refusal| refusal.to_string()).and_then(|bytes| {
            serde_json::from_slice::<serde_json::Value>(&bytes).map_err(|error| format!("not JSON: {error}"))
        });
        match found {
            Ok(found) if found == expected => {}
            Ok(_) => damages.push(of_file(&file, "does not describe the columns to TensorDict".into())),
            Err(why) => damages.push(of_file(&file, why)),
        }
    }
    let mut done = 0_u64;
    for column in &manifest.columns {
        let stopped = verify_column(store, column, manifest, &mut damages, &mut |bytes| {
            done = done.saturating_add(bytes);
            !progress(done, total)
        });
        if stopped {
            return Err(Error::Interrupted);
        }
    }
    let was_replaced = !damages.is_empty() && Manifest::read(store).is_ok_and(|now| now.replaces(manifest));
    Ok((!was_replaced).then_some(damages))
}

fn of_file(path: &Path, what: String) -> Damage {
    Damage { file: path.display().to_string(), column: None, block: None, what }
}

/// Bytes that are read at a time, whatever the manifest says of its blocks.
const PIECE_BYTES: usize = 4 << 20;

/// Checksum of what has been summed up so far and of some bytes of a file, or why there is none; `go_on` is told of them piece by
/// piece.
fn sum(
    file: &File,
    mut at: u64,
    bytes: u64,
    mut crc32c: u32,
    piece: &mut [u8],
    go_on: &mut dyn FnMut(u64) -> bool,
) -> Summed {
    let end = at + bytes;
    while at < end {
        let bytes = &mut piece[..(end - at).min(PIECE_BYTES as u64) as usize];
        if let Err(error) = file.read_exact_at(bytes, at) {
            return Summed::Unread(error.to_string(), end - at);
        }
        crc32c = checksum::append(crc32c, bytes);
        at += bytes.len() as u64;
        if !go_on(bytes.len() as u64) {
            return Summed::Stopped;
        }
    }
    Summed::To(crc32c)
}

enum Summed {
    To(u32),
    /// Why, and how many bytes are left.
    Unread(String, u64),
    Stopped,
}

/// What is wrong with a file that has one checksum, of so many bytes, behind which there may be more; an error only if
/// `go_on` says no.
fn verify_small(
    store: &Path,
    path: &Path,
    expected: Option<(u64, bool)>,
    crc32c: u32,
    go_on: &mut dyn FnMut(u64) -> bool,
) -> Result<Option<Damage>> {
    let opened = match expected {
        Some((expected, grows)) => files::open_of_length(store, path, expected, grows).map(|file| (file, expected)),
        None => files::open_within(store, path, LARGEST_JSON).and_then(with_length),
    };
    let (file, length) = match opened {
        Ok(opened) => opened,
        Err(refusal) => return Ok(Some(of_file(path, refusal.to_string()))),
    };
    match sum(&file, 0, length, 0, &mut vec![0; PIECE_BYTES.min(length as usize)], go_on) {
        Summed::To(found) if found == crc32c => Ok(None),
        Summed::To(found) => Ok(Some(of_file(path, checksum::differs(found, crc32c)))),
        Summed::Unread(why, _) => Ok(Some(of_file(path, why))),
        Summed::Stopped => Err(Error::Interrupted),
    }
}

fn with_length(file: File) -> std::result::Result<(File, u64), files::Refusal> {
    let length = file.metadata()?.len();
    Ok((file, length))
}

/// A column's file, and the bytes of the column that are read from it.
struct Part {
    path: PathBuf,
    range: Range<u64>,
    /// Which of the column's bytes is its first, and up to which one it has them; none where it cannot be opened.
    there: Option<(File, Range<u64>)>,
}

impl Part {
    /// Its bytes within a block, and whether all of them are there.
    fn within(&self, block: &Range<u64>) -> Option<(Range<u64>, bool)> {
        let range = block.start.max(self.range.start)..block.end.min(self.range.end);
        let is_there = self.there.as_ref().is_some_and(|(_, there)| range.end <= there.end);
        (!range.is_empty()).then_some((range, is_there))
    }
}

/// Whether `stop`, which is told of the bytes that are done, has asked to stop.
fn verify_column(
    store: &Path,
    column: &ColumnEntry,
    manifest: &Manifest,
    damages: &mut Vec<Damage>,
    stop: &mut impl FnMut(u64) -> bool,
) -> bool {
    let name = show(&column.key);
    let mut report = |path: &Path, block: Option<u64>, why: String| {
        let place = block.map_or_else(String::new, |block| format!(", block {block}"));
        let what = format!("column {name}{place}: {why}");
        damages.push(Damage { file: path.display().to_string(), column: Some(column.key.clone()), block, what });
    };
    let mut parts: Vec<Part> = Vec::new();
    for piece in pieces(store, manifest, column) {
        if let Some(before) = parts.last_mut() {
            before.range.end = piece.begin;
        }
        let there = match files::open(store, &piece.path).and_then(with_length) {
            Ok((file, found)) => {
                if found < piece.bytes || (manifest.sealed && found != piece.bytes) {
                    report(&piece.path, None, format!("expected {} bytes, found {found}", piece.bytes));
                }
                Some((file, piece.begin..piece.begin.saturating_add(found)))
            }
            Err(why) => {
                report(&piece.path, None, why.to_string());
                None
            }
        };
        parts.push(Part { path: piece.path, range: piece.begin..column.bytes, there });
    }
    let mut piece = vec![0; PIECE_BYTES.min(column.bytes as usize)];
    for (block, &expected) in (0..).zip(&column.crc32c) {
        let begin = block * manifest.block_bytes;
        let range = begin..column.bytes.min(begin.saturating_add(manifest.block_bytes));
        let here: Vec<_> = parts.iter().filter_map(|part| Some((part, part.within(&range)?))).collect();
        if here.iter().any(|(_, (_, is_there))| !is_there) {
            // Of a file that is not there, or too short, which was said above.
            if stop(range.end - range.start) {
                return true;
            }
            continue;
        }
        let mut crc32c = 0;
        let mut unread = None;
        for (part, (range, _)) in &here {
            let Some((file, there)) = &part.there else { continue };
            let (at, bytes) = (range.start - there.start, range.end - range.start);
            match sum(file, at, bytes, crc32c, &mut piece, &mut |bytes| !stop(bytes)) {
                Summed::Stopped => return true,
                Summed::To(found) => crc32c = found,
                Summed::Unread(why, left) => {
                    unread = Some(why);
                    if stop(left) {
                        return true;
                    }
                }
            }
        }
        let path = here.last().map_or(store, |(part, _)| &part.path);
        match unread {
            Some(why) => report(path, Some(block), why),
            None if crc32c != expected => report(path, Some(block), checksum::differs(crc32c, expected)),
            None => {}
        }
    }
    false
}
