//! A job in quarantine whose archive fails meanwhile.

use std::time::Duration;

use hyper::Method;
use tokio::sync::broadcast;

use super::{Figures, Scale};
use crate::faults::{Corpus, Expected, Fault, Rule, S3Front, Scenario, Seen};
use crate::fleet::Endpoints;

const LIMIT: Duration = Duration::from_secs(600);
/// How often the S3 client sends a request.
const ATTEMPTS: u32 = 5;

/// Case 3, and the archive fails in the middle of it: the job waits, then goes on behind its marker, and leaves none.
pub(super) async fn outage(scale: Scale) -> anyhow::Result<Figures> {
    let scenario = Scenario::new("quarantine-outage", Corpus::shared().await?, 4).await?;
    let front = S3Front::start(scenario.fleet.s3_endpoint(), scale.seed).await?;
    let through = Endpoints { s3: front.endpoint(), ..scenario.fleet.endpoints().clone() };
    let first_item = scenario.corpus.digest(&scenario.files[0])?;
    front.set([Rule::always(Fault::Hold).method(Method::GET).path(first_item)]);
    let mut seen = front.watch();
    let first = scenario.worker_through(&through, "first", &[])?;
    let run = scenario.caption("run", &[])?;
    met(&mut seen).await?;
    first.child.signal("KILL");
    let second = scenario.worker_through(&through, "second", &[])?;
    met(&mut seen).await?;
    // The marker names the first item by now, and cannot name the second.
    let refused = Rule::always(Fault::Answer(503, "SlowDown")).method(Method::PUT);
    front.set([refused.path("/quarantine/").times(ATTEMPTS)]);
    scenario.finish(run, LIMIT).await?;
    let quarantined = second.metric("captionfleet_worker_quarantined_jobs_total").await;
    anyhow::ensure!(quarantined == 2.0, "{quarantined} times in quarantine: {}", second.child.output());
    scenario.judge(&Expected::default()).await?;
    Ok(Figures::default().with("times in quarantine", quarantined))
}

/// Waits for a request that a fault meets.
async fn met(seen: &mut broadcast::Receiver<Seen>) -> anyhow::Result<()> {
    tokio::time::timeout(LIMIT, async {
        while !seen.recv().await?.disturbed {}
        Ok(())
    })
    .await?
}
