//! The store against a plain model: build -> reopen -> gather, and what must be refused.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use iltools_core::store::{Array, Backend, ColumnSpec, DType, Kind, Store, StoreWriter, gather_memory, repair, verify};
use iltools_core::{Error, Result};
use proptest::prelude::*;

const BACKENDS: [Backend; 3] = [Backend::Mmap, Backend::Ram, Backend::Pread];

fn spec(name: &str, kind: Kind, width: usize) -> ColumnSpec {
    ColumnSpec { key: vec![name.into()], kind, dtype: DType::Uint8, shape: vec![width] }
}

/// Rows whose bytes tell trajectory, row and position apart.
fn rows(trajectory: usize, count: usize, width: usize, salt: usize) -> Vec<u8> {
    (0..count * width).map(|i| ((trajectory * 7919 + i * 31 + salt) % 251) as u8).collect()
}

struct Model {
    state_width: usize,
    action_width: usize,
    states: Vec<usize>,
}

impl Model {
    fn build(&self, path: &Path, overwrite: bool) -> Result<String> {
        let mut writer = StoreWriter::begin(path, overwrite)?;
        writer.add_view(vec!["part".into()], vec!["obs".into()], 1, vec![self.state_width - 1])?;
        for (k, &count) in self.states.iter().enumerate() {
            let (obs, action) = (rows(k, count, self.state_width, 0), rows(k, count - 1, self.action_width, 100));
            let arrays = [
                Array { spec: spec("obs", Kind::State, self.state_width), rows: count, bytes: &obs },
                Array { spec: spec("action", Kind::Transition, self.action_width), rows: count - 1, bytes: &action },
            ];
            writer.append(k as i64 / 3, k as i64 % 3, Some(format!("clip {k}")), &arrays, &|| false)?;
        }
        writer.publish(BTreeMap::from([(0, "walk".into())]), serde_json::json!({"fps": 50}), &|| false)
    }

    /// The bytes of a transition, straight from the definition.
    fn row(&self, index: usize, key: &[&str]) -> Vec<u8> {
        let (mut k, mut step) = (0, index);
        while step >= self.states[k] - 1 {
            step -= self.states[k] - 1;
            k += 1;
        }
        let state = |step: usize| {
            rows(k, self.states[k], self.state_width, 0)[step * self.state_width..][..self.state_width].to_vec()
        };
        match key {
            ["obs"] => state(step),
            ["next", "obs"] => state(step + 1),
            ["part"] => state(step)[1..].to_vec(),
            ["next", "part"] => state(step + 1)[1..].to_vec(),
            _ => rows(k, self.states[k] - 1, self.action_width, 100)[step * self.action_width..][..self.action_width]
                .to_vec(),
        }
    }

    fn check(&self, store: &Store, index: &[i64]) {
        let fields: Vec<usize> = (0..store.fields().len()).collect();
        let found = gather_memory(store, &fields, index, None, &|| false).unwrap();
        for (field, buffer) in store.fields().iter().zip(&found) {
            let key: Vec<&str> = field.key.iter().map(String::as_str).collect();
            let expected: Vec<u8> = index.iter().flat_map(|&i| self.row(i as usize, &key)).collect();
            assert_eq!(buffer.to_vec(), expected, "{key:?}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn what_was_written_comes_back(
        state_width in 2_usize..40,
        action_width in 1_usize..20,
        states in prop::collection::vec(2_usize..30, 1..20),
        picks in prop::collection::vec(0_usize..10_000, 0..200),
    ) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("store");
        let model = Model { state_width, action_width, states };
        let uuid = model.build(&path, false).unwrap();
        for backend in BACKENDS {
            let store = Store::open(&path, backend).unwrap();
            prop_assert_eq!(store.uuid(), &uuid);
            let total = store.num_transitions();
            prop_assert_eq!(total, model.states.iter().map(|count| count - 1).sum::<usize>());
            let index: Vec<i64> = picks.iter().map(|pick| (pick % total) as i64).collect();
            model.check(&store, &index);
            let bad = gather_memory(&store, &[0], &[total as i64], None, &|| false);
            prop_assert!(matches!(bad, Err(Error::OutOfRange(_))));
        }
    }
}

fn small() -> Model {
    Model { state_width: 5, action_width: 3, states: vec![4, 2, 9, 3] }
}

fn listing(path: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![path.to_path_buf()];
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path.clone());
            }
            found.push(path);
        }
    }
    found.sort();
    found
}

fn column_file(path: &Path, name: &str) -> PathBuf {
    listing(path).into_iter().find(|file| file.file_name().unwrap() == name).unwrap()
}

#[test]
fn an_aborted_build_leaves_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("deep").join("store");
    let writer = StoreWriter::begin(&path, false).unwrap();
    assert!(path.exists());
    drop(writer);
    assert!(!path.exists());

    small().build(&path, false).unwrap();
    let before = listing(&path);
    drop(StoreWriter::begin(&path, true).unwrap());
    assert_eq!(listing(&path), before);
}

#[test]
fn a_build_without_trajectories_is_no_store() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    let result = StoreWriter::begin(&path, false).unwrap().publish(BTreeMap::new(), serde_json::Value::Null, &|| false);
    assert!(matches!(result, Err(Error::Schema(_))));
    assert!(!path.exists());
}

#[test]
fn overwriting_is_explicit_and_open_readers_keep_their_snapshot() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    let old = small();
    old.build(&path, false).unwrap();
    assert!(matches!(old.build(&path, false), Err(Error::Exists(_))));
    let readers: Vec<Store> = BACKENDS.into_iter().map(|backend| Store::open(&path, backend).unwrap()).collect();
    let new = Model { states: vec![3; 40], ..small() };
    new.build(&path, true).unwrap();
    for reader in &readers {
        old.check(reader, &[0, 5, 3, 12]);
    }
    new.check(&Store::open(&path, Backend::Mmap).unwrap(), &[0, 79, 40]);
    let generations = listing(&path).into_iter().filter(|file| file.is_dir() && file.parent() == Some(&path)).count();
    assert_eq!(generations, 1);
}

#[test]
fn leftovers_of_a_dead_build_go_and_strangers_stay() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    fs::create_dir_all(path.join("data-0f8fad5b-d9cb-469f-a165-70867728950e/states")).unwrap();
    fs::write(path.join("manifest.json.new"), "half").unwrap();
    fs::create_dir(path.join("data-of-mine")).unwrap();
    small().build(&path, false).unwrap();
    assert!(!path.join("data-0f8fad5b-d9cb-469f-a165-70867728950e").exists());
    assert!(!path.join("manifest.json.new").exists());
    assert!(path.join("data-of-mine").exists());
}

#[test]
fn one_builder_at_a_time() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    let first = StoreWriter::begin(&path, false).unwrap();
    let Err(Error::Busy(message)) = StoreWriter::begin(&path, false) else { panic!("two builders") };
    assert!(message.contains(&std::process::id().to_string()), "{message}");
    drop(first);
    small().build(&path, false).unwrap();
}

#[test]
fn every_kind_of_damage_is_an_error_that_names_the_column() {
    let damage = |spoil: &dyn Fn(&Path)| {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("store");
        small().build(&path, false).unwrap();
        let file = column_file(&path, "obs.memmap");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
        spoil(&file);
        BACKENDS.map(|backend| match Store::open(&path, backend) {
            Err(Error::Corrupt(message)) => message,
            other => panic!("{other:?}"),
        })
    };
    let truncate =
        |file: &Path, bytes: u64| fs::File::options().write(true).open(file).unwrap().set_len(bytes).unwrap();
    for message in damage(&|file| truncate(file, 50)) {
        assert!(message.contains("obs") && message.contains("expected 90 bytes, found 50"), "{message}");
    }
    for message in damage(&|file| truncate(file, 91)) {
        assert!(message.contains("expected 90 bytes, found 91"), "{message}");
    }
    for message in damage(&|file| fs::remove_file(file).unwrap()) {
        assert!(message.contains("obs") && message.contains("missing"), "{message}");
    }
    for message in damage(&|file| {
        let elsewhere = file.with_extension("elsewhere");
        fs::rename(file, &elsewhere).unwrap();
        std::os::unix::fs::symlink(&elsewhere, file).unwrap();
    }) {
        assert!(message.contains("symbolic link"), "{message}");
    }
    for message in
        damage(&|file| fs::write(file.parent().unwrap().parent().unwrap().join("segments.i64"), [0; 96]).unwrap())
    {
        assert!(message.contains("segment table"), "{message}");
    }
    for message in damage(&|file| fs::write(file.parent().unwrap().parent().unwrap().join("names.json"), "{}").unwrap())
    {
        assert!(message.contains("names"), "{message}");
    }
}

#[test]
fn a_flipped_bit_is_found_by_verify() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    small().build(&path, false).unwrap();
    let store = Store::open(&path, Backend::Mmap).unwrap();
    assert_eq!(store.verify(|_, _| true).unwrap(), []);
    let file = column_file(&path, "action.memmap");
    let mut bytes = fs::read(&file).unwrap();
    bytes[17] ^= 4;
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    fs::write(&file, bytes).unwrap();
    let found = store.verify(|_, _| true).unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!((found[0].column.as_deref(), found[0].block), (Some(&["action".to_owned()][..]), Some(0)));
    assert!(matches!(store.verify(|_, _| false), Err(Error::Interrupted)));
}

#[test]
fn a_file_truncated_under_pread_is_an_error() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    small().build(&path, false).unwrap();
    let store = Store::open(&path, Backend::Pread).unwrap();
    let file = column_file(&path, "obs.memmap");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    fs::File::options().write(true).open(&file).unwrap().set_len(10).unwrap();
    let Err(Error::Corrupt(message)) = gather_memory(&store, &[0], &[9], None, &|| false) else {
        panic!("read past the end")
    };
    assert!(message.contains("expected 90 bytes, found 10"), "{message}");
}

#[test]
fn trajectories_that_disagree_are_refused_and_the_build_goes_on() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    let mut writer = StoreWriter::begin(&path, false).unwrap();
    let bytes = vec![1; 1000];
    let array = |name: &str, kind, width: usize, rows: usize| Array {
        spec: spec(name, kind, width),
        rows,
        bytes: &bytes[..width * rows],
    };
    let good = || [array("obs", Kind::State, 4, 3), array("action", Kind::Transition, 2, 2)];
    writer.append(0, 0, None, &good(), &|| false).unwrap();
    let mut refuse = |task, traj, arrays: &[Array<'_>], words: &[&str]| {
        let message = writer.append(task, traj, Some("clip".into()), arrays, &|| false).unwrap_err().to_string();
        assert!(words.iter().all(|word| message.contains(word)), "{message} lacks one of {words:?}");
    };
    refuse(0, 0, &good(), &["task 0, trajectory 0 (clip)", "before"]);
    refuse(0, 1, &[array("obs", Kind::State, 4, 3)], &["task 0, trajectory 1", "\"action\" is missing"]);
    refuse(
        0,
        1,
        &[array("obs", Kind::State, 4, 3), array("action", Kind::Transition, 2, 3)],
        &["\"action\"", "expected 2 rows, found 3"],
    );
    refuse(
        0,
        1,
        &[array("obs", Kind::State, 1, 3), array("action", Kind::Transition, 2, 2)],
        &["\"obs\"", "[4]", "[1]"],
    );
    refuse(0, 1, &[array("obs", Kind::State, 4, 3), array("act", Kind::Transition, 2, 2)], &["\"action\" is missing"]);
    refuse(
        0,
        1,
        &[array("obs", Kind::State, 4, 1), array("action", Kind::Transition, 2, 0)],
        &["at least 2 states, found 1"],
    );
    let [a, b] = good();
    refuse(0, 1, &[a, b, array("more", Kind::State, 1, 3)], &["\"more\" is new"]);
    writer.append(0, 1, None, &good(), &|| false).unwrap();
    writer.publish(BTreeMap::new(), serde_json::Value::Null, &|| false).unwrap();
    let store = Store::open(&path, Backend::Mmap).unwrap();
    assert_eq!((store.num_transitions(), store.num_states()), (4, 6));
}

#[test]
fn an_interrupted_build_is_over_and_leaves_the_old_store() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    small().build(&path, false).unwrap();
    let before = listing(&path);
    let bytes = vec![1; 40 << 20];
    let big = [Array { spec: spec("obs", Kind::State, 1 << 20), rows: 40, bytes: &bytes }];
    let mut writer = StoreWriter::begin(&path, true).unwrap();
    assert!(matches!(writer.append(0, 0, None, &big, &|| true), Err(Error::Interrupted)));
    assert!(matches!(writer.append(0, 0, None, &big, &|| false), Err(Error::Invalid(_))));
    assert!(matches!(writer.publish(BTreeMap::new(), serde_json::Value::Null, &|| false), Err(Error::Invalid(_))));
    assert_eq!(listing(&path), before);

    let mut writer = StoreWriter::begin(&path, true).unwrap();
    writer.append(0, 0, None, &big, &|| false).unwrap();
    assert!(matches!(writer.publish(BTreeMap::new(), serde_json::Value::Null, &|| true), Err(Error::Interrupted)));
    assert_eq!(listing(&path), before);
    small().check(&Store::open(&path, Backend::Mmap).unwrap(), &[0, 5, 3, 12]);
}

#[test]
fn attributes_that_no_reader_would_take_are_not_published() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    small().build(&path, false).unwrap();
    let nested = (0..200).fold(serde_json::json!(1), |inner, _| serde_json::json!([inner]));
    let mut writer = StoreWriter::begin(&path, true).unwrap();
    let bytes = [1; 12];
    let arrays = [Array { spec: spec("obs", Kind::State, 4), rows: 3, bytes: &bytes }];
    writer.append(0, 0, None, &arrays, &|| false).unwrap();
    assert!(matches!(writer.publish(BTreeMap::new(), nested, &|| false), Err(Error::Invalid(_))));
    small().check(&Store::open(&path, Backend::Mmap).unwrap(), &[0, 5, 3, 12]);
}

#[test]
fn repair_removes_leftovers_and_nothing_else() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    assert!(matches!(repair(&path), Err(Error::NotFound(_))));
    fs::create_dir(&path).unwrap();
    assert!(matches!(repair(&path), Err(Error::NotFound(_))));
    assert_eq!(listing(&path), Vec::<PathBuf>::new());

    small().build(&path, false).unwrap();
    fs::write(path.join("notes.txt"), "mine").unwrap();
    fs::create_dir(path.join("data-of-mine")).unwrap();
    let clean = listing(&path);
    assert_eq!(repair(&path).unwrap(), Vec::<PathBuf>::new());
    let dead = path.join("data-0f8fad5b-d9cb-469f-a165-70867728950e");
    fs::create_dir_all(dead.join("states")).unwrap();
    fs::write(path.join("manifest.json.new"), "half").unwrap();

    let builder = StoreWriter::begin(&path, true);
    assert!(matches!(repair(&path), Err(Error::Busy(_))));
    drop(builder);
    fs::create_dir_all(dead.join("states")).unwrap();
    fs::write(path.join("manifest.json.new"), "half").unwrap();
    assert_eq!(repair(&path).unwrap(), [path.join("manifest.json.new"), dead.clone()]);
    assert_eq!(listing(&path), clean);
    small().check(&Store::open(&path, Backend::Mmap).unwrap(), &[0, 5, 3, 12]);

    // With an unreadable manifest it is not known which data belongs to the store.
    fs::create_dir_all(dead.join("states")).unwrap();
    fs::write(path.join("manifest.json"), "{").unwrap();
    assert!(matches!(repair(&path), Err(Error::Corrupt(_))));
    assert!(dead.exists());
}

#[test]
fn verify_names_everything_that_is_wrong_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    small().build(&path, false).unwrap();
    let data_dir = Store::open(&path, Backend::Mmap).unwrap().data_dir().to_path_buf();
    fs::remove_file(column_file(&path, "obs.memmap")).unwrap();
    fs::write(data_dir.join("segments.i64"), [0; 8]).unwrap();
    fs::write(data_dir.join("names.json"), "{}").unwrap();
    fs::write(data_dir.join("states/meta.json"), "{}").unwrap();
    let action = column_file(&path, "action.memmap");
    fs::set_permissions(&action, fs::Permissions::from_mode(0o644)).unwrap();
    fs::File::options().write(true).open(&action).unwrap().set_len(3).unwrap();
    assert!(Store::open(&path, Backend::Mmap).is_err());
    let words: Vec<String> = verify(&path, |_, _| true)
        .unwrap()
        .into_iter()
        .map(|found| format!("{}: {}", found.file, found.what))
        .collect();
    let expect = ["segments.i64", "names.json", "states/meta.json", "\"obs\"", "\"action\""];
    assert_eq!(words.len(), expect.len(), "{words:?}");
    assert!(expect.iter().all(|name| words.iter().any(|line| line.contains(name))), "{words:?}");
}
