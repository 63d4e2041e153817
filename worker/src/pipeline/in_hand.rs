//! Which jobs this process is working on.
//!
//! After a lost connection the broker hands out again what is still running here. The second delivery waits for the
//! first, then finds the part; and it proves that nobody died on the job.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use captionfleet_proto::job::{JobId, RunId};
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};

type Key = (RunId, JobId);

/// The jobs in hand, each with a lock.
#[derive(Default)]
pub(super) struct InHand {
    jobs: Mutex<HashMap<Key, Arc<AsyncMutex<()>>>>,
}

/// The right to work on a job.
pub(super) struct Held<'a> {
    owner: &'a InHand,
    key: Key,
    guard: Option<OwnedMutexGuard<()>>,
    /// Another delivery of the same job was being worked on here.
    pub(super) contended: bool,
}

impl InHand {
    /// Waits until no other delivery of the job is worked on in this process.
    pub(super) async fn hold(&self, run: &RunId, job: &JobId) -> Held<'_> {
        let key = (run.clone(), job.clone());
        let lock = {
            let mut jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(jobs.entry(key.clone()).or_default())
        };
        let mut held = Held { owner: self, key, guard: None, contended: false };
        if let Ok(guard) = Arc::clone(&lock).try_lock_owned() {
            held.guard = Some(guard);
        } else {
            held.contended = true;
            held.guard = Some(lock.lock_owned().await);
        }
        held
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        let mut jobs = self.owner.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        self.guard = None;
        // Only the map's own handle is left: nobody waits.
        if jobs.get(&self.key).is_some_and(|lock| Arc::strong_count(lock) == 1) {
            jobs.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[tokio::test]
    async fn a_second_delivery_waits_and_nothing_is_left_behind() {
        let hands = Arc::new(InHand::default());
        let (run, job) = (RunId::new("r").unwrap(), JobId::new("j").unwrap());
        let first = hands.hold(&run, &job).await;
        assert!(!first.contended);
        let second = tokio::spawn({
            let (hands, run, job) = (Arc::clone(&hands), run.clone(), job.clone());
            async move { hands.hold(&run, &job).await.contended }
        });
        tokio::task::yield_now().await;
        assert!(!second.is_finished());
        drop(first);
        assert!(second.await.unwrap());
        assert!(hands.jobs.lock().unwrap().is_empty());
    }
}
