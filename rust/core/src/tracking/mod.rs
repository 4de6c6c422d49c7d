//! Where many envs stand in their clips, and where they start next: bins of time, what happened in them, and draws.

mod base;
mod bins;
mod cumulative;
mod draws;
mod envs;
mod ledger;
mod scheme;
mod statistics;
mod sweep;
mod table;
mod tracker;

pub use base::Base;
pub use bins::Bins;
pub use draws::Draws;
pub use envs::Envs;
pub use scheme::{Scheme, Statistic};
pub use statistics::Statistics;
pub use table::Table;
pub use tracker::{Saved, Setting, Tracker};
