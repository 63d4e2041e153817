//! A broker that restarts, takes nothing, refuses logins, and a network that does what networks do.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context;
use captionfleet_proto::broker::Message;
use captionfleet_proto::job::Lane;
use hyper::Method;

use super::{Figures, Scale};
use crate::faults::{
    Corpus, Expected, Fault, Proxy, Rule, S3Front, Scenario, Weather, resident_mib, wait_for,
};
use crate::fleet::Endpoints;
use crate::sandbox::RabbitMqNode;

const LIMIT: Duration = Duration::from_secs(300);
/// Within this time of the broker's return everybody works again; the short form asks for the state alone.
fn back(scale: Scale) -> Duration {
    Duration::from_secs(scale.pick(60, 10))
}

/// Connections to S3 that lie idle for a while. A leak would take six for each of the eight times that both connections
/// to the broker are lost.
const SLACK: usize = 16;

async fn node(root: &Path, name: &str) -> anyhow::Result<(RabbitMqNode, Endpoints)> {
    let node = RabbitMqNode::start(root, name).await?;
    let services = Endpoints { broker: node.uri(), ..Endpoints::from_environment()? };
    Ok((node, services))
}

/// Case 9: the broker restarts under load, in good order and by `kill -9`.
pub(super) async fn restart(scale: Scale) -> anyhow::Result<Figures> {
    let root = tempfile::tempdir()?;
    let (mut node, services) = node(root.path(), "restart").await?;
    let items = scale.pick(240, 2000);
    let corpus = if scale.long { Corpus::make(items, scale.seed).await? } else { Corpus::shared().await? };
    let mut figures = Figures::default().with("items", items);
    // A run of its own for each way, so that no machine is fast enough to be done before the second.
    for (name, how) in [("back after restart", "TERM"), ("back after kill", "KILL")] {
        let scenario =
            Scenario::at(&format!("broker-{how}"), corpus.clone(), items, services.clone()).await?;
        let members = [scenario.worker("one", &[])?, scenario.worker("two", &[])?];
        let run = scenario.caption("run", &["--job-size", "2"])?;
        scenario.wait_for_parts(1).await?;
        if how == "TERM" {
            node.restart().await?;
        } else {
            node.kill_and_start().await?;
        }
        let since = Instant::now();
        let results = scenario.topology.results_queue();
        let probe = scenario.broker.publish(&results, Message::new("probe", "{}"));
        tokio::time::timeout(back(scale), probe).await.context("publishing again took too long")??;
        for member in &members {
            wait_for("a worker's return", back(scale), || member.is_ready()).await?;
        }
        figures = figures.with(name, format!("{:.1} s", since.elapsed().as_secs_f64()));
        scenario.finish(run, LIMIT).await?;
        scenario.verify().await?;
        scenario.judge(&Expected::default()).await?;
    }
    node.stop().await;
    Ok(figures)
}

/// Case 11: cut, reset, truncated, slow and half-open connections.
pub(super) async fn network(scale: Scale) -> anyhow::Result<Figures> {
    let items = scale.pick(240, 1500);
    let corpus = if scale.long { Corpus::make(items, scale.seed).await? } else { Corpus::shared().await? };
    let scenario = Scenario::new("network", corpus, items).await?;
    let services = scenario.fleet.endpoints().clone();
    let address = services.broker_address()?;
    let proxy = Proxy::start(address).await?;
    let heartbeat = Duration::from_secs(scale.pick(2, 10));
    let broker = services.broker.replace(address, &format!("127.0.0.1:{}", proxy.port()));
    let through = Endpoints { broker: format!("{broker}?heartbeat={}", heartbeat.as_secs()), ..services };
    let member = scenario.worker_through(&through, "worker", &[])?;
    member.wait_until_ready().await?;
    let descriptors = member.descriptors() + SLACK;
    let run = scenario.caption("run", &["--job-size", "2"])?;

    for weather in [
        Weather::Down,
        Weather::Reset,
        Weather::Truncate(5000),
        Weather::Delay(Duration::from_millis(20)),
        Weather::Throttle(20_000),
        Weather::Down,
    ] {
        scenario.wait_for_parts(scenario.parts().await?.len() + 1).await?;
        proxy.set(weather);
        tokio::time::sleep(Duration::from_millis(scale.pick(300, 2000))).await;
        proxy.set(Weather::Fair);
        wait_for("the worker's return", back(scale), || member.is_ready())
            .await
            .with_context(|| format!("{weather:?}"))?;
    }
    let mut figures = Figures::default().with("items", items);
    for (name, silence) in scale.pick(&[("noticed", 9)][..], &[("noticed", 30), ("noticed again", 120)][..]) {
        proxy.set(Weather::HalfOpen);
        let since = Instant::now();
        // Two heartbeats, half of one between the client library's looks, and the second between the worker's.
        let limit = heartbeat * 5 / 2 + Duration::from_secs(scale.pick(60, 2));
        wait_for("the worker to notice", limit, || async { !member.is_ready().await }).await?;
        figures = figures.with(name, format!("{:.1} s", since.elapsed().as_secs_f64()));
        tokio::time::sleep(Duration::from_secs(*silence).saturating_sub(since.elapsed())).await;
        proxy.set(Weather::Fair);
        wait_for("the worker's return", back(scale), || member.is_ready()).await?;
    }
    scenario.finish(run, LIMIT).await?;
    // A consumer that the broker still believes in would get every second of these, and nobody would do them.
    let done = scenario.parts().await?.len();
    for (number, files) in scenario.files.chunks(4).take(8).enumerate() {
        scenario.publish(&scenario.job(&format!("after-{number}"), files).await?).await?;
    }
    scenario.wait_for_parts(done + 8).await?;
    scenario.forget_run("by-hand").await?;
    wait_for("the connections' descriptors to be closed", Duration::from_secs(40), || async {
        member.descriptors() <= descriptors
    })
    .await?;
    scenario.judge(&Expected::default()).await?;
    Ok(figures.with("resident", format!("{} MiB", member.resident_mib())))
}

/// Case 12: the broker's memory alarm: the dispatcher stops, says so and stays small.
pub(super) async fn alarm(scale: Scale) -> anyhow::Result<Figures> {
    let root = tempfile::tempdir()?;
    let (node, services) = node(root.path(), "alarm").await?;
    let scenario = Scenario::at("alarm", Corpus::shared().await?, 200, services).await?;
    node.ctl(&["set_vm_memory_high_watermark", "absolute", "1"]).await?;
    let run = scenario.caption("run", &["--job-size", "1"])?;
    wait_for("the dispatcher to say so", Duration::from_secs(60), || async {
        run.output().contains("the broker takes no messages now")
    })
    .await
    .with_context(|| run.output())?;
    let before = resident_mib(run.pid());
    tokio::time::sleep(Duration::from_secs(scale.pick(4, 60))).await;
    let after = resident_mib(run.pid());
    anyhow::ensure!(after <= before + 16, "from {before} to {after} MiB while nothing could be published");
    node.ctl(&["set_vm_memory_high_watermark", "0.6"]).await?;
    let _member = scenario.worker("worker", &[])?;
    scenario.finish(run, LIMIT).await?;
    scenario.judge(&Expected::default()).await?;
    node.stop().await;
    Ok(Figures::default().with("dispatcher", format!("{before} MiB, {after} MiB later")))
}

/// Case 13: the queues are gone when the jobs come: they are returned, counted, and published again.
pub(super) async fn unroutable(scale: Scale) -> anyhow::Result<Figures> {
    let root = tempfile::tempdir()?;
    let (node, services) = node(root.path(), "unroutable").await?;
    let scenario = Scenario::at("unroutable", Corpus::shared().await?, 40, services).await?;
    let front = S3Front::start(scenario.fleet.s3_endpoint(), scale.seed).await?;
    // Between declaring and publishing, while the pictures are copied, the queues are removed.
    front.set([Rule::always(Fault::Hold).method(Method::PUT).path("/staged/").times(1)]);
    let mut watch = front.watch();
    let direct = scenario.fleet.s3_endpoint();
    let arguments = scenario.caption_arguments(&["--job-size", "8"]);
    let arguments = arguments.into_iter().map(|word| if word == direct { front.endpoint() } else { word });
    let run = scenario.fleet.start_dispatcher("run", arguments)?;
    while !watch.recv().await?.disturbed {}
    for lane in Lane::BULK {
        node.ctl(&["delete_queue", scenario.topology.lane_queue(lane).as_str()]).await?;
    }
    front.set([]);
    wait_for("the dispatcher to say so", Duration::from_secs(60), || async {
        run.output().contains("returned as unroutable")
    })
    .await
    .with_context(|| run.output())?;
    let _member = scenario.worker("worker", &[])?;
    scenario.finish(run, LIMIT).await?;
    scenario.judge(&Expected::default()).await?;
    node.stop().await;
    Ok(Figures::default().with("jobs", 5))
}

/// Case 14: the password is changed while a worker runs: not ready, with the reason; no crash; back with the password.
pub(super) async fn password(scale: Scale) -> anyhow::Result<Figures> {
    let root = tempfile::tempdir()?;
    let (node, services) = node(root.path(), "password").await?;
    let scenario = Scenario::at("password", Corpus::shared().await?, 40, services.clone()).await?;
    node.ctl(&["add_user", "fleet", "first"]).await?;
    node.ctl(&["set_permissions", "fleet", ".*", ".*", ".*"]).await?;
    let through = Endpoints { broker: services.broker.replace("guest:guest", "fleet:first"), ..services };
    let mut member = scenario.worker_through(&through, "worker", &[])?;
    member.wait_until_ready().await?;
    node.ctl(&["change_password", "fleet", "second"]).await?;
    node.ctl(&["close_all_user_connections", "fleet", "rotated"]).await?;
    wait_for("the worker to say so", Duration::from_secs(30), || async {
        member.readiness().await.contains("refused")
    })
    .await
    .with_context(|| member.child.output())?;
    anyhow::ensure!(!member.is_ready().await && member.child.is_running(), "{}", member.child.output());
    let told = member.readiness().await;
    anyhow::ensure!(!told.contains("first") && !member.child.output().contains("fleet:first"), "{told}");
    node.ctl(&["change_password", "fleet", "first"]).await?;
    let since = Instant::now();
    wait_for("the worker's return", back(scale), || member.is_ready()).await?;
    let back = since.elapsed();
    scenario.finish(scenario.caption("run", &[])?, LIMIT).await?;
    scenario.judge(&Expected::default()).await?;
    node.stop().await;
    Ok(Figures::default().with("back", format!("{:.1} s", back.as_secs_f64())))
}
