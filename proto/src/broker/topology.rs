//! Every queue of the system, as data. Implementations declare it; nothing else spells a queue's name.
//!
//! ```text
//!              ┌────────── reject, delivery limit ─────────┐
//!  publish ─► PREFIX.LANE ─► consumer ── gave up ──► PREFIX.dead
//!                ▲              │ failed for now
//!                └── time-out ─ PREFIX.LANE.retry.DELAY
//! ```
//!
//! All queues are replicated (quorum) and go by the default exchange. A delayed retry is a queue whose messages
//! time out and fall back to the lane, because brokers before 4.3 have no delayed retry of their own; one queue
//! per delay, because a quorum queue only looks at its head for expired messages. Dead-lettering is at least
//! once: the plain strategy forgets a message that falls out of a queue while the target has no leader.

use std::time::Duration;

use super::{InvalidQueueName, QueueName};
use crate::job::Lane;

/// How often a job is tried before it becomes a dead letter.
pub const MAX_ATTEMPTS: u32 = 5;

/// How long a job rests after its first, second … failed attempt.
pub const RETRY_DELAYS: [Duration; MAX_ATTEMPTS as usize - 1] =
    [Duration::from_secs(5), Duration::from_secs(30), Duration::from_secs(120), Duration::from_secs(600)];

/// How often the broker hands a message out again before it gives up by itself.
///
/// The last resort against a message that kills whatever reads it. A worker that dies also returns the jobs
/// it had only prefetched, which are innocent, so the limit leaves room for a fleet that is preempted all day.
pub const DELIVERY_LIMIT: u32 = 100;

/// How long a mailbox lives that nobody consumes.
pub const MAILBOX_EXPIRY: Duration = Duration::from_secs(60 * 60);

/// Outcomes kept in the results queue when nobody drains it; the oldest go first.
const RESULTS_KEPT: u32 = 100_000;

/// The prefix of production queues.
const DEFAULT_PREFIX: &str = "captionfleet";

/// Which queues there are and how they lead to each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topology {
    prefix: String,
    retry_delays: Vec<Duration>,
    delivery_limit: u32,
    mailbox_expiry: Duration,
}

/// One queue: replicated, durable, with these traits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueSpec {
    /// Its name.
    pub name: QueueName,
    /// Hand-overs after the first one before the broker gives a message up.
    pub delivery_limit: Option<u32>,
    /// How long a message stays before it falls out.
    pub message_ttl: Option<Duration>,
    /// Where messages go that are rejected, exceed the delivery limit or time out. Without it they are gone.
    pub dead_letter_to: Option<QueueName>,
    /// The most messages kept; beyond that the oldest are dropped.
    pub max_length: Option<u32>,
    /// How long the queue itself lives without consumers.
    pub expires: Option<Duration>,
}

/// The value of a queue argument.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ArgumentValue {
    /// A text.
    Text(String),
    /// A whole number.
    Number(i64),
}

impl Default for Topology {
    fn default() -> Self {
        Self {
            prefix: DEFAULT_PREFIX.to_owned(),
            retry_delays: RETRY_DELAYS.to_vec(),
            delivery_limit: DELIVERY_LIMIT,
            mailbox_expiry: MAILBOX_EXPIRY,
        }
    }
}

impl Topology {
    /// The same queues under another prefix, so that several fleets or tests share one broker.
    pub fn with_prefix(prefix: &str) -> Result<Self, InvalidQueueName> {
        let prefix = prefix.trim_end_matches('.');
        // Leaves room below the 255 bytes of a name for the longest suffix.
        if prefix.len() > 100 {
            return Err(InvalidQueueName::of(prefix));
        }
        QueueName::new(prefix)?;
        Ok(Self { prefix: prefix.to_owned(), ..Self::default() })
    }

    /// Other delays, one per failed attempt. The names of the retry queues follow them.
    #[must_use]
    pub fn with_retry_delays(mut self, delays: impl Into<Vec<Duration>>) -> Self {
        self.retry_delays = delays.into();
        self
    }

    /// Another delivery limit. A broker that has the queues already refuses to change it.
    #[must_use]
    pub fn with_delivery_limit(mut self, limit: u32) -> Self {
        self.delivery_limit = limit;
        self
    }

    /// Another life time of unused mailboxes.
    #[must_use]
    pub fn with_mailbox_expiry(mut self, expiry: Duration) -> Self {
        self.mailbox_expiry = expiry;
        self
    }

    /// The prefix of every name.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// How often a job is tried in all.
    pub fn max_attempts(&self) -> u32 {
        self.retry_delays.len() as u32 + 1
    }

    /// Where jobs wait.
    pub fn lane_queue(&self, lane: Lane) -> QueueName {
        self.named(lane.as_str())
    }

    /// Where a job rests whose `failed_attempts`th attempt (1, 2 …) just failed; `None` when the attempts are
    /// exhausted and the job belongs in [`Topology::dead_queue`].
    pub fn retry_queue(&self, lane: Lane, failed_attempts: u32) -> Option<QueueName> {
        let index = usize::try_from(failed_attempts.max(1) - 1).ok()?;
        self.retry_delays.get(index).map(|delay| self.retry_queue_after(lane, *delay))
    }

    /// Where jobs wait, and where they rest before another try.
    pub fn lane_and_retries(&self, lane: Lane) -> Vec<QueueName> {
        let mut queues = vec![self.lane_queue(lane)];
        queues.extend(self.distinct_delays().into_iter().map(|delay| self.retry_queue_after(lane, delay)));
        queues
    }

    /// Where jobs of the lane whose queue is `queue` rest before another try; empty if it is no lane's.
    pub fn rests_beside(&self, queue: &QueueName) -> Vec<QueueName> {
        let of_lane = Lane::ALL.into_iter().map(|lane| self.lane_and_retries(lane));
        let mut queues = of_lane.filter(|queues| queues.first() == Some(queue));
        queues.next().map_or_else(Vec::new, |mut queues| queues.split_off(1))
    }

    /// Where dead letters lie.
    pub fn dead_queue(&self) -> QueueName {
        self.named("dead")
    }

    /// Where the outcomes of jobs without a reply address go. Bounded; nobody has to drain it.
    pub fn results_queue(&self) -> QueueName {
        self.named("results")
    }

    /// The name of the mailbox `name`.
    pub fn mailbox(&self, name: &str) -> Result<QueueName, InvalidQueueName> {
        QueueName::new(name)?;
        QueueName::new(format!("{}.mailbox.{name}", self.prefix))
    }

    /// The traits of a mailbox.
    pub fn mailbox_spec(&self, mailbox: &QueueName) -> QueueSpec {
        QueueSpec { expires: Some(self.mailbox_expiry), ..QueueSpec::plain(mailbox.clone()) }
    }

    /// Every queue that is declared at start.
    pub fn queues(&self) -> Vec<QueueSpec> {
        let mut queues = vec![
            QueueSpec::plain(self.dead_queue()),
            QueueSpec { max_length: Some(RESULTS_KEPT), ..QueueSpec::plain(self.results_queue()) },
        ];
        for lane in Lane::ALL {
            queues.push(QueueSpec {
                delivery_limit: Some(self.delivery_limit),
                dead_letter_to: Some(self.dead_queue()),
                ..QueueSpec::plain(self.lane_queue(lane))
            });
            queues.extend(self.distinct_delays().into_iter().map(|delay| QueueSpec {
                message_ttl: Some(delay),
                dead_letter_to: Some(self.lane_queue(lane)),
                ..QueueSpec::plain(self.retry_queue_after(lane, delay))
            }));
        }
        queues
    }

    fn distinct_delays(&self) -> Vec<Duration> {
        let mut delays = self.retry_delays.clone();
        delays.sort_unstable();
        delays.dedup();
        delays
    }

    fn retry_queue_after(&self, lane: Lane, delay: Duration) -> QueueName {
        self.named(&format!("{}.retry.{}", lane.as_str(), delay_label(delay)))
    }

    fn named(&self, suffix: &str) -> QueueName {
        QueueName::new(format!("{}.{suffix}", self.prefix))
            .expect("the prefix was checked and suffixes are short")
    }
}

impl QueueSpec {
    fn plain(name: QueueName) -> Self {
        Self {
            name,
            delivery_limit: None,
            message_ttl: None,
            dead_letter_to: None,
            max_length: None,
            expires: None,
        }
    }

    /// The queue's arguments as the broker wants them.
    pub fn arguments(&self) -> Vec<(&'static str, ArgumentValue)> {
        let text = |value: &str| ArgumentValue::Text(value.to_owned());
        let mut arguments = vec![("x-queue-type", text("quorum"))];
        if let Some(limit) = self.delivery_limit {
            arguments.push(("x-delivery-limit", ArgumentValue::Number(limit.into())));
        }
        if let Some(ttl) = self.message_ttl {
            arguments.push(("x-message-ttl", milliseconds(ttl)));
        }
        if let Some(target) = &self.dead_letter_to {
            arguments.push(("x-dead-letter-exchange", text("")));
            arguments.push(("x-dead-letter-routing-key", text(target.as_str())));
            arguments.push(("x-dead-letter-strategy", text("at-least-once")));
            // At-least-once dead-lettering demands it; without a length limit nothing is ever refused.
            arguments.push(("x-overflow", text("reject-publish")));
        }
        if let Some(length) = self.max_length {
            arguments.push(("x-max-length", ArgumentValue::Number(length.into())));
            arguments.push(("x-overflow", text("drop-head")));
        }
        if let Some(expires) = self.expires {
            arguments.push(("x-expires", milliseconds(expires)));
        }
        arguments
    }
}

fn milliseconds(duration: Duration) -> ArgumentValue {
    ArgumentValue::Number(i64::try_from(duration.as_millis()).unwrap_or(i64::MAX))
}

/// `250ms`, `5s`, `2m`, `1h`: the largest unit that divides the delay.
fn delay_label(delay: Duration) -> String {
    let milliseconds = delay.as_millis();
    for (unit, length) in [("h", 3_600_000), ("m", 60_000), ("s", 1000)] {
        if milliseconds >= length && milliseconds.is_multiple_of(length) {
            return format!("{}{unit}", milliseconds / length);
        }
    }
    format!("{milliseconds}ms")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn names_are_the_documented_ones() {
        let names: Vec<_> =
            Topology::default().queues().into_iter().map(|queue| queue.name.to_string()).collect();
        assert_eq!(
            names,
            [
                "captionfleet.dead",
                "captionfleet.results",
                "captionfleet.bulk",
                "captionfleet.bulk.retry.5s",
                "captionfleet.bulk.retry.30s",
                "captionfleet.bulk.retry.2m",
                "captionfleet.bulk.retry.10m",
                "captionfleet.bulk.2",
                "captionfleet.bulk.2.retry.5s",
                "captionfleet.bulk.2.retry.30s",
                "captionfleet.bulk.2.retry.2m",
                "captionfleet.bulk.2.retry.10m",
                "captionfleet.interactive",
                "captionfleet.interactive.retry.5s",
                "captionfleet.interactive.retry.30s",
                "captionfleet.interactive.retry.2m",
                "captionfleet.interactive.retry.10m",
            ]
        );
    }

    #[test]
    fn a_lane_and_its_retries_are_all_of_its_queues() {
        let topology = Topology::default();
        let declared = topology.queues().into_iter().map(|queue| queue.name);
        let jobs: Vec<_> = declared.skip(2).collect();
        assert_eq!(Lane::ALL.map(|lane| topology.lane_and_retries(lane)).concat(), jobs);
        let rests = topology.rests_beside(&topology.lane_queue(Lane::Bulk2));
        assert_eq!((rests.len(), rests[0].as_str()), (4, "captionfleet.bulk.2.retry.5s"));
        assert!(topology.rests_beside(&topology.dead_queue()).is_empty());
    }

    #[test]
    fn attempts_walk_through_the_delays_and_end() {
        let topology = Topology::default();
        let rest = |attempts| topology.retry_queue(Lane::Bulk, attempts).map(|queue| queue.to_string());
        assert_eq!(rest(1).unwrap(), "captionfleet.bulk.retry.5s");
        assert_eq!(rest(4).unwrap(), "captionfleet.bulk.retry.10m");
        assert_eq!(rest(5), None);
        assert_eq!(topology.max_attempts(), MAX_ATTEMPTS);
    }

    #[test]
    fn dead_letters_lead_somewhere_that_exists() {
        let topology =
            Topology::with_prefix("test1.").unwrap().with_retry_delays([Duration::from_millis(250)]);
        let queues = topology.queues();
        for target in queues.iter().filter_map(|queue| queue.dead_letter_to.as_ref()) {
            assert!(queues.iter().any(|queue| queue.name == *target), "{target} is not declared");
        }
        assert!(queues.iter().any(|queue| queue.name.as_str() == "test1.bulk.retry.250ms"));
    }

    #[test]
    fn equal_delays_share_a_queue() {
        let second = Duration::from_secs(1);
        let topology = Topology::default().with_retry_delays([second, second]);
        assert_eq!(topology.queues().len(), 8);
        assert_eq!(topology.max_attempts(), 3);
    }

    #[test]
    fn mailboxes_have_a_name_of_their_own() {
        let topology = Topology::default();
        assert_eq!(topology.mailbox("run-1").unwrap().as_str(), "captionfleet.mailbox.run-1");
        assert!(topology.mailbox("").is_err());
    }

    #[test]
    fn a_long_prefix_is_refused() {
        assert!(Topology::with_prefix(&"p".repeat(101)).is_err());
        assert!(Topology::with_prefix("").is_err());
    }
}
