//! The task that sends publishes and collects their confirms, over as many connections as it takes.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::{pending, poll_fn};
use std::sync::Arc;
use std::time::Duration;

use lapin::message::BasicReturnMessage;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::types::ShortString;
use lapin::{Channel, Confirmation};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until};

use super::fault;
use super::in_flight::{Completion, InFlight};
use super::link::{Link, Session};
use super::properties::{properties_of, published_id};
use super::request::{PublisherOptions, Request, Stall};
use super::returns::{Acked, Published, Returns, Verdict};
use crate::broker::{BrokerError, BrokerErrorKind};
use crate::chain;

/// Refusals of one message after which the state says so. With the pauses below this is some 18 s, longer than a queue
/// takes to find a new leader. Refusals pass, when a full queue is consumed from or a majority is back, so nothing is
/// ever given up over them.
const TELL_AFTER_NACKS: u32 = 12;
/// After so many refusals of a message in a row it is tried over a new connection: a channel can remember a queue's
/// dead leader for ever.
const NACKS_PER_CONNECTION: u32 = 3;
/// Connections are not replaced more often than this on account of refusals.
const REPLACE_EVERY: Duration = Duration::from_secs(3);
/// Channels closed over a message (or a neighbour) before the caller hears of it.
const MAX_FAULTS: u32 = 3;
/// The longest pause before a refused message is sent again.
const MAX_NACK_PAUSE: Duration = Duration::from_secs(2);
/// How far the time-out of a confirm grows while nothing is confirmed at all.
const MAX_TIMEOUT_GROWTH: u32 = 8;
/// How often a blocked connection is looked at, so that time-outs start anew when it is unblocked.
const LOOK_WHILE_BLOCKED: Duration = Duration::from_secs(1);
/// How often an idle publisher wakes up; it has nothing to do then.
const IDLE_LOOK: Duration = Duration::from_secs(3600);
/// Messages taken from callers at a time.
const BATCH: usize = 64;

type Outcome = lapin::Result<Confirmation>;

/// The sending task's state, kept over all connections.
pub(super) struct Sender {
    link: Arc<Link>,
    incoming: mpsc::Receiver<Request>,
    options: PublisherOptions,
    stall: Stall,
    /// To be sent next, oldest first.
    waiting: VecDeque<Request>,
    /// Refused by the broker, to be sent again at a time.
    resting: Vec<(Instant, Request)>,
    timeout_growth: u32,
    last_replacement: Option<Instant>,
}

/// One channel's worth of state.
struct Flight {
    channel: Channel,
    in_flight: InFlight<Request, Outcome>,
    returns: Returns<Request>,
    /// Confirms are not expected before this: the broker said that it takes nothing.
    blocked_until: Instant,
}

/// Why a channel is given up.
enum End {
    /// The connection or the channel is gone.
    Lost,
    /// The connection is to be replaced.
    Replace(String),
}

impl Sender {
    pub(super) fn new(
        link: Arc<Link>,
        incoming: mpsc::Receiver<Request>,
        options: PublisherOptions,
        stall: Stall,
    ) -> Self {
        Self {
            link,
            incoming,
            options,
            stall,
            waiting: VecDeque::new(),
            resting: Vec::new(),
            timeout_growth: 1,
            last_replacement: None,
        }
    }

    pub(super) async fn run(mut self) {
        let closing = self.link.closing().clone();
        tokio::select! {
            () = closing.cancelled() => {}
            () = self.serve() => {}
        }
        self.incoming.close();
        let left = self.waiting.drain(..).chain(self.resting.drain(..).map(|(_, request)| request));
        for request in left {
            request.answer(Err(self.link.closed("publish to")));
        }
    }

    async fn serve(&mut self) {
        // The wait for a session is without end: callers that cannot wait drop their call.
        while let Ok(session) = self.link.session(Duration::MAX, "publish to").await {
            match self.open_channel(&session).await {
                Ok(channel) => self.fly(&session, channel).await,
                Err(error) => {
                    tracing::warn!(error = %chain(&error), "cannot open a channel to publish on");
                    self.link.replace(&session, "no channel could be opened".to_owned());
                    tokio::select! {
                        () = self.link.ended(&session) => {}
                        () = sleep(MAX_NACK_PAUSE) => {}
                    }
                }
            }
        }
    }

    async fn open_channel(&self, session: &Session) -> Result<Channel, BrokerError> {
        let opening = async {
            let channel = session.connection().create_channel().await?;
            channel.confirm_select(ConfirmSelectOptions::default()).await?;
            Ok(channel)
        };
        let what = ("open a channel to", &*self.link.describe());
        self.link.request(session, self.options.operation_timeout, what, opening).await
    }

    /// Publishes over one channel until that is over, and takes back what was not confirmed.
    async fn fly(&mut self, session: &Session, channel: Channel) {
        let mut flight = Flight::new(channel);
        let Err(end) = self.send_and_collect(session, &mut flight).await;
        let unconfirmed: Vec<Request> = flight.returns.abandon().chain(flight.in_flight.abandon()).collect();
        if !unconfirmed.is_empty() {
            tracing::info!(messages = unconfirmed.len(), "unconfirmed messages are published again");
        }
        for request in unconfirmed.into_iter().rev() {
            self.waiting.push_front(request);
        }
        if let End::Replace(reason) = end {
            self.last_replacement = Some(Instant::now());
            self.link.replace(session, reason);
            self.link.ended(session).await;
        }
    }

    async fn send_and_collect(&mut self, session: &Session, flight: &mut Flight) -> Result<Infallible, End> {
        let link = Arc::clone(&self.link);
        let ended = link.ended(session);
        tokio::pin!(ended);
        let mut batch = Vec::with_capacity(BATCH);
        loop {
            while let Some(request) = self.waiting.pop_front() {
                if let Some(completion) = flight.send(request) {
                    self.settle(flight, vec![completion])?;
                }
            }
            let look_at = self.next_look(flight);
            tokio::select! {
                () = &mut ended => return Err(End::Lost),
                completed = poll_fn(|context| flight.in_flight.poll_completed(context)) => {
                    self.settle(flight, completed)?;
                }
                taken = self.incoming.recv_many(&mut batch, BATCH) => {
                    if taken == 0 {
                        // The callers' side is gone; the link closes with it.
                        pending::<()>().await;
                    }
                    self.waiting.extend(batch.drain(..));
                }
                () = sleep_until(look_at) => self.look(flight)?,
            }
        }
    }

    /// Reports what has completed.
    fn settle(
        &mut self,
        flight: &mut Flight,
        completed: Vec<Completion<Request, Outcome>>,
    ) -> Result<(), End> {
        let last_sent = flight.in_flight.next_number() - 1;
        let mut acked = Vec::with_capacity(completed.len());
        let mut end = Ok(());
        for Completion { number, request, outcome } in completed {
            match outcome {
                Ok(Confirmation::Nack(returned)) => {
                    if let Some(returned) = returned {
                        flight.returns.note(came_back(&returned), last_sent);
                    }
                    end = end.and(self.refused(request));
                }
                Ok(confirmation) => acked.push(Acked {
                    number,
                    published: published(&request),
                    returned: confirmation.take_message().as_ref().map(came_back),
                    request,
                }),
                Err(error) => {
                    self.failed(request, error);
                    end = Err(End::Lost);
                }
            }
        }
        for (request, verdict) in flight.returns.sort(acked, last_sent, flight.in_flight.oldest_number()) {
            match verdict {
                Verdict::Arrived => {
                    self.timeout_growth = 1;
                    self.stall.set(None);
                    request.answer(Ok(()));
                }
                Verdict::Unroutable => {
                    let error = request.error(BrokerErrorKind::Unroutable);
                    request.answer(Err(error));
                }
            }
        }
        end
    }

    /// The broker refused a message: again after a pause, or over another connection.
    fn refused(&mut self, mut request: Request) -> Result<(), End> {
        request.nacks = request.nacks.saturating_add(1);
        let now = Instant::now();
        let replace = request.nacks.is_multiple_of(NACKS_PER_CONNECTION)
            && self.last_replacement.is_none_or(|last| now - last >= REPLACE_EVERY);
        let reason = format!("the broker keeps refusing messages for queue {}", request.queue);
        if request.nacks >= TELL_AFTER_NACKS {
            let told = format!("{reason}: it is full, or has lost the majority of its replicas");
            self.stall.set(Some(told));
        }
        let pause = (Duration::from_millis(50) * (1 << request.nacks.min(8))).min(MAX_NACK_PAUSE);
        self.resting.push((now + pause, request));
        if replace { Err(End::Replace(reason)) } else { Ok(()) }
    }

    /// The channel died under a message. That is nobody's fault if the connection was lost, and somebody's, perhaps
    /// this one's, if the broker closed the channel.
    fn failed(&mut self, mut request: Request, error: lapin::Error) {
        if fault::is_channel_fault(&error) {
            request.faults += 1;
            let kind = fault::kind_of(&error);
            if kind == BrokerErrorKind::Refused || request.faults >= MAX_FAULTS {
                let object = format!("queue {}", request.queue);
                request.answer(Err(fault::broker_error(error, "publish to", object)));
                return;
            }
        }
        self.waiting.push_back(request);
    }

    /// When something is due next.
    fn next_look(&self, flight: &Flight) -> Instant {
        let idle = flight.in_flight.len() == 0 && self.resting.is_empty();
        if idle {
            self.stall.set(None);
        }
        let rested = self.resting.iter().map(|(due, _)| *due);
        let confirmed = flight.in_flight.oldest_sent_at().map(|sent_at| {
            let due = self.confirm_due(flight, sent_at);
            if self.link.is_blocked() { due.min(Instant::now() + LOOK_WHILE_BLOCKED) } else { due }
        });
        rested.chain(confirmed).min().unwrap_or_else(|| Instant::now() + IDLE_LOOK)
    }

    fn confirm_due(&self, flight: &Flight, sent_at: Instant) -> Instant {
        sent_at.max(flight.blocked_until) + self.options.confirm_timeout * self.timeout_growth
    }

    /// Does what is due: sends rested messages again, gives up on a connection that confirms nothing.
    fn look(&mut self, flight: &mut Flight) -> Result<(), End> {
        let now = Instant::now();
        let (due, resting): (Vec<_>, Vec<_>) = self.resting.drain(..).partition(|(due, _)| *due <= now);
        self.resting = resting;
        self.waiting.extend(due.into_iter().map(|(_, request)| request));
        if self.link.is_blocked() {
            flight.blocked_until = now;
        }
        let Some(sent_at) = flight.in_flight.oldest_sent_at() else { return Ok(()) };
        if self.confirm_due(flight, sent_at) > now {
            return Ok(());
        }
        let reason = format!("no confirm from the broker for {} s", (now - sent_at).as_secs());
        self.stall.set(Some(format!("{reason}: a queue may have lost the majority of its replicas")));
        self.timeout_growth = (self.timeout_growth * 2).min(MAX_TIMEOUT_GROWTH);
        Err(End::Replace(reason))
    }
}

impl Flight {
    fn new(channel: Channel) -> Self {
        Self { channel, in_flight: InFlight::new(), returns: Returns::new(), blocked_until: Instant::now() }
    }

    /// Sends one message. `Some` if that came to an end at once.
    fn send(&mut self, request: Request) -> Option<Completion<Request, Outcome>> {
        if request.is_abandoned() {
            return None;
        }
        let channel = self.channel.clone();
        let queue = ShortString::from(request.queue.as_str());
        let properties = properties_of(&request.message);
        let body = request.message.body.clone();
        let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        self.in_flight.start(request, async move {
            channel.basic_publish(ShortString::default(), queue, options, &body, properties).await?.await
        })
    }
}

fn published(request: &Request) -> Published {
    Published { queue: request.queue.to_string(), id: published_id(&request.message) }
}

fn came_back(message: &BasicReturnMessage) -> Published {
    let id = message.properties.message_id().as_ref().map(ToString::to_string).unwrap_or_default();
    Published { queue: message.routing_key.to_string(), id }
}
