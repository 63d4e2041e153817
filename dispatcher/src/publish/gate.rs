//! How many jobs are handed out at a time: those that are held back can be stopped, those in a queue cannot.

use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use tokio::sync::{Semaphore, watch};

/// Lets jobs through.
#[derive(Debug)]
pub struct Gate {
    /// Room for jobs; none if there is room for all.
    room: Option<Semaphore>,
    width: AtomicUsize,
    /// Jobs that have passed and not settled; for a moment one may have settled before it passed.
    out: AtomicI64,
    closed: watch::Sender<bool>,
}

impl Gate {
    /// Lets everything through.
    pub fn open() -> Self {
        Self::with(None, 0)
    }

    /// Lets `width` jobs be out at a time.
    pub fn narrow(width: usize) -> Self {
        Self::with(Some(Semaphore::new(width)), width)
    }

    fn with(room: Option<Semaphore>, width: usize) -> Self {
        Self { room, width: width.into(), out: 0.into(), closed: watch::Sender::new(false) }
    }

    /// Jobs that were let through and have not settled: they lie in queues, or in workers' hands.
    pub fn out(&self) -> u64 {
        u64::try_from(self.out.load(Ordering::Relaxed)).unwrap_or(0)
    }

    /// Holds everything back, or no more.
    pub fn set_closed(&self, closed: bool) {
        self.closed.send_replace(closed);
    }

    /// Whether everything is held back.
    pub fn is_closed(&self) -> bool {
        *self.closed.borrow()
    }

    /// Lets at least `width` jobs be out at a time from now on.
    pub fn widen(&self, width: usize) {
        let before = self.width.fetch_max(width, Ordering::Relaxed);
        if let Some(room) = self.room.as_ref().filter(|_| before < width) {
            room.add_permits(width - before);
        }
    }

    /// A job that was out has settled.
    pub fn settled(&self) {
        self.out.fetch_sub(1, Ordering::Relaxed);
        if let Some(room) = &self.room {
            room.add_permits(1);
        }
    }

    /// Waits until one more job may go out.
    pub(crate) async fn pass(&self) {
        let mut closed = self.closed.subscribe();
        loop {
            // The sender lives as long as `self`.
            drop(closed.wait_for(|closed| !closed).await);
            let Some(room) = &self.room else { break };
            let Ok(permit) = room.acquire().await else { break };
            // It may have been closed while this job waited for room.
            if !self.is_closed() {
                permit.forget();
                break;
            }
        }
        self.out.fetch_add(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::Gate;
    use futures::FutureExt as _;

    #[test]
    fn as_many_pass_as_there_is_room_for() {
        let gate = Gate::narrow(1);
        assert_eq!(gate.pass().now_or_never(), Some(()));
        assert_eq!(gate.pass().now_or_never(), None);
        assert_eq!(gate.out(), 1);
        gate.settled();
        assert_eq!((gate.out(), gate.pass().now_or_never()), (0, Some(())));
        gate.widen(3);
        gate.widen(2);
        assert_eq!([gate.pass().now_or_never(), gate.pass().now_or_never()], [Some(()); 2]);
        assert_eq!((gate.pass().now_or_never(), gate.out()), (None, 3));
    }

    #[test]
    fn nothing_passes_a_closed_gate() {
        let gate = Gate::open();
        gate.set_closed(true);
        assert_eq!(gate.pass().now_or_never(), None);
        gate.set_closed(false);
        assert_eq!(gate.pass().now_or_never(), Some(()));
    }
}
