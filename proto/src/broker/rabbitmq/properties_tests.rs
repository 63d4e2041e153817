#![allow(clippy::unwrap_used)]

use lapin::types::FieldArray;

use super::*;

const TRACED: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

fn with_headers(headers: &[(&str, AMQPValue)]) -> BasicProperties {
    let mut table = FieldTable::default();
    for (name, value) in headers {
        table.insert((*name).into(), value.clone());
    }
    BasicProperties::default().with_headers(table)
}

fn arrived(headers: &[(&str, AMQPValue)]) -> Message {
    message_from(Vec::new(), &with_headers(headers))
}

#[test]
fn a_dead_letter_survives_the_wire() {
    let at = |second| Timestamp::from_second(second).unwrap();
    let message = Message {
        correlation_id: Some("search-1".to_owned()),
        reply_to: Some(QueueName::new("captionfleet.mailbox.x").unwrap()),
        trace: TraceContext::parse(TRACED, Some("congo=t61rcWkgMzE")),
        attempts: 5,
        turns: 2,
        suspected: true,
        passed_on_since: Some(at(1_700_000_300)),
        waiting_since: Some(at(1_700_000_200)),
        first_failed_at: Some(at(1_700_000_000)),
        dead: Some(DeadReason {
            code: "internal".to_owned(),
            message: "the disk is full".to_owned(),
            first_failed_at: Some(at(1_700_000_000)),
            failed_at: Some(at(1_700_000_900)),
            queue: Some(QueueName::new("captionfleet.bulk").unwrap()),
        }),
        ..Message::new("job-1", "{}")
    };
    assert!(message.trace.is_some());
    assert_eq!(message_from(message.body.to_vec(), &properties_of(&message)), message);
}

#[test]
fn attempts_of_any_integer_type_count_and_others_do_not() {
    let attempts = |value| arrived(&[(ATTEMPTS, value)]).attempts;
    assert_eq!(attempts(AMQPValue::LongInt(3)), 3);
    assert_eq!(attempts(AMQPValue::ShortShortUInt(4)), 4);
    assert_eq!(attempts(AMQPValue::LongLongInt(-7)), 0);
    assert_eq!(attempts(AMQPValue::LongLongInt(i64::MAX)), u32::MAX);
    assert_eq!(attempts(AMQPValue::LongString("3".into())), 0);
    assert_eq!(attempts(AMQPValue::Void), 0);
    assert_eq!(message_from(Vec::new(), &BasicProperties::default()).attempts, 0);
}

#[test]
fn mistyped_and_foreign_headers_are_ignored() {
    let message = arrived(&[
        (REASON, AMQPValue::Boolean(true)),
        (FIRST_FAILED_AT, AMQPValue::LongString("yesterday".into())),
        (PASSED_ON_SINCE, AMQPValue::LongLongInt(7)),
        (SUSPECTED, AMQPValue::LongString("true".into())),
        ("x-death", AMQPValue::LongString("no list".into())),
        ("traceparent", AMQPValue::FieldTable(FieldTable::default())),
    ]);
    assert_eq!(message, Message::new("", ""));
    let untraced = arrived(&[(TRACEPARENT, AMQPValue::LongString("00-who-knows-01".into()))]);
    assert_eq!(untraced, Message::new("", ""));
    let invalid_text = AMQPValue::LongString(vec![0xff, 0xfe].into());
    assert_eq!(arrived(&[(REASON, invalid_text)]).dead.unwrap().code, "\u{fffd}\u{fffd}");
}

#[test]
fn the_brokers_reason_is_read_past_the_time_outs_of_retries() {
    let death = |reason: &str, queue: &str| {
        let mut table = FieldTable::default();
        table.insert("reason".into(), AMQPValue::LongString(reason.into()));
        table.insert("queue".into(), AMQPValue::LongString(queue.into()));
        table.insert("time".into(), AMQPValue::Timestamp(1_700_000_000));
        AMQPValue::FieldTable(table)
    };
    let deaths =
        |list: Vec<AMQPValue>| arrived(&[("x-death", AMQPValue::FieldArray(FieldArray::from(list)))]).dead;
    assert_eq!(deaths(vec![death("expired", "captionfleet.bulk.retry.5s")]), None);
    let dead = deaths(vec![death("expired", "r"), death("delivery_limit", "captionfleet.bulk")]).unwrap();
    assert_eq!((dead.code.as_str(), dead.queue.unwrap().as_str()), ("delivery_limit", "captionfleet.bulk"));
    assert_eq!(dead.failed_at.unwrap().as_second(), 1_700_000_000);
}

#[test]
fn the_larger_of_the_brokers_counts_wins() {
    let properties = with_headers(&[
        ("x-delivery-count", AMQPValue::LongLongInt(2)),
        ("x-acquired-count", AMQPValue::LongLongInt(5)),
    ]);
    assert_eq!(delivery_count(&properties), 5);
    assert_eq!(delivery_count(&BasicProperties::default()), 0);
}

#[test]
fn long_texts_are_cut_between_characters() {
    let dead = DeadReason {
        code: "c".to_owned(),
        message: "ü".repeat(5000),
        first_failed_at: None,
        failed_at: None,
        queue: None,
    };
    let message = Message { dead: Some(dead), ..Message::new("é".repeat(300), "") };
    let back = message_from(Vec::new(), &properties_of(&message));
    assert_eq!(back.message_id, "é".repeat(127));
    assert_eq!(back.message_id, published_id(&message));
    assert_eq!(back.dead.unwrap().message, "ü".repeat(2048));
}
