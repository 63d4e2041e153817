//! The broker: whether it lets us in, has our queues as they must be, and has no policy over them that loses jobs.

use captionfleet_proto::broker::lanes::runs_waiting;
use captionfleet_proto::broker::rabbitmq::{Management, PolicyLimit, RabbitMq, RabbitMqOptions};
use captionfleet_proto::broker::{Broker, BrokerError, Topology};
use captionfleet_proto::chain;
use captionfleet_proto::job::Lane;

use super::Finding;

const WHAT: &str = "broker";
const POLICIES: &str = "broker's policies";
const VERSION: &str = "broker's version";
/// The first RabbitMQ whose quorum queues have a message TTL, which delayed retries rest on.
const OLDEST: (u32, u32) = (3, 10);

/// Whether the broker accepts us, declares our queues (which needs the permissions to configure, write and read), and what
/// waits there; with its management API also its version, and whether a policy is over our queues.
pub async fn broker(
    options: RabbitMqOptions,
    topology: &Topology,
    management: Option<&Management>,
) -> Vec<Finding> {
    let broker = match RabbitMq::connect(options).await {
        Ok(broker) => broker,
        Err(error) => return vec![Finding::fail(WHAT, chain(&error))],
    };
    let looked = look(&broker, topology).await;
    let place = broker.describe();
    broker.close().await;
    let mut findings = vec![match looked {
        Ok(Looked { dead: 0, text }) => Finding::ok(WHAT, format!("{place} has our queues; {text}")),
        Ok(Looked { dead, text }) => {
            let remedy = "`dispatcher retry` publishes them again";
            Finding::warn(WHAT, format!("{place} has our queues; {text}; {dead} dead letters: {remedy}"))
        }
        Err(error) => return vec![Finding::fail(WHAT, chain(&error))],
    }];
    findings.extend(match management {
        Some(management) => govern(management, topology).await,
        None => vec![Finding::warn(
            POLICIES,
            "not looked at, nor the version: name the management API with --broker-management http://HOST:15672",
        )],
    });
    findings
}

/// There is none to be looked at.
pub fn no_broker() -> Finding {
    Finding::warn(WHAT, "not checked, none is given: name it with --broker amqp://… or --broker-file FILE")
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

async fn govern(management: &Management, topology: &Topology) -> Vec<Finding> {
    let queues = topology.queues().into_iter().map(|queue| queue.name).collect();
    match tokio::try_join!(management.version(), management.limits(queues)) {
        Ok((version, limits)) => vec![versioned(&version), governed(&limits)],
        // Everything works without the API, but the signal for scaling knows less.
        Err(error) => vec![Finding::warn(POLICIES, chain(&error))],
    }
}

fn versioned(version: &str) -> Finding {
    let mut numbers = version.split('.').map(str::parse::<u32>);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) if (major, minor) >= OLDEST => {
            Finding::ok(VERSION, format!("RabbitMQ {version}"))
        }
        _ => {
            let (major, minor) = OLDEST;
            let why = format!("older than {major}.{minor}, with which it is not tested; update the broker");
            Finding::warn(VERSION, format!("RabbitMQ {version}: {why}"))
        }
    }
}

fn governed(limits: &[PolicyLimit]) -> Finding {
    if limits.is_empty() {
        return Finding::ok(POLICIES, "none limits our queues");
    }
    let told: Vec<String> = limits
        .iter()
        .map(|PolicyLimit { queue, policy, limit }| format!("{policy} sets {limit} for {queue}"))
        .collect();
    let remedy = "jobs can fall out of a queue; exclude ours from the policy's pattern";
    Finding::warn(POLICIES, format!("{}: {remedy}", told.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::versioned;

    #[test]
    fn brokers_without_what_retries_need_are_told() {
        for fine in ["3.10.0", "3.13.7", "4.0", "4.2.1", "4.3.0-rc.1", "10.0.0"] {
            assert!(versioned(fine).to_string().starts_with("ok "), "{fine}");
        }
        for old in ["3.9.29", "3.8", "2.10.0", "unknown"] {
            assert!(versioned(old).to_string().starts_with("warn "), "{old}");
        }
    }
}
