//! Which videos earlier runs have finished: those of which every segment has its part.

use super::left::History;
use super::records::Record;
use crate::archive::{self, ArchiveError, Parts};
use crate::wish::Wish;
use captionfleet_proto::job::{JobId, JobItem, RunId};
use captionfleet_proto::manifest::RunManifest;
use captionfleet_proto::rows::{RowKey, Status};
use captionfleet_proto::storage::Storage;
use captionfleet_proto::uri::ItemUri;
use std::collections::{BTreeMap, HashMap, HashSet};

/// The rows of videos, as far as they matter: which videos have any, and what failed in them.
#[derive(Debug, Default)]
pub(super) struct Films {
    failures: HashMap<(RunId, ItemUri), String>,
    runs: HashSet<RunId>,
}

impl Films {
    pub(super) fn see(&mut self, row: RowKey) {
        if row.status == Status::Failed {
            self.failures.insert((row.run.clone(), row.item), row.error_code.unwrap_or_default());
        }
        self.runs.insert(row.run);
    }

    /// Adds a record for every video that a run of the same wish has finished.
    pub(super) async fn judge(
        self,
        archive: &dyn Storage,
        wish: &Wish,
        manifests: &[RunManifest],
        parts: &Parts,
        history: &mut History,
    ) -> Result<(), ArchiveError> {
        let has_rows = |manifest: &&RunManifest| self.runs.contains(&manifest.run);
        for manifest in manifests.iter().filter(has_rows).filter(|manifest| wish.is_met_by_run(manifest)) {
            let done: HashSet<&JobId> =
                parts.get(&manifest.run).into_iter().flatten().map(|(job, _)| job).collect();
            let planned = match archive::items(archive, manifest).await {
                Ok(planned) => planned,
                Err(error) if error.is_damage() => {
                    history.damaged.push(error.to_string());
                    continue;
                }
                Err(error) => return Err(error),
            };
            let mut films: BTreeMap<ItemUri, (JobItem, bool)> = BTreeMap::new();
            for planned in planned.into_iter().filter(|planned| planned.item.sample.is_some()) {
                let is_done = done.contains(&planned.job);
                let film = films.entry(planned.item.uri.clone()).or_insert((planned.item, true));
                film.1 &= is_done;
            }
            for (uri, (item, _)) in films.into_iter().filter(|(_, (_, whole))| *whole) {
                let error_code = self.failures.get(&(manifest.run.clone(), uri.clone())).cloned();
                history.records.add(uri, Record { sha256: item.sha256, etag: item.etag, error_code });
            }
        }
        Ok(())
    }
}
