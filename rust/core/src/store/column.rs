//! Columns and keys: what may be stored under which name, and where its bytes lie.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// A TensorDict key: one name, or the path through nested `TensorDict`s.
pub type Key = Vec<String>;

/// Element types; the names are numpy's (and torch's).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "the names say it")]
pub enum DType {
    Bool,
    Int8,
    Int16,
    Int32,
    Int64,
    Uint8,
    Uint16,
    Uint32,
    Uint64,
    Float16,
    Bfloat16,
    Float32,
    Float64,
    Complex64,
    Complex128,
}

impl DType {
    const ALL: [(&str, Self, usize); 15] = [
        ("bool", Self::Bool, 1),
        ("int8", Self::Int8, 1),
        ("int16", Self::Int16, 2),
        ("int32", Self::Int32, 4),
        ("int64", Self::Int64, 8),
        ("uint8", Self::Uint8, 1),
        ("uint16", Self::Uint16, 2),
        ("uint32", Self::Uint32, 4),
        ("uint64", Self::Uint64, 8),
        ("float16", Self::Float16, 2),
        ("bfloat16", Self::Bfloat16, 2),
        ("float32", Self::Float32, 4),
        ("float64", Self::Float64, 8),
        ("complex64", Self::Complex64, 8),
        ("complex128", Self::Complex128, 16),
    ];

    /// The type with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(known, ..)| *known == name).map(|&(_, dtype, _)| dtype)
    }

    fn row(self) -> (&'static str, Self, usize) {
        Self::ALL[self as usize]
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        self.row().0
    }

    /// Bytes per element.
    pub fn size(self) -> usize {
        self.row().2
    }
}

/// Whether a column has a row per state or per transition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// One row per state; row t + 1 is the `next` of transition t.
    State,
    /// One row per transition.
    Transition,
}

impl Kind {
    /// Directory of the columns of this kind within the data directory.
    pub(super) fn directory(self) -> &'static str {
        match self {
            Self::State => "states",
            Self::Transition => "transitions",
        }
    }
}

/// A stored column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ColumnSpec {
    /// Its key.
    pub key: Key,
    /// What its rows are.
    pub kind: Kind,
    /// Element type.
    pub dtype: DType,
    /// Shape of one row.
    pub shape: Vec<usize>,
}

impl ColumnSpec {
    /// Bytes of one row; an error if that overflows.
    pub fn row_bytes(&self) -> Result<usize> {
        row_bytes(self.dtype, &self.shape).ok_or_else(|| {
            Error::Schema(format!("key {}: a row of shape {:?} is too large", show(&self.key), self.shape))
        })
    }
}

/// Bytes of a row, unless that overflows.
pub(super) fn row_bytes(dtype: DType, shape: &[usize]) -> Option<usize> {
    shape.iter().try_fold(dtype.size(), |bytes, &extent| bytes.checked_mul(extent))
}

/// How a key is written in messages.
pub fn show(key: &[String]) -> String {
    match key {
        [name] => format!("{name:?}"),
        parts => format!("({})", parts.iter().map(|part| format!("{part:?}")).collect::<Vec<_>>().join(", ")),
    }
}

/// Characters that TensorDict writes in another form in file names, or that some file system refuses.
const REFUSED: &str = "/\\:*?\"<>|%";
const LONGEST_NAME: usize = 100;

/// Refuse a key that could not be a file below the data directory, or that TensorDict would not load back.
pub(super) fn check_key(key: &[String]) -> Result<()> {
    let refuse = |why: &str| Err(Error::Schema(format!("key {}: {why}", show(key))));
    if key.is_empty() {
        return refuse("a key needs at least one name");
    }
    for name in key {
        if name.is_empty() || name.starts_with('.') || name.trim() != name {
            return refuse("a name is neither empty nor begins with a dot nor has blanks around it");
        }
        if name.len() > LONGEST_NAME {
            return refuse("a name has at most 100 bytes");
        }
        if ["shape", "device", "_type"].contains(&name.as_str()) {
            return refuse("TensorDict keeps its own metadata under this name");
        }
        if let Some(found) = name.chars().find(|&c| c.is_control() || c.is_whitespace() || REFUSED.contains(c)) {
            return refuse(&format!("{found:?} cannot be part of a name"));
        }
        if [".json", ".memmap"].iter().any(|ending| name.to_lowercase().ends_with(ending)) {
            return refuse("a name does not end like the files it is stored in");
        }
    }
    Ok(())
}

/// Refuse keys that would meet in one file: equal but for case, or one being the beginning of another.
pub(super) fn check_apart<'a>(keys: impl Iterator<Item = &'a Key>) -> Result<()> {
    let folded = keys.map(|key| (key.iter().map(|name| name.to_lowercase()).collect(), key)).collect();
    match meeting(folded) {
        Some((one, other)) => {
            Err(Error::Schema(format!("keys {} and {} cannot be told apart on disk", show(one), show(other))))
        }
        None => Ok(()),
    }
}

/// Refuse keys of which one is the beginning of another: nested, a name would have to be a value and hold others at once.
pub(super) fn check_nesting<'a>(keys: impl Iterator<Item = &'a Key>) -> Result<()> {
    match meeting(keys.map(|key| (key.clone(), key)).collect()) {
        Some((one, other)) if one == other => Err(Error::Schema(format!("key {} is there twice", show(one)))),
        Some((one, other)) => Err(Error::Schema(format!(
            "keys {} and {} cannot both be there: the first is a value, and would have to hold the second",
            show(one),
            show(other)
        ))),
        None => Ok(()),
    }
}

/// Two keys of which the first, in the form it is compared in, is the beginning of the other.
fn meeting(mut keys: Vec<(Vec<String>, &Key)>) -> Option<(&Key, &Key)> {
    // In order, whatever begins with a key follows it at once.
    keys.sort_unstable();
    let (one, other) =
        keys.windows(2).map(|pair| (&pair[0], &pair[1])).find(|(one, other)| other.0.starts_with(&one.0))?;
    Some((one.1, other.1))
}

/// File of a column below the data directory.
pub(super) fn column_path(data: &Path, kind: Kind, key: &[String]) -> PathBuf {
    let mut path = data.join(kind.directory());
    path.extend(&key[..key.len() - 1]);
    path.push(format!("{}.memmap", key[key.len() - 1]));
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dtype_table_is_in_order() {
        for (name, dtype, _) in DType::ALL {
            assert_eq!((dtype.name(), DType::from_name(name)), (name, Some(dtype)));
            assert_eq!(serde_json::to_string(&dtype).unwrap(), format!("{name:?}"));
        }
    }

    #[test]
    fn hostile_keys_are_refused() {
        let key = |name: &str| vec![name.to_owned()];
        for name in ["", "shape", "device", "_type", "../x", "a/b", "a\0b", ".x", " a", "a b", "a%2fb", "meta.json"] {
            assert!(check_key(&key(name)).is_err(), "{name:?}");
        }
        assert!(check_key(&key(&"x".repeat(300))).is_err());
        assert!(check_key(&[]).is_err());
        for name in ["observation", "observation.state", "q_hip-left", "größe"] {
            check_key(&key(name)).unwrap();
        }
        assert!(check_apart([&key("Obs"), &key("obs")].into_iter()).is_err());
        assert!(check_apart([&key("a"), &vec!["a".into(), "b".into()]].into_iter()).is_err());
        check_apart([&key("a"), &key("ab")].into_iter()).unwrap();
        let nested = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Key>();
        check_nesting([&nested(&["next", "a"]), &key("a"), &key("A"), &key("next2")].into_iter()).unwrap();
        assert!(check_nesting([&key("b"), &nested(&["next", "a"]), &key("a"), &key("next")].into_iter()).is_err());
        assert!(check_nesting([&nested(&["a", "b", "c"]), &key("a0"), &nested(&["a", "b"])].into_iter()).is_err());
        assert!(check_nesting([&key("a"), &key("a")].into_iter()).is_err());
    }
}
