//! Any numbers as a segment table: refused, or every look-up agrees with the definition.
#![no_main]

use arbitrary::Arbitrary;
use iltools_core::index::{Boundary, Domain, window_rows};
use iltools_core::segment::SegmentTable;
use libfuzzer_sys::fuzz_target;

#[derive(Arbitrary, Debug)]
struct Input {
    rows: Vec<Row>,
    index: i64,
    ids: (i64, i64),
    window: Vec<(i64, i64)>,
    length: u8,
    boundary: u8,
}

/// Small numbers are common, so that tables that hold together are found; large ones come through `huge`.
#[derive(Arbitrary, Debug)]
struct Row {
    task: i8,
    trajectory: i8,
    gap: i8,
    length: i16,
    huge: Option<(i64, i64)>,
}

fuzz_target!(|input: Input| {
    let (mut task, mut trajectory, mut start, mut length) = (vec![], vec![], vec![], vec![]);
    let mut end = 0_i64;
    for row in &input.rows {
        let (first, count) = row.huge.unwrap_or((end.saturating_add(row.gap.into()), row.length.into()));
        task.push(row.task.into());
        trajectory.push(row.trajectory.into());
        start.push(first);
        length.push(count);
        end = first.saturating_add(count);
    }
    let definition: Vec<(i64, i64)> = start.iter().copied().zip(length.iter().copied()).collect();
    let Ok(table) = SegmentTable::new(task.clone(), trajectory.clone(), start, length) else { return };
    assert_eq!(i128::from(table.num_transitions()), definition.iter().map(|&(_, count)| i128::from(count)).sum());
    for (a, &(first, count)) in definition.iter().enumerate() {
        assert!(first >= 0 && count >= 1 && first.checked_add(count).is_some());
        for &(other, other_count) in &definition[a + 1..] {
            assert!(first + count <= other || other + other_count <= first, "overlap");
        }
    }

    let holds = |index: i64| definition.iter().position(|&(first, count)| (first..first + count).contains(&index));
    let edges = definition.iter().flat_map(|&(first, count)| [first - 1, first, first + count - 1, first + count]);
    for index in edges.chain([input.index]) {
        match (table.locate(index), holds(index)) {
            (Ok((segment, step)), Some(expected)) => {
                assert_eq!((segment, step), (expected, index - definition[expected].0));
            }
            (Err(_), None) => {}
            other => panic!("{index}: {other:?}"),
        }
    }
    for (position, ids) in task.iter().copied().zip(trajectory.iter().copied()).enumerate() {
        assert_eq!(table.find(ids.0, ids.1).unwrap(), position);
    }
    let known = task.iter().zip(&trajectory).any(|(&a, &b)| (a, b) == input.ids);
    assert_eq!(table.find(input.ids.0, input.ids.1).is_ok(), known);

    let (segment, step): (Vec<i64>, Vec<i64>) = input.window.iter().copied().unzip();
    let boundary = [Boundary::Wrap, Boundary::Clamp, Boundary::Mask, Boundary::Error][usize::from(input.boundary % 4)];
    if let Ok(windows) = window_rows(&table, &segment, &step, input.length.into(), boundary) {
        assert_eq!(windows.rows.len(), segment.len() * usize::from(input.length));
        for (rows, &k) in windows.rows.chunks(input.length.into()).zip(&segment) {
            let (first, count) = definition[k as usize];
            assert!(rows.iter().all(|row| (first..first + count).contains(row)));
        }
    }
    if let Ok(domain) = Domain::segments(&table, &segment) {
        assert!(domain.total() >= 1 && domain.total() <= table.num_transitions());
    }
});
