//! The store against a plain model: build -> reopen -> gather, and what must be refused.

mod adding;
mod builds;
mod generations;
mod model;
mod reading;
