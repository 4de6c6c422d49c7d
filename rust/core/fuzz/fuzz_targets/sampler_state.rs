//! Any numbers as the saved state of an index stream: refused without a change, or continued within the data.
#![no_main]

use std::sync::Arc;

use arbitrary::Arbitrary;
use iltools_core::index::{Domain, Draw, EpochShuffle, SequentialCursors, Share, UniformDraws};
use iltools_core::segment::SegmentTable;
use libfuzzer_sys::fuzz_target;

#[derive(Arbitrary, Debug)]
struct Input {
    lengths: Vec<u16>,
    chosen: Option<Vec<i64>>,
    huge_total: Option<i64>,
    shuffle: bool,
    seed: u64,
    epoch: u64,
    position: i64,
    other: (u64, u64, i64),
    draws: u16,
    envs: Vec<(i64, i64)>,
    updates: Vec<(i64, i64, i64)>,
}

fuzz_target!(|input: Input| {
    let length: Vec<i64> = input.lengths.iter().map(|&length| i64::from(length)).collect();
    let ends = length.iter().scan(0, |end, length| {
        *end += length;
        Some(*end)
    });
    let start: Vec<i64> = ends.zip(&length).map(|(end, length)| end - length).collect();
    let count = length.len();
    let Ok(table) = SegmentTable::new(vec![0; count], (0..count as i64).collect(), start.clone(), length.clone()) else {
        return;
    };
    let table = Arc::new(table);
    let inside = |chosen: &Option<Vec<i64>>, row: i64| match chosen {
        Some(chosen) => chosen.iter().any(|&k| (start[k as usize]..start[k as usize] + length[k as usize]).contains(&row)),
        None => (0..input.huge_total.unwrap_or(table.num_transitions())).contains(&row),
    };
    let domain = || match &input.chosen {
        Some(chosen) => Domain::segments(&table, chosen),
        None => Domain::all(input.huge_total.unwrap_or(table.num_transitions())),
    };
    if let Ok(domain) = domain() {
        // Few, for speed: what draws depend on is where they begin.
        let count = usize::from(input.draws % 400);
        let total = domain.total();
        if let Ok(mut shuffle) = EpochShuffle::new(domain.clone(), input.seed, input.epoch, input.position, input.shuffle) {
            let before = (shuffle.seed(), shuffle.epoch(), shuffle.position());
            assert!((0..total).contains(&shuffle.position()));
            let (seed, epoch, position) = input.other;
            if shuffle.clone().restore(seed, epoch, position).is_err() {
                assert!(shuffle.restore(seed, epoch, position).is_err());
                assert_eq!((shuffle.seed(), shuffle.epoch(), shuffle.position()), before);
            }
            let mut again = shuffle.clone();
            let out = shuffle.items(Draw::Batch(count)).unwrap();
            assert!(out.iter().all(|&row| inside(&input.chosen, row)));
            let mut ranks = [0, 1].map(|rank| again.clone().shared(Share::new(rank, 2).unwrap()));
            assert_eq!(again.items(Draw::Batch(count)).unwrap(), out);
            let half = Draw::Batch(count / 2);
            let blocks = ranks.each_mut().map(|rank| rank.items(half).unwrap()).concat();
            assert_eq!(blocks, out[..blocks.len()]);
            // Within one epoch no row comes twice.
            let whole = out.len().min((total - before.2) as usize);
            let mut once = out[..whole].to_vec();
            once.sort_unstable();
            assert!(once.windows(2).all(|pair| pair[0] < pair[1]));
        } else {
            assert!(!(0..=total).contains(&input.position));
        }
        let out = UniformDraws::new(domain, input.seed, input.epoch).items(count).unwrap();
        assert!(out.iter().all(|&row| inside(&input.chosen, row)));
    }

    let (segment, step): (Vec<i64>, Vec<i64>) = input.envs.iter().copied().unzip();
    let Ok(mut cursors) = SequentialCursors::new(Arc::clone(&table), &segment, &step) else { return };
    let before = (cursors.segment().unwrap(), cursors.step().unwrap());
    let (envs, (segments, steps)): (Vec<_>, (Vec<_>, Vec<_>)) = input.updates.iter().map(|&(e, k, s)| (e, (k, s))).unzip();
    if cursors.update(&envs, &segments, &steps).is_err() {
        assert_eq!((cursors.segment().unwrap(), cursors.step().unwrap()), before);
    }
    for _ in 0..3 {
        let out = cursors.next_rows().unwrap();
        assert!(out.iter().zip(cursors.segment().unwrap()).all(|(&row, k)| {
            (start[k as usize]..start[k as usize] + length[k as usize]).contains(&row)
        }));
    }
});
