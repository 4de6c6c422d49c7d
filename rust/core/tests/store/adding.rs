//! What may be added.

use std::collections::BTreeMap;

use iltools_core::Error;
use iltools_core::store::{Array, Backend, ColumnSpec, DType, Kind, Store, StoreWriter, Trajectory, View};

use crate::model::{listing, small, spec};

fn clip(traj_id: i64, arrays: Vec<Array<'_>>) -> Trajectory<'_> {
    Trajectory { task_id: 0, traj_id, name: Some("clip".into()), arrays, views: vec![] }
}

#[test]
fn trajectories_that_disagree_are_refused_and_the_build_goes_on() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    let mut writer = StoreWriter::begin(&path, false, "{}").unwrap();
    let bytes = vec![1; 1000];
    let array = |name: &str, kind, width: usize, rows: usize| Array {
        spec: spec(name, kind, width),
        rows,
        bytes: (&bytes[..width * rows]).into(),
    };
    let good = || vec![array("obs", Kind::State, 4, 3), array("action", Kind::Transition, 2, 2)];
    writer.append(clip(0, good()), &|| false).unwrap();
    let mut refuse = |traj_id, arrays: Vec<Array<'_>>, words: &[&str]| {
        let message = writer.append(clip(traj_id, arrays), &|| false).unwrap_err().to_string();
        assert!(words.iter().all(|word| message.contains(word)), "{message} lacks one of {words:?}");
    };
    refuse(0, good(), &["task 0, trajectory 0 (clip)", "before"]);
    refuse(1, vec![array("obs", Kind::State, 4, 3)], &["task 0, trajectory 1", "\"action\" is missing"]);
    refuse(
        1,
        vec![array("obs", Kind::State, 4, 3), array("action", Kind::Transition, 2, 3)],
        &["\"action\"", "expected 2 rows, found 3"],
    );
    refuse(
        1,
        vec![array("obs", Kind::State, 1, 3), array("action", Kind::Transition, 2, 2)],
        &["\"obs\"", "[4]", "[1]"],
    );
    refuse(1, vec![array("obs", Kind::State, 4, 3), array("act", Kind::Transition, 2, 2)], &["\"action\" is missing"]);
    refuse(
        1,
        vec![array("obs", Kind::State, 4, 1), array("action", Kind::Transition, 2, 0)],
        &["at least 2 states, found 1"],
    );
    let mut more = good();
    more.push(array("more", Kind::State, 1, 3));
    refuse(1, more, &["\"more\" is new"]);
    writer.append(clip(1, good()), &|| false).unwrap();
    writer.publish(BTreeMap::new(), &|| false).unwrap();
    let store = Store::open(&path, Backend::Mmap).unwrap();
    assert_eq!((store.num_transitions(), store.num_states()), (4, 6));
}

fn transitions<'a>(traj_id: i64, keys: &[&[&str]], views: &[(&str, usize, usize)], bytes: &'a [u8]) -> Trajectory<'a> {
    let arrays = keys
        .iter()
        .map(|key| {
            let key = key.iter().map(ToString::to_string).collect();
            let spec = ColumnSpec { key, kind: Kind::Transition, dtype: DType::Uint8, shape: vec![5] };
            Array { spec, rows: 3, bytes: (&bytes[..15]).into() }
        })
        .collect();
    let views = views
        .iter()
        .map(|&(name, offset, width)| View {
            key: vec![name.into()],
            source: vec!["whole".into()],
            offset,
            shape: vec![width],
        })
        .collect();
    Trajectory { task_id: 0, traj_id, name: None, arrays, views }
}

#[test]
fn parts_cut_otherwise_are_refused_and_a_refused_trajectory_leaves_no_views() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    let bytes = [7; 15];
    let clip = |traj_id, views: &[_]| transitions(traj_id, &[&["whole"]], views, &bytes);
    let mut writer = StoreWriter::begin(&path, false, "{}").unwrap();
    // Refused, as a view does not fit: the next one begins from nothing.
    assert!(matches!(writer.append(clip(0, &[("q", 0, 6)]), &|| false), Err(Error::Schema(_))));
    writer.append(clip(0, &[("q", 0, 2), ("v", 2, 3)]), &|| false).unwrap();
    for (views, words) in [
        (&[("q", 0, 3), ("v", 3, 2)][..], "key \"q\": expected shape [2], found [3]"),
        (&[("q", 0, 2), ("v", 1, 3)], "key \"v\": expected elements from 2"),
        (&[("q", 0, 2)], "1 views, earlier trajectories have 2"),
        (&[("q", 0, 2), ("w", 2, 3)], "key \"w\""),
    ] {
        let message = writer.append(clip(1, views), &|| false).unwrap_err().to_string();
        assert!(message.contains(words), "{message}");
    }
    writer.append(clip(1, &[("q", 0, 2), ("v", 2, 3)]), &|| false).unwrap();
    writer.publish(BTreeMap::new(), &|| false).unwrap();
    let store = Store::open(&path, Backend::Mmap).unwrap();
    assert_eq!(store.fields().len(), 3);
    assert_eq!(store.num_transitions(), 6);
}

#[test]
fn keys_that_cannot_nest_are_refused_when_they_are_added() {
    let bytes = [7; 15];
    for (keys, views) in [
        (&[&["a"][..], &["a", "b"]][..], &[][..]),
        (&[&["whole"], &["whole", "b"]], &[]),
        (&[&["whole"], &["a", "b"]], &[("a", 0, 1)]),
        (&[&["whole"], &["a"]], &[("a", 0, 1)]),
        (&[&["whole"], &["next"], &["next", "done"]], &[]),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let mut writer = StoreWriter::begin(&directory.path().join("store"), false, "{}").unwrap();
        let refused = writer.append(transitions(0, keys, views, &bytes), &|| false);
        assert!(matches!(refused, Err(Error::Schema(_))), "{keys:?} {views:?}");
        writer.append(transitions(0, &[&["whole"]], &[], &bytes), &|| false).unwrap();
    }
    // Between kinds: the next of a state, and a transition that would have to hold it.
    let directory = tempfile::tempdir().unwrap();
    let mut writer = StoreWriter::begin(&directory.path().join("store"), false, "{}").unwrap();
    for key in [&["next"][..], &["obs", "x"], &["next", "obs"], &["next", "obs", "x"]] {
        let mut clip = transitions(0, &[key], &[], &bytes);
        clip.arrays.push(Array { spec: spec("obs", Kind::State, 3), rows: 4, bytes: (&bytes[..12]).into() });
        assert!(matches!(writer.append(clip, &|| false), Err(Error::Schema(_))), "{key:?}");
    }
    let mut clip = transitions(0, &[&["next", "done"]], &[], &bytes);
    clip.arrays.push(Array { spec: spec("obs", Kind::State, 3), rows: 4, bytes: (&bytes[..12]).into() });
    writer.append(clip, &|| false).unwrap();
}

#[test]
fn attributes_that_no_reader_would_take_are_refused_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    small().build(&path, false).unwrap();
    let before = listing(&path);
    let nested = format!("{}1{}", "[".repeat(200), "]".repeat(200));
    assert!(matches!(StoreWriter::begin(&path, true, &nested), Err(Error::Invalid(_))));
    assert_eq!(listing(&path), before);
    small().check(&Store::open(&path, Backend::Mmap).unwrap(), &[0, 5, 3, 12]);
}

#[test]
fn attributes_come_back_to_the_letter() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    let text = r#"{"count": 18446744073709551617, "dt": 0.016666666666666666, "text": "\\"}"#;
    let mut writer = StoreWriter::begin(&path, true, text).unwrap();
    small().append_all(&mut writer).unwrap();
    writer.publish(BTreeMap::new(), &|| false).unwrap();
    assert_eq!(Store::open(&path, Backend::Mmap).unwrap().attributes(), text);
}
