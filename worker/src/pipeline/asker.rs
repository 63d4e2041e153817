//! Whether whoever asked still waits. An asker has a mailbox, which it closes when it leaves, and says until when it waits;
//! work that nobody waits for is dropped, before the device begins it or between two of its steps.

use std::future::Future;
use std::time::Duration;

use captionfleet_proto::broker::{BrokerErrorKind, Message};
use captionfleet_proto::job::Job;
use jiff::Timestamp;

use super::Pipeline;

/// How often the mailbox is looked for while the work goes on.
const LOOK_EVERY: Duration = Duration::from_millis(500);

impl Pipeline {
    /// Does `work` as long as someone waits for it; `None` if nobody does, or no longer.
    pub(super) async fn while_awaited<T>(
        &self,
        job: &Job,
        message: &Message,
        work: impl Future<Output = T>,
    ) -> Option<T> {
        if self.nobody_waits(job, message).await {
            return None;
        }
        let abandoned = async {
            loop {
                tokio::time::sleep(left(job.deadline).map_or(LOOK_EVERY, |left| left.min(LOOK_EVERY))).await;
                if self.nobody_waits(job, message).await {
                    return;
                }
            }
        };
        tokio::select! {
            biased;
            done = work => Some(done),
            () = abandoned => None,
        }
    }

    /// Whether the deadline has passed or the mailbox for the answer is gone. A broker that cannot say so leaves it open.
    async fn nobody_waits(&self, job: &Job, message: &Message) -> bool {
        if left(job.deadline).is_some_and(|left| left.is_zero()) {
            return true;
        }
        let Some(mailbox) = &message.reply_to else { return false };
        let depth = self.broker.depth(mailbox).await;
        depth.is_err_and(|error| error.kind() == BrokerErrorKind::NoSuchQueue)
    }
}

/// What is left until a deadline; nothing once it has passed.
fn left(deadline: Option<Timestamp>) -> Option<Duration> {
    Some(Duration::try_from(deadline?.duration_since(Timestamp::now())).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_that_has_passed_leaves_nothing() {
        let now = Timestamp::now();
        assert_eq!(left(None), None);
        assert_eq!(left(Some(now)), Some(Duration::ZERO));
        assert!(left(Some(now + Duration::from_secs(60))).is_some_and(|left| left > Duration::from_secs(50)));
    }
}
