//! A build's place on disk: the directory it has locked, the generation in the making, and how either becomes the store or goes.

use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::files::{LARGEST_JSON, is_there, replace_durably, sync_directory};
use super::leftovers::{refuse_strangers, remove_leftovers, remove_other_generations, remove_scaffold};
use super::lock::BuildLock;
use super::manifest::{MOST_GENERATIONS, Manifest};
use super::{DATA_PREFIX, MANIFEST, UNPUBLISHED};
use crate::{Error, Result};

/// What a build has on disk, from `begin` until it is published or aborted.
#[derive(Debug)]
pub(super) struct Place {
    lock: BuildLock,
    /// The store's directory and those above it, as far as `begin` made them, the innermost first.
    made: Vec<PathBuf>,
    /// The generation that is to be published.
    pub data_dir: PathBuf,
    /// Further directories of this build within the store's.
    pub others: Vec<PathBuf>,
    /// Whether a manifest names the generation: it stays then, whatever becomes of the build.
    is_published: bool,
}

/// A build, shared by whoever writes it and whoever may end it.
///
/// The mutex is held for steps on disk alone, never while a caller is asked anything: `abort` works at any time, also from
/// the very call that is asked whether to go on.
#[derive(Debug)]
pub struct Build {
    store: PathBuf,
    /// A process that was forked during the build has a copy of this, which must touch nothing.
    pid: u32,
    /// Whether `place` is gone, without a wait for whoever is at it.
    over: AtomicBool,
    place: Mutex<Option<Place>>,
}

impl Build {
    /// Make and lock the directory, remove what dead builds left in it, and begin the generation `uuid`.
    pub(super) fn begin(store: &Path, uuid: &str, overwrite: bool) -> Result<Self> {
        if fs::metadata(store).is_ok_and(|metadata| !metadata.is_dir()) {
            return Err(Error::Exists(format!("{}: is a file, not a directory", store.display())));
        }
        // Before anything is made: not even a lock file goes into somebody else's directory.
        refuse_strangers(store)?;
        let to_make = store.ancestors().take_while(|path| !path.as_os_str().is_empty() && !path.exists());
        let made: Vec<PathBuf> = to_make.map(Path::to_path_buf).collect();
        DirBuilder::new().recursive(true).mode(0o777).create(store).map_err(Error::io(store))?;
        let lock = BuildLock::take(store).inspect_err(|_| remove_empty(&made))?;
        if is_there(&store.join(MANIFEST)) && !overwrite {
            return Err(Error::Exists(format!(
                "{}: a store is here already; pass overwrite=True to replace it",
                store.display()
            )));
        }
        // A manifest that cannot be read may still be mended by hand, so its data stays.
        match remove_leftovers(store) {
            Ok(_) | Err(Error::Corrupt(_) | Error::Version(_)) => {}
            Err(error) => return Err(error),
        }
        let data_dir = store.join(format!("{DATA_PREFIX}{uuid}"));
        let created = fs::create_dir(&data_dir).map_err(Error::io(&data_dir));
        let this = Self::of(store, Place { lock, made, data_dir, others: Vec::new(), is_published: false });
        created.inspect_err(|_| this.abort()).map(|()| this)
    }

    /// Lock the directory of a store that is finished, and begin the generation `uuid` behind those that it has.
    pub(super) fn add(store: &Path, uuid: &str) -> Result<(Self, Manifest)> {
        let (lock, manifest) = Self::take_over(store)?;
        if !manifest.sealed {
            let store = store.display();
            return Err(Error::Busy(format!(
                "{store}: grows, or its collector was killed: iltools repair finishes it"
            )));
        }
        if manifest.generations.len() >= MOST_GENERATIONS {
            let (store, times) = (store.display(), manifest.generations.len() - 1);
            return Err(Error::Exists(format!(
                "{store}: was added to {times} times, and cannot be once more; build it anew from its archives"
            )));
        }
        let data_dir = store.join(format!("{DATA_PREFIX}{uuid}"));
        fs::create_dir(&data_dir).map_err(Error::io(&data_dir))?;
        let place = Place { lock, made: Vec::new(), data_dir, others: Vec::new(), is_published: false };
        Ok((Self::of(store, place), manifest))
    }

    /// Lock the directory of a store that was growing when its builder died, to go on with it.
    pub(super) fn resume(store: &Path) -> Result<(Self, Manifest)> {
        let (lock, manifest) = Self::take_over(store)?;
        if manifest.sealed {
            return Err(nothing(store, "the store is finished"));
        }
        let data_dir = store.join(format!("{DATA_PREFIX}{}", manifest.uuid));
        let place = Place { lock, made: Vec::new(), data_dir, others: Vec::new(), is_published: true };
        Ok((Self::of(store, place), manifest))
    }

    /// Lock the directory of a store, and remove what dead builds left in it.
    fn take_over(store: &Path) -> Result<(BuildLock, Manifest)> {
        // Before anything is made: not even a lock file goes where there is no store.
        Manifest::read(store).map_err(|error| match error {
            Error::NotFound(_) => nothing(store, "there is no store"),
            error => error,
        })?;
        let lock = BuildLock::take(store)?;
        let manifest = Manifest::read(store)?;
        remove_leftovers(store)?;
        Ok((lock, manifest))
    }

    fn of(store: &Path, place: Place) -> Self {
        let (pid, over) = (std::process::id(), AtomicBool::new(false));
        Self { store: store.to_path_buf(), pid, over, place: Mutex::new(Some(place)) }
    }

    /// Directory of the store.
    pub(super) fn store(&self) -> &Path {
        &self.store
    }

    /// Whether it was published or aborted, or is another process's.
    pub fn is_over(&self) -> bool {
        self.is_foreign() || self.over.load(Ordering::Acquire)
    }

    /// Whether another process began it, of which this one is a copy.
    pub fn is_foreign(&self) -> bool {
        self.pid != std::process::id()
    }

    /// The error of whoever goes on with a build that is over.
    pub fn over(&self) -> Error {
        Error::Invalid(format!("{}: this build is over", self.store.display()))
    }

    /// Ask a caller whether to go on. It may have ended the build instead of answering.
    pub(super) fn go_on(&self, interrupted: &dyn Fn() -> bool) -> Result<()> {
        match interrupted() {
            true => Err(Error::Interrupted),
            false if self.is_over() => Err(self.over()),
            false => Ok(()),
        }
    }

    /// What to say of an error: one that comes of the build's end says so.
    pub(super) fn ended(&self, error: Error) -> Error {
        if self.is_over() && !matches!(error, Error::Interrupted) { self.over() } else { error }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Place>> {
        self.place.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Take a step on disk during which nobody else ends the build.
    pub(super) fn step<T>(&self, work: impl FnOnce(&mut Place) -> Result<T>) -> Result<T> {
        // The copy of the mutex in a forked process may have been taken by a thread that is not there.
        if self.is_foreign() {
            return Err(self.over());
        }
        self.lock().as_mut().ok_or_else(|| self.over()).and_then(work)
    }

    /// The one way to become the store. What the manifest describes is on disk in `data_dir`; the rest happens here: the names of
    /// the data, then the manifest beside its place, then the rename, after which the old generation goes.
    ///
    /// The build is over with a manifest that says that nothing more will come.
    pub(super) fn publish(&self, manifest: &Manifest) -> Result<()> {
        let bytes = manifest.to_bytes()?;
        // What no reader would take must not replace a good store.
        Manifest::from_bytes(&bytes).map_err(|error| Error::Invalid(format!("{}: {error}", self.store.display())))?;
        if bytes.len() as u64 > LARGEST_JSON {
            return Err(Error::Invalid(format!("{}: a manifest of {} bytes", self.store.display(), bytes.len())));
        }
        if self.is_foreign() {
            return Err(self.over());
        }
        let mut guard = self.lock();
        let Some(place) = guard.as_mut() else { return Err(self.over()) };
        sync_directory(&self.store)?;
        replace_durably(&self.store.join(MANIFEST), &bytes)?;
        // From here on the new generation is the store, whatever happens: nobody has anything to undo, and the old generation
        // goes now or with the next build.
        let is_first = !std::mem::replace(&mut place.is_published, true);
        if !manifest.sealed {
            sync_directory(&self.store)?;
            return if is_first { self.settle(place, manifest) } else { Ok(()) };
        }
        let Some(place) = guard.take() else { return Ok(()) };
        self.over.store(true, Ordering::Release);
        drop(guard);
        sync_directory(&self.store)?;
        self.settle(&place, manifest)?;
        remove_scaffold(&place.data_dir, &mut Vec::new())?;
        drop(place.lock);
        Ok(())
    }

    /// What follows the first rename: the names of what was made, and the end of the generation before.
    fn settle(&self, place: &Place, manifest: &Manifest) -> Result<()> {
        for made in &place.made {
            let parent = made.parent().filter(|parent| !parent.as_os_str().is_empty());
            sync_directory(parent.unwrap_or(Path::new(".")))?;
        }
        let _ = remove_other_generations(&self.store, &manifest.data_dirs(&self.store), &mut Vec::new());
        Ok(())
    }

    /// Remove the store that a build published, and end it: readers that have it open keep their files.
    pub(super) fn discard(&self) -> Result<()> {
        self.step(|place| {
            let manifest = self.store.join(MANIFEST);
            fs::remove_file(&manifest).map_err(Error::io(&manifest))?;
            place.is_published = false;
            if place.made.is_empty() {
                // Of what was there before nothing is known but that this was the store's.
                place.made.push(self.store.clone());
            }
            Ok(())
        })?;
        self.abort();
        Ok(())
    }

    /// Leave everything as it was before `begin`, or as it was published last. In a forked copy of the process that builds, do
    /// nothing.
    pub fn abort(&self) {
        if self.is_foreign() {
            return;
        }
        let mut guard = self.lock();
        let Some(place) = guard.take() else { return };
        self.over.store(true, Ordering::Release);
        let _ = fs::remove_file(self.store.join(UNPUBLISHED));
        if place.is_published {
            return;
        }
        for directory in std::iter::once(&place.data_dir).chain(&place.others) {
            let _ = fs::remove_dir_all(directory);
        }
        if place.made.is_empty() {
            drop(place.lock);
        } else {
            place.lock.remove();
            remove_empty(&place.made);
        }
    }
}

fn nothing(store: &Path, why: &str) -> Error {
    Error::NotFound(format!("{}: nothing to go on with: {why}", store.display()))
}

/// Fails, as it should, where somebody else has put something meanwhile.
fn remove_empty(directories: &[PathBuf]) {
    for directory in directories {
        if fs::remove_dir(directory).is_err() {
            return;
        }
    }
}
