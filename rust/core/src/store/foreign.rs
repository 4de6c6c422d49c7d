//! `TensorDict` memmap directories that somebody else wrote, opened as a store.
//!
//! Names in their `meta.json` are keys, and become names of files in the way `TensorDict` makes them: never a way out of the
//! directory. Files are opened as those of a store are.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::META;
use super::column::{ColumnSpec, DType, Key, Kind, show};
use super::files::{Refusal, open_of_length, read};
use super::map::Backend;
use super::reader::Store;
use crate::segment::SegmentTable;
use crate::{Error, Result};

/// Bytes of the largest `meta.json` that is read: a hundred thousand leaves of one directory.
const LARGEST_META: u64 = 16 << 20;
/// Rows of the column that tells trajectories apart that are read at a time.
const PIECE_ROWS: usize = 1 << 16;

/// A tensor of the directory.
struct Leaf {
    key: Key,
    file: PathBuf,
    dtype: DType,
    shape: Vec<usize>,
}

impl Leaf {
    /// Number of rows, and shape of one; `None` for a tensor without dimensions.
    fn rows(&self) -> Option<(usize, &[usize])> {
        self.shape.split_first().map(|(&rows, shape)| (rows, shape))
    }
}

impl Store {
    /// Open a directory with `TensorDict`'s `meta.json` and one row per transition. Only the segment table is made, in memory: a
    /// trajectory begins where the value of `traj_key` changes, or else it ends where that of `end_key` is not zero.
    pub fn open_foreign(
        path: &Path,
        traj_key: Option<&Key>,
        end_key: Option<&Key>,
        backend: Backend,
        interrupted: &dyn Fn() -> bool,
    ) -> Result<Self> {
        let leaves = leaves(path)?;
        let schema = |why: String| Error::Schema(format!("{}: {why}", path.display()));
        let counts: BTreeSet<Option<usize>> = leaves.iter().map(|leaf| leaf.rows().map(|(rows, _)| rows)).collect();
        let count = match counts.iter().collect::<Vec<_>>()[..] {
            [] => return Err(schema("no tensors in it".into())),
            [Some(0)] => return Err(schema("no rows in it".into())),
            [Some(count)] => *count,
            _ => return Err(schema(format!("leaves differ in their number of rows: {}", listed(&counts)))),
        };
        let by_key: HashMap<&Key, &Leaf> = leaves.iter().map(|leaf| (&leaf.key, leaf)).collect();
        let there = || {
            let keys: BTreeSet<&Key> = by_key.keys().copied().collect();
            keys.iter().map(|key| show(key)).collect::<Vec<_>>().join(", ")
        };
        let (key, is_end) = match (traj_key, end_key) {
            (Some(key), _) => (key, false),
            (None, Some(key)) => (key, true),
            (None, None) => {
                return Err(Error::MissingKey(format!(
                    "{}: give traj_key or end_key; there are {}",
                    path.display(),
                    there()
                )));
            }
        };
        let leaf = by_key.get(key).ok_or_else(|| {
            let (path, key) = (path.display(), show(key));
            Error::MissingKey(format!("{path}: no key {key} to tell trajectories apart; there are {}", there()))
        })?;
        if leaf.shape.iter().try_fold(1_usize, |product, &extent| product.checked_mul(extent)) != Some(count) {
            let (key, found) = (show(key), &leaf.shape);
            return Err(schema(format!("key {key}: expected shape [{count}] or [{count}, 1], found {found:?}")));
        }
        let segments = segments(path, leaf, count, is_end, interrupted)?;
        let files = leaves
            .into_iter()
            .map(|leaf| {
                let Leaf { key, file, dtype, mut shape } = leaf;
                (ColumnSpec { key, kind: Kind::Transition, dtype, shape: shape.split_off(1) }, file)
            })
            .collect();
        Self::over_files(path, files, segments, backend, interrupted)
    }
}

fn listed(counts: &BTreeSet<Option<usize>>) -> String {
    let each = counts.iter().map(|count| count.map_or_else(|| "none".to_owned(), |count| count.to_string()));
    each.collect::<Vec<_>>().join(", ")
}

/// The entries of a `meta.json` in the file's order, each as its text.
struct Entries<'a>(Vec<(String, &'a RawValue)>);

impl<'de> Deserialize<'de> for Entries<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct InOrder;
        impl<'de> Visitor<'de> for InOrder {
            type Value = Entries<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Entries<'de>, A::Error> {
                let mut entries: Vec<(String, &RawValue)> = Vec::new();
                let mut position: HashMap<String, usize> = HashMap::new();
                while let Some((key, value)) = map.next_entry::<String, &RawValue>()? {
                    // As elsewhere, the last of several entries of one name counts.
                    if let Some(&known) = position.get(&key) {
                        entries[known].1 = value;
                    } else {
                        position.insert(key.clone(), entries.len());
                        entries.push((key, value));
                    }
                }
                Ok(Entries(entries))
            }
        }
        deserializer.deserialize_map(InOrder)
    }
}

/// What `meta.json` says of one entry.
#[derive(Deserialize)]
struct Entry<'a> {
    /// There, whatever it is, for a directory.
    #[serde(borrow, rename = "type")]
    kind: Option<&'a RawValue>,
    #[serde(borrow)]
    dtype: Option<Cow<'a, str>>,
    shape: Option<Vec<u64>>,
    is_nested: Option<bool>,
}

/// All tensors of a directory and of those within it.
fn leaves(root: &Path) -> Result<Vec<Leaf>> {
    // With the position of each within its directory, and of that within the one above: the order in which they are written.
    let mut leaves: Vec<(Vec<usize>, Leaf)> = Vec::new();
    let mut to_read = vec![(root.to_path_buf(), Key::new(), Vec::new())];
    while let Some((directory, prefix, position)) = to_read.pop() {
        let meta = directory.join(META);
        let bytes = read(root, &meta, LARGEST_META).map_err(|refusal| match refusal {
            Refusal::Missing if prefix.is_empty() => {
                Error::NotFound(format!("{}: no TensorDict memmap directory here ({META} is missing)", root.display()))
            }
            refusal => refusal.about(&meta, &format!("the metadata of {}", show(&prefix))),
        })?;
        let corrupt = |why: &dyn fmt::Display| Error::Corrupt(format!("{}: {why}", meta.display()));
        let Entries(entries) =
            serde_json::from_slice(&bytes).map_err(|error| corrupt(&format!("not TensorDict metadata: {error}")))?;
        // Values that are no tensors; theirs is whatever JSON somebody kept.
        if entries.iter().any(|(key, value)| key == "_is_non_tensor" && value.get() == "true") {
            continue;
        }
        for (i, (name, value)) in entries.iter().enumerate().filter(|(_, (_, value))| value.get().starts_with('{')) {
            let position = [position.as_slice(), &[i]].concat();
            let key: Key = prefix.iter().cloned().chain([name.clone()]).collect();
            let no_tensor = || corrupt(&format!("key {}: no plain tensor: {:.200}", show(&key), value.get()));
            let entry: Entry<'_> = serde_json::from_str(value.get()).map_err(|_| no_tensor())?;
            if entry.kind.is_some() {
                to_read.push((place(&directory, name, ""), key, position));
                continue;
            }
            let (Some(dtype), Some(shape), None | Some(false)) = (entry.dtype, entry.shape, entry.is_nested) else {
                return Err(no_tensor());
            };
            let dtype = dtype.strip_prefix("torch.").unwrap_or(&dtype);
            let Some(dtype) = DType::from_name(dtype) else {
                let (meta, key) = (meta.display(), show(&key));
                return Err(Error::Schema(format!("{meta}: key {key}: dtype {dtype} cannot be read")));
            };
            let extents =
                shape.into_iter().map(|extent| usize::try_from(extent).ok().filter(|&extent| extent < 1 << 62));
            let shape: Vec<usize> = extents.collect::<Option<_>>().ok_or_else(no_tensor)?;
            leaves.push((position, Leaf { file: place(&directory, name, ".memmap"), key, dtype, shape }));
        }
    }
    leaves.sort_by(|(here, _), (there, _)| here.cmp(there));
    Ok(leaves.into_iter().map(|(_, leaf)| leaf).collect())
}

/// Where an entry lies within a directory: under its name as `TensorDict` writes it, or, as earlier releases did, as it is.
fn place(directory: &Path, name: &str, ending: &str) -> PathBuf {
    let encoded = directory.join(encoded(name) + ending);
    let as_it_is = directory.join(name.to_owned() + ending);
    let is_one_name = !name.contains(['/', '\\', '\0']) && !["", ".", ".."].contains(&name);
    if is_one_name && fs::symlink_metadata(&encoded).is_err() && fs::symlink_metadata(&as_it_is).is_ok() {
        as_it_is
    } else {
        encoded
    }
}

/// A key as the name of a file, by the rule of `tensordict` 0.14.
fn encoded(name: &str) -> String {
    match name {
        "" => "%".into(),
        "." | ".." => "%2E".repeat(name.len()),
        _ => name
            .chars()
            .map(|c| {
                if c.is_ascii_control() || "/<>:\"|?*\\ %".contains(c) {
                    format!("%{:02X}", c as u32)
                } else {
                    c.into()
                }
            })
            .collect(),
    }
}

/// Where trajectories begin and end, read from a column with one value per row.
fn segments(
    root: &Path,
    leaf: &Leaf,
    count: usize,
    is_end: bool,
    interrupted: &dyn Fn() -> bool,
) -> Result<SegmentTable> {
    let what = format!("column {}", show(&leaf.key));
    let size = leaf.dtype.size();
    let bytes =
        (count as u64).checked_mul(size as u64).ok_or_else(|| Error::Corrupt(format!("{what}: {count} rows")))?;
    let about = |refusal: Refusal| refusal.about(&leaf.file, &what);
    let file = open_of_length(root, &leaf.file, bytes, false).map_err(about)?;
    let mut table = Growing::default();
    let mut piece = vec![0; PIECE_ROWS.min(count) * size];
    // The value of the row before; empty in front of the first.
    let mut before = Vec::new();
    for begin in (0..count).step_by(PIECE_ROWS) {
        let values = &mut piece[..PIECE_ROWS.min(count - begin) * size];
        file.read_exact_at(values, (begin * size) as u64).map_err(|error| about(error.into()))?;
        for (row, value) in (begin..).zip(values.chunks_exact(size)) {
            if is_end && is_set(leaf.dtype, value) {
                table.end(row + 1)?;
            } else if !is_end && !before.is_empty() && before != value {
                table.end(row)?;
            }
            before.clear();
            before.extend_from_slice(value);
        }
        if interrupted() {
            return Err(Error::Interrupted);
        }
    }
    table.end(count)?;
    let ids = (0..table.start.len() as i64).collect();
    SegmentTable::new(vec![0; table.start.len()], ids, table.start, table.length)
}

#[derive(Default)]
struct Growing {
    start: Vec<i64>,
    length: Vec<i64>,
    next: usize,
}

impl Growing {
    /// The rows since the last end are a trajectory, if there are any.
    fn end(&mut self, end: usize) -> Result<()> {
        if end > self.next {
            let count = self.start.len();
            let no_memory = |_| Error::OutOfMemory(format!("no memory for {count} trajectories"));
            self.start.try_reserve(1).and_then(|()| self.length.try_reserve(1)).map_err(no_memory)?;
            self.start.push(self.next as i64);
            self.length.push((end - self.next) as i64);
            self.next = end;
        }
        Ok(())
    }
}

/// Whether a value is not zero. A negative zero is one.
fn is_set(dtype: DType, value: &[u8]) -> bool {
    let part = match dtype {
        DType::Float16 | DType::Bfloat16 => 2,
        DType::Float32 | DType::Complex64 => 4,
        DType::Float64 | DType::Complex128 => 8,
        _ => return value.iter().any(|&byte| byte != 0),
    };
    value
        .chunks_exact(part)
        .any(|number| number.iter().rev().enumerate().any(|(i, &byte)| byte & [0x7f, 0xff][i.min(1)] != 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_files_are_those_of_tensordict() {
        for (name, file) in [
            ("observation", "observation"),
            ("größe", "größe"),
            ("x y/z", "x%20y%2Fz"),
            ("100%", "100%25"),
            ("a\0\n\u{7f}", "a%00%0A%7F"),
            ("", "%"),
            (".", "%2E"),
            ("..", "%2E%2E"),
            ("...", "..."),
            ("C:x", "C%3Ax"),
        ] {
            assert_eq!(encoded(name), file);
        }
    }

    #[test]
    fn a_negative_zero_is_no_end() {
        assert!(!is_set(DType::Float32, &(-0.0_f32).to_le_bytes()));
        assert!(!is_set(DType::Complex64, &[0, 0, 0, 0x80, 0, 0, 0, 0x80]));
        assert!(is_set(DType::Float64, &f64::MIN_POSITIVE.to_le_bytes()));
        assert!(is_set(DType::Float16, &[1, 0x80]));
        assert!(is_set(DType::Int16, &[0, 0x80]));
        assert!(is_set(DType::Bool, &[1]));
    }
}
