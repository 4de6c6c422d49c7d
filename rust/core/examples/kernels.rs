//! One kernel, some number of times, for counting instructions: `kernels gather|shuffle|slices|cursors TIMES`.

use std::hint::black_box;
use std::sync::Arc;

use iltools_core::index::{Cut, Domain, Draw, EpochShuffle, SequentialCursors, Shape, UniformDraws};
use iltools_core::segment::SegmentTable;
use iltools_core::slab::Buffer;
use iltools_core::store::{Array, Backend, ColumnSpec, DType, Kind, Store, StoreWriter, Trajectory, gather_memory};

const BATCH: usize = 1024;
const CLIPS: i64 = 20;
const STATES: usize = 101;

fn store(path: &std::path::Path) -> Store {
    let mut writer = StoreWriter::begin(path, false, "{}").expect("a build");
    let spec = |name: &str, kind, width| ColumnSpec {
        key: vec![name.into()],
        kind,
        dtype: DType::Float32,
        shape: vec![width],
    };
    let (observation, action) = (vec![1; STATES * 71 * 4], vec![2; (STATES - 1) * 29 * 4]);
    for clip in 0..CLIPS {
        let arrays = vec![
            Array { spec: spec("observation", Kind::State, 71), rows: STATES, bytes: (&observation).into() },
            Array { spec: spec("action", Kind::Transition, 29), rows: STATES - 1, bytes: (&action).into() },
        ];
        let clip = Trajectory { task_id: 0, traj_id: clip, name: None, arrays, views: vec![] };
        writer.append(clip, &|| false).expect("a trajectory");
    }
    writer.publish(std::collections::BTreeMap::new(), &|| false).expect("a store");
    Store::open(path, Backend::Mmap).expect("a store")
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let kernel = arguments.next().unwrap_or_default();
    let times: usize = arguments.next().and_then(|times| times.parse().ok()).unwrap_or(1);
    let total = CLIPS * (STATES as i64 - 1);
    let mut shuffle = EpochShuffle::new(Domain::all(total).expect("rows"), 1, 0, 0, true).expect("a shuffle");
    match kernel.as_str() {
        "gather" => {
            let directory = tempfile::tempdir().expect("a directory");
            let store = store(&directory.path().join("store"));
            let fields: Vec<usize> = (0..store.fields().len()).collect();
            let index = shuffle.items(Draw::Batch(BATCH)).expect("an index");
            for _ in 0..times {
                let rows: Vec<Buffer> = gather_memory(&store, &fields, &index, Some(1), &|| false).expect("rows");
                black_box(rows);
            }
        }
        "shuffle" => {
            for _ in 0..times {
                black_box(shuffle.items(Draw::Batch(BATCH)).expect("an index"));
            }
        }
        "slices" => {
            let start: Vec<i64> = (0..CLIPS).map(|k| k * 100).collect();
            let shape =
                Shape { length: 4, strict: true, padded: false, span: [Some(0); 2], stride: None, holders: false };
            let cut = Cut::new(&start, &[100; CLIPS as usize], total, shape).expect("slices");
            let mut draws = UniformDraws::new(Domain::all(1).expect("rows"), 1, 0);
            for _ in 0..times {
                black_box(draws.slices(BATCH / 4, &cut).expect("an index"));
            }
        }
        "cursors" => {
            let ids: Vec<i64> = (0..CLIPS).collect();
            let (start, length) = (ids.iter().map(|k| k * 100).collect(), vec![100; ids.len()]);
            let table = Arc::new(SegmentTable::new(vec![0; ids.len()], ids, start, length).expect("a table"));
            let segment: Vec<i64> = (0..BATCH as i64).map(|env| env % CLIPS).collect();
            let mut cursors = SequentialCursors::new(table, &segment, &vec![0; BATCH]).expect("cursors");
            for _ in 0..times {
                black_box(cursors.next_rows().expect("an index"));
            }
        }
        _ => println!("usage: kernels gather|shuffle|slices|cursors TIMES"),
    }
}
