//! A connection that is always being kept up: one task connects, watches, and connects again.
//!
//! The client library's own recovery is off. It replays channels over one address and waits for what never comes
//! when a queue has lost its leader; here a lost connection is simply replaced by a new [`Session`], and whoever
//! used the old one starts over on the new one.

use std::future::Future;
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use jiff::Timestamp;
use lapin::Event;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::address::Address;
use super::backoff::Backoff;
use super::fault;
use super::wire::{Events, Wire};
use crate::broker::{BrokerError, BrokerErrorKind, BrokerState};
use crate::chain;

/// How often the connection is looked at besides listening to it.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// What a link needs to connect.
#[derive(Debug, Clone)]
pub(super) struct LinkOptions {
    pub(super) addresses: Arc<[Address]>,
    pub(super) name: String,
    pub(super) connect_timeout: Duration,
    pub(super) patience: Duration,
    pub(super) max_backoff: Duration,
}

/// One life of the connection. Clones share it.
#[derive(Clone)]
pub(super) struct Session {
    wire: Arc<Wire>,
    /// Distinguishes the lives of one link.
    generation: u64,
}

impl Session {
    pub(super) fn connection(&self) -> &lapin::Connection {
        self.wire.connection()
    }
}

/// A supervised connection.
pub(super) struct Link {
    shared: Arc<Shared>,
    supervisor: Mutex<Option<JoinHandle<()>>>,
}

struct Shared {
    options: LinkOptions,
    status: watch::Sender<Status>,
    replacements: mpsc::Sender<Replacement>,
    closing: CancellationToken,
}

#[derive(Clone)]
enum Status {
    Connected { session: Session, blocked: Option<String> },
    Connecting { since: Timestamp, last_error: Option<String> },
    Closed,
}

/// A user's wish for another connection.
struct Replacement {
    generation: u64,
    reason: String,
}

impl Link {
    /// Connects for the first time; afterwards the link keeps itself up until [`Link::close`].
    pub(super) async fn open(options: LinkOptions) -> Result<Self, BrokerError> {
        let (wire, events) = first_wire(&options).await?;
        let session = Session { wire: Arc::new(wire), generation: 0 };
        let (replacements, wishes) = mpsc::channel(1);
        let shared = Arc::new(Shared {
            options,
            status: watch::Sender::new(Status::Connected { session: session.clone(), blocked: None }),
            replacements,
            closing: CancellationToken::new(),
        });
        let supervisor = tokio::spawn(supervise(Arc::clone(&shared), session, events, wishes));
        Ok(Self { shared, supervisor: Mutex::new(Some(supervisor)) })
    }

    /// The next session that is up, now or later.
    ///
    /// # Errors
    /// `Unreachable` if there is none within `limit`, `Closed` after [`Link::close`].
    pub(super) async fn session(
        &self,
        limit: Duration,
        operation: &'static str,
    ) -> Result<Session, BrokerError> {
        let mut status = self.shared.status.subscribe();
        let wait = status.wait_for(|status| !matches!(status, Status::Connecting { .. }));
        let status = match tokio::time::timeout(limit, wait).await {
            Ok(Ok(status)) => status.clone(),
            Ok(Err(_)) => Status::Closed,
            Err(_) => return Err(self.away(operation)),
        };
        match status {
            Status::Connected { session, .. } => Ok(session),
            _ => Err(self.closed(operation)),
        }
    }

    /// Returns when `session` is over, or the link closed.
    pub(super) async fn ended(&self, session: &Session) {
        let mut status = self.shared.status.subscribe();
        let other = |status: &Status| !matches!(status, Status::Connected { session: current, .. } if current.generation == session.generation);
        // An error means that the link is gone, which is an end as well.
        let _ = status.wait_for(other).await;
    }

    /// Runs a request to the broker, at most until `session` is over or `limit` has passed.
    ///
    /// Never await the client library without such a fence: a command that it is given while its loop is ending is
    /// neither sent nor failed.
    pub(super) async fn request<T>(
        &self,
        session: &Session,
        limit: Duration,
        (operation, object): (&'static str, &str),
        request: impl Future<Output = lapin::Result<T>>,
    ) -> Result<T, BrokerError> {
        tokio::select! {
            outcome = request => outcome.map_err(|error| fault::broker_error(error, operation, object)),
            () = self.ended(session) => Err(BrokerError::new(BrokerErrorKind::Unreachable, operation, object)),
            () = sleep(limit) => Err(BrokerError::new(BrokerErrorKind::Timeout, operation, object)),
        }
    }

    /// Asks for a new connection in place of `session`. A second wish about the same session is dropped.
    pub(super) fn replace(&self, session: &Session, reason: String) {
        let wish = Replacement { generation: session.generation, reason };
        // A full channel holds a wish already.
        let _ = self.shared.replacements.try_send(wish);
    }

    pub(super) fn is_blocked(&self) -> bool {
        matches!(&*self.shared.status.borrow(), Status::Connected { blocked: Some(_), .. })
    }

    pub(super) fn state(&self) -> BrokerState {
        match &*self.shared.status.borrow() {
            Status::Connected { blocked: None, .. } => BrokerState::Connected,
            Status::Connected { blocked: Some(reason), .. } => {
                BrokerState::Blocked { reason: reason.clone() }
            }
            Status::Connecting { since, last_error } => {
                BrokerState::Connecting { since: *since, last_error: last_error.clone() }
            }
            Status::Closed => BrokerState::Closed,
        }
    }

    pub(super) fn describe(&self) -> String {
        describe(&self.shared.options.addresses)
    }

    pub(super) fn closed(&self, operation: &'static str) -> BrokerError {
        BrokerError::new(BrokerErrorKind::Closed, operation, self.describe())
    }

    /// Completes when [`Link::close`] is called.
    pub(super) fn closing(&self) -> &CancellationToken {
        &self.shared.closing
    }

    /// Hangs up and waits for the supervisor to end.
    pub(super) async fn close(&self) {
        self.shared.closing.cancel();
        let supervisor = self.supervisor.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(supervisor) = supervisor
            && let Err(error) = supervisor.await
        {
            tracing::error!(error = %error, "the connection's supervisor panicked");
        }
    }

    fn away(&self, operation: &'static str) -> BrokerError {
        let away = BrokerError::new(BrokerErrorKind::Unreachable, operation, self.describe());
        match self.state() {
            BrokerState::Connecting { last_error: Some(error), .. } => away.with_source(error),
            _ => away,
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.shared.closing.cancel();
    }
}

pub(super) fn describe(addresses: &[Address]) -> String {
    addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// Tries every address; while nobody answers, or the login is refused, and patience lasts, again: both are mended by people, and whoever
/// is started anew over and over meanwhile is no help.
async fn first_wire(options: &LinkOptions) -> Result<(Wire, Events), BrokerError> {
    let deadline = Instant::now() + options.patience;
    let mut backoff = Backoff::new(options.max_backoff);
    let mut said = None;
    loop {
        let error = match any_wire(options, 0).await {
            Ok(wire) => return Ok(wire),
            Err(error) => error,
        };
        let pause = backoff.next_pause();
        let may_pass = matches!(error.kind(), BrokerErrorKind::Unreachable | BrokerErrorKind::Refused);
        if !may_pass || Instant::now() + pause > deadline {
            return Err(error);
        }
        let reason = chain(&error);
        // Every new reason once, not every attempt.
        if said.as_ref() != Some(&reason) {
            tracing::warn!(broker = %describe(&options.addresses), error = reason, "waiting for the broker");
            said = Some(reason);
        }
        sleep(pause).await;
    }
}

/// Tries every address once, beginning with the `first`th. A refusal tells more than an absence.
async fn any_wire(options: &LinkOptions, first: usize) -> Result<(Wire, Events), BrokerError> {
    let mut told: Option<BrokerError> = None;
    for offset in 0..options.addresses.len() {
        let address = &options.addresses[(first + offset) % options.addresses.len()];
        match Wire::open(address, &options.name, options.connect_timeout).await {
            Ok(wire) => return Ok(wire),
            Err(error) if told.as_ref().is_none_or(|told| told.kind() == BrokerErrorKind::Unreachable) => {
                told = Some(error);
            }
            Err(_) => {}
        }
    }
    Err(told.unwrap_or_else(|| {
        BrokerError::new(BrokerErrorKind::InvalidUri, "connect to", "the broker")
            .with_remedy("give its address")
    }))
}

async fn supervise(
    shared: Arc<Shared>,
    mut session: Session,
    mut events: Events,
    mut wishes: mpsc::Receiver<Replacement>,
) {
    loop {
        let over = watch_session(&shared, &session, &mut events, &mut wishes).await;
        let ControlFlow::Continue(reason) = over else { break };
        tracing::warn!(broker = %describe(&shared.options.addresses), connection = %shared.options.name, reason, "connection to the broker lost");
        shared.status.send_replace(Status::Connecting { since: Timestamp::now(), last_error: Some(reason) });
        session.wire.hang_up().await;
        match reconnect(&shared, session.generation + 1).await {
            ControlFlow::Continue((next, next_events)) => (session, events) = (next, next_events),
            ControlFlow::Break(()) => break,
        }
        tracing::info!(broker = %describe(&shared.options.addresses), connection = %shared.options.name, "connected to the broker again");
        shared.status.send_replace(Status::Connected { session: session.clone(), blocked: None });
    }
    shared.status.send_replace(Status::Closed);
    session.wire.hang_up().await;
}

/// Watches until the connection is over, and says why. Breaks when the link closes.
async fn watch_session(
    shared: &Shared,
    session: &Session,
    events: &mut Events,
    wishes: &mut mpsc::Receiver<Replacement>,
) -> ControlFlow<(), String> {
    let mut last_fault = None;
    loop {
        tokio::select! {
            () = shared.closing.cancelled() => return ControlFlow::Break(()),
            event = events.next() => match event {
                Some(Event::ConnectionBlocked(reason)) => shared.set_blocked(Some(reason)),
                Some(Event::ConnectionUnblocked) => shared.set_blocked(None),
                // Errors of single channels come by here as well.
                Some(Event::Error(error)) => last_fault = Some(error.to_string()),
                Some(_) => {}
                None => return ControlFlow::Continue(last_fault.unwrap_or_else(|| "it ended".to_owned())),
            },
            Some(wish) = wishes.recv() => {
                if wish.generation == session.generation {
                    return ControlFlow::Continue(wish.reason);
                }
            }
            () = sleep(LOOK_EVERY) => {}
        }
        if !session.wire.is_open() {
            return ControlFlow::Continue(last_fault.unwrap_or_else(|| "the broker hung up".to_owned()));
        }
    }
}

/// Tries until it succeeds, rotating over the addresses. Breaks when the link closes.
async fn reconnect(shared: &Shared, generation: u64) -> ControlFlow<(), (Session, Events)> {
    let mut backoff = Backoff::new(shared.options.max_backoff);
    let mut said = None;
    for first in 1usize.. {
        let attempt = async {
            sleep(backoff.next_pause()).await;
            any_wire(&shared.options, first).await
        };
        let attempt = tokio::select! {
            attempt = attempt => attempt,
            () = shared.closing.cancelled() => return ControlFlow::Break(()),
        };
        match attempt {
            Ok((wire, events)) => {
                return ControlFlow::Continue((Session { wire: Arc::new(wire), generation }, events));
            }
            Err(error) => {
                let error = chain(&error);
                // Every new reason once, not every attempt.
                if said.as_ref() != Some(&error) {
                    tracing::warn!(broker = %describe(&shared.options.addresses), error, "cannot connect to the broker yet");
                    said = Some(error.clone());
                }
                shared.status.send_modify(|status| {
                    if let Status::Connecting { last_error, .. } = status {
                        *last_error = Some(error);
                    }
                });
            }
        }
    }
    ControlFlow::Break(())
}

impl Shared {
    fn set_blocked(&self, reason: Option<String>) {
        match &reason {
            Some(reason) => {
                tracing::warn!(broker = %describe(&self.options.addresses), reason, "the broker takes no messages now")
            }
            None => {
                tracing::info!(broker = %describe(&self.options.addresses), "the broker takes messages again")
            }
        }
        self.status.send_modify(|status| {
            if let Status::Connected { blocked, .. } = status {
                *blocked = reason;
            }
        });
    }
}
