//! Several things at once, and the publisher.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use captionfleet_proto::broker::lanes::runs_waiting;
use captionfleet_proto::codec;
use captionfleet_proto::job::{JobKind, Lane};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::{Figures, Scale};
use crate::faults::{Corpus, Expected, Scenario};
use crate::fleet::Endpoints;
use crate::sandbox::RabbitMqNode;

const LIMIT: Duration = Duration::from_secs(600);

/// Case 15: the publisher killed again and again, then left to finish. No worker takes part: what lies in the queue in
/// the end is every item, each in one job.
pub(super) async fn publisher_killed(scale: Scale) -> anyhow::Result<Figures> {
    let (items, kills) = (scale.pick(3000, 100_000), scale.pick(3, 8));
    let corpus = Corpus::shared().await?;
    let scenario = Scenario::new("publisher", corpus, 50).await?;
    // Many names for few pictures: it is the publishing that counts.
    let source = scenario.fleet.folder().join("in");
    for number in 0..items - scenario.files.len() {
        let original = source.join(&scenario.files[number % scenario.files.len()]);
        std::fs::hard_link(original, source.join(format!("again-{number:06}.png")))?;
    }
    let options = &["--job-size", "4", "--detach"];
    let mut dice = StdRng::seed_from_u64(scale.seed);
    let mut killed_in_publishing = 0;
    for number in 0..kills {
        let mut publisher = scenario.caption(&format!("killed-{number}"), options)?;
        let before = runs_waiting(&*scenario.broker, &scenario.topology).await?.messages;
        // A moment while it publishes: later every time, but never so late that it is done.
        let more = dice.random_range(1..=(items as u64 / 4 / (kills as u64 + 1)).max(2));
        while publisher.is_running() {
            if runs_waiting(&*scenario.broker, &scenario.topology).await?.messages >= before + more {
                publisher.signal("KILL");
                publisher.wait(Duration::from_secs(10)).await?;
                killed_in_publishing += 1;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
    anyhow::ensure!(killed_in_publishing > 0, "every publisher was done before it was killed");
    let run = scenario.caption("finished", options)?;
    scenario.finish(run, LIMIT).await?;
    let (mut jobs_of, mut messages) = (BTreeMap::<String, BTreeSet<String>>::new(), 0);
    let mut published = Vec::new();
    for lane in Lane::BULK {
        published.extend(scenario.drain(&scenario.topology.lane_queue(lane)).await?);
    }
    for message in published {
        messages += 1;
        let job = codec::decode_job(&message.body)?;
        let JobKind::Caption(caption) = job.kind else { anyhow::bail!("{} is no caption job", job.id) };
        for item in caption.items {
            jobs_of.entry(item.uri.to_string()).or_default().insert(format!("{}/{}", job.run, job.id));
        }
    }
    anyhow::ensure!(jobs_of.len() == items, "{} of {items} items were published", jobs_of.len());
    let doubled = jobs_of.values().filter(|jobs| jobs.len() > 1).count();
    anyhow::ensure!(doubled == 0, "{doubled} items are in more than one job");
    let jobs: BTreeSet<_> = jobs_of.into_values().flatten().collect();
    Ok(Figures::default()
        .with("items", items)
        .with("kills", killed_in_publishing)
        .with("jobs", jobs.len())
        .with("messages", messages))
}

/// Case 28: broker, workers and dispatcher killed at once in the middle of a run, twice.
pub(super) async fn kill_everything_twice(scale: Scale) -> anyhow::Result<Figures> {
    let items = scale.pick(240, 1500);
    let corpus = if scale.long { Corpus::make(items, scale.seed).await? } else { Corpus::shared().await? };
    let root = tempfile::tempdir()?;
    let mut node = RabbitMqNode::start(root.path(), "everything").await?;
    let services = Endpoints { broker: node.uri(), ..Endpoints::from_environment()? };
    let scenario = Scenario::at("everything", corpus, items, services).await?;
    let mut dice = StdRng::seed_from_u64(scale.seed);
    let mut parts = Vec::new();
    for round in 0..3 {
        let members = (0..3)
            .map(|at| scenario.worker(&format!("worker-{round}-{at}"), &[]))
            .collect::<anyhow::Result<Vec<_>>>()?;
        let run = scenario.caption(&format!("run-{round}"), &["--job-size", "4"])?;
        if round == 2 {
            scenario.finish(run, LIMIT).await?;
            // The workers live until then: what was published twice is theirs to settle.
            scenario.verify().await?;
            scenario.judge(&Expected::default()).await?;
            break;
        }
        // Small jobs, so that a fast machine has not finished before it is killed.
        let begun = parts.last().copied().unwrap_or(0) + 2;
        scenario.wait_for_parts(begun.min(items / 4)).await?;
        tokio::time::sleep(Duration::from_millis(dice.random_range(0..400))).await;
        for member in &members {
            member.child.signal("KILL");
        }
        run.signal("KILL");
        drop(run);
        node.kill_and_start().await?;
        parts.push(scenario.parts().await?.len());
    }
    node.stop().await;
    Ok(Figures::default().with("items", items).with("parts at the kills", format!("{parts:?}")))
}
