//! Which jobs this process is working on.
//!
//! After a lost connection the broker hands out again what is still running here. The second delivery waits for the
//! first, then finds the part; and it proves that nobody died on the job since the first one came.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use captionfleet_proto::job::{JobId, RunId};
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};

type Key = (RunId, JobId);
/// Whether a process may have died on the job before the delivery that is worked on came.
type Suspected = bool;

/// The jobs in hand, each with a lock.
#[derive(Default)]
pub(super) struct InHand {
    jobs: Mutex<HashMap<Key, Arc<AsyncMutex<Suspected>>>>,
}

/// The right to work on a job.
pub(super) struct Held<'a> {
    owner: &'a InHand,
    key: Key,
    guard: Option<OwnedMutexGuard<Suspected>>,
    /// A process may have died on the job. A delivery that came while another one was worked on here is as suspect as that.
    pub(super) is_suspected: Suspected,
}

impl InHand {
    /// Waits until no other delivery of the job is worked on in this process. `is_suspected`: what the delivery itself says.
    pub(super) async fn hold(&self, run: &RunId, job: &JobId, is_suspected: Suspected) -> Held<'_> {
        let key = (run.clone(), job.clone());
        let lock = {
            let mut jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(jobs.entry(key.clone()).or_default())
        };
        let mut held = Held { owner: self, key, guard: None, is_suspected };
        let guard = if let Ok(mut guard) = Arc::clone(&lock).try_lock_owned() {
            *guard = is_suspected;
            guard
        } else {
            let guard = lock.lock_owned().await;
            held.is_suspected = *guard;
            guard
        };
        held.guard = Some(guard);
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
        for is_suspected in [false, true] {
            let first = hands.hold(&run, &job, is_suspected).await;
            assert_eq!(first.is_suspected, is_suspected);
            let second = tokio::spawn({
                let (hands, run, job) = (Arc::clone(&hands), run.clone(), job.clone());
                async move { hands.hold(&run, &job, true).await.is_suspected }
            });
            tokio::task::yield_now().await;
            assert!(!second.is_finished());
            drop(first);
            assert_eq!(
                second.await.unwrap(),
                is_suspected,
                "this process lives: only what was before it counts"
            );
            assert!(hands.jobs.lock().unwrap().is_empty());
        }
    }
}
