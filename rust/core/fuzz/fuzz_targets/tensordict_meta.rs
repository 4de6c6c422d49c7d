//! Any bytes as the `meta.json` of a TensorDict directory: refused, or opened within the directory and read row by row.
#![no_main]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use iltools_core::store::{Backend, Store, gather_memory};
use libfuzzer_sys::fuzz_target;

const LEAF: &str = r#"{"device": "cpu", "shape": [3], "dtype": "torch.float32", "is_nested": false}"#;

/// A directory with columns of three rows, one within another, and beside it one that must never be read.
fn directories() -> &'static Path {
    static MADE: OnceLock<(tempfile::TempDir, PathBuf)> = OnceLock::new();
    &MADE
        .get_or_init(|| {
            let place = tempfile::tempdir().unwrap();
            let (inside, outside) = (place.path().join("inside"), place.path().join("outside"));
            fs::create_dir_all(inside.join("next")).unwrap();
            fs::create_dir(&outside).unwrap();
            for (file, bytes) in [("inside/end", 3), ("inside/x", 12), ("inside/next/x", 24), ("outside/secret", 12)] {
                fs::write(place.path().join(file).with_extension("memmap"), vec![1; bytes]).unwrap();
            }
            fs::write(inside.join("next/meta.json"), format!(r#"{{"x": {}}}"#, LEAF.replace("[3]", "[3, 2]"))).unwrap();
            fs::write(outside.join("meta.json"), format!(r#"{{"secret": {LEAF}}}"#)).unwrap();
            std::os::unix::fs::symlink(&outside, inside.join("link")).unwrap();
            std::os::unix::fs::symlink(outside.join("secret.memmap"), inside.join("secret.memmap")).unwrap();
            (place, inside)
        })
        .1
}

fuzz_target!(|bytes: &[u8]| {
    let inside = directories();
    fs::write(inside.join("meta.json"), bytes).unwrap();
    for (traj_key, end_key) in [(None, Some(vec!["end".to_owned()])), (Some(vec!["x".to_owned()]), None)] {
        let opened = Store::open_foreign(inside, traj_key.as_ref(), end_key.as_ref(), Backend::Pread, &|| false);
        let Ok(store) = opened else { continue };
        assert_eq!(store.num_transitions(), 3);
        assert!(store.fields().iter().all(|field| field.key.last().unwrap() != "secret"), "read outside");
        let fields: Vec<usize> = (0..store.fields().len()).collect();
        let rows = gather_memory(&store, &fields, &[2, 0, 1], None, &|| false).expect("what was opened can be read");
        assert!(rows.iter().zip(store.fields()).all(|(rows, field)| rows.len() == 3 * store.field_bytes(field.column)));
    }
});
