//! Episodes of a journal, written as a store in the end.

use std::collections::BTreeMap;
use std::path::Path;

use super::layout::Layout;
use super::progress::Steps;
use super::reader::{Finished, JournalReader};
use crate::Result;
use crate::store::StoreWriter;

/// What was over when it was asked for, and how to read it: nothing of the recording is held while it is written.
#[derive(Debug)]
pub struct Saving {
    finished: Vec<Finished>,
    steps: Steps,
    layout: Layout,
    reader: JournalReader,
}

impl Saving {
    /// Episodes, in order, whose rows lie in the journal in `directory` where `steps` says.
    pub fn new(finished: Vec<Finished>, steps: Steps, layout: Layout, directory: &Path) -> Self {
        let reader = JournalReader::new(directory, layout.shape().clone());
        Self { finished, steps, layout, reader }
    }

    /// Write the store; returns its uuid.
    pub fn write(mut self, mut writer: StoreWriter, interrupted: &dyn Fn() -> bool) -> Result<String> {
        writer.set_histories(self.layout.histories().to_vec());
        let (mut buffers, mut counts) = (Vec::new(), BTreeMap::new());
        for finished in self.finished {
            let steps = self.steps.of(&finished)?;
            let count = counts.entry(finished.task).or_insert(0);
            let trajectory = self.layout.trajectory(&finished, &steps, *count, &mut self.reader, &mut buffers)?;
            writer.append(trajectory, interrupted)?;
            *count += 1;
        }
        writer.publish(self.layout.tasks().clone(), interrupted)
    }
}
