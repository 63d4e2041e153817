//! Declaring, removing and looking at queues.

use lapin::options::{QueueDeclareOptions, QueueDeleteOptions};
use lapin::types::{AMQPValue, FieldTable, ShortString};

use super::fault;
use super::link::Session;
use crate::broker::topology::{ArgumentValue, QueueSpec};
use crate::broker::{BrokerError, QueueDepth, QueueName};

/// Declares the queues in order. Each error closes its channel, so every call takes a fresh one.
pub(super) async fn declare(session: &Session, queues: &[QueueSpec]) -> Result<(), BrokerError> {
    let channel = channel(session, "declare", "the queues").await?;
    for queue in queues {
        let name = ShortString::from(queue.name.as_str());
        let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
        channel
            .queue_declare(name, options, arguments(queue))
            .await
            .map_err(|error| fault::broker_error(error, "declare", format!("queue {}", queue.name)))?;
    }
    close(channel).await;
    Ok(())
}

/// How full the queue is.
pub(super) async fn depth(session: &Session, queue: &QueueName) -> Result<QueueDepth, BrokerError> {
    let object = || format!("queue {queue}");
    let channel = channel(session, "look at", object()).await?;
    let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
    let found = channel
        .queue_declare(ShortString::from(queue.as_str()), options, FieldTable::default())
        .await
        .map_err(|error| fault::broker_error(error, "look at", object()))?;
    close(channel).await;
    Ok(QueueDepth { messages: found.message_count().into(), consumers: found.consumer_count() })
}

/// Removes the queue; one that is gone already is fine for RabbitMQ, too.
pub(super) async fn delete(session: &Session, queue: &QueueName) -> Result<(), BrokerError> {
    let object = || format!("queue {queue}");
    let channel = channel(session, "remove", object()).await?;
    channel
        .queue_delete(ShortString::from(queue.as_str()), QueueDeleteOptions::default())
        .await
        .map_err(|error| fault::broker_error(error, "remove", object()))?;
    close(channel).await;
    Ok(())
}

async fn channel(
    session: &Session,
    operation: &'static str,
    object: impl Into<String>,
) -> Result<lapin::Channel, BrokerError> {
    let opened = session.connection().create_channel().await;
    opened.map_err(|error| fault::broker_error(error, operation, object))
}

async fn close(channel: lapin::Channel) {
    // The work is done; a channel that cannot be closed goes with its connection.
    let _ = channel.close(200, ShortString::from("done")).await;
}

fn arguments(queue: &QueueSpec) -> FieldTable {
    let mut table = FieldTable::default();
    for (name, value) in queue.arguments() {
        let value = match value {
            ArgumentValue::Text(text) => AMQPValue::LongString(text.into()),
            ArgumentValue::Number(number) => AMQPValue::LongLongInt(number),
        };
        table.insert(name.into(), value);
    }
    table
}
