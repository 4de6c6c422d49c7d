//! `manifest.json`: what a store consists of. It is published last, in one rename, and carries its own checksum.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::column::{ColumnSpec, DType, Key, Kind, check_apart, check_key, row_bytes, show};
use super::files::{self, Refusal};
use super::history::History;
use super::{DATA_PREFIX, MANIFEST, checksum};
use crate::{Error, Result};

/// Format versions this code writes and reads: the second one where a store grows, was added to, or has histories.
const VERSIONS: std::ops::RangeInclusive<u32> = 1..=2;
const FORMAT: &str = "iltools-store";

#[derive(Debug, Serialize, Deserialize)]
pub struct Manifest {
    pub format: String,
    pub version: u32,
    pub uuid: String,
    pub num_states: u64,
    pub num_transitions: u64,
    pub num_segments: u64,
    /// Of a store that was added to: all its generations, the first one first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub generations: Vec<Generation>,
    /// False while the store grows: files are then at least as long as is said here, and names lie in `names.log`.
    #[serde(default = "yes", skip_serializing_if = "is_yes")]
    pub sealed: bool,
    /// Bytes of `names.log`, while there is one.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub names_bytes: u64,
    /// Checksums of `segments.i64` and of the names in the data directory.
    pub segments_crc32c: u32,
    pub names_crc32c: u32,
    pub block_bytes: u64,
    pub columns: Vec<ColumnEntry>,
    pub views: Vec<View>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub histories: Vec<History>,
    /// Whatever the builder wanted to keep with the data, as it was written: numbers are not read and written again.
    pub attributes: Box<RawValue>,
}

fn yes() -> bool {
    true
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes it so")]
fn is_yes(sealed: &bool) -> bool {
    *sealed
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes it so")]
fn is_zero(bytes: &u64) -> bool {
    *bytes == 0
}

/// One of the data directories of a store that was added to, and what the store holds up to its end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Generation {
    pub uuid: String,
    pub num_states: u64,
    pub num_transitions: u64,
}

/// Data directories of a store at most: each is a file more per column.
pub(super) const MOST_GENERATIONS: usize = 256;

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ColumnEntry {
    pub key: Key,
    pub kind: Kind,
    pub dtype: DType,
    pub shape: Vec<usize>,
    pub bytes: u64,
    pub crc32c: Vec<u32>,
}

impl ColumnEntry {
    pub fn spec(&self) -> ColumnSpec {
        ColumnSpec { key: self.key.clone(), kind: self.kind, dtype: self.dtype, shape: self.shape.clone() }
    }
}

/// A key that is read from part of another column's row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct View {
    /// Its own key.
    pub key: Key,
    /// The column's.
    pub source: Key,
    /// First element within the column's row.
    pub offset: usize,
    /// Shape of one row of the view.
    pub shape: Vec<usize>,
}

/// Levels of nesting of the attributes at most: with the manifest around them, what parsers of JSON take.
const DEEPEST: usize = 126;

/// Attributes as JSON, of a depth that every reader takes.
pub(super) fn checked_attributes(json: &str) -> Result<Box<RawValue>> {
    let invalid = |why: &dyn std::fmt::Display| Error::Invalid(format!("attributes: {why}"));
    let raw: Box<RawValue> = serde_json::from_str(json).map_err(|error| invalid(&error))?;
    let (mut depth, mut deepest, mut in_text, mut escaped) = (0_usize, 0, false, false);
    for byte in raw.get().bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = in_text,
            b'"' => in_text = !in_text,
            b'[' | b'{' if !in_text => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b']' | b'}' if !in_text => depth -= 1,
            _ => {}
        }
    }
    if deepest > DEEPEST {
        return Err(invalid(&format!("nested {deepest} deep; readers allow a recursion of {DEEPEST}")));
    }
    Ok(raw)
}

#[derive(Serialize, Deserialize)]
struct Envelope<'a> {
    crc32c: u32,
    #[serde(borrow)]
    manifest: &'a RawValue,
}

#[derive(Deserialize)]
struct Header {
    format: String,
    version: u32,
}

impl Manifest {
    pub fn new(uuid: String, attributes: Box<RawValue>) -> Self {
        Self {
            format: FORMAT.into(),
            version: 1,
            uuid,
            num_states: 0,
            num_transitions: 0,
            num_segments: 0,
            generations: Vec::new(),
            sealed: true,
            names_bytes: 0,
            segments_crc32c: 0,
            names_crc32c: 0,
            block_bytes: checksum::BLOCK_BYTES as u64,
            columns: Vec::new(),
            views: Vec::new(),
            histories: Vec::new(),
            attributes,
        }
    }

    /// The version that a manifest like this one is written in: the lowest that readers of it have to know.
    fn own_version(&self) -> u32 {
        let is_plain = self.sealed && self.generations.is_empty() && self.histories.is_empty();
        if is_plain { 1 } else { 2 }
    }

    /// Mark it with the version that it is to be written in.
    pub fn of_own_version(mut self) -> Self {
        self.version = self.own_version();
        self
    }

    /// All generations, the first one first.
    pub fn all_generations(&self) -> Vec<Generation> {
        if self.generations.is_empty() {
            let Self { uuid, num_states, num_transitions, .. } = self;
            vec![Generation { uuid: uuid.clone(), num_states: *num_states, num_transitions: *num_transitions }]
        } else {
            self.generations.clone()
        }
    }

    /// The data directories of a store that lies at `store`, the first one first.
    pub fn data_dirs(&self, store: &Path) -> Vec<PathBuf> {
        let directory = |generation: &Generation| store.join(format!("{DATA_PREFIX}{}", generation.uuid));
        self.all_generations().iter().map(directory).collect()
    }

    /// The data directory that has the segment table and the names: the last one.
    pub fn table_dir(&self, store: &Path) -> PathBuf {
        let uuid = self.generations.last().map_or(&self.uuid, |generation| &generation.uuid);
        store.join(format!("{DATA_PREFIX}{uuid}"))
    }

    /// Say that the store grows, and how long the names are that it has so far.
    pub fn grows(mut self, names_bytes: u64) -> Self {
        (self.sealed, self.names_bytes) = (false, names_bytes);
        self.of_own_version()
    }

    /// Say which keys are histories.
    pub fn with_histories(mut self, histories: Vec<History>) -> Self {
        self.histories = histories;
        self.of_own_version()
    }

    /// Whether what a reader found amiss may be due to this one having taken the place of the manifest it went by.
    pub fn replaces(&self, earlier: &Self) -> bool {
        let columns = |manifest: &Self| manifest.columns.iter().map(ColumnEntry::spec).collect::<Vec<_>>();
        (&self.uuid, self.sealed) != (&earlier.uuid, earlier.sealed) || columns(self) != columns(earlier)
    }

    /// The file's content: the manifest as JSON beside the checksum of those very bytes.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        let unserialisable = |error: serde_json::Error| Error::Invalid(format!("manifest: {error}"));
        let manifest = serde_json::value::to_raw_value(self).map_err(unserialisable)?;
        let crc32c = checksum::of(manifest.get().as_bytes());
        serde_json::to_vec(&Envelope { crc32c, manifest: &manifest }).map_err(unserialisable)
    }

    /// Read and check the manifest of a store directory.
    pub fn read(store: &Path) -> Result<Self> {
        let path = store.join(MANIFEST);
        let bytes = files::read(store, &path, files::LARGEST_JSON).map_err(|refusal| match refusal {
            Refusal::Missing => Error::NotFound(format!("{}: no store here ({MANIFEST} is missing)", store.display())),
            refusal => refusal.about(&path, "the manifest"),
        })?;
        Self::from_bytes(&bytes).map_err(|error| match error {
            Error::Corrupt(why) => Error::Corrupt(format!("{}: {why}", path.display())),
            Error::Version(why) => Error::Version(format!("{}: {why}", path.display())),
            other => other,
        })
    }

    /// Parse and check a manifest's bytes.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let corrupt = |why: String| Error::Corrupt(why);
        let envelope: Envelope<'_> = serde_json::from_slice(bytes)
            .map_err(|error| corrupt(format!("not a manifest ({} bytes): {error}", bytes.len())))?;
        let inner = envelope.manifest.get();
        let found = checksum::of(inner.as_bytes());
        if found != envelope.crc32c {
            return Err(corrupt(checksum::differs(found, envelope.crc32c)));
        }
        // The version first: another version's fields may differ.
        let header: Header =
            serde_json::from_str(inner).map_err(|error| corrupt(format!("not a manifest: {error}")))?;
        if header.format != FORMAT || !VERSIONS.contains(&header.version) {
            return Err(Error::Version(format!(
                "written as {} version {}; this release reads {FORMAT} versions {} to {}",
                header.format,
                header.version,
                VERSIONS.start(),
                VERSIONS.end()
            )));
        }
        let manifest: Self =
            serde_json::from_str(inner).map_err(|error| corrupt(format!("not a manifest: {error}")))?;
        manifest.check().map_err(corrupt)?;
        Ok(manifest)
    }

    /// Everything that later code relies on, in checked arithmetic.
    fn check(&self) -> std::result::Result<(), String> {
        uuid::Uuid::parse_str(&self.uuid).map_err(|_| format!("{:?} is not a uuid", self.uuid))?;
        if self.version != self.own_version() {
            return Err(format!(
                "what belongs to version {} is marked as version {}",
                self.own_version(),
                self.version
            ));
        }
        self.check_generations()?;
        if self.block_bytes == 0 || i64::try_from(self.num_states).is_err() {
            return Err(format!("block of {} bytes, {} states", self.block_bytes, self.num_states));
        }
        let has_states = self.columns.iter().any(|column| column.kind == Kind::State);
        if has_states && self.num_transitions.checked_add(self.num_segments) != Some(self.num_states) {
            return Err(format!(
                "{} states, {} transitions and {} segments do not fit together",
                self.num_states, self.num_transitions, self.num_segments
            ));
        }
        for column in &self.columns {
            let name = show(&column.key);
            check_key(&column.key).map_err(|error| error.to_string())?;
            let rows = match column.kind {
                Kind::State => self.num_states,
                Kind::Transition => self.num_transitions,
            };
            let bytes = row_bytes(column.dtype, &column.shape).and_then(|row| (row as u64).checked_mul(rows));
            if bytes != Some(column.bytes) || isize::try_from(column.bytes).is_err() {
                return Err(format!(
                    "column {name}: {rows} rows of {} {:?} do not make {} bytes",
                    column.dtype.name(),
                    column.shape,
                    column.bytes
                ));
            }
            if column.crc32c.len() as u64 != column.bytes.div_ceil(self.block_bytes) {
                return Err(format!("column {name}: {} checksums for {} bytes", column.crc32c.len(), column.bytes));
            }
        }
        for kind in [Kind::State, Kind::Transition] {
            let keys = self.columns.iter().filter(|column| column.kind == kind).map(|column| &column.key);
            check_apart(keys).map_err(|error| error.to_string())?;
        }
        Ok(())
    }

    fn check_generations(&self) -> std::result::Result<(), String> {
        let (Some(first), Some(last)) = (self.generations.first(), self.generations.last()) else { return Ok(()) };
        let counts = |of: &Generation| (of.num_states, of.num_transitions);
        if self.generations.len() > MOST_GENERATIONS || !self.sealed {
            return Err(format!("{} generations, sealed: {}", self.generations.len(), self.sealed));
        }
        if first.uuid != self.uuid || counts(last) != (self.num_states, self.num_transitions) {
            return Err("the generations are not those of the store".into());
        }
        for (position, generation) in self.generations.iter().enumerate() {
            let earlier = &self.generations[..position];
            uuid::Uuid::parse_str(&generation.uuid).map_err(|_| format!("{:?} is not a uuid", generation.uuid))?;
            let shrinks = earlier.last().is_some_and(|before| {
                before.num_states > generation.num_states || before.num_transitions > generation.num_transitions
            });
            if shrinks || earlier.iter().any(|other| other.uuid == generation.uuid) {
                return Err(format!("generation {position} does not follow the one before"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip_and_every_truncation() {
        let text = r#"{"fps": 29.970000000000002, "count": 18446744073709551617, "joint_names": ["a", "b"]}"#;
        let manifest = Manifest::new(uuid::Uuid::new_v4().to_string(), checked_attributes(text).unwrap());
        let bytes = manifest.to_bytes().unwrap();
        assert_eq!(Manifest::from_bytes(&bytes).unwrap().attributes.get(), text);
        for cut in 0..bytes.len() {
            assert!(matches!(Manifest::from_bytes(&bytes[..cut]), Err(Error::Corrupt(_))), "cut at {cut}");
        }
        for i in 0..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[i] ^= 1;
            assert!(Manifest::from_bytes(&flipped).is_err(), "flip at {i}");
        }
    }

    #[test]
    fn another_version_is_named() {
        let mut manifest = Manifest::new(uuid::Uuid::new_v4().to_string(), RawValue::NULL.to_owned());
        manifest.version = 3;
        assert!(matches!(Manifest::from_bytes(&manifest.to_bytes().unwrap()), Err(Error::Version(_))));
    }

    #[test]
    fn attributes_are_json_of_bounded_depth() {
        let nested = |depth: usize| format!("{}1{}", "[".repeat(depth), "]".repeat(depth));
        checked_attributes(&nested(DEEPEST)).unwrap();
        checked_attributes(r#"{"brackets in text": "[[[[\"[[\\"}"#).unwrap();
        for refused in [&nested(DEEPEST + 1), "NaN", "{", "", "1 2", "[1,]"] {
            assert!(matches!(checked_attributes(refused), Err(Error::Invalid(_))), "{refused}");
        }
        let within_the_manifest = |depth| serde_json::from_str::<serde_json::Value>(&nested(depth + 1));
        within_the_manifest(DEEPEST).unwrap();
        within_the_manifest(DEEPEST + 1).unwrap_err();
    }
}
