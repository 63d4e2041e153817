//! Workers as far as they were heard of: whoever settles a job says its name, and what it took.

use crate::ledger::Tally;
use crate::scale::price::{Kind, Prices};
use captionfleet_proto::outcome::JobOutcome;
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::Serialize;
use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// What is looked back at.
const WINDOW: Duration = Duration::from_secs(60);
/// Workers that are remembered; the ones silent for longest are forgotten.
const REMEMBERED: usize = 1000;

/// The workers.
#[derive(Debug, Default)]
pub struct Members {
    seen: Mutex<HashMap<String, Member>>,
    prices: Mutex<Prices>,
}

#[derive(Debug, Clone)]
struct Member {
    last: Timestamp,
    jobs: u64,
    rows: u64,
    failed: u64,
    /// When it was at work.
    busy: VecDeque<(Instant, Instant, u64)>,
}

/// One worker.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct Seen {
    /// Its name.
    pub worker: String,
    /// When it last settled a job.
    pub last_seen: String,
    /// Jobs since this service was started.
    pub jobs: u64,
    /// Their rows.
    pub rows: u64,
    /// Rows that failed.
    pub failed: u64,
    /// Share of the last minute in which it had a job, 0 to 1.
    pub busy: f64,
    /// Rows per second in the last minute.
    pub items_per_second: f64,
}

impl Members {
    /// What work costs, by all that was heard of it.
    pub fn prices(&self) -> Prices {
        *self.prices.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes what a worker told of a job of a run.
    pub fn told(&self, outcome: &JobOutcome) {
        self.heard(outcome);
        if !outcome.already_done {
            self.price(&Tally::from(outcome));
        }
    }

    /// Takes what a worker told of a question about one picture.
    pub fn answered(&self, outcome: &JobOutcome) {
        self.heard(outcome);
        if let Some(seconds) = outcome.device_seconds.filter(|_| !outcome.already_done) {
            let mut prices = self.prices.lock().unwrap_or_else(PoisonError::into_inner);
            prices.note(Kind::Requests, outcome.rows(), seconds);
        }
    }

    /// Takes what a job of a run took that settled for others.
    pub fn price(&self, job: &Tally) {
        let mut prices = self.prices.lock().unwrap_or_else(PoisonError::into_inner);
        prices.note(job.kind(), job.looked_at(), job.effort.device_seconds());
    }

    fn heard(&self, outcome: &JobOutcome) {
        let now = Instant::now();
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.len() >= REMEMBERED && !seen.contains_key(&outcome.worker) {
            let oldest = seen.iter().min_by_key(|(_, member)| member.last).map(|(name, _)| name.clone());
            oldest.map(|name| seen.remove(&name));
        }
        let member = seen.entry(outcome.worker.clone()).or_insert_with(|| Member {
            last: Timestamp::now(),
            jobs: 0,
            rows: 0,
            failed: 0,
            busy: VecDeque::new(),
        });
        member.last = Timestamp::now();
        member.jobs += 1;
        if !outcome.already_done {
            member.rows += outcome.rows();
            member.failed += outcome.failed_total();
            let took = Duration::try_from_secs_f64(outcome.seconds).unwrap_or_default();
            member.busy.push_back((now.checked_sub(took).unwrap_or(now), now, outcome.rows()));
        }
        forget(&mut member.busy, now);
    }

    /// All that were heard of, the latest first.
    pub fn list(&self) -> Vec<Seen> {
        let now = Instant::now();
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let mut list: Vec<(Timestamp, Seen)> = seen
            .iter_mut()
            .map(|(name, member)| {
                forget(&mut member.busy, now);
                let rows: u64 = member.busy.iter().map(|(_, _, rows)| rows).sum();
                let seen = Seen {
                    worker: name.clone(),
                    last_seen: member.last.to_string(),
                    jobs: member.jobs,
                    rows: member.rows,
                    failed: member.failed,
                    busy: share(&member.busy, now),
                    items_per_second: rows as f64 / WINDOW.as_secs_f64(),
                };
                (member.last, seen)
            })
            .collect();
        list.sort_by(|one, other| other.0.cmp(&one.0).then_with(|| one.1.worker.cmp(&other.1.worker)));
        list.into_iter().map(|(_, seen)| seen).collect()
    }
}

fn forget(busy: &mut VecDeque<(Instant, Instant, u64)>, now: Instant) {
    while busy.front().is_some_and(|(_, end, _)| now.duration_since(*end) > WINDOW) {
        busy.pop_front();
    }
}

/// The share of the window that is covered by at least one job.
fn share(busy: &VecDeque<(Instant, Instant, u64)>, now: Instant) -> f64 {
    let begin = now.checked_sub(WINDOW).unwrap_or(now);
    let mut spans: Vec<(Instant, Instant)> =
        busy.iter().map(|(start, end, _)| ((*start).max(begin), *end)).collect();
    spans.sort_unstable();
    let (mut covered, mut until) = (Duration::ZERO, begin);
    for (start, end) in spans {
        covered += end.saturating_duration_since(start.max(until));
        until = until.max(end);
    }
    (covered.as_secs_f64() / WINDOW.as_secs_f64()).min(1.0)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::{Members, share};
    use crate::scale::price::Kind;
    use captionfleet_proto::outcome::JobOutcome;
    use serde_json::json;
    use std::time::{Duration, Instant};

    fn outcome(ok: u64, seconds: f64, device_seconds: f64) -> JobOutcome {
        let outcome = json!({"version": "1.0", "job": "j", "run": "r", "ok": ok, "attempts": 1, "worker": "a",
            "seconds": seconds, "device_seconds": device_seconds});
        serde_json::from_value(outcome).unwrap()
    }

    /// Jobs of several minutes: of the last minute each has at most one, however many settle in it.
    #[test]
    fn a_job_costs_what_its_rows_took() {
        let members = Members::default();
        for _ in 0..5 {
            members.told(&outcome(64, 600.0, 320.0));
        }
        let prices = members.prices();
        assert!(
            (prices.per_job() - 320.0).abs() < 1e-9 && (prices.per_look(Kind::Pictures) - 5.0).abs() < 1e-9
        );
        members.answered(&outcome(1, 0.2, 0.05));
        members.told(&JobOutcome { already_done: true, ..outcome(64, 0.1, 0.0) });
        assert_eq!(members.prices().per_job(), prices.per_job());
        assert_eq!(members.prices().per_look(Kind::Requests), 0.05);
        assert_eq!(members.list()[0].jobs, 7);
    }

    #[test]
    fn overlapping_jobs_count_once() {
        let start = Instant::now();
        let now = start + Duration::from_secs(100);
        let ago = |seconds: u64| start + Duration::from_secs(100 - seconds);
        let busy = [(ago(30), ago(10), 1), (ago(25), ago(5), 1), (ago(90), ago(55), 1)];
        let busy = share(&busy.into_iter().collect(), now);
        assert!((busy - 30.0 / 60.0).abs() < 1e-9, "{busy}");
    }
}
