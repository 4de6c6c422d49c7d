//! How builds end: published, aborted, killed, adopted.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use iltools_core::Error;
use iltools_core::store::{Array, Backend, Kind, Store, StoreWriter, Trajectory, repair, verify};

use crate::model::{BACKENDS, Model, column_file, listing, small, spec};

#[test]
fn an_aborted_build_leaves_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("deep").join("store");
    let writer = StoreWriter::begin(&path, false, "{}").unwrap();
    assert!(path.exists());
    drop(writer);
    assert!(!path.exists());

    small().build(&path, false).unwrap();
    let before = listing(&path);
    drop(StoreWriter::begin(&path, true, "{}").unwrap());
    assert_eq!(listing(&path), before);
}

#[test]
fn a_build_without_trajectories_is_no_store() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    let result = StoreWriter::begin(&path, false, "{}").unwrap().publish(BTreeMap::new(), &|| false);
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
    let first = StoreWriter::begin(&path, false, "{}").unwrap();
    let Err(Error::Busy(message)) = StoreWriter::begin(&path, false, "{}") else { panic!("two builders") };
    assert!(message.contains(&std::process::id().to_string()), "{message}");
    drop(first);
    small().build(&path, false).unwrap();
}

#[test]
fn an_interrupted_build_is_over_and_leaves_the_old_store() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    small().build(&path, false).unwrap();
    let before = listing(&path);
    let bytes = vec![1; 40 << 20];
    let big = || {
        let arrays = vec![Array { spec: spec("obs", Kind::State, 1 << 20), rows: 40, bytes: (&bytes).into() }];
        Trajectory { task_id: 0, traj_id: 0, name: None, arrays, views: vec![] }
    };
    let mut writer = StoreWriter::begin(&path, true, "{}").unwrap();
    assert!(matches!(writer.append(big(), &|| true), Err(Error::Interrupted)));
    assert!(matches!(writer.append(big(), &|| false), Err(Error::Invalid(_))));
    assert!(matches!(writer.publish(BTreeMap::new(), &|| false), Err(Error::Invalid(_))));
    assert_eq!(listing(&path), before);

    let mut writer = StoreWriter::begin(&path, true, "{}").unwrap();
    writer.append(big(), &|| false).unwrap();
    assert!(matches!(writer.publish(BTreeMap::new(), &|| true), Err(Error::Interrupted)));
    assert_eq!(listing(&path), before);
    small().check(&Store::open(&path, Backend::Mmap).unwrap(), &[0, 5, 3, 12]);
}

#[test]
fn a_build_that_is_aborted_from_within_a_call_ends_there() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    let bytes = vec![1; 4 << 20];
    let clip = || {
        let arrays = vec![Array { spec: spec("obs", Kind::State, 1 << 10), rows: 4 << 10, bytes: (&bytes).into() }];
        Trajectory { task_id: 0, traj_id: 0, name: None, arrays, views: vec![] }
    };
    let mut writer = StoreWriter::begin(&path, false, "{}").unwrap();
    let build = writer.build().clone();
    let abort = || {
        build.abort();
        assert!(!path.exists(), "at once, not when the call is over");
        false
    };
    assert!(matches!(writer.append(clip(), &abort), Err(Error::Invalid(why)) if why.contains("is over")));
    assert!(build.is_over());

    let mut writer = StoreWriter::begin(&path, false, "{}").unwrap();
    writer.append(clip(), &|| false).unwrap();
    let build = writer.build().clone();
    let abort = || {
        build.abort();
        false
    };
    assert!(matches!(writer.publish(BTreeMap::new(), &abort), Err(Error::Invalid(_))));
    assert!(!path.exists());
}

#[test]
fn a_spool_is_adopted_as_it_is() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    let (old, new) = (small(), Model { states: vec![3; 40], ..small() });
    old.build(&path, false).unwrap();
    let reader = Store::open(&path, Backend::Mmap).unwrap();
    let writer = StoreWriter::begin(&path, true, r#"{"mine": 1}"#).unwrap();
    let spool = path.join("data-0f8fad5b-d9cb-469f-a165-70867728950e");
    let uuid = new.build(&spool, false).unwrap();
    assert_eq!(writer.adopt(&spool, &|| false).unwrap(), uuid);
    let store = Store::open(&path, Backend::Mmap).unwrap();
    assert_eq!((store.uuid(), store.attributes()), (uuid.as_str(), r#"{"mine": 1}"#));
    assert_eq!(store.task_names().len(), 1);
    new.check(&store, &[0, 79, 40]);
    old.check(&reader, &[0, 5, 3, 12]);
    assert_eq!(verify(&path, |_, _| true).unwrap(), []);
    assert_eq!(fs::read_dir(&path).unwrap().count(), 3, "manifest, lock and one generation");
    StoreWriter::begin(&path, true, "{}").unwrap();
}

#[test]
fn what_cannot_be_adopted_leaves_the_old_store() {
    let spoiled = |prepare: &dyn Fn(&Path, &mut StoreWriter, &Path)| {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("store");
        small().build(&path, false).unwrap();
        let uuid = Store::open(&path, Backend::Mmap).unwrap().uuid().to_owned();
        let mut writer = StoreWriter::begin(&path, true, "{}").unwrap();
        let spool = path.join("data-0f8fad5b-d9cb-469f-a165-70867728950e");
        prepare(directory.path(), &mut writer, &spool);
        let elsewhere = directory.path().join("elsewhere");
        let error = writer.adopt(if elsewhere.exists() { &elsewhere } else { &spool }, &|| false).unwrap_err();
        let store = Store::open(&path, Backend::Mmap).unwrap();
        assert_eq!(store.uuid(), uuid);
        small().check(&store, &[0, 5, 3, 12]);
        assert!(!elsewhere.exists() || Store::open(&elsewhere, Backend::Mmap).is_ok(), "not ours to remove");
        small().build(&path, true).unwrap();
        assert_eq!(fs::read_dir(&path).unwrap().count(), 3);
        error
    };
    let missing = spoiled(&|_, _, spool| fs::create_dir(spool).unwrap());
    assert!(matches!(missing, Error::NotFound(_)), "{missing:?}");
    let elsewhere = spoiled(&|root, _, _| drop(small().build(&root.join("elsewhere"), false).unwrap()));
    assert!(matches!(elsewhere, Error::Invalid(_)), "{elsewhere:?}");
    let added_to = spoiled(&|_, writer, spool| {
        small().append_all(writer).unwrap();
        small().build(spool, false).unwrap();
    });
    assert!(matches!(added_to, Error::Invalid(_)), "{added_to:?}");
    let cut = spoiled(&|_, _, spool| {
        small().build(spool, false).unwrap();
        let file = column_file(spool, "obs.memmap");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
        fs::File::options().write(true).open(&file).unwrap().set_len(5).unwrap();
    });
    assert!(matches!(cut, Error::Corrupt(_)), "{cut:?}");
    let unfinished = spoiled(&|_, _, spool| std::mem::forget(StoreWriter::begin(spool, false, "{}").unwrap()));
    assert!(matches!(unfinished, Error::Busy(_)), "{unfinished:?}");
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

    let builder = StoreWriter::begin(&path, true, "{}");
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
