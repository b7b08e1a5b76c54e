//! How long the phases of a retraining take.

use std::collections::BTreeMap;
use std::time::Instant;

/// Seconds by phase.
pub(super) struct Clock {
    start: Instant,
    last: Instant,
    seconds: BTreeMap<&'static str, f64>,
}

impl Default for Clock {
    fn default() -> Self {
        let now = Instant::now();
        Self { start: now, last: now, seconds: BTreeMap::new() }
    }
}

impl Clock {
    /// Ends a phase.
    pub(super) fn lap(&mut self, phase: &'static str) {
        self.seconds.insert(phase, self.last.elapsed().as_secs_f64());
        self.skip();
    }

    /// A phase that was timed elsewhere.
    pub(super) fn set(&mut self, phase: &'static str, seconds: f64) {
        self.seconds.insert(phase, seconds);
    }

    /// Leaves out what went by since the last phase.
    pub(super) fn skip(&mut self) {
        self.last = Instant::now();
    }

    /// Seconds of the phases so far, and their sum with all between them.
    pub(super) fn seconds(&self) -> BTreeMap<&'static str, f64> {
        let mut seconds = self.seconds.clone();
        seconds.insert("total", self.start.elapsed().as_secs_f64());
        seconds
    }
}
