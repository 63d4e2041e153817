//! How far runs are. The parts tell it, whoever publishes and whoever works: each is read once and counted.

use crate::archive::{self, ArchiveError, READS_AT_ONCE};
use crate::ledger::Tally;
use captionfleet_proto::job::RunId;
use captionfleet_proto::layout;
use captionfleet_proto::manifest::RunManifest;
use captionfleet_proto::storage::{ObjectMeta, Storage};
use futures::{FutureExt as _, StreamExt as _, TryStreamExt as _};
use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Runs whose counts are kept.
const RUNS: usize = 200;
/// Looks at one run are not closer than this, however many watch it.
const APART: Duration = Duration::from_millis(400);
/// What the rate is measured over.
const WINDOW: Duration = Duration::from_secs(20);

/// How far runs are.
#[derive(Debug, Default)]
pub struct Progress {
    runs: Mutex<HashMap<RunId, Arc<tokio::sync::Mutex<Track>>>>,
    /// As listings showed them: forgetting writes some anew.
    manifests: Mutex<HashMap<RunId, (ObjectMeta, RunManifest)>>,
}

/// What is known of a run's parts.
#[derive(Debug, Default)]
struct Track {
    seen: HashSet<String>,
    failed: BTreeSet<String>,
    damaged: u64,
    tally: Tally,
    samples: VecDeque<(Instant, u64)>,
    looked: Option<Instant>,
}

/// A run at one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct Standing {
    /// Rows by what became of them.
    pub tally: Tally,
    /// Jobs with a part.
    pub jobs_done: u64,
    /// Parts that cannot be read.
    pub damaged: u64,
    /// Keys of the parts with failed rows.
    pub failed: Vec<String>,
    /// Pictures and frames per second in the last seconds; unknown at the first look.
    pub rate: Option<f64>,
}

/// What marks a run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Marks {
    /// Its jobs are dropped.
    pub cancelled: bool,
    /// Its jobs are held back.
    pub paused: bool,
}

impl Progress {
    /// Looks at one run.
    pub async fn look(&self, archive: &dyn Storage, run: &RunId) -> Result<Standing, ArchiveError> {
        let track = {
            let mut runs = self.runs.lock().unwrap_or_else(PoisonError::into_inner);
            if runs.len() >= RUNS && !runs.contains_key(run) {
                runs.clear();
            }
            runs.entry(run.clone()).or_default().clone()
        };
        let mut track = track.lock().await;
        if track.looked.is_none_or(|looked| looked.elapsed() >= APART) {
            track.catch_up(archive, run).await?;
        }
        Ok(track.standing())
    }

    /// All runs, oldest first, with what marks them; also what could not be read.
    pub async fn runs(
        &self,
        archive: &dyn Storage,
    ) -> Result<(Vec<(RunManifest, Marks)>, Vec<ArchiveError>), ArchiveError> {
        let (mut found, mut marked) = (Vec::new(), HashSet::new());
        {
            let mut listing = archive.list(layout::RUNS_PREFIX);
            while let Some(object) = listing.try_next().await? {
                match layout::run_of_manifest(&object.key) {
                    Some(run) => found.push((run, object)),
                    None => drop(marked.insert(object.key)),
                }
            }
        }
        let reads = found.into_iter().map(|(run, object)| self.manifest(archive, run, object).boxed());
        let read: Vec<_> = futures::stream::iter(reads).buffer_unordered(READS_AT_ONCE).collect().await;
        let (mut runs, mut damaged) = (Vec::new(), Vec::new());
        for manifest in read {
            match manifest {
                Ok(manifest) => {
                    let marks = Marks {
                        cancelled: marked.contains(&layout::run_cancelled(&manifest.run)),
                        paused: marked.contains(&layout::run_paused(&manifest.run)),
                    };
                    runs.push((manifest, marks));
                }
                Err(error) if error.is_damage() => damaged.push(error),
                Err(error) => return Err(error),
            }
        }
        runs.sort_by(|(one, _), (other, _)| (one.created_at, &one.run).cmp(&(other.created_at, &other.run)));
        Ok((runs, damaged))
    }

    /// The manifest of a run; read once as long as the object is the same.
    async fn manifest(
        &self,
        archive: &dyn Storage,
        run: RunId,
        object: ObjectMeta,
    ) -> Result<RunManifest, ArchiveError> {
        let known = || self.manifests.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, manifest)) = known().get(&run).filter(|(seen, _)| *seen == object) {
            return Ok(manifest.clone());
        }
        let manifest = archive::manifest(archive, &run).await?;
        known().insert(run, (object, manifest.clone()));
        Ok(manifest)
    }
}

impl Track {
    async fn catch_up(&mut self, archive: &dyn Storage, run: &RunId) -> Result<(), ArchiveError> {
        let parts = archive::parts(archive, Some(run)).await?.remove(run).unwrap_or_default();
        let new: Vec<String> =
            parts.into_iter().map(|(_, key)| key).filter(|key| !self.seen.contains(key)).collect();
        let reads =
            new.into_iter().map(|key| async move { (archive::keys(archive, key.clone()).await, key) });
        let mut reads = futures::stream::iter(reads).buffer_unordered(READS_AT_ONCE);
        while let Some((rows, key)) = reads.next().await {
            match rows {
                Ok(rows) => {
                    let tally = Tally::of(&rows);
                    if tally.failed_total() > 0 {
                        self.failed.insert(key.clone());
                    }
                    self.tally.add(&tally);
                }
                Err(error) if error.is_damage() => self.damaged += 1,
                Err(error) => return Err(error),
            }
            self.seen.insert(key);
        }
        let now = Instant::now();
        self.looked = Some(now);
        self.samples.push_back((now, self.tally.looked_at()));
        while self.samples.len() > 2 && self.samples.get(1).is_some_and(|(at, _)| now - *at > WINDOW) {
            self.samples.pop_front();
        }
        Ok(())
    }

    fn standing(&self) -> Standing {
        let ends = self.samples.front().zip(self.samples.back());
        let rate = ends.and_then(|((from, before), (to, after))| {
            let seconds = (*to - *from).as_secs_f64();
            (seconds > 0.0).then(|| after.saturating_sub(*before) as f64 / seconds)
        });
        Standing {
            tally: self.tally.clone(),
            jobs_done: self.seen.len() as u64,
            damaged: self.damaged,
            failed: self.failed.iter().cloned().collect(),
            rate,
        }
    }
}

/// What marks one run.
pub async fn marks(archive: &dyn Storage, run: &RunId) -> Result<Marks, ArchiveError> {
    Ok(Marks {
        cancelled: archive::is_there(archive, &layout::run_cancelled(run)).await?,
        paused: archive::is_there(archive, &layout::run_paused(run)).await?,
    })
}
