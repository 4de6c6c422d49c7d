//! What a recording's journal holds, and which columns of a store its episodes become.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::episodes::Last;
use super::reader::{Finished, JournalReader};
use super::records::{Place, Shape};
use crate::store::files::{LARGEST_JSON, read, replace_durably, sync_directory};
use crate::store::{Array, ColumnSpec, DType, History, Key, Kind, Trajectory, View};
use crate::{Error, Result};

/// Beside the journal's files.
const FILE: &str = "layout.json";

/// Where the rows of a column come from.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// A column of the journal; as states, the last next state comes behind the episode's own rows.
    Journal(usize),
    /// The same bytes in every row.
    Repeat(Vec<u8>),
    /// The env, int64.
    EnvId,
    /// Bool: false in the last row of an episode whose last next state is not known.
    NextKnown,
    /// Bool: true in the last row of an episode that ended by what happened.
    Terminated,
    /// Bool: true in the last row of one that was cut.
    Truncated,
    /// Bool: true in the last row.
    Done,
}

#[derive(Debug, Clone, Deserialize)]
struct Column {
    key: Key,
    kind: Kind,
    dtype: DType,
    shape: Vec<usize>,
    source: Source,
}

impl Column {
    fn spec(&self) -> ColumnSpec {
        ColumnSpec { key: self.key.clone(), kind: self.kind, dtype: self.dtype, shape: self.shape.clone() }
    }
}

/// The layout of a recording, and the JSON it was made of, which may say more.
#[derive(Debug, Clone)]
pub struct Layout {
    text: Box<RawValue>,
    shape: Shape,
    longest: u64,
    columns: Vec<Column>,
    views: Vec<View>,
    histories: Vec<History>,
    tasks: BTreeMap<i64, String>,
}

#[derive(Deserialize)]
struct Read {
    num_envs: usize,
    row_bytes: Vec<usize>,
    num_states: usize,
    longest: u64,
    columns: Vec<Column>,
    views: Vec<View>,
    #[serde(default)]
    histories: Vec<History>,
    tasks: BTreeMap<i64, String>,
}

impl Layout {
    /// Parse and check the JSON of a layout.
    pub fn parse(json: &str) -> Result<Self> {
        let invalid = |error: serde_json::Error| Error::Invalid(format!("layout of a recording: {error}"));
        let read: Read = serde_json::from_str(json).map_err(invalid)?;
        let Read { num_envs, row_bytes, num_states, longest, columns, views, histories, tasks } = read;
        let shape = Shape { num_envs, row_bytes, num_states };
        shape.step_bytes()?;
        if num_states > shape.row_bytes.len() || u32::try_from(num_envs).is_err() {
            return Err(Error::Invalid(format!("{num_states} states of {:?} in {num_envs} envs", shape.row_bytes)));
        }
        for column in &columns {
            let bytes = column.spec().row_bytes()?;
            let (expected, may_be_state) = match &column.source {
                Source::Journal(number) => (shape.row_bytes.get(*number).copied(), *number < num_states),
                Source::Repeat(row) => (Some(row.len()), false),
                Source::EnvId => (Some(8), false),
                _ => (Some(1), false),
            };
            if expected != Some(bytes) || (column.kind == Kind::State && !may_be_state) {
                return Err(Error::Invalid(format!("layout of a recording: column {:?} has no such rows", column.key)));
            }
        }
        let text = RawValue::from_string(json.to_owned()).map_err(invalid)?;
        Ok(Self { text, shape, longest, columns, views, histories, tasks })
    }

    /// Read the layout of the journal in a directory.
    pub fn read(journal: &Path) -> Result<Self> {
        let path = journal.join(FILE);
        let bytes = read(journal, &path, LARGEST_JSON).map_err(|refusal| refusal.about(&path, "layout"))?;
        let corrupt = |why: String| Error::Corrupt(format!("{}: {why}", path.display()));
        let text = String::from_utf8(bytes).map_err(|error| corrupt(error.to_string()))?;
        Self::parse(&text).map_err(|error| corrupt(error.to_string()))
    }

    /// Write it into the directory of a journal, in the place of the one that is there.
    pub fn write(&self, journal: &Path) -> Result<()> {
        replace_durably(&journal.join(FILE), self.text().as_bytes())?;
        sync_directory(journal)
    }

    /// The JSON it was made of.
    pub fn text(&self) -> &str {
        self.text.get()
    }

    /// What a step of the journal holds.
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// Rows after which an episode is cut.
    pub fn longest(&self) -> u64 {
        self.longest
    }

    /// The columns.
    pub fn specs(&self) -> Vec<ColumnSpec> {
        self.columns.iter().map(Column::spec).collect()
    }

    /// Keys that are parts of columns.
    pub fn views(&self) -> &[View] {
        &self.views
    }

    /// Keys that are histories of columns.
    pub fn histories(&self) -> &[History] {
        &self.histories
    }

    /// Names of tasks by id.
    pub fn tasks(&self) -> &BTreeMap<i64, String> {
        &self.tasks
    }

    /// An episode as a trajectory of a store; `buffers` hold its rows meanwhile.
    pub fn trajectory<'a>(
        &self,
        finished: &Finished,
        steps: &[Place],
        traj_id: i64,
        reader: &mut JournalReader,
        buffers: &'a mut Vec<Vec<u8>>,
    ) -> Result<Trajectory<'a>> {
        let episode = &finished.episode;
        let rows = episode.rows();
        buffers.resize_with(self.columns.len(), Vec::new);
        for (column, buffer) in self.columns.iter().zip(buffers.iter_mut()) {
            let row_bytes = column.spec().row_bytes()?;
            let count = rows + usize::from(column.kind == Kind::State);
            let bytes = row_bytes.checked_mul(count).ok_or_else(|| too_long(rows))?;
            buffer.clear();
            buffer.try_reserve_exact(bytes).map_err(|_| too_long(rows))?;
            let flags = |buffer: &mut Vec<u8>, last: bool, before: u8| {
                buffer.resize(rows, before);
                buffer[rows - 1] = u8::from(last);
            };
            match &column.source {
                Source::Journal(number) => {
                    buffer.resize(bytes, 0);
                    reader.episode(finished, steps, *number, buffer)?;
                }
                Source::Repeat(row) => (0..rows).for_each(|_| buffer.extend_from_slice(row)),
                Source::EnvId => {
                    let env = i64::from(episode.env).to_le_bytes();
                    (0..rows).for_each(|_| buffer.extend_from_slice(&env));
                }
                Source::NextKnown => flags(buffer, episode.end != Last::Unknown, 1),
                Source::Terminated => flags(buffer, episode.terminated, 0),
                Source::Truncated => flags(buffer, episode.truncated, 0),
                Source::Done => flags(buffer, episode.terminated || episode.truncated, 0),
            }
        }
        let arrays = self.columns.iter().zip(buffers.iter()).map(|(column, buffer)| Array {
            spec: column.spec(),
            rows: rows + usize::from(column.kind == Kind::State),
            bytes: buffer.into(),
        });
        Ok(Trajectory {
            task_id: i64::from(finished.task),
            traj_id,
            name: Some(format!("env{}/{}", episode.env, episode.first)),
            arrays: arrays.collect(),
            views: self.views.clone(),
        })
    }
}

fn too_long(rows: usize) -> Error {
    Error::OutOfMemory(format!("no memory for an episode of {rows} rows"))
}
