//! Room for those who ask workers: so many at a time, the others in turn. All of them count: it is workers that they wait for.

use crate::serve::http::problem::Problem;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::{Semaphore, SemaphorePermit};

/// The room.
#[derive(Debug)]
pub(super) struct Room {
    seats: Semaphore,
    asking: AtomicU64,
}

/// A place in the room; it is free again when this is dropped.
#[derive(Debug)]
pub(super) struct Seat<'a> {
    _permit: SemaphorePermit<'a>,
    _asking: Asking<'a>,
}

/// One that asks, or waits for a seat.
#[derive(Debug)]
struct Asking<'a>(&'a AtomicU64);

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Room {
    /// Room for so many at a time.
    pub(super) fn new(seats: usize) -> Self {
        Self { seats: Semaphore::new(seats), asking: AtomicU64::new(0) }
    }

    /// Those who have a seat or wait for one.
    pub(super) fn asking(&self) -> u64 {
        self.asking.load(Ordering::Relaxed)
    }

    /// A seat, in turn, unless there is none as long as `patience` lasts.
    pub(super) async fn seat(&self, patience: Duration) -> Result<Seat<'_>, Problem> {
        self.asking.fetch_add(1, Ordering::Relaxed);
        let asking = Asking(&self.asking);
        match tokio::time::timeout(patience, self.seats.acquire()).await {
            Ok(Ok(permit)) => Ok(Seat { _permit: permit, _asking: asking }),
            Ok(Err(_)) => Err(Problem::unavailable("ending", "this service is being stopped")),
            Err(_) => Err(Problem::unavailable(
                "not_answered",
                format!("no worker had time for this within {} s: others asked before", patience.as_secs()),
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::Room;
    use futures::future::join_all;
    use std::sync::Arc;
    use std::time::Duration;

    #[tokio::test]
    async fn who_waits_for_a_seat_counts_and_does_not_wait_for_ever() {
        let room = Arc::new(Room::new(2));
        let seats = join_all([room.seat(Duration::MAX), room.seat(Duration::MAX)]).await;
        let waiting = tokio::spawn({
            let room = room.clone();
            async move { room.seat(Duration::MAX).await.map(drop) }
        });
        while room.asking() < 3 {
            tokio::task::yield_now().await;
        }
        let late = room.seat(Duration::from_millis(1)).await.unwrap_err();
        assert_eq!(late.status(), axum::http::StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(room.asking(), 3, "who has given up does not wait any more");
        drop(seats);
        waiting.await.unwrap().unwrap();
        assert_eq!(room.asking(), 0);
    }
}
