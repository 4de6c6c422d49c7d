//! Whether copying has to stop.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::{Error, Result};

/// Time between two looks at the interrupt flag. By time, not by bytes: rows may come from a disk.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Whether copying has to stop: because a part of it failed, or because the caller is asked to.
pub struct Watch<'a> {
    pub stop: &'a AtomicBool,
    pub interrupted: &'a (dyn Fn() -> bool + Sync),
    /// When the calling thread asked last; helpers do not.
    pub looked: Option<Instant>,
}

impl Watch<'_> {
    /// Look, now and then at what the caller says.
    pub fn look(&mut self) -> Result<()> {
        let is_due = self.looked.is_some_and(|looked| looked.elapsed() >= LOOK_EVERY);
        if is_due {
            self.looked = Some(Instant::now());
        }
        if self.stop.load(Ordering::Relaxed) || (is_due && (self.interrupted)()) {
            return Err(Error::Interrupted);
        }
        Ok(())
    }
}
