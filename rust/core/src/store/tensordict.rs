//! The `meta.json` files that make the data directory, and each directory in it, a `TensorDict` memmap.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::META;
use super::column::Kind;
use super::manifest::Manifest;

/// Each file of the first generation and its content; those that were added begin in the middle of a row.
pub(super) fn metadata_files(data_dir: &Path, manifest: &Manifest) -> Vec<(PathBuf, Value)> {
    let (num_states, num_transitions) = manifest
        .generations
        .first()
        .map_or((manifest.num_states, manifest.num_transitions), |first| (first.num_states, first.num_transitions));
    let mut directories: BTreeMap<PathBuf, (Vec<u64>, Map<String, Value>)> = BTreeMap::new();
    directories.insert(data_dir.to_path_buf(), (vec![], Map::new()));
    let nested = || json!({"type": "TensorDict"});
    for column in &manifest.columns {
        let rows = if column.kind == Kind::State { num_states } else { num_transitions };
        let kind = column.kind.directory();
        if let Some((_, root)) = directories.get_mut(data_dir) {
            root.insert(kind.into(), nested());
        }
        let mut directory = data_dir.join(kind);
        for name in &column.key[..column.key.len() - 1] {
            directories
                .entry(directory.clone())
                .or_insert_with(|| (vec![rows], Map::new()))
                .1
                .insert(name.clone(), nested());
            directory.push(name);
        }
        let shape: Vec<u64> = std::iter::once(rows).chain(column.shape.iter().map(|&extent| extent as u64)).collect();
        let leaf = json!({
            "device": "cpu", "shape": shape, "dtype": format!("torch.{}", column.dtype.name()), "is_nested": false
        });
        let entries = &mut directories.entry(directory).or_insert_with(|| (vec![rows], Map::new())).1;
        entries.insert(column.key[column.key.len() - 1].clone(), leaf);
    }
    let content = |(directory, (batch, mut entries)): (PathBuf, (Vec<u64>, Map<String, Value>))| {
        entries.insert("shape".into(), json!(batch));
        entries.insert("device".into(), json!("cpu"));
        entries.insert("_type".into(), json!("<class 'tensordict._td.TensorDict'>"));
        (directory.join(META), Value::Object(entries))
    };
    directories.into_iter().map(content).collect()
}
