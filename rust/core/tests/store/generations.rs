//! Stores that are added to: the files that are there stay as they are, and the rows are those of one store.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use iltools_core::Error;
use iltools_core::store::{Backend, Store, StoreWriter, gather_memory, repair, verify};
use proptest::prelude::*;

use crate::model::{BACKENDS, Model, listing, rows, small};

/// Build the first trajectories, and add the others in as many steps as there are further cuts.
fn build_in_steps(model: &Model, path: &Path, cuts: &[usize]) -> String {
    let mut writer = StoreWriter::begin(path, false, r#"{"fps": 50}"#).unwrap();
    model.append(&mut writer, 0..cuts[0]).unwrap();
    let uuid = writer.publish(BTreeMap::from([(0, "walk".into())]), &|| false).unwrap();
    for pair in cuts.windows(2) {
        let mut writer = StoreWriter::add(path).unwrap();
        model.append(&mut writer, pair[0]..pair[1]).unwrap();
        let tasks = BTreeMap::from([(pair[0] as i64 + 10, format!("of {}", pair[0]))]);
        assert_eq!(writer.publish(tasks, &|| false).unwrap(), uuid);
    }
    uuid
}

/// Compare the ends of all trajectories, between which bytes of another trajectory would be.
fn check(model: &Model, store: &Store) {
    let table = store.segments();
    let ends = table.start().iter().zip(table.length()).flat_map(|(&start, &length)| [start, start + length - 1]);
    let index: Vec<i64> = ends.collect();
    model.check(store, &index);
    let fields: Vec<usize> = (0..store.fields().len()).filter(|&field| store.fields()[field].key == ["obs"]).collect();
    let every: Vec<i64> = (0..store.num_transitions() as i64).collect();
    let found = gather_memory(store, &fields, &every, None, &|| false).unwrap();
    let states = model.states.iter().enumerate().take(table.len());
    let expected: Vec<u8> = states.flat_map(|(k, &count)| rows(k, count - 1, model.state_width, 0)).collect();
    assert!(found[0].to_vec() == expected);
}

/// What would show that somebody touched a file.
fn marks(path: &Path) -> Vec<(PathBuf, u64, u64, i64, Vec<u8>)> {
    let files = listing(path).into_iter().filter(|file| file.is_file() && !file.ends_with("manifest.json"));
    let mark = |file: PathBuf| {
        let of = fs::metadata(&file).unwrap();
        let bytes = fs::read(&file).unwrap();
        (file, of.ino(), of.len(), of.mtime_nsec() + of.mtime(), bytes)
    };
    files.filter(|file| !file.ends_with(".lock")).map(mark).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(6))]
    #[test]
    fn rows_are_those_of_one_store(
        states in prop::collection::vec(2_usize..200, 2..9),
        state_width in prop::sample::select(vec![2_usize, 5, 333, 1024]),
        steps in prop::collection::vec(1_usize..4, 1..4),
    ) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("store");
        let model = Model { state_width, action_width: 3, states };
        let mut cuts: Vec<usize> = vec![];
        for step in steps {
            let next = (cuts.last().unwrap_or(&0) + step).min(model.states.len());
            if cuts.last() != Some(&next) {
                cuts.push(next);
            }
        }
        let uuid = build_in_steps(&model, &path, &cuts);
        prop_assert_eq!(verify(&path, |_, _| true).unwrap(), []);
        for backend in BACKENDS {
            let store = Store::open(&path, backend).unwrap();
            prop_assert_eq!(store.trajectory_names().len(), cuts[cuts.len() - 1]);
            prop_assert_eq!((store.uuid(), store.task_names().len()), (uuid.as_str(), cuts.len()));
            check(&model, &store);
            for &cut in &cuts {
                let prefix = Store::open_prefix(&path, &uuid, cut as u64, backend, &|| false).unwrap();
                prop_assert_eq!(prefix.segments().len(), cut);
                check(&model, &prefix);
            }
        }
    }
}

fn large() -> Model {
    Model { state_width: 1000, action_width: 3, states: vec![90, 70, 40, 200, 9] }
}

#[test]
fn files_stay_and_readers_are_not_disturbed() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    let model = large();
    build_in_steps(&model, &path, &[2]);
    let before = marks(&path);
    let readers: Vec<Store> = BACKENDS.into_iter().map(|backend| Store::open(&path, backend).unwrap()).collect();
    let mut writer = StoreWriter::add(&path).unwrap();
    model.append(&mut writer, 2..4).unwrap();
    assert_eq!(Store::open(&path, Backend::Mmap).unwrap().segments().len(), 2);
    writer.publish(BTreeMap::new(), &|| false).unwrap();
    let after = marks(&path);
    assert!(before.iter().all(|mark| after.contains(mark)));
    assert!(after.len() > before.len());
    for reader in &readers {
        check(&model, reader);
    }
    let store = Store::open(&path, Backend::Mmap).unwrap();
    assert_eq!((store.data_dirs().len(), store.attributes()), (2, r#"{"fps": 50}"#));
    assert!(repair(&path).unwrap().is_empty());
    // Nothing but what belongs to it is left by an overwrite.
    small().build(&path, true).unwrap();
    assert_eq!(fs::read_dir(&path).unwrap().count(), 3, "manifest, lock and one generation");
}

#[test]
fn what_ends_before_it_is_published_leaves_the_store() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    let model = large();
    build_in_steps(&model, &path, &[2, 3]);
    let before = listing(&path);
    let nothing = StoreWriter::add(&path).unwrap().publish(BTreeMap::new(), &|| false);
    assert!(matches!(nothing, Err(Error::Schema(why)) if why.contains("no trajectory was added")));
    let mut writer = StoreWriter::add(&path).unwrap();
    assert!(matches!(StoreWriter::add(&path), Err(Error::Busy(_))));
    let twice = model.append(&mut writer, 1..2);
    assert!(matches!(twice, Err(Error::Duplicate(why)) if why.contains("clip 1")));
    assert!(matches!(small().append(&mut writer, 3..4), Err(Error::Schema(why)) if why.contains("\"part\"")));
    model.append(&mut writer, 3..4).unwrap();
    assert!(matches!(writer.publish(BTreeMap::new(), &|| true), Err(Error::Interrupted)));
    assert_eq!(listing(&path), before);
    let store = Store::open(&path, Backend::Mmap).unwrap();
    check(&model, &store);

    // A kill leaves a generation that no manifest names.
    let left = path.join("data-0f8fad5b-d9cb-469f-a165-70867728950e");
    fs::create_dir_all(left.join("states")).unwrap();
    assert_eq!(repair(&path).unwrap(), [left]);
    assert_eq!(listing(&path), before);
    assert!(matches!(StoreWriter::add(&directory.path().join("none")), Err(Error::NotFound(_))));
    assert!(!directory.path().join("none").exists());
}

#[test]
fn damage_is_found_in_whichever_file_it_is() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    build_in_steps(&large(), &path, &[2, 3, 4]);
    let columns: Vec<PathBuf> = listing(&path).into_iter().filter(|file| file.ends_with("obs.memmap")).collect();
    assert_eq!(columns.len(), 3);
    for file in columns {
        let bytes = fs::read(&file).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
        let mut flipped = bytes.clone();
        flipped[0] ^= 1;
        fs::write(&file, &flipped).unwrap();
        let damages = verify(&path, |_, _| true).unwrap();
        assert!(damages.len() == 1 && damages[0].block == Some(0), "{damages:?}");
        fs::write(&file, &bytes[1..]).unwrap();
        let name = file.display().to_string();
        assert!(verify(&path, |_, _| true).unwrap().iter().any(|damage| damage.file == name));
        for backend in BACKENDS {
            let error = Store::open(&path, backend).unwrap_err().to_string();
            assert!(error.contains(&name) && error.contains("\"obs\""), "{error}");
        }
        fs::write(&file, &bytes).unwrap();
    }
    assert_eq!(verify(&path, |_, _| true).unwrap(), []);
}
