//! What jobs of others take. Their outcomes go to whoever published them, their parts lie in the archive: a few of those that
//! appear are read, and at the start a few of the latest runs, so that a service knows what work costs before the first job of its
//! own has settled.

use super::Service;
use crate::archive::{self, ArchiveError};
use crate::ledger::Tally;
use captionfleet_proto::layout;
use captionfleet_proto::storage::Storage;
use futures::TryStreamExt as _;
use std::time::Duration;

/// How often it is looked for new parts.
const PAUSE: Duration = Duration::from_secs(5);
/// Runs that are looked at when the service starts.
const RUNS: usize = 3;
/// Parts that are read of each of them.
const PARTS: usize = 8;

/// Learns what work costs, until the service ends.
pub async fn watch(service: &Service) {
    let archive = &*service.ground.archive;
    match latest(archive).await {
        Ok(tallies) => tallies.iter().for_each(|tally| service.desk.members().price(tally)),
        Err(error) => tracing::debug!(%error, "what earlier runs took is not known"),
    }
    while !service.stop.is_cancelled() {
        for key in service.index.newcomers() {
            // The outcomes of its own jobs have told it already.
            let is_own = |(run, _)| service.desk.working_on(&run).is_some();
            if layout::job_of_part(&key).is_none_or(is_own) {
                continue;
            }
            match archive::keys(archive, key).await {
                Ok(rows) => service.desk.members().price(&Tally::of(&rows)),
                Err(error) => tracing::debug!(%error, "what a part took is not known"),
            }
        }
        tokio::select! {
            () = tokio::time::sleep(PAUSE) => {}
            () = service.stop.cancelled() => {}
        }
    }
}

/// What some jobs of the latest runs took, those of the latest one last.
async fn latest(archive: &dyn Storage) -> Result<Vec<Tally>, ArchiveError> {
    let (runs, _) = archive::manifests(archive).await?;
    let mut tallies = Vec::new();
    for manifest in &runs[runs.len().saturating_sub(RUNS)..] {
        let parts = archive::first_keys(archive, &manifest.run, PARTS).await?;
        let of_run: Vec<_> = parts.map_ok(|rows| Tally::of(&rows)).try_collect().await?;
        tallies.extend(of_run);
    }
    Ok(tallies)
}
