//! Batches made ahead are those that would have been drawn on demand, whatever is asked for and whatever changes.

use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, Weak};

use iltools_core::index::{
    Ask, Cut, Domain, Draw, Drawn, EpochShuffle, IndexStream, SequentialCursors, Shape, UniformDraws,
};
use iltools_core::lookahead::{LookAhead, Taken};
use iltools_core::store::{Array, Backend, ColumnSpec, DType, Kind, Store, StoreWriter, Trajectory};
use iltools_core::{Error, Result};

const TOTAL: i64 = 500;

/// A store whose only column holds the transition's index.
fn store(path: &std::path::Path) -> Arc<Store> {
    let mut writer = StoreWriter::begin(path, false, "{}").unwrap();
    let spec = ColumnSpec { key: vec!["i".into()], kind: Kind::Transition, dtype: DType::Int64, shape: vec![] };
    for k in 0..5 {
        let bytes: Vec<u8> = (k * 100..k * 100 + 100_i64).flat_map(i64::to_le_bytes).collect();
        let arrays = vec![Array { spec: spec.clone(), rows: 100, bytes: (&bytes).into() }];
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
            Taken::Made(drawn, rows) => {
                let expected: Vec<u8> = drawn.rows.iter().flat_map(|i| i.to_le_bytes()).collect();
                assert_eq!(rows[0].to_vec(), expected);
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
fn gated(path: &std::path::Path) -> (Gated, LookAhead<Gated>, Sender<()>, Weak<Store>) {
    let ((arrived, arrival), (go_on, gate)) = (channel(), channel());
    let store = store(path);
    let held = Arc::downgrade(&store);
    let look = LookAhead::start(store, vec![0], 2).unwrap();
    let mut stream = Gated(0, arrived, Arc::new(Mutex::new(gate)));
    for round in 0..3 {
        assert_eq!(take(&look, &mut stream, &items(Draw::Batch(1))).0.rows, [round]);
    }
    arrival.recv().unwrap();
    (stream, look, go_on, held)
}

#[test]
fn a_batch_under_way_is_not_waited_for_without_an_end() {
    let directory = tempfile::tempdir().unwrap();
    let (mut stream, look, go_on, _) = gated(&directory.path().join("store"));
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
    let (_stream, look, go_on, held) = gated(&directory.path().join("store"));
    drop(look);
    assert!(held.upgrade().is_some(), "the thread, which has the store, is still there");
    go_on.send(()).unwrap();
    while held.upgrade().is_some() {
        std::thread::yield_now();
    }
}
