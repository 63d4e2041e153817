//! A machine that is about to be taken away.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::Context;

use super::{Figures, Scale};
use crate::faults::{Corpus, Expected, Member, MetadataService, Scenario, wait_for};
use crate::fleet::{Endpoints, Fleet};
use crate::sandbox::free_port;

/// Case 8: the notice of each cloud drains, that of another machine does not; a metadata service that is absent, slow or failing does
/// no harm.
pub(super) async fn notice(_: Scale) -> anyhow::Result<Figures> {
    let mut figures = Figures::default();
    for cloud in ["aws", "gcp", "azure"] {
        let drained = drained_by(cloud).await.with_context(|| cloud.to_owned())?;
        figures = figures.with(cloud, format!("{:.1} s", drained.as_secs_f64()));
    }
    in_a_scale_set().await?;
    undisturbed_by_the_service().await?;
    Ok(figures)
}

/// Time from the notice to the orderly end of a busy worker.
async fn drained_by(cloud: &str) -> anyhow::Result<Duration> {
    let scenario = Scenario::new("spot", Corpus::shared().await?, 80).await?;
    let service = MetadataService::start().await?;
    let url = service.url();
    let mut member =
        scenario.worker("spot", &["--spot-notice", cloud, "--metadata-url", &url, "--grace", "5"])?;
    let run = scenario.caption("run", &["--job-size", "20"])?;
    let busy = || async { member.metric("captionfleet_worker_items_in_flight").await > 0.0 };
    wait_for("items in flight", Duration::from_secs(60), busy).await?;
    service.give_notice();
    let since = Instant::now();
    let status = member.child.wait(Duration::from_secs(20)).await?;
    let drained = since.elapsed();
    anyhow::ensure!(status.success(), "ended with {status}:\n{}", member.child.output());
    let _next = scenario.worker("next", &[])?;
    scenario.finish(run, Duration::from_secs(120)).await?;
    scenario.judge(&Expected::default()).await?;
    Ok(drained)
}

/// A machine of a scale set, on which Azure is found although its events are long in coming.
async fn in_a_scale_set() -> anyhow::Result<()> {
    // Longer than any other answer is waited for.
    const FIRST_EVENTS: Duration = Duration::from_secs(6);
    const PATIENCE: Duration = Duration::from_secs(60);
    // Otherwise the tests keep every program away from metadata services.
    let environment = BTreeMap::from([("AWS_EC2_METADATA_DISABLED", "false".to_owned())]);
    let fleet = Fleet::at(Endpoints::from_environment()?, environment, "spot-set")?;
    let (service, admin) = (MetadataService::start_azure(FIRST_EVENTS).await?, free_port()?);
    let (url, address) = (service.url(), format!("127.0.0.1:{admin}"));
    let child = fleet.start_worker_at(&address, &["--metadata-url", &url])?;
    let mut member = Member::new(child, admin);
    wait_for("the first events", PATIENCE, || async { service.told() > 0 }).await?;
    service.preempt_another();
    let before = service.told();
    wait_for("three looks", PATIENCE, || async { service.told() >= before + 3 }).await?;
    anyhow::ensure!(!member.child.output().contains("spot notice:"), "{}", member.child.output());
    member.wait_until_ready().await?;
    service.give_notice();
    let status = member.child.wait(PATIENCE).await?;
    anyhow::ensure!(status.success(), "ended with {status}:\n{}", member.child.output());
    anyhow::ensure!(member.child.output().contains("spot notice:"), "{}", member.child.output());
    Ok(())
}

async fn undisturbed_by_the_service() -> anyhow::Result<()> {
    let scenario = Scenario::new("spot-calm", Corpus::shared().await?, 24).await?;
    let (failing, silent) = (MetadataService::start().await?, MetadataService::start().await?);
    failing.fail();
    silent.fall_silent();
    let absent = format!("http://127.0.0.1:{}", free_port()?);
    let mut members = Vec::new();
    for (name, url) in [("absent", absent), ("failing", failing.url()), ("silent", silent.url())] {
        members.push(scenario.worker(name, &["--spot-notice", "aws", "--metadata-url", &url])?);
    }
    for member in &members {
        member.wait_until_ready().await?;
    }
    scenario.finish(scenario.caption("run", &["--job-size", "4"])?, Duration::from_secs(120)).await?;
    scenario.judge(&Expected::default()).await?;
    for member in &members {
        anyhow::ensure!(member.is_ready().await, "{}", member.child.output());
    }
    Ok(())
}
