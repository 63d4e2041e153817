//! Declaring, removing and looking at queues. Each on a channel of its own, because an error closes it.

use lapin::options::{QueueDeclareOptions, QueueDeleteOptions};
use lapin::types::{AMQPValue, FieldTable, ShortString};

use super::link::Session;
use crate::broker::topology::{ArgumentValue, QueueSpec};
use crate::broker::{QueueDepth, QueueName};

/// Declares the queue.
pub(super) async fn declare(session: &Session, queue: &QueueSpec) -> lapin::Result<()> {
    let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    let channel = session.connection().create_channel().await?;
    channel.queue_declare(ShortString::from(queue.name.as_str()), options, arguments(queue)).await?;
    close(channel).await;
    Ok(())
}

/// How full the queue is.
pub(super) async fn depth(session: &Session, queue: &QueueName) -> lapin::Result<QueueDepth> {
    let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
    let channel = session.connection().create_channel().await?;
    let name = ShortString::from(queue.as_str());
    let found = channel.queue_declare(name, options, FieldTable::default()).await?;
    close(channel).await;
    Ok(QueueDepth { messages: found.message_count().into(), consumers: found.consumer_count() })
}

/// Removes the queue; one that is gone already is fine for RabbitMQ, too.
pub(super) async fn delete(session: &Session, queue: &QueueName) -> lapin::Result<()> {
    let channel = session.connection().create_channel().await?;
    channel.queue_delete(ShortString::from(queue.as_str()), QueueDeleteOptions::default()).await?;
    close(channel).await;
    Ok(())
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
