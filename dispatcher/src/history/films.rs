//! Which videos earlier runs have finished: those of which every segment has its part.

use super::left::History;
use super::records::{Record, lasts};
use crate::archive::{self, ArchiveError, Parts};
use crate::wish::Wish;
use captionfleet_proto::job::{JobId, JobItem, RunId};
use captionfleet_proto::manifest::RunManifest;
use captionfleet_proto::rows::{RowKey, Status};
use captionfleet_proto::storage::Storage;
use captionfleet_proto::uri::ItemUri;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

/// The rows of videos, as far as they matter: which videos have any, and what failed in them.
#[derive(Debug, Default)]
pub(super) struct Films {
    failures: HashMap<(RunId, ItemUri), BTreeSet<String>>,
    runs: HashSet<RunId>,
}

impl Films {
    pub(super) fn see(&mut self, row: RowKey) {
        if row.status == Status::Failed {
            let codes = self.failures.entry((row.run.clone(), row.item)).or_default();
            codes.insert(row.error_code.unwrap_or_default());
        }
        self.runs.insert(row.run);
    }

    /// What a film counts as, of all that failed in it: what would fail again stands before what may be gone, because the film is
    /// captioned again as a whole.
    fn failure(&self, run: &RunId, film: &ItemUri) -> Option<String> {
        let codes = self.failures.get(&(run.clone(), film.clone()))?;
        codes.iter().find(|code| lasts(code)).or(codes.first()).cloned()
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
                let error_code = self.failure(&manifest.run, &uri);
                history.records.add(uri, Record { sha256: item.sha256, etag: item.etag, error_code });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::Films;
    use captionfleet_proto::job::{JobId, RunId};
    use captionfleet_proto::rows::{RowKey, Status};
    use captionfleet_proto::uri::ItemUri;
    use jiff::Timestamp;

    fn row(frame_ms: u64, error_code: Option<&str>) -> RowKey {
        RowKey {
            item: ItemUri::s3("films", "a.mp4"),
            frame_ms: Some(frame_ms),
            span_ms: Some(1000),
            frames: Some(1),
            sha256: None,
            etag: Some("v1".to_owned()),
            status: if error_code.is_some() { Status::Failed } else { Status::Ok },
            error_code: error_code.map(str::to_owned),
            embedding_space: None,
            bundle: None,
            prompt_hash: String::new(),
            run: RunId::new("r").unwrap(),
            job: JobId::new("j").unwrap(),
            worker: None,
            device_seconds: None,
            device_joules: None,
            started_at: None,
            finished_at: Timestamp::UNIX_EPOCH,
        }
    }

    #[test]
    fn a_film_counts_as_what_lasts_in_whatever_order_its_parts_are_read() {
        let told = |codes: &[Option<&str>]| {
            let mut films = Films::default();
            for (second, code) in (0..).zip(codes) {
                films.see(row(second * 1000, *code));
            }
            films.failure(&RunId::new("r").unwrap(), &ItemUri::s3("films", "a.mp4"))
        };
        for codes in
            [[Some("internal"), None, Some("truncated")], [Some("truncated"), Some("internal"), None]]
        {
            assert_eq!(told(&codes).as_deref(), Some("truncated"), "{codes:?}");
        }
        for codes in [[Some("internal"), Some("not_found")], [Some("not_found"), Some("internal")]] {
            assert_eq!(told(&codes).as_deref(), Some("internal"), "{codes:?}");
        }
        assert_eq!(told(&[None, None]), None);
    }
}
