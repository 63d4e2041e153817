//! Messages as AMQP properties and back, so that a publisher in any language can take part.
//!
//! Properties: `message_id` (the job's id), `correlation_id`, `reply_to`, `content_type` application/json, persistent.
//! Headers: `x-captionfleet-attempts` and `x-captionfleet-turns` (whole numbers, missing = 0), `x-captionfleet-suspected` (a
//! boolean, missing = false), `x-captionfleet-first-failed-at`, `x-captionfleet-passed-on-since`,
//! `x-captionfleet-waiting-since`, and of a dead letter `x-captionfleet-reason`, `-message`, `-failed-at`, `-queue`; times are
//! RFC 3339 in UTC. `traceparent` and `tracestate` are those of the W3C. A header of another type than expected counts as missing; headers that we do not
//! know are ignored.

use jiff::Timestamp;
use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable, ShortString};

use crate::broker::{DeadReason, Message, QueueName};
use crate::trace_context::TraceContext;

const ATTEMPTS: &str = "x-captionfleet-attempts";
const TURNS: &str = "x-captionfleet-turns";
const SUSPECTED: &str = "x-captionfleet-suspected";
const FIRST_FAILED_AT: &str = "x-captionfleet-first-failed-at";
const PASSED_ON_SINCE: &str = "x-captionfleet-passed-on-since";
const WAITING_SINCE: &str = "x-captionfleet-waiting-since";
const REASON: &str = "x-captionfleet-reason";
const MESSAGE: &str = "x-captionfleet-message";
const FAILED_AT: &str = "x-captionfleet-failed-at";
const QUEUE: &str = "x-captionfleet-queue";
const TRACEPARENT: &str = "traceparent";
const TRACESTATE: &str = "tracestate";

/// How the broker counts hand-overs: quorum queues up to 4.2, and from 4.3 on.
const DELIVERY_COUNTS: [&str; 2] = ["x-delivery-count", "x-acquired-count"];

/// The longest error text of a dead letter; all properties must fit into one frame.
const MAX_MESSAGE_BYTES: usize = 4096;
/// The longest text of an AMQP property.
const MAX_PROPERTY_BYTES: usize = 255;
/// `delivery_mode` of a message that survives a restart.
const PERSISTENT: u8 = 2;

/// The properties that `message` is published with.
pub(super) fn properties_of(message: &Message) -> BasicProperties {
    let mut headers = FieldTable::default();
    headers.insert(ATTEMPTS.into(), AMQPValue::LongLongInt(message.attempts.into()));
    if message.turns > 0 {
        headers.insert(TURNS.into(), AMQPValue::LongLongInt(message.turns.into()));
    }
    if message.suspected {
        headers.insert(SUSPECTED.into(), AMQPValue::Boolean(true));
    }
    if let Some(trace) = &message.trace {
        put_text(&mut headers, TRACEPARENT, trace.traceparent());
        if let Some(state) = trace.tracestate() {
            put_text(&mut headers, TRACESTATE, state);
        }
    }
    let dead = message.dead.as_ref();
    let first_failed_at = message.first_failed_at.or(dead.and_then(|dead| dead.first_failed_at));
    put_time(&mut headers, FIRST_FAILED_AT, first_failed_at);
    put_time(&mut headers, PASSED_ON_SINCE, message.passed_on_since);
    put_time(&mut headers, WAITING_SINCE, message.waiting_since);
    if let Some(dead) = dead {
        put_text(&mut headers, REASON, &dead.code);
        put_text(&mut headers, MESSAGE, &dead.message);
        put_time(&mut headers, FAILED_AT, dead.failed_at);
        if let Some(queue) = &dead.queue {
            put_text(&mut headers, QUEUE, queue.as_str());
        }
    }
    let mut properties = BasicProperties::default()
        .with_content_type("application/json".into())
        .with_delivery_mode(PERSISTENT)
        .with_app_id("captionfleet".into())
        .with_timestamp(Timestamp::now().as_second().unsigned_abs())
        .with_message_id(short(&message.message_id))
        .with_headers(headers);
    if let Some(correlation_id) = &message.correlation_id {
        properties = properties.with_correlation_id(short(correlation_id));
    }
    if let Some(reply_to) = &message.reply_to {
        properties = properties.with_reply_to(short(reply_to.as_str()));
    }
    properties
}

/// The message that arrived with `properties`. Anything foreign in them is tolerated.
pub(super) fn message_from(body: Vec<u8>, properties: &BasicProperties) -> Message {
    let headers = Headers(properties.headers().as_ref());
    let text = |property: &Option<ShortString>| property.as_ref().map(ToString::to_string);
    Message {
        body: body.into(),
        message_id: text(properties.message_id()).unwrap_or_default(),
        correlation_id: text(properties.correlation_id()),
        reply_to: text(properties.reply_to()).and_then(|name| QueueName::new(name).ok()),
        trace: headers.trace(),
        attempts: headers.count(ATTEMPTS),
        turns: headers.count(TURNS),
        suspected: matches!(headers.get(SUSPECTED), Some(AMQPValue::Boolean(true))),
        first_failed_at: headers.time(FIRST_FAILED_AT),
        passed_on_since: headers.time(PASSED_ON_SINCE),
        waiting_since: headers.time(WAITING_SINCE),
        dead: headers.dead_reason(),
    }
}

/// How often the broker says it handed the message out before.
pub(super) fn delivery_count(properties: &BasicProperties) -> u64 {
    let headers = Headers(properties.headers().as_ref());
    DELIVERY_COUNTS.iter().filter_map(|name| headers.number(name)).max().unwrap_or(0).max(0).unsigned_abs()
}

/// The id that identifies a returned message, as [`properties_of`] has cut it.
pub(super) fn published_id(message: &Message) -> String {
    cut(&message.message_id, MAX_PROPERTY_BYTES).to_owned()
}

struct Headers<'a>(Option<&'a FieldTable>);

impl Headers<'_> {
    fn get(&self, name: &str) -> Option<&AMQPValue> {
        self.0?.inner().get(name)
    }

    fn number(&self, name: &str) -> Option<i64> {
        number(self.get(name)?)
    }

    /// Zero where nothing is said.
    fn count(&self, name: &str) -> u32 {
        self.number(name).map_or(0, |count| count.clamp(0, u32::MAX.into()) as u32)
    }

    fn text(&self, name: &str) -> Option<String> {
        text(self.get(name)?)
    }

    fn time(&self, name: &str) -> Option<Timestamp> {
        match self.get(name)? {
            AMQPValue::Timestamp(seconds) => Timestamp::from_second(i64::try_from(*seconds).ok()?).ok(),
            value => text(value)?.parse().ok(),
        }
    }

    fn queue(&self, name: &str) -> Option<QueueName> {
        QueueName::new(self.text(name)?).ok()
    }

    fn trace(&self) -> Option<TraceContext> {
        TraceContext::parse(&self.text(TRACEPARENT)?, self.text(TRACESTATE).as_deref())
    }

    /// Our own reason, or else the broker's.
    fn dead_reason(&self) -> Option<DeadReason> {
        let Some(code) = self.text(REASON) else { return self.broker_gave_up() };
        Some(DeadReason {
            code,
            message: self.text(MESSAGE).unwrap_or_default(),
            first_failed_at: self.time(FIRST_FAILED_AT),
            failed_at: self.time(FAILED_AT),
            queue: self.queue(QUEUE),
        })
    }

    /// `x-death` lists every fall out of a queue. Time-outs are how delayed retries work, not a reason.
    fn broker_gave_up(&self) -> Option<DeadReason> {
        let AMQPValue::FieldArray(deaths) = self.get("x-death")? else { return None };
        deaths.as_slice().iter().find_map(|death| {
            let AMQPValue::FieldTable(death) = death else { return None };
            let death = Headers(Some(death));
            let code =
                death.text("reason").filter(|reason| reason == "rejected" || reason == "delivery_limit")?;
            Some(DeadReason {
                code,
                message: String::new(),
                first_failed_at: self.time(FIRST_FAILED_AT),
                failed_at: death.time("time"),
                queue: death.queue("queue"),
            })
        })
    }
}

fn number(value: &AMQPValue) -> Option<i64> {
    match *value {
        AMQPValue::ShortShortInt(value) => Some(value.into()),
        AMQPValue::ShortShortUInt(value) => Some(value.into()),
        AMQPValue::ShortInt(value) => Some(value.into()),
        AMQPValue::ShortUInt(value) => Some(value.into()),
        AMQPValue::LongInt(value) => Some(value.into()),
        AMQPValue::LongUInt(value) => Some(value.into()),
        AMQPValue::LongLongInt(value) => Some(value),
        _ => None,
    }
}

fn text(value: &AMQPValue) -> Option<String> {
    match value {
        AMQPValue::LongString(text) => Some(text.to_string()),
        AMQPValue::ShortString(text) => Some(text.to_string()),
        _ => None,
    }
}

fn put_text(headers: &mut FieldTable, name: &str, text: &str) {
    headers.insert(name.into(), AMQPValue::LongString(cut(text, MAX_MESSAGE_BYTES).into()));
}

fn put_time(headers: &mut FieldTable, name: &str, time: Option<Timestamp>) {
    if let Some(time) = time {
        headers.insert(name.into(), AMQPValue::LongString(time.to_string().into()));
    }
}

fn short(text: &str) -> ShortString {
    cut(text, MAX_PROPERTY_BYTES).into()
}

/// The longest start of `text` within `bytes` that ends between two characters.
fn cut(text: &str, bytes: usize) -> &str {
    &text[..text.floor_char_boundary(bytes)]
}

#[cfg(test)]
#[path = "properties_tests.rs"]
mod tests;
