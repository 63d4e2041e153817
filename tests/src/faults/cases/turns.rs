//! A job that takes longer than the broker lets a consumer hold a delivery.

use std::time::{Duration, Instant};

use hyper::Method;

use super::{Figures, Scale};
use crate::faults::{Corpus, Expected, Fault, Rule, S3Front, Scenario, wait_for};
use crate::fleet::Endpoints;
use crate::sandbox::RabbitMqNode;

const LIMIT: Duration = Duration::from_secs(300);
/// What the broker lets a consumer hold a delivery for; it looks every half second.
const CONSUMER_TIMEOUT: Duration = Duration::from_secs(20);
/// What the broker says when it has waited for longer.
const TIMED_OUT: &str = "delivery acknowledgement";

/// Case 4, a whole job of them: every item hangs, and in quarantine one after the other, for longer in all than the broker
/// lets a consumer hold a delivery. The job goes back in time and on where it stopped; no channel is closed.
pub(super) async fn hanging_job(scale: Scale) -> anyhow::Result<Figures> {
    let root = tempfile::tempdir()?;
    let node = RabbitMqNode::start(root.path(), "timeout").await?;
    for (name, time) in
        [("consumer_timeout", CONSUMER_TIMEOUT), ("channel_tick_interval", Duration::from_millis(500))]
    {
        let set = format!("application:set_env(rabbit, {name}, {}).", time.as_millis());
        node.ctl(&["eval", &set]).await?;
    }
    let services = Endpoints { broker: node.uri(), ..Endpoints::from_environment()? };
    let scenario = Scenario::at("hanging-job", Corpus::shared().await?, 12, services.clone()).await?;
    let front = S3Front::start(scenario.fleet.s3_endpoint(), scale.seed).await?;
    let through = Endpoints { s3: front.endpoint(), ..services };
    let job = scenario.job("hanging", &scenario.files).await?;
    let hang = |name: &String| Rule::always(Fault::Swallow).method(Method::GET).path(format!("/in/{name}"));
    front.set(scenario.files.iter().map(hang));
    scenario.publish(&job).await?;
    // Somebody had it before: it is run item by item.
    drop(scenario.broker.consume(&scenario.lane(), 1).await?.next().await?);
    let since = Instant::now();
    let patience = ["--item-deadline", "2", "--hold-limit", "4"];
    let member = scenario.worker_through(&through, "worker", &patience)?;
    wait_for("the part", LIMIT, || async {
        // A hang is one; that the broker lost its patience is another.
        scenario.parts().await.is_ok_and(|parts| !parts.is_empty()) || node.output().contains(TIMED_OUT)
    })
    .await?;
    let seconds = since.elapsed().as_secs();
    anyhow::ensure!(!node.output().contains(TIMED_OUT), "the broker closed a channel:\n{}", node.output());
    anyhow::ensure!(seconds > CONSUMER_TIMEOUT.as_secs(), "{seconds} s prove nothing");
    let turns = member.metric("captionfleet_worker_jobs_total{kind=\"caption\",outcome=\"turn_over\"}").await;
    // The part is there before the job has ended and its rows are counted.
    let read = || member.metric("captionfleet_worker_items_total{code=\"deadline\",status=\"failed\"}");
    wait_for("the rows to be counted", LIMIT, || async { read().await >= 12.0 }).await?;
    let read = read().await;
    let failed = scenario.files.iter().map(|name| (name.clone(), "deadline")).collect();
    scenario.judge(&Expected { failed, ..Expected::default() }).await?;
    anyhow::ensure!(read == 12.0 && turns >= 2.0, "{read} items in {turns} turns");
    anyhow::ensure!(member.is_ready().await, "{}", member.child.output());
    node.stop().await;
    Ok(Figures::default().with("seconds", seconds).with("turns", turns))
}
