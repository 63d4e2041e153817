//! What travels through a queue.

use bytes::Bytes;
use jiff::Timestamp;

use super::QueueName;
use crate::trace_context::TraceContext;

/// A message as published and as delivered. The body is opaque here; `crate::codec` gives it meaning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// The body, JSON by contract.
    pub body: Bytes,
    /// The job's id. Empty when a foreign publisher left it out.
    pub message_id: String,
    /// What a reply refers to.
    pub correlation_id: Option<String>,
    /// Where the outcome or the reply goes.
    pub reply_to: Option<QueueName>,
    /// The trace that it belongs to; retries and dead letters keep it.
    pub trace: Option<TraceContext>,
    /// Attempts that failed before this delivery; 0 when the publisher said nothing. The broker's own count
    /// is [`super::Delivery::delivery_count`]: the two are independent.
    pub attempts: u32,
    /// When the first of those attempts failed.
    pub first_failed_at: Option<Timestamp>,
    /// Since when it goes round because workers that do not know it pass it on; none as soon as one has worked on it.
    pub passed_on_since: Option<Timestamp>,
    /// Since when it goes round because a store cannot be used; none as soon as it failed in another way, or a turn of it is over.
    pub waiting_since: Option<Timestamp>,
    /// How often a worker held it as long as it holds any, and gave it back with what was done of it kept.
    pub turns: u32,
    /// Whether a process may have died on it. The broker's own word of that is lost with every message that is published anew.
    pub suspected: bool,
    /// Why the message is a dead letter, if it is one.
    pub dead: Option<DeadReason>,
}

/// Why a message was given up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadReason {
    /// A bounded word: a code of ours, or the broker's `rejected` or `delivery_limit`.
    pub code: String,
    /// The chain of errors, for people; cut to a few kilobytes on the wire. Empty if the broker gave up.
    pub message: String,
    /// When the first attempt failed.
    pub first_failed_at: Option<Timestamp>,
    /// When the message was given up.
    pub failed_at: Option<Timestamp>,
    /// The queue it was taken from.
    pub queue: Option<QueueName>,
}

impl Message {
    /// A first-time message without reply address.
    pub fn new(message_id: impl Into<String>, body: impl Into<Bytes>) -> Self {
        Self {
            body: body.into(),
            message_id: message_id.into(),
            correlation_id: None,
            reply_to: None,
            trace: None,
            attempts: 0,
            first_failed_at: None,
            passed_on_since: None,
            waiting_since: None,
            turns: 0,
            suspected: false,
            dead: None,
        }
    }

    /// The same message after one more failed attempt, to be published to a delayed-retry queue.
    #[must_use]
    pub fn retried(mut self, failed_at: Timestamp) -> Self {
        self.attempts = self.attempts.saturating_add(1);
        self.first_failed_at.get_or_insert(failed_at);
        self.passed_on_since = None;
        self.waiting_since = None;
        self.dead = None;
        self
    }

    /// The same message for a worker that knows it, to be published to a delayed-retry queue: nothing has failed.
    #[must_use]
    pub fn passed_on(mut self, at: Timestamp) -> Self {
        // Versions before the field kept the time where that of the first failed attempt stands.
        let before = self.first_failed_at.filter(|_| self.attempts == 0);
        // A time to come would never be long ago.
        self.passed_on_since = Some(self.passed_on_since.or(before).unwrap_or(at).min(at));
        self.dead = None;
        self
    }

    /// The same message for when its store can be used again, to be published to a delayed-retry queue: nothing has failed, and
    /// a worker that knows it has begun it.
    #[must_use]
    pub fn waiting(mut self, at: Timestamp) -> Self {
        self.waiting_since = Some(self.waiting_since.unwrap_or(at).min(at));
        self.passed_on_since = None;
        self.dead = None;
        self
    }

    /// The same message for its next turn: nothing has failed.
    #[must_use]
    pub fn again(mut self) -> Self {
        self.turns = self.turns.saturating_add(1);
        self.passed_on_since = None;
        self.waiting_since = None;
        self.dead = None;
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passing_on_is_no_failure_and_ends_with_the_next_attempt() {
        let at = |second| Timestamp::from_second(second).expect("a time");
        let message = Message::new("a", "").passed_on(at(5)).passed_on(at(9));
        assert_eq!(
            (message.passed_on_since, message.first_failed_at, message.attempts),
            (Some(at(5)), None, 0)
        );
        assert_eq!(message.clone().again().passed_on_since, None);
        let retried = message.retried(at(20));
        assert_eq!((retried.passed_on_since, retried.first_failed_at), (None, Some(at(20))));
        assert_eq!(retried.passed_on(at(90)).passed_on_since, Some(at(90)));
    }

    #[test]
    fn waiting_for_a_store_has_a_clock_of_its_own() {
        let at = |second| Timestamp::from_second(second).expect("a time");
        let waiting = Message::new("a", "").passed_on(at(2)).waiting(at(5)).waiting(at(9));
        assert_eq!((waiting.waiting_since, waiting.passed_on_since), (Some(at(5)), None));
        // Workers of another model may have it in between.
        let passed_on = waiting.passed_on(at(20));
        assert_eq!((passed_on.waiting_since, passed_on.passed_on_since), (Some(at(5)), Some(at(20))));
        for over in [passed_on.clone().again(), passed_on.retried(at(30))] {
            assert_eq!((over.waiting_since, over.passed_on_since), (None, None));
        }
        let hostile = Message { waiting_since: Some(Timestamp::MAX), ..Message::new("a", "") };
        assert_eq!(hostile.waiting(at(5)).waiting_since, Some(at(5)));
    }

    #[test]
    fn what_comes_from_a_future_is_as_old_as_its_first_round() {
        let at = |second| Timestamp::from_second(second).expect("a time");
        let hostile = Message { passed_on_since: Some(Timestamp::MAX), ..Message::new("a", "") };
        assert_eq!(hostile.passed_on(at(5)).passed_on(at(9)).passed_on_since, Some(at(5)));
    }

    #[test]
    fn whoever_goes_round_is_no_dead_letter_and_as_suspect_as_before() {
        let at = Timestamp::from_second(5).expect("a time");
        let dead = DeadReason {
            code: "rejected".to_owned(),
            message: String::new(),
            first_failed_at: None,
            failed_at: None,
            queue: None,
        };
        let moved_back = Message { dead: Some(dead), suspected: true, ..Message::new("a", "") };
        for message in [
            moved_back.clone().retried(at),
            moved_back.clone().passed_on(at),
            moved_back.clone().waiting(at),
            moved_back.again(),
        ] {
            assert_eq!((message.dead, message.suspected), (None, true));
        }
    }

    #[test]
    fn what_an_earlier_version_has_passed_on_is_as_old_as_it_says() {
        let at = |second| Timestamp::from_second(second).expect("a time");
        let earlier = Message { first_failed_at: Some(at(5)), ..Message::new("a", "") };
        assert_eq!(earlier.passed_on(at(9)).passed_on_since, Some(at(5)));
    }
}
