//! Batches made ahead of time: a native thread draws indices and gathers them while the caller's step runs.
//!
//! The thread works on a copy of the index stream, so the stream itself always stands at what was consumed. A batch made
//! ahead is used only if it starts exactly where the stream stands and is of the draw asked for; anything else (another
//! batch size, a restored state, a moved cursor) drops what was made and begins again from the stream.
//!
//! Waking a thread costs whoever wakes it more than taking a batch. So while batches are taken at some pace, the thread
//! looks by itself, some times per batch, whether there is room, and is woken only where nothing is left or where it has
//! given up looking.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::Result;
use crate::index::{Draw, IndexStream};
use crate::parallel;
use crate::slab::Buffer;
use crate::store::{Store, gather_memory};

/// A drawn batch: its indices and, per field, its rows.
pub type Batch = (Vec<i64>, Result<Vec<Buffer>>);

/// A thread that keeps up to `depth` batches ready.
#[derive(Debug)]
pub struct LookAhead<S: IndexStream> {
    shared: Arc<Shared<S>>,
    thread: Option<JoinHandle<()>>,
    pid: u32,
}

#[derive(Debug)]
struct Shared<S: IndexStream> {
    queue: Mutex<Queue<S>>,
    /// Counts restarts; a batch under way that belongs to an older count is given up.
    generation: AtomicU64,
    filled: Condvar,
    emptied: Condvar,
    depth: usize,
}

#[derive(Debug)]
struct Queue<S: IndexStream> {
    ready: VecDeque<Ready<S>>,
    /// Where the next batch to make starts, and what it is to be.
    ahead: Option<(S, Draw)>,
    /// Whether it is being made.
    making: bool,
    /// When a batch was taken last, and the time from the one before to it.
    taken: Instant,
    pace: Duration,
    /// Whether the thread sleeps until it is woken.
    sleeps: bool,
    stopped: bool,
}

/// Looks for room per batch taken, and how long a look may take to come in any case.
const LOOKS_PER_BATCH: u32 = 4;
const LONGEST_LOOK: Duration = Duration::from_millis(20);
const SHORTEST_LOOK: Duration = Duration::from_micros(25);
/// Batches' time without one being taken after which the thread sleeps until it is woken.
const PATIENCE: u32 = 4;

#[derive(Debug)]
struct Ready<S: IndexStream> {
    before: S::Position,
    draw: Draw,
    after: S,
    batch: Batch,
}

impl<S: IndexStream> Shared<S> {
    fn lock(&self) -> MutexGuard<'_, Queue<S>> {
        // The queue is valid after every statement, so a panic of the other side does not spoil it.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wait until somebody calls, or until it is time to look whether there is room.
    fn wait_for_room<'a>(&self, mut queue: MutexGuard<'a, Queue<S>>) -> MutexGuard<'a, Queue<S>> {
        queue.sleeps = queue.ahead.is_none() || queue.taken.elapsed() > PATIENCE * queue.pace.max(LONGEST_LOOK);
        if queue.sleeps {
            self.emptied.wait(queue).unwrap_or_else(PoisonError::into_inner)
        } else {
            let look = (queue.pace / LOOKS_PER_BATCH).clamp(SHORTEST_LOOK, LONGEST_LOOK);
            self.emptied.wait_timeout(queue, look).unwrap_or_else(PoisonError::into_inner).0
        }
    }
}

impl<S: IndexStream> LookAhead<S> {
    /// Start a thread that gathers `fields` of `store`, up to `depth` batches ahead. It idles until the first `take`.
    pub fn start(store: Arc<Store>, fields: Vec<usize>, depth: usize) -> std::io::Result<Self> {
        let queue = Queue {
            ready: VecDeque::new(),
            ahead: None,
            making: false,
            taken: Instant::now(),
            pace: Duration::ZERO,
            sleeps: false,
            stopped: false,
        };
        let shared = Arc::new(Shared {
            queue: Mutex::new(queue),
            generation: AtomicU64::new(0),
            filled: Condvar::new(),
            emptied: Condvar::new(),
            depth: depth.max(1),
        });
        let theirs = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("iltools-ahead".into()).spawn(move || {
            parallel::work_in_the_background();
            make_batches(&theirs, &store, &fields);
        })?;
        Ok(Self { shared, thread: Some(thread), pid: std::process::id() })
    }

    /// Whether the thread exists here: it does not in a child that was forked after it had started.
    pub fn is_alive(&self) -> bool {
        self.pid == std::process::id()
    }

    fn has_ended(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// How many batches are ready; 0 in a forked child.
    pub fn num_ready(&self) -> usize {
        if self.is_alive() { self.shared.lock().ready.len() } else { 0 }
    }

    /// Make the draw on `stream` and return its batch if it was made ahead; otherwise only the indices.
    ///
    /// Waits for a batch that is being made right now, but not for a thread that has not begun: on busy cores it would
    /// begin milliseconds later, and the caller can gather meanwhile.
    pub fn take(&self, stream: &mut S, draw: Draw) -> (Vec<i64>, Option<Result<Vec<Buffer>>>) {
        let position = stream.position();
        let mut queue = self.shared.lock();
        let is_next = |queue: &Queue<S>| {
            queue.ahead.as_ref().is_some_and(|(start, wanted)| *wanted == draw && start.position() == position)
        };
        // Looks around now and then: a thread that is gone makes nothing.
        while queue.ready.is_empty() && queue.making && is_next(&queue) && !self.has_ended() {
            queue = self.shared.filled.wait_timeout(queue, LONGEST_LOOK).unwrap_or_else(PoisonError::into_inner).0;
        }
        let now = Instant::now();
        queue.pace = now - queue.taken;
        queue.taken = now;
        let batch = if queue.ready.front().is_some_and(|ready| ready.draw == draw && ready.before == position) {
            queue.ready.pop_front()
        } else {
            None
        };
        if let Some(ready) = batch {
            let wake = queue.sleeps || queue.ready.is_empty();
            drop(queue);
            if wake {
                self.shared.emptied.notify_one();
            }
            *stream = ready.after;
            return (ready.batch.0, Some(ready.batch.1));
        }
        let index = stream.draw(draw);
        self.shared.generation.fetch_add(1, Ordering::Relaxed);
        let dropped = std::mem::take(&mut queue.ready);
        queue.ahead = Some((stream.clone(), draw));
        drop(queue);
        self.shared.emptied.notify_one();
        drop(dropped);
        (index, None)
    }
}

impl<S: IndexStream> Drop for LookAhead<S> {
    fn drop(&mut self) {
        let Some(thread) = self.thread.take() else { return };
        if !self.is_alive() {
            // The thread, and whoever held the lock at the fork, are in the parent.
            std::mem::forget(thread);
            std::mem::forget(Arc::clone(&self.shared));
            return;
        }
        self.shared.generation.fetch_add(1, Ordering::Relaxed);
        self.shared.lock().stopped = true;
        self.shared.emptied.notify_one();
        let _ = thread.join();
    }
}

fn make_batches<S: IndexStream>(shared: &Shared<S>, store: &Store, fields: &[usize]) {
    loop {
        let mut queue = shared.lock();
        let (mut stream, draw) = loop {
            if queue.stopped {
                return;
            }
            match &queue.ahead {
                Some(ahead) if queue.ready.len() < shared.depth => break ahead.clone(),
                _ => queue = shared.wait_for_room(queue),
            }
        };
        let generation = shared.generation.load(Ordering::Relaxed);
        queue.making = true;
        drop(queue);

        let given_up = || shared.generation.load(Ordering::Relaxed) != generation;
        let before = stream.position();
        let index = stream.draw(draw);
        // One thread: the others belong to the step that runs meanwhile.
        let rows = gather_memory(store, fields, &index, Some(1), &given_up);

        let mut queue = shared.lock();
        queue.making = false;
        if given_up() {
            continue;
        }
        queue.ahead = Some((stream.clone(), draw));
        queue.ready.push_back(Ready { before, draw, after: stream, batch: (index, rows) });
        shared.filled.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::index::{Domain, EpochShuffle, SequentialCursors};
    use crate::store::{Array, Backend, ColumnSpec, DType, Kind, StoreWriter, Trajectory};

    const TOTAL: i64 = 500;

    /// A store whose only column holds the transition's index.
    fn store(path: &std::path::Path) -> Arc<Store> {
        let mut writer = StoreWriter::begin(path, false, "{}").unwrap();
        let spec = ColumnSpec { key: vec!["i".into()], kind: Kind::Transition, dtype: DType::Int64, shape: vec![] };
        for k in 0..5 {
            let bytes: Vec<u8> = (k * 100..k * 100 + 100_i64).flat_map(i64::to_le_bytes).collect();
            let arrays = vec![Array { spec: spec.clone(), rows: 100, bytes: &bytes }];
            let clip = Trajectory { task_id: 0, traj_id: k, name: None, arrays, views: vec![] };
            writer.append(clip, &|| false).unwrap();
        }
        writer.publish(BTreeMap::new(), &|| false).unwrap();
        Arc::new(Store::open(path, Backend::Mmap).unwrap())
    }

    /// Wait until a batch is ready; there must have been one drawn.
    fn wait<S: IndexStream>(look: &LookAhead<S>) {
        while look.num_ready() == 0 {
            std::thread::yield_now();
        }
    }

    fn check(index: &[i64], rows: Option<Result<Vec<Buffer>>>) -> bool {
        let Some(rows) = rows else { return false };
        let expected: Vec<u8> = index.iter().flat_map(|i| i.to_le_bytes()).collect();
        assert_eq!(rows.unwrap()[0].to_vec(), expected);
        true
    }

    #[test]
    fn the_stream_is_that_of_drawing_on_demand() {
        let directory = tempfile::tempdir().unwrap();
        let store = store(&directory.path().join("store"));
        let shuffle = || EpochShuffle::new(Domain::all(TOTAL).unwrap(), 3, 0, 0, true).unwrap();
        let (mut ahead, mut plain) = (shuffle(), shuffle());
        let look = LookAhead::start(store, vec![0], 3).unwrap();
        let mut made_ahead = 0;
        // Batch size, kind of draw and position change in between.
        for round in 0..600_u64 {
            let draw = match round / 40 % 3 {
                0 => Draw::Batch(64),
                1 => Draw::WithinEpoch(64),
                _ => Draw::Batch(7),
            };
            if round % 101 == 100 {
                ahead.restore(round, 2, 17).unwrap();
                plain.restore(round, 2, 17).unwrap();
            }
            let (index, rows) = look.take(&mut ahead, draw);
            assert_eq!(index, plain.draw(draw));
            assert_eq!(ahead.position(), plain.position());
            made_ahead += u32::from(check(&index, rows));
            wait(&look);
        }
        // All but those after a change: 15 changes of draw, 5 of position.
        assert!(made_ahead >= 575, "{made_ahead}");
    }

    #[test]
    fn a_moved_cursor_drops_what_was_made() {
        let directory = tempfile::tempdir().unwrap();
        let store = store(&directory.path().join("store"));
        let mut cursors = SequentialCursors::new(Arc::clone(store.segments()), &[0, 1], &[0, 50]).unwrap();
        let look = LookAhead::start(store, vec![0], 2).unwrap();
        for step in 0..5 {
            let (index, rows) = look.take(&mut cursors, Draw::Batch(0));
            assert_eq!(index, [step, 150 + step]);
            assert_eq!(check(&index, rows), step > 0);
            wait(&look);
        }
        cursors.update(&[1], &[4], &[10]).unwrap();
        let (index, rows) = look.take(&mut cursors, Draw::Batch(0));
        assert_eq!((index, rows.is_none()), (vec![5, 410], true));
        wait(&look);
        let (index, rows) = look.take(&mut cursors, Draw::Batch(0));
        assert_eq!((index.as_slice(), check(&index, rows)), (&[6, 411][..], true));
    }
}
