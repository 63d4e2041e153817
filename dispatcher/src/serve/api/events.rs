//! A run as it goes on: server-sent events.

use super::run_id;
use super::runs::details;
use crate::serve::Service;
use crate::serve::http::extract::Named;
use crate::serve::http::operation::Operation;
use crate::serve::http::problem::Problem;
use axum::extract::State;
use axum::http::Method;
use axum::response::Sse;
use axum::response::sse::{Event, KeepAlive};
use axum::routing::get;
use captionfleet_proto::job::RunId;
use futures::Stream;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often a run is looked at, at most.
const PACE: Duration = Duration::from_millis(700);
/// A look takes no more than this share of the time.
const SHARE: u32 = 4;
/// Someone who says nothing for so long is asked whether they are there.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

pub(super) fn operations() -> Vec<Operation> {
    let summary = "A run as it goes on: `progress` events like getRun, then `end`";
    let events = Operation::new(Method::GET, "/runs/{run}/events", "followRun", summary, get(follow));
    vec![events.sends(200, "The events.", &["text/event-stream"])]
}

async fn follow(
    State(service): State<Arc<Service>>,
    Named(run): Named<String>,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, Problem> {
    let run = run_id(&run)?;
    let seat = service.watchers.clone().try_acquire_owned().map_err(|_| {
        Problem::unavailable(
            "busy",
            "too many pages follow runs; close some of them, or ask for the run now and then",
        )
    })?;
    details(&service, &run).await?;
    let first = Followed { service, run, last: None, ended: false, _seat: seat };
    let events = futures::stream::unfold(first, |mut followed| async move {
        let event = followed.next().await?;
        Some((Ok(event), followed))
    });
    Ok(Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)))
}

struct Followed {
    service: Arc<Service>,
    run: RunId,
    last: Option<super::runs::Details>,
    ended: bool,
    _seat: tokio::sync::OwnedSemaphorePermit,
}

impl Followed {
    /// The next event, once there is something new.
    async fn next(&mut self) -> Option<Event> {
        if self.ended {
            return None;
        }
        let mut pause = if self.last.is_some() { PACE } else { Duration::ZERO };
        loop {
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.service.stop.cancelled() => {
                    self.ended = true;
                    return Some(Event::default().event("end").data("the service is being stopped"));
                }
            }
            let started = Instant::now();
            match details(&self.service, &self.run).await {
                Ok(details) if self.last.as_ref() != Some(&details) => {
                    let event = Event::default().event("progress").json_data(&details);
                    self.last = Some(details);
                    return event.ok();
                }
                Ok(details) if details.is_at_rest() => {
                    self.ended = true;
                    return Some(Event::default().event("end").data("nothing more will happen by itself"));
                }
                Ok(_) => {}
                Err(problem) => tracing::debug!(%problem, run = %self.run, "a run cannot be looked at now"),
            }
            pause = PACE.max(started.elapsed() * SHARE);
        }
    }
}
