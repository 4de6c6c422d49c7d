//! What a recording's end left that nobody goes on with.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::growth::Pace;
use super::progress::Ending;
use super::recorder::Recorder;
use crate::Result;
use crate::store;

/// Remove what dead builds left in a store directory, as `store::repair` does, and finish a store that grew: episodes of its
/// journal go into it, those that ran are cut, and it is sealed. Returns what was removed, the journal among it.
///
/// A store of a recording in which nothing was over, and nothing ran, is removed as a whole.
pub fn repair(path: &Path, interrupted: &dyn Fn() -> bool) -> Result<Vec<PathBuf>> {
    let mut removed = store::repair(path)?;
    if !matches!(store::grows(path), Ok(true)) {
        return Ok(removed);
    }
    let mut recorder = Recorder::resume(path, None, Pace { every: Duration::MAX, bytes: u64::MAX })?;
    let journal = recorder.directory().to_path_buf();
    let is_empty = recorder.episodes().num_ended() == 0;
    recorder.finish(if is_empty { Ending::Discard } else { Ending::Seal });
    recorder.progress().wait_until(|state| state.is_over && state.failure.is_none(), interrupted)?;
    drop(recorder);
    removed.push(if is_empty { path.to_path_buf() } else { journal });
    Ok(removed)
}
