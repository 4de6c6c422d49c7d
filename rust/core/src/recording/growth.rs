//! The thread that makes a store out of a journal while the journal is written.

use std::collections::BTreeMap;
use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::journal::Unsynced;
use super::journal_files::{MOST_SPARES, files, let_go, path_of};
use super::layout::Layout;
use super::progress::{Ending, Progress, State};
use super::reader::{Finished, JournalReader};
use super::records::Place;
use crate::store::{GrowingStore, sync_directory};
use crate::{Error, Result};

/// When what is finished is published: at the latest after so long, or so many bytes.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// After something was finished.
    pub every: Duration,
    /// Of columns.
    pub bytes: u64,
}

/// Starts the thread: it takes episodes from `progress`, and owns the store.
pub fn spawn(
    store: GrowingStore,
    layout: Layout,
    journal: &Path,
    pace: Pace,
    progress: &Arc<Progress>,
) -> Result<JoinHandle<()>> {
    let shared = Arc::clone(progress);
    let reader = JournalReader::new(journal, layout.shape().clone());
    let journal = journal.to_path_buf();
    let published = Instant::now();
    let counts = store.trajectories_by_task();
    let mut growth = Growth { store, layout, journal, reader, pace, published, counts, buffers: Vec::new() };
    std::thread::Builder::new()
        .name("iltools-growth".into())
        .spawn(move || {
            let ended = catch_unwind(AssertUnwindSafe(|| growth.run(&shared)));
            // The store goes here, and its lock with it: whoever hears that the thread has ended may take it.
            let Growth { store, .. } = growth;
            let failure = match ended {
                Ok(Ok(Ending::Seal)) => store.seal(&|| false).err(),
                Ok(Ok(Ending::Discard)) => store.discard().err(),
                Ok(Ok(Ending::Stop)) => None,
                Ok(Err(error)) => {
                    drop(store);
                    Some(error)
                }
                Err(_) => Some(Error::Invalid("the thread that builds the store panicked".into())),
            };
            shared.tell(|state| (state.failure, state.is_over) = (failure, true));
        })
        .map_err(Error::io("a thread"))
}

#[derive(Debug)]
struct Growth {
    store: GrowingStore,
    layout: Layout,
    journal: PathBuf,
    reader: JournalReader,
    pace: Pace,
    /// When it was published last.
    published: Instant,
    /// Trajectories of each task.
    counts: BTreeMap<i64, i64>,
    buffers: Vec<Vec<u8>>,
}

enum Work {
    Sync(Unsynced),
    Begin(Layout),
    Append(Finished, Vec<Place>),
    /// After so many flushes were asked for.
    Publish(u64),
    End(Ending),
}

impl Growth {
    fn run(&mut self, progress: &Progress) -> Result<Ending> {
        loop {
            match self.next(progress)? {
                Work::Sync(files) => files.sync()?,
                Work::Begin(layout) => {
                    if layout.specs() != self.layout.specs() {
                        let (views, histories) = (layout.views().to_vec(), layout.histories().to_vec());
                        self.store.begin_anew(&layout.specs(), views, histories)?;
                    }
                    self.layout = layout;
                }
                Work::Append(finished, steps) => self.append(&finished, &steps)?,
                Work::Publish(flushes) => {
                    self.publish(progress)?;
                    progress.tell(|state| state.flushes.1 = flushes);
                }
                Work::End(ending) => return Ok(ending),
            }
        }
    }

    /// Wait for something to do.
    fn next(&self, progress: &Progress) -> Result<Work> {
        let mut state = progress.lock();
        loop {
            if let Some(ending @ (Ending::Stop | Ending::Discard)) = &state.ending {
                return Ok(Work::End(ending.clone()));
            }
            if !state.to_sync.is_empty() {
                return Ok(Work::Sync(std::mem::take(&mut state.to_sync)));
            }
            if let Some(layout) = state.new_layout.take() {
                return Ok(Work::Begin(layout));
            }
            let due = self.store.unpublished().map(|bytes| {
                if bytes >= self.pace.bytes {
                    Duration::ZERO
                } else {
                    self.pace.every.saturating_sub(self.published.elapsed())
                }
            });
            if due == Some(Duration::ZERO) && state.ending.is_none() {
                return Ok(Work::Publish(state.flushes.1));
            }
            if let Some(finished) = state.waiting.pop_front() {
                let steps = state.steps.of(&finished)?;
                return Ok(Work::Append(finished, steps));
            }
            if let Some(ending) = &state.ending {
                return Ok(Work::End(ending.clone()));
            }
            if state.flushes.0 > state.flushes.1 {
                return Ok(Work::Publish(state.flushes.0));
            }
            state = progress.wait(state, due);
        }
    }

    fn append(&mut self, finished: &Finished, steps: &[Place]) -> Result<()> {
        let count = self.counts.entry(i64::from(finished.task)).or_default();
        let trajectory = self.layout.trajectory(finished, steps, *count, &mut self.reader, &mut self.buffers)?;
        self.store.append(trajectory, &|| false)?;
        *count += 1;
        Ok(())
    }

    fn publish(&mut self, progress: &Progress) -> Result<()> {
        if self.store.unpublished().is_some() {
            // The journal first: it always knows of what is in the store.
            for number in files(&self.journal)? {
                let path = path_of(&self.journal, number);
                File::open(&path).and_then(|file| file.sync_data()).map_err(Error::io(&path))?;
            }
            sync_directory(&self.journal)?;
            self.store.name_tasks(self.layout.tasks().clone())?;
            self.store.publish()?;
            self.published = Instant::now();
        }
        if let Some(needed) = progress.tell(State::let_go) {
            self.reader.forget_before(needed);
            let most = MOST_SPARES.saturating_sub(progress.lock().spares.len());
            let spares = let_go(&self.journal, needed, most)?;
            progress.tell(|state| state.spares.extend(spares));
        }
        Ok(())
    }
}
