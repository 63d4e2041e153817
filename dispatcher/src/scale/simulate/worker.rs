//! One simulated worker, from the order to the end.

/// A job as the simulation knows it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Job {
    /// When its items arrived.
    pub(super) arrived: u64,
    /// Device seconds that it takes.
    pub(super) seconds: f64,
}

/// What a worker does.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum State {
    /// The machine was ordered and is not there yet; nobody pays.
    Ordered { until: u64 },
    /// The machine is there; image and model are being loaded.
    Loading { until: u64 },
    /// Taking jobs.
    Ready,
    /// Finishing its job, taking none, for as long as it may.
    Draining { until: u64 },
}

/// A worker.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Worker {
    pub(super) state: State,
    /// The job in hand, and the device seconds spent on it.
    pub(super) job: Option<(Job, f64)>,
}

impl Worker {
    pub(super) fn ready() -> Self {
        Self { state: State::Ready, job: None }
    }

    pub(super) fn ordered(until: u64) -> Self {
        Self { state: State::Ordered { until }, job: None }
    }

    /// Whether somebody pays for it.
    pub(super) fn is_paid(&self) -> bool {
        !matches!(self.state, State::Ordered { .. })
    }

    /// Whether it counts for the autoscaler.
    pub(super) fn is_member(&self) -> bool {
        !matches!(self.state, State::Draining { .. })
    }

    /// Lets time pass up to `now`.
    pub(super) fn advance(&mut self, now: u64, load: u64) {
        match self.state {
            State::Ordered { until } if until <= now => self.state = State::Loading { until: now + load },
            State::Loading { until } if until <= now => self.state = State::Ready,
            _ => {}
        }
    }
}
