//! The broker: whether it lets us in, and has our queues as they must be.

use captionfleet_proto::broker::lanes::runs_waiting;
use captionfleet_proto::broker::rabbitmq::{RabbitMq, RabbitMqOptions};
use captionfleet_proto::broker::{Broker, BrokerError, Topology};
use captionfleet_proto::chain;
use captionfleet_proto::job::Lane;

use super::Finding;

const WHAT: &str = "broker";

/// Whether the broker accepts us, declares our queues (which needs the permissions to configure, write and read), and what
/// waits there.
pub async fn broker(options: RabbitMqOptions, topology: &Topology) -> Finding {
    let broker = match RabbitMq::connect(options).await {
        Ok(broker) => broker,
        Err(error) => return Finding::fail(WHAT, chain(&error)),
    };
    let looked = look(&broker, topology).await;
    let place = broker.describe();
    broker.close().await;
    match looked {
        Ok(Looked { dead: 0, text }) => Finding::ok(WHAT, format!("{place} has our queues; {text}")),
        Ok(Looked { dead, text }) => {
            let remedy = "`dispatcher retry` publishes them again";
            Finding::warn(WHAT, format!("{place} has our queues; {text}; {dead} dead letters: {remedy}"))
        }
        Err(error) => Finding::fail(WHAT, chain(&error)),
    }
}

struct Looked {
    dead: u64,
    text: String,
}

async fn look(broker: &dyn Broker, topology: &Topology) -> Result<Looked, BrokerError> {
    broker.declare().await?;
    // What a run needs as well: a mailbox of its own.
    let mailbox = broker.open_mailbox(&format!("doctor-{}", std::process::id())).await?;
    broker.close_mailbox(&mailbox).await?;
    let bulk = runs_waiting(broker, topology).await?;
    let interactive = broker.depth(&topology.lane_queue(Lane::Interactive)).await?;
    let dead = broker.depth(&topology.dead_queue()).await?.messages;
    let text = format!(
        "{} jobs and {} requests wait, {} workers consume",
        bulk.messages, interactive.messages, bulk.consumers
    );
    Ok(Looked { dead, text })
}
