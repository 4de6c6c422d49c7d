//! Stores of known content.

use std::collections::BTreeMap;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

use iltools_core::Result;
use iltools_core::store::{
    Array, Backend, ColumnSpec, DType, Kind, Store, StoreWriter, Trajectory, View, gather_memory,
};

pub const BACKENDS: [Backend; 3] = [Backend::Mmap, Backend::Ram, Backend::Pread];

pub fn spec(name: &str, kind: Kind, width: usize) -> ColumnSpec {
    ColumnSpec { key: vec![name.into()], kind, dtype: DType::Uint8, shape: vec![width] }
}

/// Rows whose bytes tell trajectory, row and position apart.
pub fn rows(trajectory: usize, count: usize, width: usize, salt: usize) -> Vec<u8> {
    (0..count * width).map(|i| ((trajectory * 7919 + i * 31 + salt) % 251) as u8).collect()
}

pub struct Model {
    pub state_width: usize,
    pub action_width: usize,
    pub states: Vec<usize>,
}

impl Model {
    pub fn build(&self, path: &Path, overwrite: bool) -> Result<String> {
        let mut writer = StoreWriter::begin(path, overwrite, r#"{"fps": 50}"#)?;
        self.append_all(&mut writer)?;
        writer.publish(BTreeMap::from([(0, "walk".into())]), &|| false)
    }

    pub fn append_all(&self, writer: &mut StoreWriter) -> Result<()> {
        self.append(writer, 0..self.states.len())
    }

    /// Append the trajectories of a range.
    pub fn append(&self, writer: &mut StoreWriter, range: Range<usize>) -> Result<()> {
        for (k, &count) in self.states.iter().enumerate().take(range.end).skip(range.start) {
            let (obs, action) = (rows(k, count, self.state_width, 0), rows(k, count - 1, self.action_width, 100));
            let arrays = [
                Array { spec: spec("obs", Kind::State, self.state_width), rows: count, bytes: (&obs).into() },
                Array {
                    spec: spec("action", Kind::Transition, self.action_width),
                    rows: count - 1,
                    bytes: (&action).into(),
                },
            ];
            let part = View {
                key: vec!["part".into()],
                source: vec!["obs".into()],
                offset: 1,
                shape: vec![self.state_width - 1],
            };
            let name = Some(format!("clip {k}"));
            let (task_id, traj_id) = (k as i64 / 3, k as i64 % 3);
            let trajectory = Trajectory { task_id, traj_id, name, arrays: arrays.into(), views: vec![part] };
            writer.append(trajectory, &|| false)?;
        }
        Ok(())
    }

    /// The bytes of a transition, straight from the definition.
    pub fn row(&self, index: usize, key: &[&str]) -> Vec<u8> {
        let (mut k, mut step) = (0, index);
        while step >= self.states[k] - 1 {
            step -= self.states[k] - 1;
            k += 1;
        }
        let state = |step: usize| {
            rows(k, self.states[k], self.state_width, 0)[step * self.state_width..][..self.state_width].to_vec()
        };
        match key {
            ["obs"] => state(step),
            ["next", "obs"] => state(step + 1),
            ["part"] => state(step)[1..].to_vec(),
            ["next", "part"] => state(step + 1)[1..].to_vec(),
            _ => rows(k, self.states[k] - 1, self.action_width, 100)[step * self.action_width..][..self.action_width]
                .to_vec(),
        }
    }

    pub fn check(&self, store: &Store, index: &[i64]) {
        let fields: Vec<usize> = (0..store.fields().len()).collect();
        let found = gather_memory(store, &fields, index, None, &|| false).unwrap();
        for (field, buffer) in store.fields().iter().zip(&found) {
            let key: Vec<&str> = field.key.iter().map(String::as_str).collect();
            let expected: Vec<u8> = index.iter().flat_map(|&i| self.row(i as usize, &key)).collect();
            assert_eq!(buffer.to_vec(), expected, "{key:?}");
        }
    }
}

pub fn small() -> Model {
    Model { state_width: 5, action_width: 3, states: vec![4, 2, 9, 3] }
}

pub fn listing(path: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![path.to_path_buf()];
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path.clone());
            }
            found.push(path);
        }
    }
    found.sort();
    found
}

pub fn column_file(path: &Path, name: &str) -> PathBuf {
    listing(path).into_iter().find(|file| file.file_name().unwrap() == name).unwrap()
}
