//! Three brokers in a cluster, of which one is killed, then two.

use std::time::{Duration, Instant};

use anyhow::Context;
use captionfleet_proto::broker::{BrokerState, Message};

use super::{Figures, Scale};
use crate::faults::{Corpus, Expected, Scenario, wait_for};
use crate::fleet::Endpoints;
use crate::sandbox::RabbitMqNode;

const LIMIT: Duration = Duration::from_secs(600);
/// Enough that much is left to do when the second fault comes.
const ITEMS: usize = 4000;
const JOB_SIZE: usize = 8;
/// A queue has a new leader within this time.
const ELECTION: Duration = Duration::from_secs(15);

/// Case 10: the leader killed, then two of three.
pub(super) async fn failover(scale: Scale) -> anyhow::Result<Figures> {
    let root = tempfile::tempdir()?;
    let first = RabbitMqNode::start(&root.path().join("1"), "one").await?;
    let second = RabbitMqNode::start_beside(&first, &root.path().join("2"), "two").await?;
    let third = RabbitMqNode::start_beside(&first, &root.path().join("3"), "three").await?;
    let mut nodes = [first, second, third];
    let uris = nodes.iter().map(RabbitMqNode::uri).collect::<Vec<_>>().join(",");
    let services = Endpoints { broker: uris, ..Endpoints::from_environment()? };
    let corpus = Corpus::make(ITEMS, scale.seed).await?;
    let scenario = Scenario::at("cluster", corpus, ITEMS, services).await?;
    let members = [scenario.worker("one", &[])?, scenario.worker("two", &[])?];
    let run = scenario.caption("run", &["--job-size", &JOB_SIZE.to_string()])?;
    scenario.wait_for_parts(2).await?;

    let leader = leader_of(&nodes[0], scenario.lane().as_str()).await?;
    let killed =
        nodes.iter().position(|node| node.name() == leader).context("the leader is one of the nodes")?;
    nodes[killed].kill().await?;
    let since = Instant::now();
    tokio::time::timeout(ELECTION, probe(&scenario))
        .await
        .context("publishing after the leader was killed")??;
    for member in &members {
        wait_for("a worker's return", ELECTION, || member.is_ready()).await?;
    }
    let pause = since.elapsed();
    let done = scenario.parts().await?.len();
    anyhow::ensure!(done + 2 < ITEMS / JOB_SIZE, "the run ended before the second fault");
    scenario.wait_for_parts(done + 2).await?;
    nodes[killed].start_again().await?;

    let others: Vec<usize> = (0..3).filter(|&node| node != killed).collect();
    for &node in &others {
        nodes[node].kill().await?;
    }
    {
        let publishing = probe(&scenario);
        tokio::pin!(publishing);
        let early = tokio::time::timeout(Duration::from_secs(40), &mut publishing).await;
        if let Ok(published) = early {
            anyhow::bail!("publishing did not wait for a majority: {published:?}");
        }
        let state = scenario.broker.state();
        let told = matches!(state, BrokerState::Blocked { .. } | BrokerState::Connecting { .. });
        anyhow::ensure!(told, "without a majority the state is {state:?}");
        // A node of a lost majority waits for the others before it is ready.
        let [a, b] = [others[0], others[1]];
        let (low, high) = nodes.split_at_mut(a.max(b));
        let (one, two) = (&mut low[a.min(b)], &mut high[0]);
        tokio::try_join!(one.start_again(), two.start_again())?;
        tokio::time::timeout(Duration::from_secs(60), publishing)
            .await
            .context("publishing when healed")??;
    }
    scenario.finish(run, LIMIT).await?;
    scenario.verify().await?;
    scenario.judge(&Expected::default()).await?;
    for node in nodes {
        node.stop().await;
    }
    Ok(Figures::default().with("items", ITEMS).with("pause", format!("{:.1} s", pause.as_secs_f64())))
}

async fn leader_of(node: &RabbitMqNode, queue: &str) -> anyhow::Result<String> {
    let listed = node.ctl(&["list_queues", "name", "leader"]).await?;
    let found = listed.lines().find_map(|line| line.strip_prefix(queue)?.strip_prefix('\t'));
    Ok(found.with_context(|| format!("{queue} is not in {listed}"))?.trim().to_owned())
}

async fn probe(scenario: &Scenario) -> anyhow::Result<()> {
    Ok(scenario.broker.publish(&scenario.topology.results_queue(), Message::new("probe", "{}")).await?)
}
