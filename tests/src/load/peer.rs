//! Publishers to compare with: messages of the same size to a queue of the same kind, with confirms, one publisher, no consumer.

use std::collections::VecDeque;
use std::process::Stdio;
use std::time::Instant;

use anyhow::Context;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions, QueueDeleteOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Confirmation, Connection, ConnectionProperties};
use tokio::process::Command;

/// Publishes without a confirm at a time, as many as the dispatcher has.
const WINDOW: usize = 256;

/// What is published.
pub(super) struct Messages<'a> {
    /// AMQP URI of the broker.
    pub(super) broker: &'a str,
    /// How many.
    pub(super) count: u64,
    /// Bytes of each body.
    pub(super) bytes: u64,
}

/// Messages per second of the client library alone: no job is made, nothing is written down or reported.
pub(super) async fn bare(messages: &Messages<'_>) -> anyhow::Result<f64> {
    const QUEUE: &str = "captionfleet-load-peer";
    let connection = Connection::connect(messages.broker, ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
    let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    channel.queue_declare(QUEUE.into(), durable, arguments).await?;
    let body = vec![b'x'; messages.bytes as usize];
    let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
    let mut under_way = VecDeque::with_capacity(WINDOW);
    let started = Instant::now();
    for _ in 0..messages.count {
        if under_way.len() == WINDOW
            && let Some(oldest) = under_way.pop_front()
        {
            confirmed(oldest).await?;
        }
        let persistent = BasicProperties::default().with_delivery_mode(2);
        under_way
            .push_back(channel.basic_publish("".into(), QUEUE.into(), options, &body, persistent).await?);
    }
    for left in under_way {
        confirmed(left).await?;
    }
    let rate = messages.count as f64 / started.elapsed().as_secs_f64();
    channel.queue_delete(QUEUE.into(), QueueDeleteOptions::default()).await?;
    connection.close(200, "done".into()).await?;
    Ok(rate)
}

async fn confirmed(publish: impl Future<Output = lapin::Result<Confirmation>>) -> anyhow::Result<()> {
    let answer = publish.await?;
    anyhow::ensure!(matches!(answer, Confirmation::Ack(None)), "the broker refused a message of the peer");
    Ok(())
}

/// Messages per second of RabbitMQ's own PerfTest, started as `command`, by its own account.
pub(super) async fn perf_test(command: &str, messages: &Messages<'_>) -> anyhow::Result<f64> {
    let mut words = command.split_whitespace();
    let program = words.next().context("--perf-test names no program")?;
    let (count, bytes, window) = (messages.count.to_string(), messages.bytes.to_string(), WINDOW.to_string());
    let output = Command::new(program)
        .args(words)
        .args(["--uri", messages.broker, "--producers", "1", "--consumers", "0"])
        .args(["--queue", "captionfleet-load-perf-test", "--queue-args", "x-queue-type=quorum"])
        .args(["--auto-delete", "false", "--flag", "persistent", "--flag", "mandatory"])
        .args(["--confirm", &window, "--pmessages", &count, "--size", &bytes])
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .with_context(|| format!("start {command}"))?;
    let said = String::from_utf8_lossy(&output.stdout);
    let rate = said.lines().find_map(|line| {
        let (_, rate) = line.split_once("sending rate avg: ")?;
        rate.split_whitespace().next()?.parse().ok()
    });
    rate.with_context(|| {
        format!("PerfTest told no sending rate:\n{said}{}", String::from_utf8_lossy(&output.stderr))
    })
}
