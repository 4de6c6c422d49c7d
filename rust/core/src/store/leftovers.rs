//! What a build leaves behind when it is killed, and its removal.

use std::fs;
use std::path::{Path, PathBuf};

use super::lock::BuildLock;
use super::manifest::Manifest;
use super::{DATA_PREFIX, LOCK, MANIFEST, UNPUBLISHED};
use crate::{Error, Result};

/// Remove what dead builds left in a store directory, and nothing else; returns what was removed.
///
/// Takes the build lock, so a live build is `Error::Busy`. A manifest that cannot be read may still be mended by hand:
/// it is an error, and nothing is removed then.
pub fn repair(store: &Path) -> Result<Vec<PathBuf>> {
    let nothing_here = || Error::NotFound(format!("{}: neither a store nor a build's leftovers", store.display()));
    let is_store = store.join(MANIFEST).exists();
    if !is_store && !store.join(LOCK).exists() && !has_leftovers(store).map_err(|_| nothing_here())? {
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
    let current = match Manifest::read(store) {
        Ok(manifest) => Some(store.join(format!("{DATA_PREFIX}{}", manifest.uuid))),
        Err(Error::NotFound(_)) => None,
        Err(unreadable) => return Err(unreadable),
    };
    let unpublished = store.join(UNPUBLISHED);
    if unpublished.exists() {
        fs::remove_file(&unpublished).map_err(Error::io(&unpublished))?;
        removed.push(unpublished);
    }
    remove_other_generations(store, current.as_deref(), &mut removed)?;
    Ok(removed)
}

/// Remove the data directories of all builds but one, and note them in `removed`.
pub(super) fn remove_other_generations(store: &Path, current: Option<&Path>, removed: &mut Vec<PathBuf>) -> Result<()> {
    for generation in generations(store)? {
        if current != Some(generation.as_path()) {
            fs::remove_dir_all(&generation).map_err(Error::io(&generation))?;
            removed.push(generation);
        }
    }
    Ok(())
}

fn has_leftovers(store: &Path) -> Result<bool> {
    Ok(store.join(UNPUBLISHED).exists() || !generations(store)?.is_empty())
}

/// Data directories of builds; a directory of somebody else's is not named like one.
fn generations(store: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(store).map_err(Error::io(store))? {
        let path = entry.map_err(Error::io(store))?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if name.strip_prefix(DATA_PREFIX).is_some_and(|uuid| uuid::Uuid::parse_str(uuid).is_ok()) {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}
