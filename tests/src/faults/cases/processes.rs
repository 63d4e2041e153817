//! Workers that are killed, stopped and told to go.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::Context;
use hyper::Method;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::{Figures, Scale};
use crate::faults::{Corpus, Expected, Fault, Member, Proxy, Rule, S3Front, Scenario, Weather, wait_for};
use crate::fleet::{Endpoints, worker};

const LIMIT: Duration = Duration::from_secs(900);
const DEMO_MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../worker/demo-model");

async fn corpus(scale: Scale, long: usize) -> anyhow::Result<std::sync::Arc<Corpus>> {
    if scale.long { Corpus::make(long, scale.seed).await } else { Corpus::shared().await }
}

/// Case 1: `kill -9` at random moments over three workers.
pub(super) async fn kill_storm(scale: Scale) -> anyhow::Result<Figures> {
    let (items, kills) = (scale.pick(240, 5000), scale.pick(8, 50));
    let scenario = Scenario::new("kill-storm", corpus(scale, items).await?, items).await?;
    let mut dice = StdRng::seed_from_u64(scale.seed);
    let start = |name: String| scenario.worker(&name, &[]);
    let mut members: Vec<Member> =
        (0..3).map(|at| start(format!("worker-{at}-0"))).collect::<anyhow::Result<_>>()?;
    for member in &members {
        member.wait_until_ready().await?;
    }
    let started = Instant::now();
    let mut run = scenario.caption("run", &["--job-size", "16"])?;
    let mut done = 0;
    while run.is_running() && done < kills {
        tokio::time::sleep(Duration::from_millis(dice.random_range(100..scale.pick(900, 1600)))).await;
        let victim = dice.random_range(0..members.len());
        members[victim].child.signal("KILL");
        done += 1;
        members[victim] = start(format!("worker-{victim}-{done}"))?;
    }
    anyhow::ensure!(done * 2 >= kills, "the run was over after {done} kills");
    scenario.finish(run, LIMIT).await?;
    scenario.verify().await?;
    scenario.judge(&Expected::default()).await?;
    let seconds = started.elapsed().as_secs();
    Ok(Figures::default().with("items", items).with("kills", done).with("seconds", seconds))
}

/// Case 2: killed when the part is durable and the ack is not sent.
pub(super) async fn killed_before_ack(scale: Scale) -> anyhow::Result<Figures> {
    let scenario = Scenario::new("before-ack", Corpus::shared().await?, 12).await?;
    let front = S3Front::start(scenario.fleet.s3_endpoint(), scale.seed).await?;
    front.set([Rule::always(Fault::HoldReply).method(Method::PUT).path("/parts/").times(1)]);
    let through = Endpoints { s3: front.endpoint(), ..scenario.fleet.endpoints().clone() };
    let first = scenario.worker_through(&through, "first", &[])?;
    let run = scenario.caption("run", &[])?;
    scenario.wait_for_parts(1).await?;
    first.child.signal("KILL");
    let second = scenario.worker("second", &[])?;
    scenario.finish(run, LIMIT).await?;
    let seen = second.metric("captionfleet_worker_stage_seconds_count{stage=\"vision\"}").await;
    let found =
        second.metric("captionfleet_worker_jobs_total{kind=\"caption\",outcome=\"already_done\"}").await;
    anyhow::ensure!(seen == 0.0 && found == 1.0, "{seen} vision steps, {found} jobs found done");
    scenario.judge(&Expected::default()).await?;
    Ok(Figures::default().with("vision steps of the second worker", seen.abs()))
}

/// Case 3: an item that aborts the process, once by a signal of its own and once by one that looks like anybody's; and beside a
/// worker of another model, to which the broker hands what the dead one had.
pub(super) async fn poison(scale: Scale) -> anyhow::Result<Figures> {
    let mut figures = Figures::default();
    for (name, signal, is_mixed, most) in [
        ("restarts (abort)", "ABRT", false, 2),
        ("restarts (kill)", "KILL", false, 4),
        ("restarts (abort, two models)", "ABRT", true, 2),
    ] {
        let restarts = poisoned_by(scale, signal, is_mixed).await.with_context(|| name.to_owned())?;
        anyhow::ensure!(restarts <= most, "{name}: {restarts}");
        figures = figures.with(name, restarts);
    }
    Ok(figures)
}

async fn poisoned_by(scale: Scale, signal: &str, is_mixed: bool) -> anyhow::Result<u32> {
    let items = scale.pick(80, 501);
    let scenario = Scenario::new("poison", corpus(scale, items).await?, items).await?;
    let poison = scenario.files[StdRng::seed_from_u64(scale.seed).random_range(0..items)].clone();
    let front = S3Front::start(scenario.fleet.s3_endpoint(), scale.seed).await?;
    front.set([Rule::always(Fault::Swallow).method(Method::GET).path(scenario.corpus.digest(&poison)?)]);
    let mut seen = front.watch();
    let through = Endpoints { s3: front.endpoint(), ..scenario.fleet.endpoints().clone() };
    let start = |life: u32| {
        scenario.worker_through(
            &through,
            &format!("life-{life}"),
            &["--prefetch", "4", "--item-deadline", "60"],
        )
    };
    let other = scenario.fleet.folder().join("bundle").display().to_string();
    let _other = if is_mixed {
        worker(["random-bundle", "--small", "--out", &other]).await?.success()?;
        Some(scenario.worker("of-another-model", &["--model", &other])?)
    } else {
        None
    };
    let mut member = start(0)?;
    let mut run = scenario.caption("run", &["--model", DEMO_MODEL, "--job-size", "16"])?;
    let mut restarts = 0;
    while run.is_running() {
        tokio::select! {
            request = seen.recv() => if request.is_ok_and(|request| request.disturbed) {
                member.child.signal(signal);
                member.child.wait(Duration::from_secs(20)).await?;
                restarts += 1;
                member = start(restarts)?;
            },
            () = tokio::time::sleep(Duration::from_millis(100)) => {}
        }
        anyhow::ensure!(restarts < 10, "it goes on and on:\n{}", member.child.output());
    }
    scenario.finish(run, LIMIT).await?;
    let failed = BTreeMap::from([(poison, "worker_crash")]);
    scenario.judge(&Expected { failed, ..Expected::default() }).await?;
    Ok(restarts)
}

/// Case 5: SIGTERM, idle and busy.
pub(super) async fn sigterm(scale: Scale) -> anyhow::Result<Figures> {
    let scenario = Scenario::new("sigterm", Corpus::shared().await?, 160).await?;
    let mut idle = scenario.worker("idle", &[])?;
    idle.wait_until_ready().await?;
    let idle_seconds = terminate(&mut idle, Duration::from_secs(10)).await?;
    anyhow::ensure!(idle_seconds < scale.pick(8.0, 1.0), "an idle worker took {idle_seconds:.2} s to stop");

    let run = scenario.caption("run", &["--job-size", "40"])?;
    let mut busy = scenario.worker("busy", &["--grace", "1"])?;
    let in_flight = || async { busy.metric("captionfleet_worker_items_in_flight").await > 0.0 };
    wait_for("items in flight", Duration::from_secs(60), in_flight).await?;
    let busy_seconds = terminate(&mut busy, Duration::from_secs(20)).await?;
    anyhow::ensure!(
        busy_seconds < scale.pick(18.0, 5.0),
        "with a grace period of 1 s it took {busy_seconds:.2} s to stop"
    );
    let next = scenario.worker("next", &[])?;
    scenario.finish(run, LIMIT).await?;
    let quarantined = next.metric("captionfleet_worker_quarantined_jobs_total").await;
    anyhow::ensure!(quarantined == 0.0, "a drain put {quarantined} jobs under suspicion");
    scenario.judge(&Expected::default()).await?;
    let seconds = |seconds: f64| format!("{seconds:.2} s");
    Ok(Figures::default().with("idle", seconds(idle_seconds)).with("busy", seconds(busy_seconds)))
}

/// Case 5: SIGTERM while neither broker nor store can be reached, and a job waits to be settled.
pub(super) async fn sigterm_cut_off(_: Scale) -> anyhow::Result<Figures> {
    let scenario = Scenario::new("cut-off", Corpus::shared().await?, 120).await?;
    let services = scenario.fleet.endpoints();
    let address = services.broker_address()?;
    let broker = Proxy::start(address).await?;
    let store = Proxy::start(services.s3.trim_start_matches("http://")).await?;
    let through = Endpoints {
        broker: services.broker.replace(address, &format!("127.0.0.1:{}", broker.port())),
        s3: format!("http://127.0.0.1:{}", store.port()),
    };
    let run = scenario.caption("run", &["--job-size", "40"])?;
    let mut lost = scenario.worker_through(&through, "lost", &["--grace", "1"])?;
    let in_flight = || async { lost.metric("captionfleet_worker_items_in_flight").await > 0.0 };
    wait_for("items in flight", Duration::from_secs(60), in_flight).await?;
    store.set(Weather::Down);
    broker.set(Weather::Down);
    let is_stuck = || async {
        lost.metric("captionfleet_worker_items_in_flight").await == 0.0
            && lost.metric("captionfleet_worker_jobs_in_flight").await > 0.0
    };
    wait_for("a job that cannot be settled", Duration::from_secs(120), is_stuck).await?;
    let seconds = terminate(&mut lost, Duration::from_secs(30)).await?;
    let _next = scenario.worker("next", &[])?;
    scenario.finish(run, LIMIT).await?;
    scenario.judge(&Expected::default()).await?;
    Ok(Figures::default().with("cut off", format!("{seconds:.2} s")))
}

/// Sends SIGTERM; seconds until the worker has ended with 0.
async fn terminate(member: &mut Member, limit: Duration) -> anyhow::Result<f64> {
    let since = Instant::now();
    member.child.signal("TERM");
    let status = member.child.wait(limit).await?;
    anyhow::ensure!(status.success(), "ended with {status}:\n{}", member.child.output());
    Ok(since.elapsed().as_secs_f64())
}

/// Case 6: stopped until its jobs were done by another, then continued.
pub(super) async fn sigstop(scale: Scale) -> anyhow::Result<Figures> {
    let scenario = Scenario::new("sigstop", Corpus::shared().await?, 120).await?;
    // The broker takes the jobs back after two of its heartbeats.
    let heartbeat = scale.pick("?heartbeat=2", "");
    let services = scenario.fleet.endpoints().clone();
    let through = Endpoints { broker: format!("{}{heartbeat}", services.broker), ..services };
    let frozen = scenario.worker_through(&through, "frozen", &[])?;
    let run = scenario.caption("run", &["--job-size", "20"])?;
    let busy = || async { frozen.metric("captionfleet_worker_jobs_in_flight").await > 0.0 };
    wait_for("a job in hand", Duration::from_secs(60), busy).await?;
    let since = Instant::now();
    frozen.child.signal("STOP");
    let other = scenario.worker("other", &[])?;
    scenario.finish(run, LIMIT).await?;
    if scale.long {
        tokio::time::sleep(Duration::from_secs(60).saturating_sub(since.elapsed())).await;
    }
    let stopped = since.elapsed();
    frozen.child.signal("CONT");
    // It finds its connections gone, finishes what it had in hand, and connects again.
    let calm = || async {
        frozen.is_ready().await && frozen.metric("captionfleet_worker_jobs_in_flight").await == 0.0
    };
    wait_for("the stopped worker to be ready again", Duration::from_secs(60), calm).await?;
    scenario.judge(&Expected::default()).await?;
    anyhow::ensure!(other.is_ready().await, "the other worker is not ready");
    Ok(Figures::default().with("stopped", format!("{} s", stopped.as_secs())))
}
