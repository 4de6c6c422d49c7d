//! The gather against the fastest plain loop: random rows of the same columns of the same store, `memcpy` with software
//! prefetch, two threads. Prints one JSON object per batch size; `make bench` puts them into its table.
//!
//! Run with the directory of a store whose columns are observation (71 f32), action (29 f32) and next/done.
#![allow(unsafe_code)]

use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::time::Instant;

use iltools_core::store::{Backend, Store, gather_memory};
use memmap2::MmapRaw;

const AHEAD: usize = 16;
const ROUNDS: usize = 15;

/// One output column of the plain loop: `width` bytes of row `index + shift(index)` of a mapped file.
struct Plain {
    map: MmapRaw,
    width: usize,
    states: bool,
    next: bool,
}

fn find(directory: &Path, name: &str) -> PathBuf {
    let mut open = vec![directory.to_path_buf()];
    while let Some(directory) = open.pop() {
        for entry in std::fs::read_dir(&directory).expect("a directory") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                open.push(path);
            } else if path.file_name().is_some_and(|file| file == name) {
                return path;
            }
        }
    }
    panic!("no {name} below {}", directory.display());
}

fn plain(store: &Store, name: &str, width: usize, states: bool, next: bool) -> Plain {
    let file = std::fs::File::open(find(&store.data_dirs()[0], name)).expect("a column");
    let map = memmap2::MmapOptions::new().map_raw_read_only(&file).expect("a map");
    Plain { map, width, states, next }
}

/// The loop of the ceiling: what a C programmer writes.
fn copy(column: &Plain, rows: &[usize], out: &mut [u8]) {
    let base = column.map.as_ptr();
    let width = column.width;
    for (i, &row) in rows.iter().enumerate() {
        if let Some(&ahead) = rows.get(i + AHEAD) {
            let next = base.wrapping_add(ahead * width);
            for line in (0..width).step_by(64) {
                #[cfg(target_arch = "x86_64")]
                // SAFETY: a prefetch is a hint, whatever the address.
                unsafe {
                    std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(
                        next.wrapping_add(line).cast(),
                    );
                }
                #[cfg(not(target_arch = "x86_64"))]
                black_box(next.wrapping_add(line));
            }
        }
        // SAFETY: rows are drawn within the column, and `out` has room for all of them.
        unsafe { std::ptr::copy_nonoverlapping(base.add(row * width), out.as_mut_ptr().add(i * width), width) };
    }
}

fn main() {
    // cargo passes its own flags too.
    let Some(path) = std::env::args().skip(1).find(|argument| !argument.starts_with("--")) else {
        println!("usage: ceiling STORE");
        return;
    };
    let store = Store::open(Path::new(&path), Backend::Mmap).expect("a store");
    let columns = [
        plain(&store, "observation.memmap", 284, true, false),
        plain(&store, "observation.memmap", 284, true, true),
        plain(&store, "action.memmap", 116, false, false),
        plain(&store, "done.memmap", 1, false, false),
    ];
    let key = |names: &[&str]| store.fields().iter().position(|field| field.key == names).expect("a field");
    let fields = [key(&["observation"]), key(&["next", "observation"]), key(&["action"]), key(&["next", "done"])];
    let total = store.num_transitions() as u64;
    let mut state = 88_172_645_463_325_252_u64;
    let mut draw = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };

    for batch in [256, 4096, 32768] {
        let mut outputs: Vec<Vec<u8>> = columns.iter().map(|column| vec![0; column.width * batch]).collect();
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        let repeats = (400_000 / batch).max(3);
        for round in 0..ROUNDS + 2 {
            let (mut mine, mut other) = (0.0, 0.0);
            for _ in 0..repeats {
                let index: Vec<i64> = (0..batch).map(|_| (draw() % total) as i64).collect();
                let start = Instant::now();
                let gathered = gather_memory(&store, &fields, &index, Some(2), &|| false).expect("a batch");
                mine += start.elapsed().as_secs_f64();

                let index: Vec<i64> = (0..batch).map(|_| (draw() % total) as i64).collect();
                let transitions: Vec<usize> = index.iter().map(|&i| i as usize).collect();
                let states: Vec<usize> =
                    index.iter().map(|&i| i as usize + store.segments().locate(i).expect("a row").0).collect();
                let next: Vec<usize> = states.iter().map(|row| row + 1).collect();
                let start = Instant::now();
                std::thread::scope(|scope| {
                    let half = batch / 2;
                    let mut mine: Vec<&mut [u8]> = Vec::new();
                    let mut helpers: Vec<&mut [u8]> = Vec::new();
                    for (column, out) in columns.iter().zip(&mut outputs) {
                        let (a, b) = out.split_at_mut(half * column.width);
                        mine.push(a);
                        helpers.push(b);
                    }
                    let rows = |column: &Plain| match (column.states, column.next) {
                        (false, _) => &transitions,
                        (true, false) => &states,
                        (true, true) => &next,
                    };
                    let columns = &columns;
                    scope.spawn(move || {
                        for (column, out) in columns.iter().zip(helpers) {
                            copy(column, &rows(column)[half..], out);
                        }
                    });
                    for (column, out) in columns.iter().zip(mine) {
                        copy(column, &rows(column)[..half], out);
                    }
                });
                other += start.elapsed().as_secs_f64();
                black_box((&gathered, &outputs));
            }
            if round >= 2 {
                ours.push(mine / repeats as f64);
                theirs.push(other / repeats as f64);
            }
        }
        let mut ratios: Vec<f64> = ours.iter().zip(&theirs).map(|(mine, other)| other / mine).collect();
        for values in [&mut ours, &mut theirs, &mut ratios] {
            values.sort_by(f64::total_cmp);
        }
        println!(
            "{{\"batch\": {batch}, \"ours\": {:.9}, \"ceiling\": {:.9}, \"ratio\": {:.4}, \"low\": {:.4}, \"high\": {:.4}}}",
            ours[ROUNDS / 2],
            theirs[ROUNDS / 2],
            ratios[ROUNDS / 2],
            ratios[0],
            ratios[ROUNDS - 1]
        );
    }
}
