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
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::Result;
use crate::index::{Ask, Drawn, IndexStream};
use crate::slab::Buffer;
use crate::store::{Store, gather_memory};
use crate::thread_core::{CoreAvoided, stay_behind_on_an_only_core, wake_in_time};

/// What a draw from a stream with a thread ahead of it came to.
#[derive(Debug)]
pub enum Taken {
    /// Drawn, and its rows are there, per field.
    Made(Drawn, Vec<Buffer>),
    /// Drawn, and no more.
    Drawn(Drawn),
    /// Nothing yet: it is being made, and the stream stands where it stood.
    Underway,
}

/// A thread that keeps up to `depth` batches ready.
#[derive(Debug)]
pub struct LookAhead<S: IndexStream> {
    shared: Arc<Shared<S>>,
    thread: JoinHandle<()>,
    core: CoreAvoided,
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
    rows: Vec<Buffer>,
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
            stay_behind_on_an_only_core();
            wake_in_time();
            make_batches(&theirs, &store, &fields);
        })?;
        Ok(Self { shared, thread, core: CoreAvoided::default(), pid: std::process::id() })
    }

    /// Whether the thread exists here: it does not in a child that was forked after it had started.
    pub fn is_alive(&self) -> bool {
        self.pid == std::process::id()
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
        self.core.avoid_that_of_the_caller(&self.thread);
        let position = stream.position();
        let mut queue = self.shared.lock();
        let is_next = |queue: &Queue<S>| {
            queue.ahead.as_ref().is_some_and(|(start, wanted)| wanted == ask && start.position() == position)
        };
        let begun = Instant::now();
        while queue.ready.is_empty() && queue.making && is_next(&queue) && !self.thread.is_finished() {
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
            return Ok(Taken::Made(ready.drawn, ready.rows));
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
            // One thread: the others belong to the step that runs meanwhile.
            let rows = gather_memory(store, fields, &drawn.rows, Some(1), &given_up)?;
            Ok((drawn, rows))
        });

        let mut queue = shared.lock();
        queue.making = false;
        if given_up() {
            continue;
        }
        match made {
            Ok((drawn, rows)) => {
                queue.ahead = Some((stream.clone(), ask.clone()));
                queue.ready.push_back(Ready { before, ask, after: stream, drawn, rows });
            }
            Err(_) => queue.ahead = None,
        }
        shared.filled.notify_one();
    }
}
