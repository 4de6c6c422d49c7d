//! What comes back, and what damage says.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use iltools_core::Error;
use iltools_core::store::{Backend, Store, gather_memory, verify};
use proptest::prelude::*;

use crate::model::{BACKENDS, Model, column_file, small};

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
fn verify_names_everything_that_is_wrong_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    small().build(&path, false).unwrap();
    let data_dir = Store::open(&path, Backend::Mmap).unwrap().data_dirs()[0].clone();
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
