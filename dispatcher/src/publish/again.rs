//! Publishing once more what was lost on its way: queues are purged and deleted by people.

use super::{Destination, Gate, Observer, publish};
use crate::history;
use anyhow::Context as _;
use captionfleet_proto::job::{JobId, RunId};
use captionfleet_proto::manifest::RunManifest;
use captionfleet_proto::storage::Storage;
use std::collections::HashSet;

/// Publishes those jobs of `runs` again that are `lost`, as the archive has them. One that was not lost after all is found
/// done by whoever gets it second.
#[allow(clippy::implicit_hasher, reason = "there is one kind of set here")]
pub async fn again(
    destination: &Destination<'_>,
    archive: &dyn Storage,
    runs: &[RunManifest],
    lost: &HashSet<(RunId, JobId)>,
    observer: &dyn Observer,
) -> anyhow::Result<()> {
    destination.broker.declare().await.context("declare the queues again")?;
    for run in runs {
        let mut jobs = history::unfinished_jobs(archive, run, &HashSet::new()).await?;
        jobs.retain(|job| lost.contains(&(run.run.clone(), job.id.clone())));
        publish(destination, run, jobs, &Gate::open(), observer).await?;
    }
    Ok(())
}
