//! The decision: seconds of device work that wait, and how many workers they are worth.

use serde::Serialize;

/// Seconds of work that one worker may have before it.
///
/// Chosen by `dispatcher simulate` (BENCHMARKS.md): below it a fleet pays for machines that come when the work is done, above
/// it people wait and little is saved.
pub const TARGET_SECONDS: f64 = 600.0;
/// Requests that somebody waits for, per worker.
pub const INTERACTIVE_PER_WORKER: u64 = 16;

/// What waits: in the queues and in the workers' hands.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Signal {
    /// Seconds that one device needs for all of it.
    pub backlog_gpu_seconds: f64,
    /// Requests on the interactive lane.
    pub interactive_waiting: u64,
}

impl Signal {
    /// Whether anything waits.
    pub fn is_active(&self) -> bool {
        self.backlog_gpu_seconds > 0.0 || self.interactive_waiting > 0
    }
}

/// How a signal becomes a number of workers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rule {
    /// Seconds of work that one worker may have before it.
    pub target_seconds: f64,
    /// Never more workers than these.
    pub most: u32,
}

impl Rule {
    /// Workers for all that waits: none for nothing, one for anything, never more than [`Rule::most`].
    pub fn wanted(&self, signal: Signal) -> u32 {
        let by_backlog = (signal.backlog_gpu_seconds / self.target_seconds).ceil();
        let by_requests = signal.interactive_waiting.div_ceil(INTERACTIVE_PER_WORKER) as f64;
        // A float beyond the range becomes the largest number, and a NaN none.
        (by_backlog.max(by_requests) as u32).min(self.most)
    }
}

#[cfg(test)]
mod tests {
    use super::{Rule, Signal};

    #[test]
    fn work_is_worth_workers() {
        let rule = Rule { target_seconds: 300.0, most: 20 };
        let wanted = |backlog_gpu_seconds, interactive_waiting| {
            rule.wanted(Signal { backlog_gpu_seconds, interactive_waiting })
        };
        assert_eq!(wanted(0.0, 0), 0);
        assert_eq!(wanted(0.1, 0), 1);
        assert_eq!(wanted(300.0, 0), 1);
        assert_eq!(wanted(301.0, 0), 2);
        assert_eq!(wanted(0.0, 1), 1);
        assert_eq!(wanted(0.0, 33), 3);
        assert_eq!(wanted(600.0, 65), 5);
        assert_eq!(wanted(f64::INFINITY, 0), 20);
    }
}
