//! What can be gathered, and of which rows: columns, parts of columns, and the next state of either.

use super::column::{ColumnSpec, DType, Key, Kind, check_key, show};
use super::manifest::ViewEntry;
use crate::part::RowOf;
use crate::{Error, Result};

/// Something that can be gathered: (part of) the rows of a column, of the same step or of the next.
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

/// Everything that can be gathered from some columns and views, `("next", key)` of state columns included.
pub(super) fn fields(specs: &[ColumnSpec], views: &[ViewEntry]) -> Result<Vec<Field>> {
    let mut fields: Vec<Field> = Vec::new();
    let mut add = |field: Field| {
        let next = (field.rows == RowOf::State).then(|| Field {
            key: next_of(&field.key),
            rows: RowOf::NextState,
            ..field.clone()
        });
        for field in [Some(field), next].into_iter().flatten() {
            if fields.iter().any(|other| other.key == field.key) {
                return Err(Error::Schema(format!("key {} is there twice", show(&field.key))));
            }
            fields.push(field);
        }
        Ok(())
    };
    for (column, spec) in specs.iter().enumerate() {
        let (key, dtype, shape) = (spec.key.clone(), spec.dtype, spec.shape.clone());
        add(Field { key, column, rows: rows_of(spec.kind), offset: 0, dtype, shape })?;
    }
    for view in views {
        check_key(&view.key)?;
        let missing = || Error::Schema(format!("view {}: no column {}", show(&view.key), show(&view.source)));
        let column = specs.iter().position(|spec| spec.key == view.source).ok_or_else(missing)?;
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
        add(Field { key, column, rows: rows_of(spec.kind), offset: view.offset * dtype.size(), dtype, shape })?;
    }
    Ok(fields)
}

/// Check the fields that columns and views would give, before anything is published.
pub(super) fn check_fields(specs: &[ColumnSpec], views: &[ViewEntry]) -> Result<()> {
    fields(specs, views).map(drop)
}
