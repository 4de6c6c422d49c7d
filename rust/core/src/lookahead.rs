//! Batches made ahead of time: a native thread draws indices and gathers them while the caller's step runs.
//!
//! The thread works on a copy of the index stream, so the stream itself always stands at what was consumed. A batch made
//! ahead is used only if it starts exactly where the stream stands and is what is asked for; anything else (another batch
//! size, other slices, a restored state, a moved cursor) drops what was made and begins again from the stream. What cannot
//! be made ahead is left to whoever asks for it, who sees why.
//!
//! Waking a thread costs whoever wakes it more than taking a batch. So while batches are taken at some pace, the thread
//! looks by itself, some times per batch, whether there is room, and is woken only where nothing is left or where it has
//! given up looking.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::Result;
use crate::index::{Ask, Drawn, IndexStream};
use crate::memory::copied;
use crate::parallel;
use crate::slab::Buffer;
use crate::store::{Store, gather_memory};

/// The rows of a batch, and which they are: whoever has an index can tell whether they are its rows.
#[derive(Debug)]
pub struct Made {
    /// Transition indices.
    pub index: Vec<i64>,
    /// Their rows, per field.
    pub rows: Vec<Buffer>,
}

/// What a draw from a stream with a thread ahead of it came to.
#[derive(Debug)]
pub enum Taken {
    /// Drawn, and its rows are there.
    Made(Drawn, Made),
    /// Drawn, and no more.
    Drawn(Drawn),
    /// Nothing yet: it is being made, and the stream stands where it stood.
    Underway,
}

/// A thread that keeps up to `depth` batches ready.
#[derive(Debug)]
pub struct LookAhead<S: IndexStream> {
    shared: Arc<Shared<S>>,
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
    ahead: Option<(S, Ask)>,
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
/// How long a batch under way is waited for before whoever takes it may look around.
const LONGEST_WAIT: Duration = Duration::from_millis(20);
/// Batches' time without one being taken after which the thread sleeps until it is woken.
const PATIENCE: u32 = 4;

#[derive(Debug)]
struct Ready<S: IndexStream> {
    before: S::Position,
    ask: Ask,
    after: S,
    drawn: Drawn,
    made: Made,
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
        std::thread::Builder::new().name("iltools-ahead".into()).spawn(move || {
            parallel::work_in_the_background();
            make_batches(&theirs, &store, &fields);
        })?;
        Ok(Self { shared, pid: std::process::id() })
    }

    /// Whether the thread exists here: it does not in a child that was forked after it had started.
    pub fn is_alive(&self) -> bool {
        self.pid == std::process::id()
    }

    /// Whether the thread, which shares the queue while it lives, is gone: it will make nothing.
    fn has_ended(&self) -> bool {
        Arc::strong_count(&self.shared) == 1
    }

    /// How many batches are ready; 0 in a forked child.
    pub fn num_ready(&self) -> usize {
        if self.is_alive() { self.shared.lock().ready.len() } else { 0 }
    }

    /// Make a draw on `stream`, with its rows if they were made ahead.
    ///
    /// Waits for a batch that is being made right now, a short while at a time, but not for a thread that has not begun: on
    /// busy cores it would begin milliseconds later, and the caller can gather meanwhile.
    pub fn take(&self, stream: &mut S, ask: &Ask) -> Result<Taken> {
        let position = stream.position();
        let mut queue = self.shared.lock();
        let is_next = |queue: &Queue<S>| {
            queue.ahead.as_ref().is_some_and(|(start, wanted)| wanted == ask && start.position() == position)
        };
        let begun = Instant::now();
        while queue.ready.is_empty() && queue.making && is_next(&queue) && !self.has_ended() {
            let Some(left) = LONGEST_WAIT.checked_sub(begun.elapsed()) else { return Ok(Taken::Underway) };
            queue = self.shared.filled.wait_timeout(queue, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        let now = Instant::now();
        queue.pace = now - queue.taken;
        queue.taken = now;
        if queue.ready.front().is_some_and(|ready| ready.ask == *ask && ready.before == position)
            && let Some(ready) = queue.ready.pop_front()
        {
            let wake = queue.sleeps || queue.ready.is_empty();
            drop(queue);
            if wake {
                self.shared.emptied.notify_one();
            }
            *stream = ready.after;
            return Ok(Taken::Made(ready.drawn, ready.made));
        }
        let drawn = stream.draw(ask)?;
        self.shared.generation.fetch_add(1, Ordering::Relaxed);
        let dropped = std::mem::take(&mut queue.ready);
        queue.ahead = Some((stream.clone(), ask.clone()));
        drop(queue);
        self.shared.emptied.notify_one();
        drop(dropped);
        Ok(Taken::Drawn(drawn))
    }
}

impl<S: IndexStream> Drop for LookAhead<S> {
    /// The thread ends as soon as it looks. It is not waited for: it may be reading from a slow disk, and whoever drops this
    /// may hold what others wait for.
    fn drop(&mut self) {
        if !self.is_alive() {
            // The thread, and whoever held the lock at the fork, are in the parent.
            std::mem::forget(Arc::clone(&self.shared));
            return;
        }
        self.shared.generation.fetch_add(1, Ordering::Relaxed);
        self.shared.lock().stopped = true;
        self.shared.emptied.notify_one();
    }
}

fn make_batches<S: IndexStream>(shared: &Shared<S>, store: &Store, fields: &[usize]) {
    loop {
        let mut queue = shared.lock();
        let (mut stream, ask) = loop {
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
        let made = stream.draw(&ask).and_then(|drawn| {
            let index = copied(&drawn.rows)?;
            // One thread: the others belong to the step that runs meanwhile.
            let rows = gather_memory(store, fields, &index, Some(1), &given_up)?;
            Ok((drawn, Made { index, rows }))
        });

        let mut queue = shared.lock();
        queue.making = false;
        if given_up() {
            continue;
        }
        match made {
            Ok((drawn, made)) => {
                queue.ahead = Some((stream.clone(), ask.clone()));
                queue.ready.push_back(Ready { before, ask, after: stream, drawn, made });
            }
            Err(_) => queue.ahead = None,
        }
        shared.filled.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::mpsc::{Receiver, Sender, channel};

    use super::*;
    use crate::Error;
    use crate::index::{Cut, Domain, Draw, EpochShuffle, SequentialCursors, Shape, UniformDraws};
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

    fn items(draw: Draw) -> Ask {
        Ask { draw, cut: None }
    }

    /// Take a batch, waiting for one under way; the rows, if they were made ahead, must be those of the index.
    fn take<S: IndexStream>(look: &LookAhead<S>, stream: &mut S, ask: &Ask) -> (Drawn, bool) {
        loop {
            match look.take(stream, ask).unwrap() {
                Taken::Underway => {}
                Taken::Drawn(drawn) => return (drawn, false),
                Taken::Made(drawn, made) => {
                    assert_eq!(made.index, drawn.rows);
                    let expected: Vec<u8> = drawn.rows.iter().flat_map(|i| i.to_le_bytes()).collect();
                    assert_eq!(made.rows[0].to_vec(), expected);
                    return (drawn, true);
                }
            }
        }
    }

    fn cut(length: i64, stride: Option<i64>) -> Arc<Cut> {
        let shape = Shape { length, strict: false, padded: false, span: [Some(0); 2], stride, holders: false };
        let start: Vec<i64> = (0..5).map(|k| 100 * k).collect();
        Arc::new(Cut::new(&start, &[100; 5], TOTAL, shape).unwrap())
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
            let ask = items(match round / 40 % 3 {
                0 => Draw::Batch(64),
                1 => Draw::WithinEpoch(64),
                _ => Draw::Batch(7),
            });
            if round % 101 == 100 {
                ahead.restore(round, 2, 17).unwrap();
                plain.restore(round, 2, 17).unwrap();
            }
            let (drawn, made) = take(&look, &mut ahead, &ask);
            assert_eq!(drawn, plain.draw(&ask).unwrap());
            assert_eq!(IndexStream::position(&ahead), IndexStream::position(&plain));
            made_ahead += u32::from(made);
            wait(&look);
        }
        // All but those after a change: 15 changes of draw, 5 of position.
        assert!(made_ahead >= 575, "{made_ahead}");
    }

    #[test]
    fn slices_are_made_ahead_as_they_are_asked_for() {
        let directory = tempfile::tempdir().unwrap();
        let store = store(&directory.path().join("store"));
        let draws = || UniformDraws::new(Domain::all(1).unwrap(), 3, 0);
        let (mut ahead, mut plain) = (draws(), draws());
        let look = LookAhead::start(Arc::clone(&store), vec![0], 2).unwrap();
        let mut made_ahead = 0;
        for round in 0..90 {
            // An equal cut that is another one is no matter of correctness, only of what was made for nothing.
            let asks = [4, 4, 30, 200].map(|length| Ask { draw: Draw::Batch(6), cut: Some(cut(length, None)) });
            let ask = &asks[round / 30];
            for _ in 0..3 {
                let (drawn, made) = take(&look, &mut ahead, ask);
                assert_eq!(drawn, plain.draw(ask).unwrap());
                made_ahead += u32::from(made);
                wait(&look);
            }
        }
        assert_eq!(made_ahead, 180);
        let ask = Ask { draw: Draw::WithinEpoch(7), cut: Some(cut(30, Some(7))) };
        let shuffle = || EpochShuffle::new(Domain::all(55).unwrap(), 3, 0, 0, true).unwrap();
        let (mut ahead, mut plain) = (shuffle(), shuffle());
        let look = LookAhead::start(store, vec![0], 2).unwrap();
        for round in 0..40 {
            let (drawn, made) = take(&look, &mut ahead, &ask);
            assert_eq!((drawn, made), (plain.draw(&ask).unwrap(), round > 0));
            wait(&look);
        }
    }

    #[test]
    fn a_moved_cursor_drops_what_was_made() {
        let directory = tempfile::tempdir().unwrap();
        let store = store(&directory.path().join("store"));
        let mut cursors = SequentialCursors::new(Arc::clone(store.segments()), &[0, 1], &[0, 50]).unwrap();
        let look = LookAhead::start(store, vec![0], 2).unwrap();
        let ask = items(Draw::Batch(0));
        for step in 0..5 {
            let (drawn, made) = take(&look, &mut cursors, &ask);
            assert_eq!((drawn.rows, made), (vec![step, 150 + step], step > 0));
            wait(&look);
        }
        cursors.update(&[1], &[4], &[10]).unwrap();
        let (drawn, made) = take(&look, &mut cursors, &ask);
        assert_eq!((drawn.rows, made), (vec![5, 410], false));
        wait(&look);
        let (drawn, made) = take(&look, &mut cursors, &ask);
        assert_eq!((drawn.rows, made), (vec![6, 411], true));
    }

    /// Counts; before 3 it says so and waits until it is told to go on, and there is no 7.
    #[derive(Clone)]
    struct Gated(i64, Sender<()>, Arc<Mutex<Receiver<()>>>);

    impl IndexStream for Gated {
        type Position = i64;

        fn position(&self) -> i64 {
            self.0
        }

        fn draw(&mut self, _: &Ask) -> Result<Drawn> {
            match self.0 {
                3 => {
                    self.1.send(()).unwrap();
                    self.2.lock().unwrap().recv().unwrap();
                }
                7 => return Err(Error::OutOfMemory("no seven".into())),
                _ => {}
            }
            self.0 += 1;
            Ok(Drawn { rows: vec![self.0 - 1], ..Drawn::default() })
        }
    }

    /// A stream that stands at 3, a thread ahead of it that stands before making 3, and what lets it go on.
    fn gated(path: &std::path::Path) -> (Gated, LookAhead<Gated>, Sender<()>) {
        let ((arrived, arrival), (go_on, gate)) = (channel(), channel());
        let look = LookAhead::start(store(path), vec![0], 2).unwrap();
        let mut stream = Gated(0, arrived, Arc::new(Mutex::new(gate)));
        for round in 0..3 {
            assert_eq!(take(&look, &mut stream, &items(Draw::Batch(1))).0.rows, [round]);
        }
        arrival.recv().unwrap();
        (stream, look, go_on)
    }

    #[test]
    fn a_batch_under_way_is_not_waited_for_without_an_end() {
        let directory = tempfile::tempdir().unwrap();
        let (mut stream, look, go_on) = gated(&directory.path().join("store"));
        let ask = items(Draw::Batch(1));
        for _ in 0..3 {
            assert!(matches!(look.take(&mut stream, &ask).unwrap(), Taken::Underway));
            assert_eq!(stream.0, 3);
        }
        go_on.send(()).unwrap();
        for round in 3..7 {
            assert_eq!(take(&look, &mut stream, &ask).0.rows, [round]);
        }
        // What cannot be made ahead fails in its place, and only there.
        for _ in 0..3 {
            assert!(matches!(look.take(&mut stream, &ask), Err(Error::OutOfMemory(_))));
            assert_eq!(stream.0, 7);
        }
        stream.0 = 8;
        assert_eq!(take(&look, &mut stream, &ask).0.rows, [8]);
    }

    #[test]
    fn dropping_does_not_wait_for_the_thread() {
        let directory = tempfile::tempdir().unwrap();
        let (_stream, look, go_on) = gated(&directory.path().join("store"));
        let shared = Arc::downgrade(&look.shared);
        drop(look);
        assert!(shared.upgrade().is_some());
        go_on.send(()).unwrap();
        while shared.upgrade().is_some() {
            std::thread::yield_now();
        }
    }
}
