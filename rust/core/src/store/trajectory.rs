//! What a trajectory is that is added to a store, and whether it may be.

use std::collections::{HashMap, HashSet};

use super::column::{ColumnSpec, Key, Kind, check_apart, check_key, show};
use super::fields::check_fields;
use super::history::History;
use super::lent::Lent;
use super::manifest::View;

/// One array of a trajectory: what it is and its bytes in C order.
#[derive(Debug)]
pub struct Array<'a> {
    /// Where it goes.
    pub spec: ColumnSpec,
    /// Number of rows.
    pub rows: usize,
    /// `rows` times the row's bytes.
    pub bytes: Lent<'a>,
}

/// A trajectory to be added.
#[derive(Debug)]
pub struct Trajectory<'a> {
    /// Its task.
    pub task_id: i64,
    /// Its number within the task.
    pub traj_id: i64,
    /// Where it came from.
    pub name: Option<String>,
    /// Its arrays.
    pub arrays: Vec<Array<'a>>,
    /// Keys that are read from part of one of them; the same for every trajectory.
    pub views: Vec<View>,
}

/// Whether arrays and views are those of the trajectories before: the parts as well as the wholes.
pub(super) fn check_like_first(
    specs: &[&ColumnSpec],
    expected_views: &[View],
    arrays: &[Array<'_>],
    views: &[View],
) -> std::result::Result<(), String> {
    for (expected, found) in expected_views.iter().zip(views) {
        let key = show(&found.key);
        if (&expected.key, expected.shape.as_slice()) != (&found.key, &found.shape) {
            return Err(format!("key {key}: expected shape {:?}, found {:?}", expected.shape, found.shape));
        }
        if expected != found {
            return Err(format!(
                "key {key}: expected elements from {} of {}, found from {} of {}",
                expected.offset,
                show(&expected.source),
                found.offset,
                show(&found.source)
            ));
        }
    }
    if expected_views.len() != views.len() {
        return Err(format!("{} views, earlier trajectories have {}", views.len(), expected_views.len()));
    }
    let found: HashMap<&Key, &ColumnSpec> = arrays.iter().map(|array| (&array.spec.key, &array.spec)).collect();
    for expected in specs {
        let key = show(&expected.key);
        match found.get(&expected.key) {
            None => return Err(format!("key {key} is missing; earlier trajectories have it")),
            Some(found) if found != expected => {
                return Err(format!(
                    "key {key}: expected {:?} {} {:?}, found {:?} {} {:?}",
                    expected.kind,
                    expected.dtype.name(),
                    expected.shape,
                    found.kind,
                    found.dtype.name(),
                    found.shape
                ));
            }
            Some(_) => {}
        }
    }
    if found.len() > specs.len() {
        let known: HashSet<&Key> = specs.iter().map(|spec| &spec.key).collect();
        let extra = arrays.iter().find(|array| !known.contains(&array.spec.key));
        return Err(format!(
            "key {} is new; earlier trajectories lack it",
            extra.map_or_else(String::new, |array| show(&array.spec.key))
        ));
    }
    if arrays.len() == found.len() { Ok(()) } else { Err("a key is there twice".into()) }
}

/// Number of states of some arrays, which is the same for all.
pub(super) fn check_lengths(arrays: &[Array<'_>]) -> std::result::Result<usize, String> {
    let states_of = |array: &Array<'_>| array.rows + usize::from(array.spec.kind == Kind::Transition);
    let Some(first) = arrays.first() else { return Err("no arrays".into()) };
    let states = states_of(first);
    for array in arrays {
        let key = show(&array.spec.key);
        check_key(&array.spec.key).map_err(|error| error.to_string())?;
        if states_of(array) != states {
            let expected = states.saturating_sub(usize::from(array.spec.kind == Kind::Transition));
            let found = array.rows;
            return Err(format!(
                "key {key}: expected {expected} rows, found {found} (as {} has)",
                show(&first.spec.key)
            ));
        }
        let row_bytes = array.spec.row_bytes().map_err(|error| error.to_string())?;
        if row_bytes.checked_mul(array.rows) != Some(array.bytes.len()) {
            return Err(format!("key {key}: {} bytes for {} rows", array.bytes.len(), array.rows));
        }
    }
    if states < 2 { Err(format!("expected at least 2 states, found {states}")) } else { Ok(states) }
}

/// Whether a store may consist of such arrays, views and histories.
pub(super) fn check_first(
    specs: &[ColumnSpec],
    views: &[View],
    histories: &[History],
) -> std::result::Result<(), String> {
    let on_disk = [Kind::State, Kind::Transition]
        .into_iter()
        .try_for_each(|kind| check_apart(specs.iter().filter(|spec| spec.kind == kind).map(|spec| &spec.key)));
    on_disk.and_then(|()| check_fields(specs, views, histories)).map_err(|error| error.to_string())
}
