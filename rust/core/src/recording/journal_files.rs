//! Files of a journal, by number, and those whose room is kept for the next ones.

use std::fs::{self, File};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::store::sync_directory;
use crate::{Error, Result};

/// Files whose room is kept for the next ones: what is let go of at once where each publication is of 256 MiB.
pub(super) const MOST_SPARES: usize = 4;
const SPARE: &str = "spare-";

pub(super) fn path_of(directory: &Path, number: u64) -> PathBuf {
    directory.join(format!("{number:010}.log"))
}

/// Make the file of a number, or open a spare by its name.
pub(super) fn create(directory: &Path, number: u64, spare: Option<&Path>) -> Result<File> {
    let path = path_of(directory, number);
    let mut options = File::options();
    options.read(true).write(true).custom_flags(libc::O_NOFOLLOW);
    match spare {
        // No number is used twice, so there is nothing in the place that it takes.
        Some(spare) => fs::rename(spare, &path).map_err(Error::io(spare))?,
        None => {
            options.create_new(true);
        }
    }
    options.open(&path).map_err(Error::io(&path))
}

/// Remove files that nobody needs, all before `needed`; returns those that were kept as spares. A spare's old name is gone from the
/// disk, too, when this returns: nobody takes for that file what will be written into it.
pub(super) fn let_go(directory: &Path, needed: u64, most: usize) -> Result<Vec<PathBuf>> {
    let mut spares = Vec::new();
    for number in files(directory)?.into_iter().take_while(|&number| number < needed) {
        let path = path_of(directory, number);
        if spares.len() < most {
            let spare = directory.join(format!("{SPARE}{number}"));
            fs::rename(&path, &spare).map_err(Error::io(&path))?;
            spares.push(spare);
        } else {
            fs::remove_file(&path).map_err(Error::io(&path))?;
        }
    }
    if !spares.is_empty() {
        sync_directory(directory)?;
    }
    Ok(spares)
}

/// Remove the spares of a process that has ended.
pub(super) fn remove_spares(directory: &Path) -> Result<()> {
    for entry in fs::read_dir(directory).map_err(Error::io(directory))? {
        let entry = entry.map_err(Error::io(directory))?;
        if entry.file_name().to_str().is_some_and(|name| name.starts_with(SPARE)) {
            fs::remove_file(entry.path()).map_err(Error::io(entry.path()))?;
        }
    }
    Ok(())
}

/// Numbers of the files in a journal's directory, in order; none if there is no directory.
pub fn files(directory: &Path) -> Result<Vec<u64>> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Error::io(directory)(error)),
    };
    let mut numbers = Vec::new();
    for entry in entries {
        let name = entry.map_err(Error::io(directory))?.file_name();
        numbers
            .extend(name.to_str().and_then(|name| name.strip_suffix(".log")).and_then(|stem| stem.parse::<u64>().ok()));
    }
    numbers.sort_unstable();
    Ok(numbers)
}
