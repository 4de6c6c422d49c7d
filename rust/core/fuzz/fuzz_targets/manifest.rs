//! Any bytes as a manifest: refused with an error or accepted with every promise kept, and never a panic.
#![no_main]

use iltools_core::store::{Backend, Manifest, Store, repair, verify};
use libfuzzer_sys::fuzz_target;

/// The same JSON with the checksum that belongs to it, so that what lies behind the checksum is reached, too.
fn signed(json: &str) -> Option<Vec<u8>> {
    let inner: &serde_json::value::RawValue = serde_json::from_str(json).ok()?;
    let crc32c = iltools_core::store::crc32c(inner.get().as_bytes());
    Some(format!(r#"{{"crc32c":{crc32c},"manifest":{}}}"#, inner.get()).into_bytes())
}

fn accepted(bytes: &[u8]) {
    let Ok(manifest) = Manifest::from_bytes(bytes) else { return };
    for column in &manifest.columns {
        let rows = match column.kind {
            iltools_core::store::Kind::State => manifest.num_states,
            iltools_core::store::Kind::Transition => manifest.num_transitions,
        };
        let row = column.spec().row_bytes().expect("a row of an accepted manifest has a size");
        assert_eq!((row as u64).checked_mul(rows), Some(column.bytes));
        assert_eq!(column.crc32c.len() as u64, column.bytes.div_ceil(manifest.block_bytes));
    }
    let again = Manifest::from_bytes(&manifest.to_bytes().expect("an accepted manifest can be written"));
    assert_eq!(again.expect("and read again").uuid, manifest.uuid);
}

fuzz_target!(|bytes: &[u8]| {
    accepted(bytes);
    let Some(bytes) = std::str::from_utf8(bytes).ok().and_then(signed) else { return };
    accepted(&bytes);
    // A manifest without its data: nothing is allocated from what it says, nothing is written, nothing panics.
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("manifest.json"), &bytes).unwrap();
    assert!(Store::open(directory.path(), Backend::Ram).is_err());
    if let Ok(damages) = verify(directory.path(), |_, _| true) {
        assert!(!damages.is_empty());
    }
    if let Ok(removed) = repair(directory.path()) {
        assert!(removed.is_empty());
    }
});
