//! What can be gathered, and of which rows: columns, parts of columns, histories of either, and the next state of each.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::column::{ColumnSpec, DType, Key, Kind, check_key, check_nesting, show};
use super::history::History;
use super::manifest::View;
use crate::part::RowOf;
use crate::{Error, Frames, Result};

/// Something that can be gathered: (part of) the rows of a column, of the same step or of the next, or histories of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Field {
    /// Key under which callers ask for it.
    pub key: Key,
    /// Position of the column it is read from.
    pub column: usize,
    /// Which of the column's rows belong to a transition: its own, or those of the states it leads from or to.
    pub rows: RowOf,
    /// First byte within the column's row.
    pub offset: usize,
    /// Element type.
    pub dtype: DType,
    /// Shape of one row.
    pub shape: Vec<usize>,
    /// How a history is put together; `None` for what is stored as it is read.
    pub frames: Option<Arc<Frames>>,
}

/// `("next", key)`.
fn next_of(key: &[String]) -> Key {
    std::iter::once("next".to_owned()).chain(key.iter().cloned()).collect()
}

fn rows_of(kind: Kind) -> RowOf {
    match kind {
        Kind::State => RowOf::State,
        Kind::Transition => RowOf::Index,
    }
}

/// Everything that can be gathered from some columns, views and histories, `("next", key)` of state columns included.
pub(super) fn fields(specs: &[ColumnSpec], views: &[View], histories: &[History]) -> Result<Vec<Field>> {
    let mut fields: Vec<Field> = Vec::new();
    let mut known: HashSet<Key> = HashSet::new();
    let mut add = |field: Field| {
        let next = (field.rows == RowOf::State).then(|| Field {
            key: next_of(&field.key),
            rows: RowOf::NextState,
            ..field.clone()
        });
        for field in [Some(field), next].into_iter().flatten() {
            if !known.insert(field.key.clone()) {
                return Err(Error::Schema(format!("key {} is there twice", show(&field.key))));
            }
            fields.push(field);
        }
        Ok(())
    };
    for (column, spec) in specs.iter().enumerate() {
        let (key, dtype, shape) = (spec.key.clone(), spec.dtype, spec.shape.clone());
        add(Field { key, column, rows: rows_of(spec.kind), offset: 0, dtype, shape, frames: None })?;
    }
    let position: HashMap<&Key, usize> = specs.iter().enumerate().map(|(column, spec)| (&spec.key, column)).collect();
    for view in views {
        check_key(&view.key)?;
        let missing = || Error::Schema(format!("view {}: no column {}", show(&view.key), show(&view.source)));
        let column = *position.get(&view.source).ok_or_else(missing)?;
        let spec = &specs[column];
        let elements = |shape: &[usize]| shape.iter().try_fold(1_usize, |product, &extent| product.checked_mul(extent));
        let end = elements(&view.shape).and_then(|wanted| wanted.checked_add(view.offset));
        let fits = end.zip(elements(&spec.shape)).is_some_and(|(end, there)| end <= there);
        if !fits {
            return Err(Error::Schema(format!(
                "view {}: shape {:?} from element {} does not fit into {} of shape {:?}",
                show(&view.key),
                view.shape,
                view.offset,
                show(&view.source),
                spec.shape
            )));
        }
        let (key, dtype, shape) = (view.key.clone(), spec.dtype, view.shape.clone());
        add(Field {
            key,
            column,
            rows: rows_of(spec.kind),
            offset: view.offset * dtype.size(),
            dtype,
            shape,
            frames: None,
        })?;
    }
    for history in histories {
        let (column, frames) = history.frames(specs)?;
        let (key, dtype) = (history.key.clone(), specs[column].dtype);
        let shape = vec![frames.width() / dtype.size()];
        let frames = Some(Arc::new(frames));
        add(Field { key, column, rows: RowOf::State, offset: 0, dtype, shape, frames })?;
    }
    Ok(fields)
}

/// Check what columns, views and histories would give before anything is written: what can be gathered also has to nest, as in a `TensorDict`.
///
/// More than is asked of a store that is opened: earlier releases published keys that meet, and arrays of them can be gathered.
pub(super) fn check_fields(specs: &[ColumnSpec], views: &[View], histories: &[History]) -> Result<()> {
    let fields = fields(specs, views, histories)?;
    let is_next_of_a_state = |field: &&Field| field.rows == RowOf::State && field.key[0] == "next";
    if let Some(field) = fields.iter().find(is_next_of_a_state) {
        return Err(Error::Schema(format!("key {}: the next of a state is not a state", show(&field.key))));
    }
    check_nesting(fields.iter().map(|field| &field.key))
}
