//! What a build leaves behind when it is killed, and its removal; and what is nobody's of this package, and is left alone.

use std::fs;
use std::path::{Path, PathBuf};

use super::column::Kind;
use super::files::{is_there, read};
use super::lock::BuildLock;
use super::manifest::Manifest;
use super::{DATA_PREFIX, JOURNAL, LOCK, MANIFEST, META, NAMES, NAMES_LOG, SEGMENTS, UNPUBLISHED};
use crate::{Error, Result};

/// Remove what dead builds left in a store directory, and nothing else; returns what was removed.
///
/// Takes the build lock, so a live build is `Error::Busy`. A manifest that cannot be read may still be mended by hand:
/// it is an error, and nothing is removed then.
pub fn repair(store: &Path) -> Result<Vec<PathBuf>> {
    let nothing_here = || Error::NotFound(format!("{}: neither a store nor a build's leftovers", store.display()));
    let is_store = is_there(&store.join(MANIFEST));
    if is_store {
        Manifest::read(store)?;
    } else if !is_there(&store.join(LOCK)) && !has_leftovers(store).map_err(|_| nothing_here())? {
        return Err(nothing_here());
    }
    let lock = BuildLock::take(store)?;
    let mut removed = remove_leftovers(store)?;
    if !is_store {
        // The first build here died: its lock file is all that remains of it.
        lock.remove();
        removed.push(store.join(LOCK));
    }
    Ok(removed)
}

/// The same for somebody who holds the lock.
pub(super) fn remove_leftovers(store: &Path) -> Result<Vec<PathBuf>> {
    let mut removed = Vec::new();
    let (current, is_sealed) = match Manifest::read(store) {
        Ok(manifest) => (manifest.data_dirs(store), manifest.sealed),
        Err(Error::NotFound(_)) => (Vec::new(), false),
        Err(unreadable) => return Err(unreadable),
    };
    let unpublished = store.join(UNPUBLISHED);
    if is_there(&unpublished) {
        fs::remove_file(&unpublished).map_err(Error::io(&unpublished))?;
        removed.push(unpublished);
    }
    remove_other_generations(store, &current, &mut removed)?;
    for data_dir in current.iter().filter(|_| is_sealed) {
        remove_scaffold(data_dir, &mut removed)?;
    }
    Ok(removed)
}

/// Remove what only a store that grows needs, and note it in `removed`.
pub(super) fn remove_scaffold(data_dir: &Path, removed: &mut Vec<PathBuf>) -> Result<()> {
    let (journal, names) = (data_dir.join(JOURNAL), data_dir.join(NAMES_LOG));
    if is_there(&names) {
        fs::remove_file(&names).map_err(Error::io(&names))?;
        removed.push(names);
    }
    if is_there(&journal) {
        fs::remove_dir_all(&journal).map_err(Error::io(&journal))?;
        removed.push(journal);
    }
    Ok(())
}

/// Remove the data directories of builds that are none of the current ones, and note them in `removed`.
pub(super) fn remove_other_generations(store: &Path, current: &[PathBuf], removed: &mut Vec<PathBuf>) -> Result<()> {
    for generation in generations(store)? {
        if !current.contains(&generation) {
            fs::remove_dir_all(&generation).map_err(Error::io(&generation))?;
            removed.push(generation);
        }
    }
    Ok(())
}

/// Refuse a directory in which somebody else keeps something that a store would replace or would be mixed with.
pub(super) fn refuse_strangers(store: &Path) -> Result<()> {
    const ZARR: [&str; 4] = ["zarr.json", ".zgroup", ".zarray", ".zmetadata"];
    if ZARR.iter().any(|name| is_there(&store.join(name))) {
        return Err(Error::Exists(format!(
            "{}: is a Zarr archive; a store needs a directory of its own",
            store.display()
        )));
    }
    let manifest = store.join(MANIFEST);
    let Ok(metadata) = fs::symlink_metadata(&manifest) else { return Ok(()) };
    // A damaged store of ours may be replaced: it has a build's data or lock.
    let is_ours = !metadata.is_dir() && (is_our_lock(store) || !generations(store)?.is_empty());
    match Manifest::read(store) {
        Err(Error::Corrupt(_)) if !is_ours => Err(Error::Exists(format!(
            "{}: is not a store's, so it is not replaced; a store needs a directory of its own",
            manifest.display()
        ))),
        Ok(_) | Err(Error::Corrupt(_) | Error::Version(_) | Error::NotFound(_)) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Whether the lock file holds a pid, as builds leave it.
fn is_our_lock(store: &Path) -> bool {
    read(store, &store.join(LOCK), 32).is_ok_and(|pid| !pid.is_empty() && pid.iter().all(u8::is_ascii_digit))
}

fn has_leftovers(store: &Path) -> Result<bool> {
    Ok(is_there(&store.join(UNPUBLISHED)) || !generations(store)?.is_empty())
}

/// Directories of builds: named like one, and with nothing in them that no build makes.
fn generations(store: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(store).map_err(Error::io(store))? {
        let entry = entry.map_err(Error::io(store))?;
        let is_directory = entry.file_type().is_ok_and(|kind| kind.is_dir());
        if is_directory && is_generation(&entry.file_name()) && holds_a_generation(&entry.path()) {
            found.push(entry.path());
        }
    }
    found.sort();
    Ok(found)
}

fn is_generation(name: &std::ffi::OsStr) -> bool {
    let uuid = name.to_str().and_then(|name| name.strip_prefix(DATA_PREFIX));
    uuid.is_some_and(|uuid| uuid::Uuid::parse_str(uuid).is_ok())
}

fn holds_a_generation(directory: &Path) -> bool {
    // The second line: a spool is a store within the directory of another.
    let of_a_build = [META, SEGMENTS, NAMES, Kind::State.directory(), Kind::Transition.directory()];
    let of_a_spool = [MANIFEST, UNPUBLISHED, LOCK];
    let of_one_that_grows = [JOURNAL, NAMES_LOG];
    fs::read_dir(directory).is_ok_and(|entries| {
        entries.flatten().all(|entry| {
            let name = entry.file_name();
            let of_the_system = name.to_str().is_some_and(|name| name == ".DS_Store" || name.starts_with(".nfs"));
            of_a_build.iter().chain(&of_a_spool).chain(&of_one_that_grows).any(|known| name == *known)
                || is_generation(&name)
                || of_the_system
        })
    })
}
