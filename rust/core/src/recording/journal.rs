//! The journal: every step and every end, one record each, written before the call that records it returns.
//!
//! A record is good if both its checksums are; the first that is not, and all after it, never happened: it is what a kill left
//! half-written. Records lie in files of about 64 MiB. When all rows of one are elsewhere it becomes a spare: to write where bytes
//! lie already takes a third of the time that new pages of a new file take.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{IoSlice, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use super::episodes::Episodes;
use super::journal_files::{create, path_of};
use super::records::{END_BYTES, End, HEADER_BYTES, Header, Kind, Place, Shape};
use crate::store::sync_directory;
use crate::{Error, Result};

/// Bytes after which a new file is begun.
pub(super) const FILE_BYTES: u64 = 64 << 20;
/// Bytes that may be written and not yet be on disk.
const SYNC_BYTES: u64 = 16 << 20;

/// Among the files that are not on disk yet: the directory.
const DIRECTORY: u64 = u64::MAX;

/// Files of a journal that are not on disk yet, once each. To bring them there takes a while, and nothing is held meanwhile.
#[derive(Debug, Default)]
pub struct Unsynced {
    journal: PathBuf,
    files: BTreeMap<u64, File>,
}

impl Unsynced {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// Add others, of the same journal.
    pub fn extend(&mut self, others: Self) {
        self.journal = others.journal;
        self.files.extend(others.files);
    }

    /// Bring them to disk.
    pub fn sync(self) -> Result<()> {
        self.files.values().try_for_each(File::sync_data).map_err(Error::io(self.journal))
    }
}

/// The journal of one recording, being written.
#[derive(Debug)]
pub struct Journal {
    directory: PathBuf,
    shape: Shape,
    file: File,
    number: u64,
    written: u64,
    unsynced: u64,
    /// Files that are full, and the directory that has the next one's name, which are not on disk yet.
    left: Vec<(u64, File)>,
    /// Whether a write failed: what is in the file then is cut off by whoever reads it.
    broken: bool,
}

impl Journal {
    /// Begin a journal, or its next file, in a directory that is made if it is missing.
    pub fn begin(directory: &Path, number: u64, shape: Shape, episodes: &Episodes) -> Result<Self> {
        shape.step_bytes()?;
        fs::create_dir_all(directory).map_err(Error::io(directory))?;
        let this = Self::begin_file(directory, number, shape, episodes, None)?;
        sync_directory(directory)?;
        Ok(this)
    }

    /// Begin a file, whose name is not on disk yet, in the room of a spare if there is one.
    fn begin_file(
        directory: &Path,
        number: u64,
        shape: Shape,
        episodes: &Episodes,
        spare: Option<&Path>,
    ) -> Result<Self> {
        let file = create(directory, number, spare)?;
        let (directory_path, left) = (directory.to_path_buf(), Vec::new());
        let mut this =
            Self { directory: directory_path, shape, file, number, written: 0, unsynced: 0, left, broken: false };
        // A file that does not begin so is thrown away by whoever reads it, with all that comes to lie in it.
        this.write_begin(episodes).inspect_err(|_| {
            let _ = fs::remove_file(path_of(directory, number));
        })?;
        Ok(this)
    }

    /// Where it lies.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    fn path(&self, number: u64) -> PathBuf {
        path_of(&self.directory, number)
    }

    /// What a step holds.
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// Record a step. `mask` is `[num_envs]`, `columns` are `[num_envs, bytes]` each. `episodes` stands before it.
    pub fn step(&mut self, episodes: &Episodes, mask: &[u8], columns: &[&[u8]]) -> Result<Place> {
        let expected = self.shape.row_bytes.iter().map(|bytes| bytes * self.shape.num_envs);
        if mask.len() != self.shape.num_envs || !columns.iter().map(|column| column.len()).eq(expected) {
            return Err(Error::Schema(format!("{}: a step of another shape", self.directory.display())));
        }
        let mut pieces = Vec::with_capacity(columns.len() + 1);
        pieces.push(mask);
        pieces.extend_from_slice(columns);
        self.write(Kind::Step, self.shape.num_envs as u32, episodes.next_step(), &pieces)
    }

    /// Record ends of running episodes.
    pub fn end(&mut self, episodes: &Episodes, end: &End) -> Result<Place> {
        let (ended, with_states) = (end.envs.len(), !end.states.is_empty());
        let states: usize = end.states.iter().map(Vec::len).sum();
        let expected = self.shape.end_bytes(ended, with_states);
        if [end.how.len(), end.tasks.len()] != [ended; 2] || expected != Some(END_BYTES * ended + states) {
            return Err(Error::Schema(format!("{}: ends of another shape", self.directory.display())));
        }
        let numbers: Vec<u8> = end.envs.iter().chain(&end.tasks).flat_map(|number| number.to_le_bytes()).collect();
        let mut pieces: Vec<&[u8]> = vec![&numbers, &end.how];
        pieces.extend(end.states.iter().map(Vec::as_slice));
        self.write(Kind::End, ended as u32, episodes.next_step(), &pieces)
    }

    /// What is not on disk yet, for whoever has the time to bring it there.
    pub fn unsynced(&mut self) -> Result<Unsynced> {
        let file = self.file.try_clone().map_err(Error::io(self.path(self.number)))?;
        self.unsynced = 0;
        let mut files: BTreeMap<u64, File> = self.left.drain(..).collect();
        files.insert(self.number, file);
        Ok(Unsynced { journal: self.directory.clone(), files })
    }

    /// The same if it is so much that somebody should.
    pub fn due_for_sync(&mut self) -> Result<Option<Unsynced>> {
        if self.unsynced < SYNC_BYTES && self.left.is_empty() { Ok(None) } else { self.unsynced().map(Some) }
    }

    /// Whether the next step should be in the next file.
    pub fn is_full(&self) -> bool {
        self.written >= FILE_BYTES
    }

    /// Begin the next file, in the room of a spare if there is one; this one goes on where that fails.
    pub fn next_file(&mut self, episodes: &Episodes, spare: Option<&Path>) -> Result<()> {
        let directory = File::open(&self.directory).map_err(Error::io(&self.directory))?;
        // What lies behind its last record is an earlier file's: a reader takes it for one that was cut, and what follows for lost.
        self.file.set_len(self.written).map_err(Error::io(self.path(self.number)))?;
        let next = Self::begin_file(&self.directory, self.number + 1, self.shape.clone(), episodes, spare)?;
        let before = std::mem::replace(self, next);
        self.left = before.left;
        self.left.extend([(before.number, before.file), (DIRECTORY, directory)]);
        Ok(())
    }

    fn write_begin(&mut self, episodes: &Episodes) -> Result<()> {
        let running = episodes.running().iter().map(|first| first.unwrap_or(u64::MAX));
        let missing = episodes.missing();
        let counts = [episodes.num_ended(), missing.left_out, missing.invalid];
        let mut body: Vec<u8> = counts.into_iter().flat_map(u64::to_le_bytes).collect();
        body.extend(running.flat_map(u64::to_le_bytes));
        self.write(Kind::Begin, episodes.num_envs() as u32, episodes.next_step(), &[&body]).map(|_| ())
    }

    fn write(&mut self, kind: Kind, count: u32, step: u64, pieces: &[&[u8]]) -> Result<Place> {
        let path = self.path(self.number);
        if self.broken {
            return Err(Error::Invalid(format!("{}: an earlier write failed", path.display())));
        }
        let body_bytes: usize = pieces.iter().map(|piece| piece.len()).sum();
        let body_crc32c = pieces.iter().fold(0, |crc, piece| crc32c::crc32c_append(crc, piece));
        let header = Header { kind: kind as u8, count, step, body_bytes: body_bytes as u64, body_crc32c };
        let header = header.to_bytes(self.number);
        let mut slices = Vec::with_capacity(pieces.len() + 1);
        slices.push(IoSlice::new(&header));
        slices.extend(pieces.iter().map(|piece| IoSlice::new(piece)));
        if let Err(error) = write_all(&self.file, &mut slices) {
            // What was written of it is cut off; where even that fails, readers cut it by its checksum.
            let cut = self.file.set_len(self.written);
            self.broken = cut.and_then(|()| (&self.file).seek(SeekFrom::Start(self.written))).is_err();
            return Err(Error::io(path)(error));
        }
        let place = Place { file: self.number, offset: self.written + HEADER_BYTES as u64 };
        self.written += (HEADER_BYTES + body_bytes) as u64;
        self.unsynced += (HEADER_BYTES + body_bytes) as u64;
        Ok(place)
    }
}

fn write_all(mut file: &File, mut slices: &mut [IoSlice<'_>]) -> std::io::Result<()> {
    while !slices.is_empty() {
        match file.write_vectored(slices) {
            Ok(0) => return Err(std::io::ErrorKind::WriteZero.into()),
            Ok(written) => IoSlice::advance_slices(&mut slices, written),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::episodes::Last;
    use super::super::journal_files::{files, let_go};
    use super::super::records::{EARLIER_MAGIC, Record};
    use super::super::replay::replay;
    use super::*;

    fn shape() -> Shape {
        Shape { num_envs: 3, row_bytes: vec![8, 4], num_states: 1 }
    }

    fn write_some(directory: &Path) -> (Vec<(Record, Place)>, Episodes) {
        let mut episodes = Episodes::new(3, 1000).unwrap();
        let mut journal = Journal::begin(directory, 0, shape(), &episodes).unwrap();
        let mut expected = vec![(Record::Begin(episodes.clone()), Place { file: 0, offset: HEADER_BYTES as u64 })];
        for step in 0..20_u8 {
            let mask = [1, u8::from(step % 5 != 0), 1];
            let (a, b) = ([step; 24], [step; 12]);
            let place = journal.step(&episodes, &mask, &[&a, &b]).unwrap();
            episodes.step(&mask, |_| ());
            expected.push((Record::Step(mask.to_vec()), place));
            if step % 4 == 3 {
                let states = if step % 8 == 3 { vec![vec![9; 16]] } else { vec![] };
                let end = End { envs: vec![0, 2], how: vec![1, 2], tasks: vec![0, 7], states };
                let place = journal.end(&episodes, &end).unwrap();
                for env in [0, 2] {
                    episodes.end(env, true, false, Last::Unknown);
                }
                expected.push((Record::End { envs: end.envs, how: end.how, tasks: end.tasks }, place));
            }
        }
        (expected, episodes)
    }

    fn read_all(directory: &Path) -> (Vec<(Record, Place)>, u64) {
        let mut found = Vec::new();
        let next = replay(directory, &shape(), 1000, |record, place| {
            found.push((record, place));
            Ok(())
        });
        (found, next.unwrap())
    }

    #[test]
    fn what_is_written_is_read_and_every_cut_leaves_whole_records() {
        let directory = tempfile::tempdir().unwrap();
        let journal = directory.path().join("journal");
        let (expected, _) = write_some(&journal);
        assert_eq!(read_all(&journal), (expected.clone(), 1));
        let file = path_of(&journal, 0);
        let whole = fs::read(&file).unwrap();
        for cut in 0..whole.len() {
            fs::write(&file, &whole[..cut]).unwrap();
            let (found, _) = read_all(&journal);
            assert_eq!(found, expected[..found.len()]);
            // All whose end lies before the cut, and the rest is gone from the file.
            let next = expected.get(found.len()).map(|(_, place)| place.offset as usize - HEADER_BYTES);
            let left = fs::metadata(&file).map_or(0, |file| file.len() as usize);
            assert_eq!(left, next.unwrap_or(whole.len()));
            assert!(left <= cut);
        }
    }

    #[test]
    fn a_flipped_bit_ends_it_there() {
        let directory = tempfile::tempdir().unwrap();
        let journal = directory.path().join("journal");
        let (expected, _) = write_some(&journal);
        let file = path_of(&journal, 0);
        let whole = fs::read(&file).unwrap();
        for at in (0..whole.len()).step_by(7) {
            let mut flipped = whole.clone();
            flipped[at] ^= 1 << (at % 8);
            fs::write(&file, flipped).unwrap();
            let (found, _) = read_all(&journal);
            // Four bytes at the end of a header are of no meaning.
            assert!(found.len() < expected.len() || found == expected);
            assert_eq!(found, expected[..found.len()]);
        }
    }

    #[test]
    fn files_begin_with_what_runs() {
        let directory = tempfile::tempdir().unwrap();
        let (_, mut episodes) = write_some(&directory.path().join("a"));
        let mut journal = Journal::begin(&directory.path().join("b"), 4, shape(), &episodes).unwrap();
        assert!(!journal.is_full());
        journal.written = FILE_BYTES;
        assert!(journal.is_full());
        journal.written = fs::metadata(path_of(&directory.path().join("b"), 4)).unwrap().len();
        journal.next_file(&episodes, None).unwrap();
        journal.step(&episodes, &[1, 1, 1], &[&[0; 24], &[0; 12]]).unwrap();
        episodes.step(&[1, 1, 1], |_| ());
        assert_eq!(files(&directory.path().join("b")).unwrap(), [4, 5]);
        assert_eq!(journal.number, 5);
        let (found, next) = read_all(&directory.path().join("b"));
        assert_eq!((found.len(), next), (3, 6));
        let Record::Begin(begun) = &found[1].0 else { panic!("no beginning") };
        assert_eq!((begun.next_step(), begun.num_ended()), (20, episodes.num_ended()));
        fs::write(path_of(&directory.path().join("b"), 4), b"torn").unwrap();
        assert_eq!(read_all(&directory.path().join("b")), (vec![], 5));
        assert!(files(&directory.path().join("b")).unwrap().is_empty());
    }

    #[test]
    fn of_a_file_in_a_spares_room_every_cut_leaves_its_own_whole_records() {
        let directory = tempfile::tempdir().unwrap();
        let directory = directory.path().join("journal");
        // Twenty steps and five ends, good ones, of which the same number of bytes lie behind whatever is written over them.
        let (_, mut episodes) = write_some(&directory);
        let before = fs::read(path_of(&directory, 0)).unwrap();
        let mut journal = Journal::begin(&directory, 1, shape(), &episodes).unwrap();
        let spares = let_go(&directory, 1, 4).unwrap();
        assert_eq!((files(&directory).unwrap(), spares.len()), (vec![1], 1));
        let inode = std::os::unix::fs::MetadataExt::ino(&fs::metadata(&spares[0]).unwrap());
        journal.next_file(&episodes, Some(&spares[0])).unwrap();
        let file = path_of(&directory, 2);
        assert_eq!(std::os::unix::fs::MetadataExt::ino(&fs::metadata(&file).unwrap()), inode);
        let mut expected = vec![(Record::Begin(episodes.clone()), Place { file: 2, offset: HEADER_BYTES as u64 })];
        for step in 0..5_u8 {
            let place = journal.step(&episodes, &[1, 1, 1], &[&[step; 24], &[step; 12]]).unwrap();
            episodes.step(&[1, 1, 1], |_| ());
            expected.push((Record::Step(vec![1, 1, 1]), place));
        }
        let written = journal.written as usize;
        let whole = fs::read(&file).unwrap();
        assert_eq!(whole.len(), before.len());
        assert_eq!(whole[written..], before[written..]);
        fs::remove_file(path_of(&directory, 1)).unwrap();
        // Where it goes on in another file, nothing of an earlier one is left behind its last record.
        journal.next_file(&episodes, None).unwrap();
        let next = (Record::Begin(episodes.clone()), Place { file: 3, offset: HEADER_BYTES as u64 });
        assert_eq!(read_all(&directory), ([&expected[..], &[next]].concat(), 4));
        fs::remove_file(path_of(&directory, 3)).unwrap();
        for cut in 0..=written {
            // A kill in the middle of a write: what was there before lies behind what has come in.
            fs::write(&file, [&whole[..cut], &before[cut..]].concat()).unwrap();
            let (found, next) = read_all(&directory);
            let is_whole = |(_, place): &&(Record, Place)| place.offset as usize - HEADER_BYTES < cut;
            let begun = expected.iter().filter(is_whole).count();
            assert!(found.len() == begun || found.len() + 1 == begun, "{cut}: {} of {begun}", found.len());
            assert_eq!((&found[..], next), (&expected[..found.len()], 3));
            let next = expected.get(found.len()).map_or(written, |(_, place)| place.offset as usize - HEADER_BYTES);
            assert_eq!(fs::metadata(&file).map_or(0, |file| file.len() as usize), next);
        }
        assert_eq!(read_all(&directory).0, expected);
    }

    #[test]
    fn more_files_than_spares_go_and_spares_go_with_their_process() {
        let directory = tempfile::tempdir().unwrap();
        let (_, episodes) = write_some(directory.path());
        let mut journal = Journal::begin(directory.path(), 1, shape(), &episodes).unwrap();
        (0..4).for_each(|_| journal.next_file(&episodes, None).unwrap());
        assert_eq!(let_go(directory.path(), 4, 2).unwrap().len(), 2);
        assert_eq!(files(directory.path()).unwrap(), [4, 5]);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 4);
        assert_eq!(read_all(directory.path()).0.len(), 2);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 2);
    }

    #[test]
    fn a_journal_of_an_earlier_version_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        write_some(directory.path());
        let file = path_of(directory.path(), 0);
        let mut bytes = fs::read(&file).unwrap();
        bytes[..EARLIER_MAGIC.len()].copy_from_slice(&EARLIER_MAGIC);
        fs::write(&file, &bytes).unwrap();
        let error = replay(directory.path(), &shape(), 1000, |_, _| Ok(())).unwrap_err();
        assert!(error.to_string().contains("an earlier version began this recording"));
        assert_eq!(fs::read(&file).unwrap(), bytes);
    }

    #[test]
    fn steps_of_another_shape_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let episodes = Episodes::new(3, 10).unwrap();
        let mut journal = Journal::begin(directory.path(), 0, shape(), &episodes).unwrap();
        for (mask, a) in [(&[1, 1][..], &[0; 24][..]), (&[1, 1, 1], &[0; 23])] {
            assert!(matches!(journal.step(&episodes, mask, &[a, &[0; 12]]), Err(Error::Schema(_))));
        }
        let end = End { envs: vec![0], how: vec![1], tasks: vec![0], states: vec![vec![0; 7]] };
        assert!(matches!(journal.end(&episodes, &end), Err(Error::Schema(_))));
        assert_eq!(read_all(directory.path()).0.len(), 1);
    }
}
