//! What can go wrong with a job as a whole, and whether trying again can help.

use std::time::Duration;

use captionfleet_proto::broker::{DeadReason, Delivery, Message, QueueName};
use captionfleet_proto::chain;
use captionfleet_proto::codec::DecodeError;
use captionfleet_proto::job::Lane;
use captionfleet_proto::outcome::FailureClass;
use captionfleet_proto::rows::TableError;
use captionfleet_proto::storage::{StorageError, StorageErrorKind};
use jiff::Timestamp;

use super::row::MAX_MESSAGE_CHARS;
use super::{Pipeline, Tally, outcome};
use crate::engine::EngineError;
use crate::telemetry::events;
use crate::video::VideoError;

/// How long a message that a later version of this program wrote, or one for another model, goes round until it comes to a worker
/// that knows it: longer than a fleet takes to be updated.
const PASS_ON_FOR: Duration = Duration::from_secs(60 * 60);
/// How long it comes back soon; then it rests for longer between two workers.
const SOON: Duration = Duration::from_secs(60);
/// How long a job waits for a store to be usable again: longer than a night and a morning.
const WAIT_FOR: Duration = Duration::from_secs(24 * 60 * 60);
/// By its age, which of the rests a job takes that waits for a store: often at first, and never so seldom that a fleet stands
/// still for long once the store is back.
const WAITS: [(Duration, u32); 3] = [(SOON, 1), (Duration::from_secs(10 * 60), 2), (WAIT_FOR, 3)];

/// Why a job was not done.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Failure {
    /// The message is no job.
    #[error("the message is not a job that this worker understands")]
    Message(#[source] DecodeError),
    /// The job belongs to another model.
    #[error("the job wants bundle {wanted}, this worker serves {served}")]
    BundleMismatch {
        /// What the job asks for.
        wanted: String,
        /// What is loaded here.
        served: String,
    },
    /// The archive cannot be read or written.
    #[error("the archive cannot be used")]
    Archive(#[source] StorageError),
    /// An item cannot be read for a reason that may pass.
    #[error("item {item} cannot be read now")]
    Source {
        /// The item.
        item: String,
        /// Why.
        #[source]
        source: StorageError,
    },
    /// An item cannot be read until its store is usable again, or this machine has room for a copy.
    #[error("item {item} has to wait")]
    SourceAway {
        /// The item.
        item: String,
        /// For what.
        #[source]
        source: StorageError,
    },
    /// This machine cannot decode videos.
    #[error("videos cannot be decoded here")]
    Video(#[source] VideoError),
    /// The rows do not make a part, or the part that exists cannot be read.
    #[error("part {part} cannot be made or read")]
    Part {
        /// Its key.
        part: String,
        /// Why.
        #[source]
        source: TableError,
    },
    /// The engine went away.
    #[error("the engine gave no answer")]
    Engine(#[source] EngineError),
    /// A panic ended the job's task.
    #[error("a panic ended the job: {0}")]
    Panicked(String),
    /// The broker handed the job out over and over.
    #[error("the job was handed out {0} times and never settled")]
    DeliveryLimit(u64),
}

impl Failure {
    /// A short name for headers, logs and metrics, from a bounded set.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Message(error) => error.code(),
            Self::BundleMismatch { .. } => "bundle_mismatch",
            Self::Archive(error) if error.is_transient() => "archive_unavailable",
            Self::Archive(_) => "archive_refused",
            Self::Source { .. } | Self::SourceAway { .. } => "source_unavailable",
            Self::Video(_) => "no_video_decoder",
            Self::Part { .. } => "part_invalid",
            Self::Engine(_) => "engine",
            Self::Panicked(_) => "panic",
            Self::DeliveryLimit(_) => "delivery_limit",
        }
    }
}

/// The one place that decides whether a failed job is tried again.
///
/// Missing buckets are tried again, too: they are mended by people while the job rests, and
/// a single misconfigured worker must not empty the queue into the dead letters.
pub fn classify(failure: &Failure) -> FailureClass {
    match failure {
        Failure::Message(DecodeError::LaterVersion { .. }) | Failure::BundleMismatch { .. } => {
            FailureClass::PassOn
        }
        Failure::Message(_) | Failure::Part { .. } | Failure::DeliveryLimit(_) => FailureClass::DeadLetter,
        Failure::Archive(error) => match error.kind() {
            StorageErrorKind::InvalidUri | StorageErrorKind::TooLarge | StorageErrorKind::Refused => {
                FailureClass::DeadLetter
            }
            // An outage that outlasts all attempts would empty the queue into the dead letters.
            _ if error.is_outage() => FailureClass::Wait,
            _ => FailureClass::Retry,
        },
        Failure::SourceAway { .. } => FailureClass::Wait,
        Failure::Source { .. } | Failure::Video(_) | Failure::Engine(_) | Failure::Panicked(_) => {
            FailureClass::Retry
        }
    }
}

impl Pipeline {
    /// Where a failed job waits for its next attempt, and as what; `None` if there is none.
    fn rest(
        &self,
        message: &Message,
        lane: Lane,
        failure: &Failure,
        now: Timestamp,
    ) -> Option<(QueueName, Message)> {
        match classify(failure) {
            FailureClass::Retry => {
                let retried = message.clone().retried(now);
                Some((self.options.topology.retry_queue(lane, retried.attempts)?, retried))
            }
            FailureClass::PassOn => {
                let passed_on = message.clone().passed_on(now);
                let age = age(passed_on.passed_on_since, now);
                let delay = if age < SOON { 1 } else { 2 };
                let queue = self.options.topology.retry_queue(lane, delay)?;
                (age < PASS_ON_FOR).then_some((queue, passed_on))
            }
            FailureClass::Wait => {
                let waiting = message.clone().waiting(now);
                let age = age(waiting.waiting_since, now);
                let (_, delay) = WAITS.into_iter().find(|(until, _)| age < *until)?;
                let longest = self.options.topology.max_attempts().saturating_sub(1);
                let queue = self.options.topology.retry_queue(lane, delay.min(longest))?;
                Some((queue, waiting))
            }
            FailureClass::DeadLetter => None,
        }
    }

    /// Sends a failed job to its delayed-retry queue or to the dead letters, then acks it.
    pub(super) async fn retry_or_bury(&self, delivery: Delivery, lane: Lane, failure: &Failure) {
        let attempts = delivery.message.attempts.saturating_add(1);
        // It may quote the message, which may be large.
        let chain: String = chain(failure).chars().take(MAX_MESSAGE_CHARS).collect();
        let facts = outcome::MessageFacts::of(&delivery.message);
        let now = Timestamp::now();
        let rest = self.rest(&delivery.message, lane, failure, now);
        let dead = rest.is_none();
        let (queue, message) = rest.unwrap_or_else(|| {
            let mut message = delivery.message.clone();
            // Whoever publishes it again begins a new round.
            let gone_round = [message.passed_on_since.take(), message.waiting_since.take()];
            let since = message.first_failed_at.or(gone_round.into_iter().flatten().min()).unwrap_or(now);
            message.dead = Some(DeadReason {
                code: failure.code().to_owned(),
                message: chain.clone(),
                first_failed_at: Some(since),
                failed_at: Some(now),
                queue: Some(delivery.queue.clone()),
            });
            message.attempts = attempts;
            (self.options.topology.dead_queue(), message)
        });
        if let Err(error) = self.broker.publish(&queue, message).await {
            // The broker keeps the delivery; a pause, so that it does not come straight back.
            events::settle_failed(&facts.id, &error);
            tokio::time::sleep(std::time::Duration::from_secs(1)).await;
            return self.nack(delivery, &facts.id).await;
        }
        if dead {
            events::job_dead(&self.metrics, facts.kind, &facts.id, failure.code(), &chain);
            Tally::add(&self.tally.dead, 1);
            self.tell_dead(&delivery.message, &facts, attempts, failure.code(), &chain).await;
        } else {
            events::job_retried(&self.metrics, facts.kind, &facts.id, failure.code(), &chain, &queue);
            Tally::add(&self.tally.retried, 1);
        }
        if let Err(error) = delivery.ack().await {
            events::settle_failed(&facts.id, &error);
        }
    }
}

/// For how long a message has gone round.
fn age(since: Option<Timestamp>, now: Timestamp) -> Duration {
    let since = since.unwrap_or(now);
    Duration::try_from(now.duration_since(since)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archive(kind: StorageErrorKind) -> Failure {
        Failure::Archive(StorageError::new(kind, "writing", "s3://b/k", "no"))
    }

    #[test]
    fn what_may_pass_is_tried_again() {
        for kind in [StorageErrorKind::PermissionDenied, StorageErrorKind::NoSuchBucket] {
            assert_eq!(classify(&archive(kind)), FailureClass::Retry, "{kind:?}");
        }
    }

    #[test]
    fn an_archive_that_is_away_costs_no_attempt() {
        for kind in [
            StorageErrorKind::Unavailable,
            StorageErrorKind::Timeout,
            StorageErrorKind::Throttled,
            StorageErrorKind::NoSpace,
            StorageErrorKind::Unauthenticated,
        ] {
            assert_eq!(classify(&archive(kind)), FailureClass::Wait, "{kind:?}");
        }
    }

    #[test]
    fn what_another_worker_may_well_know_passes_by() {
        let other = Failure::BundleMismatch { wanted: "a".to_owned(), served: "b".to_owned() };
        assert_eq!(classify(&other), FailureClass::PassOn);
        let later = DecodeError::LaterVersion { version: "1.7".to_owned(), problem: "?".to_owned() };
        assert_eq!(classify(&Failure::Message(later)), FailureClass::PassOn);
        let other = DecodeError::UnknownVersion { version: "2.0".to_owned() };
        assert_eq!(classify(&Failure::Message(other)), FailureClass::DeadLetter);
    }

    #[test]
    fn what_lies_in_the_job_itself_is_not() {
        let malformed = Failure::Message(DecodeError::Malformed("x".to_owned()));
        assert_eq!(classify(&malformed), FailureClass::DeadLetter);
        assert_eq!(classify(&archive(StorageErrorKind::InvalidUri)), FailureClass::DeadLetter);
    }
}
