//! Names of tasks and trajectories: `names.json` of a store that is finished, `names.log` of one that grows.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::files::{LARGEST_JSON, Refusal, open_of_length, read};
use super::manifest::Manifest;
use super::{NAMES, NAMES_LOG, checksum};
use crate::{Error, Result};

/// Of tasks by id, and of trajectories in table order.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Names {
    pub tasks: BTreeMap<i64, String>,
    pub trajectories: Vec<Option<String>>,
}

/// A line of `names.log`: a trajectory's name, or none, or a task's id and name.
#[derive(Debug, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Line {
    Task(i64, String),
    Trajectory(Option<String>),
}

impl Line {
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        let mut bytes = serde_json::to_vec(self).map_err(|error| Error::Invalid(format!("names: {error}")))?;
        bytes.push(b'\n');
        Ok(bytes)
    }
}

/// The names of a store, after a look at their checksum and number.
pub fn read_names(store: &Path, manifest: &Manifest) -> Result<Names> {
    let path = manifest.table_dir(store).join(if manifest.sealed { NAMES } else { NAMES_LOG });
    let refused = |refusal: Refusal| refusal.about(&path, "names");
    let bytes = if manifest.sealed {
        read(store, &path, LARGEST_JSON).map_err(refused)?
    } else {
        read_beginning(store, &path, manifest.names_bytes).map_err(refused)?
    };
    let found = checksum::of(&bytes);
    if found != manifest.names_crc32c {
        let why = checksum::differs(found, manifest.names_crc32c);
        return Err(Error::Corrupt(format!("{}: names: {why}", path.display())));
    }
    let names = if manifest.sealed { serde_json::from_slice(&bytes) } else { of_lines(&bytes) };
    let names = names.map_err(|error| Error::Corrupt(format!("{}: {error}", path.display())))?;
    if names.trajectories.len() as u64 != manifest.num_segments {
        return Err(Error::Corrupt(format!(
            "{}: {} names for {} trajectories",
            path.display(),
            names.trajectories.len(),
            manifest.num_segments
        )));
    }
    Ok(names)
}

fn read_beginning(store: &Path, path: &Path, length: u64) -> std::result::Result<Vec<u8>, Refusal> {
    let file = open_of_length(store, path, length, true)?;
    let mut bytes = Vec::new();
    let no_memory = Refusal::NoMemory(length);
    match usize::try_from(length).ok().and_then(|length| bytes.try_reserve_exact(length).ok()) {
        Some(()) => file.take(length).read_to_end(&mut bytes)?,
        None => return Err(no_memory),
    };
    Ok(bytes)
}

fn of_lines(bytes: &[u8]) -> serde_json::Result<Names> {
    let mut names = Names::default();
    for line in serde_json::Deserializer::from_slice(bytes).into_iter() {
        match line? {
            Line::Task(id, name) => drop(names.tasks.insert(id, name)),
            Line::Trajectory(name) => names.trajectories.push(name),
        }
    }
    Ok(names)
}
