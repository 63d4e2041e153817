//! Submissions: taken one after the other, done side by side, each handing out as many jobs as the workers need and no
//! more, so that it can be paused and stopped. What is begun is in the archive, and a later service goes on with it.

mod order;
mod submitted;

pub use order::Order;
pub use submitted::{GivenUp, Phase, Stage, Submitted};

use super::Ground;
use super::http::problem::Problem;
use super::members::Members;
use crate::archive::{self, ArchiveError};
use crate::conduct::{Submission, Way};
use crate::history::{self, Marks};
use crate::ledger::Watcher as _;
use crate::plan::{ContinuedRun, Plan};
use crate::prepare::Prepared;
use crate::progress::Display;
use crate::scale::price::OpenWork;
use crate::submission::{self, is_by_service};
use crate::telemetry::Metrics;
use crate::tracks;
use bytes::Bytes;
use captionfleet_proto::broker::{QueueDepth, QueueName};
use captionfleet_proto::job::RunId;
use captionfleet_proto::layout;
use captionfleet_proto::manifest::RunManifest;
use captionfleet_proto::storage::PutMode;
use captionfleet_worker::telemetry::readiness::Readiness;
use captionfleet_worker::telemetry::spans;
use jiff::Timestamp;
use std::collections::{BTreeMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Submissions that are worked on at a time.
const AT_ONCE: usize = 32;
/// Of these, what a service that is started takes up by itself: people's new submissions find a place.
const TAKEN_UP: usize = 24;
/// Ended submissions that are remembered.
const REMEMBERED: usize = 100;

/// All submissions of this service.
pub struct Desk {
    ground: Arc<Ground>,
    metrics: Metrics,
    readiness: Arc<Readiness>,
    members: Arc<Members>,
    /// Two plans at once could both take the same pictures.
    planning: tokio::sync::Mutex<()>,
    /// Runs are paused, resumed and cancelled one after the other: going on removes the marks of a run, and would remove that of someone
    /// who cancels it meanwhile.
    marking: tokio::sync::Mutex<()>,
    submitted: Mutex<BTreeMap<String, Arc<Submitted>>>,
    count: AtomicU64,
    /// Told when a submission has ended.
    freed: Notify,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Desk {
    /// Nothing is submitted yet. Everything stops in order when `stop` is cancelled.
    pub fn new(
        ground: Arc<Ground>,
        metrics: Metrics,
        readiness: Arc<Readiness>,
        members: Arc<Members>,
        stop: CancellationToken,
    ) -> Arc<Self> {
        Arc::new(Self {
            ground,
            metrics,
            readiness,
            members,
            planning: tokio::sync::Mutex::new(()),
            marking: tokio::sync::Mutex::new(()),
            submitted: Mutex::default(),
            count: AtomicU64::new(0),
            freed: Notify::new(),
            tasks: TaskTracker::new(),
            stop,
        })
    }

    /// The workers that were heard of.
    pub fn members(&self) -> &Members {
        &self.members
    }

    /// What the broker says about a lane for runs.
    pub fn lane_seen(&self, lane: &QueueName, depth: QueueDepth) {
        self.metrics.queue_seen(lane, depth);
    }

    /// What workers shall do now of all submissions, handed out or not.
    pub fn open_work(&self) -> OpenWork {
        self.submitted().values().map(|one| one.open_work()).fold(OpenWork::default(), OpenWork::and)
    }

    /// Jobs of [`Self::open_work`] that lie in queues or in workers' hands.
    pub fn jobs_out(&self) -> u64 {
        self.submitted().values().map(|one| one.jobs_out()).sum()
    }

    /// Takes an order.
    pub fn submit(self: &Arc<Self>, order: Order) -> Result<Arc<Submitted>, Problem> {
        let mut submitted = self.submitted();
        if submitted.values().filter(|one| one.is_open()).count() >= AT_ONCE {
            return Err(Problem::unavailable(
                "busy",
                format!("{AT_ONCE} submissions are being worked on; wait for one of them, or cancel one"),
            ));
        }
        while submitted.len() >= REMEMBERED {
            let oldest = submitted.iter().find(|(_, one)| !one.is_open()).map(|(id, _)| id.clone());
            match oldest {
                Some(id) => drop(submitted.remove(&id)),
                None => break,
            }
        }
        let run = order.run();
        if let Some(run) = run.filter(|run| submitted.values().any(|one| one.works_on(run))) {
            return Err(Problem::conflict(format!("run {run} is being worked on; wait until it has ended")));
        }
        let number = self.count.fetch_add(1, Ordering::Relaxed);
        let id = format!("{}-{number:06}", Timestamp::now().strftime("%Y%m%dT%H%M%SZ"));
        let runs = run.cloned().into_iter().collect();
        let one = Arc::new(Submitted::new(id.clone(), runs, self.stop.child_token(), self.members.clone()));
        submitted.insert(id, one.clone());
        drop(submitted);
        let (desk, task) = (self.clone(), one.clone());
        let span = tracing::info_span!(target: spans::TARGET, "submission", submission.id = one.id);
        let span = spans::here().parent_of(span);
        // A submission reads much by streams that cannot move between threads: it has one of its own.
        let runtime = Handle::current();
        self.tasks.spawn_blocking(move || {
            let outcome = runtime.block_on(spans::within(span, desk.work(order, &task)));
            task.end(outcome);
            desk.freed.notify_one();
        });
        Ok(one)
    }

    /// One submission.
    pub fn find(&self, id: &str) -> Option<Arc<Submitted>> {
        self.submitted().get(id).cloned()
    }

    /// All submissions, the latest first.
    pub fn list(&self) -> Vec<Arc<Submitted>> {
        self.submitted().values().rev().cloned().collect()
    }

    /// The open submission that works on `run`.
    pub fn working_on(&self, run: &RunId) -> Option<Arc<Submitted>> {
        self.submitted().values().find(|one| one.works_on(run)).cloned()
    }

    /// Holds a run's jobs back, or no more. The other runs of its submission share its fate.
    pub async fn pause(&self, run: &RunId) -> Result<(), Problem> {
        let _marking = self.marking.lock().await;
        let Some(one) = self.working_on(run) else {
            return Err(Problem::conflict(format!(
                "run {run} is not published by this service, so that its jobs cannot be held back; cancel it, or pause it \
                 where it was started"
            )));
        };
        for run in one.runs() {
            self.ground.archive.put(&layout::run_paused(&run), Bytes::new(), PutMode::Overwrite).await?;
        }
        one.gate().set_closed(true);
        Ok(())
    }

    /// Goes on with a run that was paused, cancelled or left.
    pub async fn resume(self: &Arc<Self>, manifest: RunManifest) -> Result<Arc<Submitted>, Problem> {
        let marking = self.marking.lock().await;
        let working = self.working_on(&manifest.run);
        let runs = working.as_ref().map_or_else(|| vec![manifest.run.clone()], |one| one.runs());
        for run in &runs {
            submission::wanted_again(&*self.ground.archive, run).await?;
        }
        if let Some(one) = working {
            if !one.stop().is_cancelled() {
                one.gate().set_closed(false);
                return Ok(one);
            }
            drop(marking);
            // It was cancelled a moment ago: two must not hand out the same jobs.
            one.ended().await;
        }
        self.submit(Order::Continue { manifest })
    }

    /// Does again what failed in a run, in these parts of it, and goes on with it.
    pub async fn retry(
        self: &Arc<Self>,
        manifest: RunManifest,
        failed: Vec<String>,
    ) -> Result<Arc<Submitted>, Problem> {
        let marking = self.marking.lock().await;
        submission::wanted_again(&*self.ground.archive, &manifest.run).await?;
        drop(marking);
        self.submit(Order::Retry { manifest, failed })
    }

    /// Cancels a run: workers drop what they have not begun.
    pub async fn cancel(&self, run: &RunId) -> Result<(), Problem> {
        let _marking = self.marking.lock().await;
        self.ground.archive.put(&layout::run_cancelled(run), Bytes::new(), PutMode::Overwrite).await?;
        self.ground.archive.delete(&layout::run_paused(run)).await?;
        if let Some(one) = self.working_on(run) {
            one.cancel(run);
        }
        Ok(())
    }

    /// Cancels a submission and its runs.
    pub async fn cancel_all(&self, one: &Submitted) -> Result<(), Problem> {
        for run in one.runs() {
            self.cancel(&run).await?;
        }
        one.stop().cancel();
        Ok(())
    }

    /// The runs that an earlier service began and left, and that nobody paused or cancelled.
    pub async fn left(&self) -> anyhow::Result<Vec<RunManifest>> {
        let (manifests, _) = archive::manifests(&*self.ground.patient).await?;
        let parts = archive::parts(&*self.ground.patient, None).await?;
        let mut left = Vec::new();
        for manifest in manifests.into_iter().filter(is_by_service) {
            let done = parts.get(&manifest.run).map_or(0, |parts| parts.len() as u64);
            if done < manifest.jobs && self.is_wanted(&manifest.run).await? {
                left.push(manifest);
            }
        }
        Ok(left)
    }

    /// Writes captions and chapters of the videos of finished runs whose dispatcher has left before it had.
    ///
    /// # Errors
    /// When the archive cannot be listed.
    pub async fn write_owed_tracks(&self) -> anyhow::Result<()> {
        let archive = &*self.ground.patient;
        let (mut films, _) = archive::manifests(archive).await?;
        let parts = archive::parts(archive, None).await?;
        let done = |run: &RunId| parts.get(run).map_or(0, |parts| parts.len() as u64);
        films.retain(|manifest| manifest.sample.is_some() && done(&manifest.run) >= manifest.jobs);
        for manifest in tracks::owed(archive, &films).await? {
            let written = tokio::select! {
                written = tracks::write(archive, manifest, false) => written,
                () = self.stop.cancelled() => break,
            };
            if let Err(error) = written {
                let run = &manifest.run;
                tracing::warn!(%run, error = %format!("{error:#}"), "captions of its videos cannot be written");
            }
        }
        Ok(())
    }

    /// Goes on with runs that were left, as places become free.
    pub async fn take_up(self: &Arc<Self>, left: Vec<RunManifest>) {
        for manifest in left {
            let run = manifest.run.clone();
            loop {
                let freed = self.freed.notified();
                if self.submitted().values().filter(|one| one.is_open()).count() < TAKEN_UP {
                    break;
                }
                tokio::select! {
                    () = freed => {}
                    () = self.stop.cancelled() => return,
                }
            }
            let taken = match self.is_wanted(&run).await {
                Ok(false) => continue,
                Ok(true) => self.submit(Order::Continue { manifest }),
                Err(error) => Err(error.into()),
            };
            if let Err(problem) = taken {
                tracing::warn!(%run, error = %anyhow::Error::from(problem), "the run is left for now");
            }
        }
    }

    async fn is_wanted(&self, run: &RunId) -> Result<bool, ArchiveError> {
        let marks = super::progress::marks(&*self.ground.patient, run).await?;
        Ok(!marks.cancelled && !marks.paused)
    }

    /// Waits until everything has stopped, after the token given to [`Self::new`] was cancelled.
    pub async fn ended(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }

    async fn work(&self, order: Order, one: &Arc<Submitted>) -> anyhow::Result<()> {
        let ground = &self.ground;
        let planning = tokio::select! {
            planning = self.planning.lock() => planning,
            () = one.stop().cancelled() => return Ok(()),
        };
        let settings = order.settings(ground);
        let mut prepared = tokio::select! {
            prepared = order.prepared(ground, &settings) => prepared?,
            () = one.stop().cancelled() => return Ok(()),
        };
        self.leave_to_others(&mut prepared.plan, one).await;
        // What was said against the run that the order names was taken back with it; since then it may have been cancelled.
        let found = prepared.plan.continued.iter().map(|run| &run.manifest.run);
        for run in found.filter(|run| Some(*run) != order.run()) {
            submission::wanted_again(&*ground.patient, run).await?;
        }
        let way = Way {
            detach: false,
            by_service: true,
            display: Display::Quiet,
            stop: one.stop().clone(),
            metrics: self.metrics.clone(),
            readiness: self.readiness.clone(),
            gate: one.gate().clone(),
            watcher: one.clone(),
        };
        let mut fleet = ground.fleet.shared();
        let sources = order.sources();
        let mut submission =
            Submission { settings: &settings, sources, way: &way, fleet: &mut fleet, prepared };
        let mut report = submission.report();
        one.planned(&submission.prepared.plan);
        if submission.prepared.plan.is_empty() {
            drop(planning);
            submission.track_writer().write_owed(&submission.prepared.films).await;
            return Ok(());
        }
        let Some(runs) = submission.begin().await? else { return Ok(()) };
        drop(planning);
        one.begun();
        submission.execute(runs, &mut report).await?;
        one.reported(&report);
        Ok(())
    }

    /// Takes out of a plan the runs that another submission is at: who pauses or cancels a run must hold all of its jobs.
    async fn leave_to_others(&self, plan: &mut Plan, one: &Submitted) {
        let mut ours = Vec::with_capacity(plan.continued.len());
        for run in plan.continued.drain(..) {
            match self.working_on(&run.manifest.run) {
                Some(same) if std::ptr::eq(Arc::as_ptr(&same), one) => ours.push(run),
                Some(other) if !other.stop().is_cancelled() => {
                    one.remark(&format!(
                        "run {} has items of these sources and is being worked on by submission {}",
                        run.manifest.run, other.id
                    ));
                }
                // It was cancelled a moment ago; who asks for its items again wants them.
                Some(other) => {
                    other.ended().await;
                    ours.push(run);
                }
                None => ours.push(run),
            }
        }
        plan.continued = ours;
    }

    fn submitted(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Arc<Submitted>>> {
        self.submitted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A plan of nothing but the jobs that a run still owes.
async fn owed(ground: &Ground, manifest: &RunManifest) -> anyhow::Result<Option<ContinuedRun>> {
    let parts = archive::parts(&*ground.patient, Some(&manifest.run)).await?;
    let done: HashSet<_> = parts.into_values().flatten().map(|(job, _)| job).collect();
    if done.len() as u64 >= manifest.jobs {
        return Ok(None);
    }
    let mut jobs = history::unfinished_jobs(&*ground.patient, manifest, &done).await?;
    let held = Marks::load(&*ground.patient).await?.sift(&manifest.run, &mut jobs);
    anyhow::ensure!(
        held == 0 || !jobs.is_empty(),
        "run {} owes nothing but jobs with forgotten items, which wait until forgetting them has ended; if it was interrupted, \
         call it again",
        manifest.run
    );
    Ok((!jobs.is_empty()).then(|| ContinuedRun { manifest: manifest.clone(), jobs }))
}

fn nothing() -> Plan {
    Plan {
        listed: 0,
        duplicates: 0,
        already_done: 0,
        already_failed: 0,
        continued: Vec::new(),
        left_alone: Vec::new(),
        new_run: None,
    }
}

fn prepared(
    ground: &Ground,
    settings: &crate::config::settings::WorkSettings,
    plan: Plan,
    now: Timestamp,
) -> Prepared {
    let wish = settings.wish.clone();
    let (archive, films) = (ground.patient.clone(), Vec::new());
    Prepared { archive, wish, plan, model: None, shape: None, films, now }
}
