//! What is believed of a journal that a kill may have cut.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use super::journal_files::{files, path_of, remove_spares};
use super::records::{EARLIER_MAGIC, HEADER_BYTES, Place, Record, Shape, read_record};
use crate::{Error, Result};

/// Read a journal from its oldest file on, giving each good record and where it lies to `take`.
///
/// Ends at the first record that is not whole; what follows it is cut off, so that the journal can be gone on with. Returns
/// the number of the next file.
pub fn replay(
    directory: &Path,
    shape: &Shape,
    longest: u64,
    mut take: impl FnMut(Record, Place) -> Result<()>,
) -> Result<u64> {
    let mut next = 0;
    let mut is_cut = false;
    let numbers = files(directory)?;
    if !numbers.is_empty() {
        remove_spares(directory)?;
    }
    for number in numbers {
        let path = path_of(directory, number);
        if is_cut {
            fs::remove_file(&path).map_err(Error::io(&path))?;
            continue;
        }
        next = number + 1;
        let file = File::options()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
            .open(&path)
            .map_err(Error::io(&path))?;
        let length = file.metadata().map_err(Error::io(&path))?.len();
        let mut at = 0;
        while let Some((record, body_bytes)) = read_record(&file, number, at, length, shape, longest)? {
            take(record, Place { file: number, offset: at + HEADER_BYTES as u64 })?;
            at += HEADER_BYTES as u64 + body_bytes;
        }
        let mut magic = [0; EARLIER_MAGIC.len()];
        if at == 0 && file.read_exact_at(&mut magic, 0).is_ok() && magic == EARLIER_MAGIC {
            return Err(Error::Corrupt(format!(
                "{}: an earlier version began this recording: finish it with that one",
                path.display()
            )));
        }
        if at < length {
            file.set_len(at).map_err(Error::io(&path))?;
            is_cut = true;
        }
        if at == 0 {
            fs::remove_file(&path).map_err(Error::io(&path))?;
        }
    }
    Ok(next)
}
