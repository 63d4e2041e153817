//! Sends notices to mailboxes. A mailbox that confirms nothing costs its jobs no time.
//!
//! A mailbox can outlive its reader, and a queue whose broker was killed while it was being made may exist and confirm
//! nothing for ever. So a settled job leaves its notice here and is acked at once; a mailbox holds a bounded number
//! of unanswered notices, and what is beyond that is lost, which the archive makes good. Of a job that was given up the
//! archive holds nothing: its notice is waited for, as an answer is.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use captionfleet_proto::broker::{Broker, BrokerErrorKind, Message, QueueName};
use tokio::time::timeout;
use tokio_util::task::TaskTracker;

use crate::telemetry::events;

/// How long a notice waits for its confirm: long enough for a broker that restarts.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long an answer keeps its request open, and word of a job that was given up its delivery. Whoever asked for an answer
/// waits no longer than that either.
const ANSWER_PATIENCE: Duration = Duration::from_secs(5);
/// Unanswered notices per mailbox. A mailbox that confirms within 10 ms takes 3,200 notices a second.
const MOST_UNANSWERED: usize = 32;

/// The notices on their way.
pub(super) struct Notices {
    broker: Arc<dyn Broker>,
    unanswered: Arc<Unanswered>,
    under_way: TaskTracker,
}

impl Notices {
    pub(super) fn new(broker: Arc<dyn Broker>) -> Self {
        Self { broker, unanswered: Arc::default(), under_way: TaskTracker::new() }
    }

    /// Sends `notice` in the background.
    pub(super) fn leave(&self, mailbox: QueueName, notice: Message) {
        let (broker, unanswered) = (Arc::clone(&self.broker), Arc::clone(&self.unanswered));
        self.under_way.spawn(async move {
            send(broker.as_ref(), &unanswered, &mailbox, notice, PATIENCE).await;
        });
    }

    /// Sends `notice` and waits until it is confirmed or lost.
    pub(super) async fn deliver(&self, mailbox: &QueueName, notice: Message) {
        send(self.broker.as_ref(), &self.unanswered, mailbox, notice, ANSWER_PATIENCE).await;
    }

    /// Waits for what was left to be sent, up to `limit`.
    pub(super) async fn finish(&self, limit: Duration) {
        self.under_way.close();
        // What is still unanswered is lost with this process.
        let _ = timeout(limit, self.under_way.wait()).await;
    }
}

async fn send(
    broker: &dyn Broker,
    unanswered: &Unanswered,
    mailbox: &QueueName,
    notice: Message,
    patience: Duration,
) {
    let id = notice.message_id.clone();
    let Some(_place) = unanswered.enter(mailbox) else {
        return events::notice_lost(&id, mailbox, &Lost::Full);
    };
    match timeout(patience, broker.publish(mailbox, notice)).await {
        Ok(Ok(())) => {}
        // Whoever asked has gone.
        Ok(Err(error)) if error.kind() == BrokerErrorKind::Unroutable => {}
        Ok(Err(error)) => events::notice_lost(&id, mailbox, &error),
        Err(_) => events::notice_lost(&id, mailbox, &Lost::Unanswered(patience)),
    }
}

/// Why a notice was given up without an answer from the broker.
#[derive(Debug, thiserror::Error)]
enum Lost {
    #[error("the mailbox confirms nothing and {MOST_UNANSWERED} notices wait for it already")]
    Full,
    #[error("no confirm within {} s", .0.as_secs())]
    Unanswered(Duration),
}

/// How many notices wait for each mailbox.
#[derive(Default)]
struct Unanswered(Mutex<HashMap<QueueName, usize>>);

impl Unanswered {
    /// A place for one more notice, unless `mailbox` has no room.
    fn enter<'a>(&'a self, mailbox: &QueueName) -> Option<Place<'a>> {
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = waiting.entry(mailbox.clone()).or_default();
        (*count < MOST_UNANSWERED).then(|| {
            *count += 1;
            Place { owner: self, mailbox: mailbox.clone() }
        })
    }
}

/// One notice's place among the unanswered.
struct Place<'a> {
    owner: &'a Unanswered,
    mailbox: QueueName,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut waiting = self.owner.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = waiting.get_mut(&self.mailbox) {
            *count -= 1;
            if *count == 0 {
                waiting.remove(&self.mailbox);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_mailbox_that_confirms_nothing_takes_no_room_from_another() {
        let unanswered = Unanswered::default();
        let (deaf, heard) = (QueueName::new("deaf").unwrap(), QueueName::new("heard").unwrap());
        let mut places: Vec<_> = (0..MOST_UNANSWERED).filter_map(|_| unanswered.enter(&deaf)).collect();
        assert_eq!(places.len(), MOST_UNANSWERED);
        assert!(unanswered.enter(&deaf).is_none());
        assert!(unanswered.enter(&heard).is_some());
        places.pop();
        assert!(unanswered.enter(&deaf).is_some());
        drop(places);
        assert!(unanswered.0.lock().unwrap().is_empty(), "nothing is kept of mailboxes that were served");
    }
}
