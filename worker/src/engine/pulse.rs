//! Whether the device still moves: which step it is at, and since when; and whether it is broken.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Shared by the device thread, which beats, and by whoever waits for it.
#[derive(Debug, Default)]
pub(super) struct Pulse {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    steps: u64,
    running_since: Option<Instant>,
    broken: bool,
}

/// A step that runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RunningStep {
    number: u64,
    since: Instant,
}

impl RunningStep {
    pub(super) fn elapsed(&self) -> Duration {
        self.since.elapsed()
    }
}

impl Pulse {
    /// A step begins.
    pub(super) fn begin(&self) {
        let mut state = self.lock();
        state.steps += 1;
        state.running_since = Some(Instant::now());
    }

    /// It has ended, in whatever way.
    pub(super) fn end(&self) {
        self.lock().running_since = None;
    }

    /// The step that runs now.
    pub(super) fn running(&self) -> Option<RunningStep> {
        let state = self.lock();
        state.running_since.map(|since| RunningStep { number: state.steps, since })
    }

    /// It computes nothing any more.
    pub(super) fn broke(&self) {
        self.lock().broken = true;
    }

    pub(super) fn is_broken(&self) -> bool {
        self.lock().broken
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
