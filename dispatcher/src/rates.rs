//! How fast an archive's latest run like this one went: what `plan` reckons with.

use crate::archive::{self, ArchiveError};
use crate::ledger::Tally;
use crate::scale::estimate::Rate;
use crate::wish::Wish;
use captionfleet_proto::job::RunId;
use captionfleet_proto::storage::Storage;
use futures::TryStreamExt as _;

/// Parts that are read of a run: its first ones, which workers had in hand one behind the other.
const PARTS: usize = 64;

/// A rate, and where it was measured.
#[derive(Debug, Clone, PartialEq)]
pub struct Measured {
    /// What one picture or captioned frame took.
    pub rate: Rate,
    /// The run.
    pub run: RunId,
}

/// The rate of the latest run that the same model served, of those that asked the same if there are any. `None` if there is
/// none whose rows tell what they took.
pub async fn measured(archive: &dyn Storage, wish: &Wish) -> Result<Option<Measured>, ArchiveError> {
    let (mut runs, _) = archive::manifests(archive).await?;
    runs.retain(|run| wish.bundle.is_none() || run.bundle.is_none() || run.bundle == wish.bundle);
    let asks_the_same = |run: &captionfleet_proto::manifest::RunManifest| {
        (&run.prompt, run.max_tokens, run.embed) == (&wish.prompt, wish.max_tokens, wish.embed)
    };
    // The latest of those that ask the same come last.
    runs.sort_by_key(|run| (asks_the_same(run), run.created_at));
    for run in runs.iter().rev() {
        let parts = archive::first_keys(archive, &run.run, PARTS).await?;
        let mut parts = std::pin::pin!(parts);
        let mut tally = Tally::default();
        while let Some(mut rows) = parts.try_next().await? {
            // A run may have been served by several models.
            rows.retain(|row| wish.bundle.is_none() || row.bundle == wish.bundle);
            tally.add(&Tally::of(&rows));
        }
        if let Some(rate) = rate(&tally) {
            return Ok(Some(Measured { rate, run: run.run.clone() }));
        }
    }
    Ok(None)
}

fn rate(tally: &Tally) -> Option<Rate> {
    let rows = tally.rows() as f64;
    let (device, worker) = (tally.effort.device_seconds(), tally.effort.worker_seconds());
    // The workers' time for films holds that of decoding them, which depends on the film and is reckoned apart.
    let each = if tally.frames.is_some() && device > 0.0 { device } else { worker };
    (rows > 0.0 && worker > 0.0)
        .then(|| Rate { device_seconds: Some(device / rows), worker_seconds: each / rows })
}
