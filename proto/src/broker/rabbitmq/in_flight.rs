//! Publishes on their way, completed in the order in which the client library completes them.
//!
//! Two reasons for a set of our own instead of `FuturesUnordered`. A publish takes its delivery tag when its
//! future is first polled, and it is only sent after that: first polls must happen one after another or confirms
//! are attributed to the wrong message. And a returned (unroutable) message is handed out with *some* completion,
//! not necessarily its own; [`super::returns`] can only sort that out if everything completed so far is seen
//! before anything is reported.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

use futures::task::AtomicWaker;
use tokio::time::Instant;

/// Publishes on their way: `R` is what was asked for, `T` what comes of it.
pub(super) struct InFlight<R, T> {
    entries: BTreeMap<u64, Entry<R, T>>,
    next_number: u64,
    ready: Arc<Ready>,
}

struct Entry<R, T> {
    future: Pin<Box<dyn Future<Output = T> + Send>>,
    waker: Waker,
    request: R,
    sent_at: Instant,
}

/// One publish that is over.
pub(super) struct Completion<R, T> {
    pub(super) number: u64,
    pub(super) request: R,
    pub(super) outcome: T,
}

/// The numbers of woken entries. A plain list under a lock: taking it takes everything woken so far.
#[derive(Default)]
struct Ready {
    numbers: Mutex<Vec<u64>>,
    owner: AtomicWaker,
}

struct EntryWaker {
    number: u64,
    ready: Arc<Ready>,
}

impl Wake for EntryWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.ready.numbers.lock().unwrap_or_else(PoisonError::into_inner).push(self.number);
        self.ready.owner.wake();
    }
}

impl<R, T> InFlight<R, T> {
    pub(super) fn new() -> Self {
        Self { entries: BTreeMap::new(), next_number: 1, ready: Arc::default() }
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// The number that the next publish will get; numbers grow.
    pub(super) fn next_number(&self) -> u64 {
        self.next_number
    }

    /// The smallest number still on its way.
    pub(super) fn oldest_number(&self) -> Option<u64> {
        self.entries.keys().next().copied()
    }

    /// When the oldest publish was sent.
    pub(super) fn oldest_sent_at(&self) -> Option<Instant> {
        self.entries.values().next().map(|entry| entry.sent_at)
    }

    /// Starts `future` now, that is, polls it once.
    pub(super) fn start(
        &mut self,
        request: R,
        future: impl Future<Output = T> + Send + 'static,
    ) -> Option<Completion<R, T>> {
        let number = self.next_number;
        self.next_number += 1;
        let waker = Waker::from(Arc::new(EntryWaker { number, ready: Arc::clone(&self.ready) }));
        let mut future: Pin<Box<dyn Future<Output = T> + Send>> = Box::pin(future);
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(outcome) => Some(Completion { number, request, outcome }),
            Poll::Pending => {
                self.entries.insert(number, Entry { future, waker, request, sent_at: Instant::now() });
                None
            }
        }
    }

    /// Everything that has completed, at least one; pending while there is nothing.
    pub(super) fn poll_completed(&mut self, context: &mut Context<'_>) -> Poll<Vec<Completion<R, T>>> {
        self.ready.owner.register(context.waker());
        let mut completed = Vec::new();
        loop {
            let woken =
                std::mem::take(&mut *self.ready.numbers.lock().unwrap_or_else(PoisonError::into_inner));
            if woken.is_empty() {
                break;
            }
            for number in woken {
                completed.extend(self.poll_entry(number));
            }
        }
        if completed.is_empty() { Poll::Pending } else { Poll::Ready(completed) }
    }

    fn poll_entry(&mut self, number: u64) -> Option<Completion<R, T>> {
        let entry = self.entries.get_mut(&number)?;
        let Poll::Ready(outcome) = entry.future.as_mut().poll(&mut Context::from_waker(&entry.waker)) else {
            return None;
        };
        let request = self.entries.remove(&number)?.request;
        Some(Completion { number, request, outcome })
    }

    /// Gives up on everything, oldest first.
    pub(super) fn abandon(&mut self) -> impl Iterator<Item = R> {
        std::mem::take(&mut self.entries).into_values().map(|entry| entry.request)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::future::poll_fn;

    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn completes_as_woken_and_all_at_once() {
        let mut in_flight = InFlight::new();
        let senders: Vec<_> = (0..4)
            .map(|name| {
                let (sender, receiver) = oneshot::channel::<u32>();
                assert!(in_flight.start(name, receiver).is_none());
                sender
            })
            .collect();
        let mut senders = senders.into_iter();
        let (first, second) = (senders.next().unwrap(), senders.next().unwrap());
        second.send(20).unwrap();
        first.send(10).unwrap();
        let completed = poll_fn(|context| in_flight.poll_completed(context)).await;
        let seen: Vec<_> =
            completed.into_iter().map(|done| (done.number, done.request, done.outcome.unwrap())).collect();
        assert_eq!(seen, [(2, 1, 20), (1, 0, 10)]);
        assert_eq!(in_flight.oldest_number(), Some(3));
        assert_eq!(in_flight.abandon().collect::<Vec<_>>(), [2, 3]);
        assert_eq!(in_flight.len(), 0);
    }

    #[tokio::test]
    async fn what_is_ready_at_once_never_waits() {
        let mut in_flight = InFlight::new();
        let done = in_flight.start("a", async { 1 }).unwrap();
        assert_eq!((done.number, done.request, done.outcome, in_flight.next_number()), (1, "a", 1, 2));
    }
}
