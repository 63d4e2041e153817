//! One submission from its plan to its last row: copy, write down, publish, follow, report.

mod track_writer;

pub use track_writer::TrackWriter;

use crate::config::settings::WorkSettings;
use crate::exchange::new_id;
use crate::fleet::Fleet;
use crate::ledger::{Book, Followed, Follower, Observed, Tally, Watched, Watcher};
use crate::output::counted;
use crate::planned_job::PlannedJob;
use crate::prepare::Prepared;
use crate::progress::{Display, Progress};
use crate::publish::{self, Destination, Gate, publish};
use crate::report::Report;
use crate::submission::{self, About};
use crate::telemetry::Metrics;
use crate::{adapter, archive, memory, staging};
use captionfleet_proto::broker::QueueName;
use captionfleet_proto::broker::lanes::lane_for_run;
use captionfleet_proto::job::JobId;
use captionfleet_proto::layout;
use captionfleet_proto::manifest::RunManifest;
use captionfleet_proto::rows::{EmbeddingShape, USUAL_SHAPE};
use captionfleet_worker::telemetry::readiness::Readiness;
use captionfleet_worker::telemetry::spans::{self, KeyValue};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

/// Jobs that a remark names; the report has them all.
const NAMED: usize = 10;

/// How a submission is done.
pub struct Way {
    /// Publish and leave.
    pub detach: bool,
    /// The run belongs to a service, which goes on with it when it is started again.
    pub by_service: bool,
    /// What the user sees meanwhile.
    pub display: Display,
    /// Cancelled when the user wants to stop.
    pub stop: CancellationToken,
    /// What is counted.
    pub metrics: Metrics,
    /// Whether the broker can be used: the condition `broker`.
    pub readiness: Arc<Readiness>,
    /// How many jobs are handed out at a time.
    pub gate: Arc<Gate>,
    /// Who hears of jobs as they settle.
    pub watcher: Arc<dyn Watcher>,
}

/// Counts and tells what happens to jobs on their way to the broker.
struct Publishing<'a> {
    way: &'a Way,
    queue: &'a QueueName,
    returned: Mutex<Vec<JobId>>,
    confirmed: AtomicU64,
    bytes: AtomicU64,
    /// Wall time until the last confirm, once there is one.
    seconds: OnceLock<f64>,
}

impl Publishing<'_> {
    /// Says how it went.
    fn tell(&self, report: &mut Report) {
        report.returned_jobs.clone_from(&self.returned.lock().unwrap_or_else(PoisonError::into_inner));
        report.published_jobs = self.confirmed.load(Ordering::Relaxed);
        report.published_bytes = self.bytes.load(Ordering::Relaxed);
        report.publishing_seconds = self.seconds.get().copied();
    }
}

impl publish::Observer for Publishing<'_> {
    fn confirmed(&self, bytes: usize) {
        self.confirmed.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        self.way.metrics.job_published();
    }

    fn returned(&self, jobs: &[JobId]) {
        self.way.metrics.jobs_returned(jobs.len());
        let ids: Vec<&str> = jobs.iter().take(NAMED).map(JobId::as_str).collect();
        let more = if jobs.len() > NAMED { ", …" } else { "" };
        self.way.display.remark(format!(
            "{} returned as unroutable, someone removed queue {}; it is declared again and they are published again: \
             {}{more}",
            counted(jobs.len() as u64, "job"),
            self.queue,
            ids.join(", ")
        ));
        self.returned.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(jobs);
    }
}

/// The runs of a submission with the jobs that workers must do.
pub type Begun = Vec<(RunManifest, Vec<PlannedJob>)>;

/// One submission, planned and ready to be done.
pub struct Submission<'a> {
    /// What was asked for.
    pub settings: &'a WorkSettings,
    /// The sources as the run's manifest shall name them.
    pub sources: Vec<String>,
    /// How it is done.
    pub way: &'a Way,
    /// Where its jobs go.
    pub fleet: &'a mut Fleet,
    /// What is to be done.
    pub prepared: Prepared,
}

impl<'a> Submission<'a> {
    /// A report in which nothing has happened yet.
    pub fn report(&self) -> Report {
        let location = self.settings.archive.to_string();
        let parts = format!("{}/{}", location.trim_end_matches('/'), layout::parts_prefix(None));
        Report::new(location, parts, &self.prepared.plan)
    }

    /// Makes its runs part of the archive: from here on they can be continued by anyone. `None` if it was stopped before
    /// that.
    pub async fn begin(&mut self) -> anyhow::Result<Option<Begun>> {
        self.announce();
        let span = |name: &'static str| tracing::info_span!(target: spans::TARGET, "begin", step = name);
        if self.settings.fleet.is_remote() {
            let stop = &self.way.stop;
            // Copying may take hours. What was copied is named by its content and is found by the next one.
            let staged = tokio::select! {
                staged = self.stage().instrument(span("copy")) => staged,
                () = stop.cancelled() => return Ok(None),
            };
            staged?;
        }
        self.write_down().instrument(span("write down")).await.map(Some)
    }

    fn announce(&self) {
        let (plan, display) = (&self.prepared.plan, self.way.display);
        for run in &plan.continued {
            let jobs = counted(run.jobs.len() as u64, "job");
            display.remark(format!("continuing run {} with {jobs} that it still owes", run.manifest.run));
        }
        if !plan.left_alone.is_empty() {
            let runs = counted(plan.left_alone.len() as u64, "earlier run");
            display.remark(format!("{runs} of other sources unfinished; `dispatcher status` lists them"));
        }
        let (items, jobs) = (counted(plan.items(), "item"), counted(plan.jobs(), "job"));
        let done = match plan.already_done + plan.already_failed {
            0 => String::new(),
            done => format!(", {done} done before"),
        };
        display.remark(format!("{items} in {jobs}{done}"));
    }

    /// Copies local pictures to where the fleet can read them.
    async fn stage(&mut self) -> anyhow::Result<()> {
        if let Some(wanted) = &mut self.prepared.wish.adapter {
            *wanted = adapter::stage(&*self.prepared.archive, &self.settings.archive, wanted).await?;
        }
        let plan = &mut self.prepared.plan;
        let continued = plan.continued.iter_mut().flat_map(|run| &mut run.jobs);
        let jobs = continued.chain(plan.new_run.iter_mut().flat_map(|run| &mut run.jobs)).collect();
        let staged = {
            let _busy = self.way.display.busy("copying pictures into the archive");
            staging::stage(&*self.prepared.archive, &self.settings.archive, jobs).await?
        };
        if staged.sent > 0 {
            let pictures = counted(staged.sent, "picture");
            self.way.display.remark(format!("copied {pictures} into the archive for the workers"));
        }
        Ok(())
    }

    /// Writes the new run into the archive; the runs with the jobs that workers must do.
    async fn write_down(&mut self) -> anyhow::Result<Begun> {
        let continued = std::mem::take(&mut self.prepared.plan.continued);
        let mut runs: Vec<_> = continued.into_iter().map(|run| (run.manifest, run.jobs)).collect();
        let Prepared { archive, wish, plan, now, .. } = &self.prepared;
        if let Some(run) = &plan.new_run {
            let about = About {
                sources: self.sources.clone(),
                created_at: *now,
                job_size: self.settings.job_size as u64,
                already_done: plan.already_done,
                thumbnails: self.settings.thumbnails,
                by_service: self.way.by_service,
            };
            let manifest = submission::manifest(run, wish, &about);
            publish::check(&self.settings.archive, &manifest, &run.jobs)?;
            submission::write(&**archive, run, &manifest).await?;
            let shape = if run.refused.is_empty() { USUAL_SHAPE } else { self.shape().await };
            for refused in &run.refused {
                submission::write_refused(&**archive, &manifest, refused, shape).await?;
            }
            let jobs = self.prepared.plan.new_run.as_mut().map(|run| std::mem::take(&mut run.jobs));
            runs.push((manifest, jobs.unwrap_or_default()));
        }
        Ok(runs)
    }

    /// The shape that the fleet's embeddings have, as far as it can be known here.
    async fn shape(&self) -> EmbeddingShape {
        if let Some(shape) = self.prepared.shape {
            return shape;
        }
        archive::shape(&*self.prepared.archive).await
    }

    /// Does what was begun, and tells `report` what it came to. Closes nothing. Tracks that others owe are written meanwhile.
    pub async fn execute(&mut self, runs: Begun, report: &mut Report) -> anyhow::Result<()> {
        let (writer, films) = (self.track_writer(), std::mem::take(&mut self.prepared.films));
        let owed = async { anyhow::Ok(writer.write_owed(&films).await) };
        let (owed, ()) = tokio::try_join!(owed, self.publish_and_follow(runs, report))?;
        report.tracks.splice(0..0, owed);
        Ok(())
    }

    /// Writes tracks for this submission.
    pub fn track_writer(&self) -> TrackWriter<'a> {
        let archive = self.prepared.archive.clone();
        TrackWriter { archive, location: self.settings.archive.to_string(), way: self.way }
    }

    /// Where outcomes are heard of, if somebody waits for them.
    async fn mailbox(&self, runs: &[(RunManifest, Vec<PlannedJob>)]) -> anyhow::Result<Option<QueueName>> {
        let (false, Some((manifest, _))) = (self.way.detach, runs.last()) else { return Ok(None) };
        // Of this submission alone: whoever shared it would take the other's outcomes.
        let name = format!("run-{}-{}", manifest.run, new_id()?);
        Ok(Some(self.fleet.broker.open_mailbox(&name).await?))
    }

    /// Jobs are let go of as the broker confirms them: what they hold is in the archive.
    async fn publish_and_follow(&mut self, runs: Begun, report: &mut Report) -> anyhow::Result<()> {
        let started = Instant::now();
        if let Some((manifest, _)) = runs.last() {
            spans::note(|| [KeyValue::new("run.id", manifest.run.to_string())]);
        }
        let broker = self.fleet.broker.clone();
        let mailbox = self.mailbox(&runs).await?;
        let destination = Destination {
            broker: &*broker,
            queue: lane_for_run(&*broker, &self.fleet.topology).await,
            reply_to: mailbox.clone(),
            archive: self.settings.archive.clone(),
        };
        let observer = Publishing {
            way: self.way,
            queue: &destination.queue,
            returned: Mutex::default(),
            confirmed: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            seconds: OnceLock::new(),
        };
        let mut book = Book::default();
        let mut refused = self.refused();
        let mut weight = refused.rows();
        for (manifest, jobs) in &runs {
            for job in jobs {
                book.expect(&manifest.run, job);
                weight += job.weight();
            }
        }
        let (manifests, jobs): (Vec<_>, Vec<_>) = runs.into_iter().unzip();
        let publishing = async {
            let begun = Instant::now();
            for (manifest, jobs) in manifests.iter().zip(jobs) {
                publish(&destination, manifest, jobs, &self.way.gate, &observer).await?;
            }
            // Set once: this is the only place.
            let _ = observer.seconds.set(begun.elapsed().as_secs_f64());
            memory::hand_back();
            Ok(())
        };
        let Some(mailbox) = mailbox else {
            report.open_jobs = book.open_jobs() as u64;
            self.leave(publishing, report).await?;
            observer.tell(report);
            return Ok(());
        };
        let watched = Watched {
            broker: &*broker,
            queue: &destination.queue,
            rests: self.fleet.topology.rests_beside(&destination.queue),
            archive: &*self.prepared.archive,
            runs: manifests.iter().map(|manifest| manifest.run.clone()).collect(),
        };
        let mut progress = Progress::new(self.way.display, "captioning", weight);
        progress.advance(refused.rows(), refused.failed_total());
        let observed = Observed {
            metrics: self.way.metrics.clone(),
            readiness: self.way.readiness.clone(),
            watcher: self.way.watcher.clone(),
        };
        let mut follower = Follower::new(watched, book, progress, observed);
        let mut outcomes = Follower::subscribe(&*broker, &mailbox).await?;
        let stop = &self.way.stop;
        let mut followed = follower.follow(&mut *outcomes, publishing, self.fleet.worker_gone(), stop).await;
        while matches!(followed, Ok(Followed::Lost)) {
            let lost = follower.book().open_keys();
            let again = publish::again(&destination, &*self.prepared.archive, &manifests, &lost, &observer);
            followed = follower.follow(&mut *outcomes, again, self.fleet.worker_gone(), stop).await;
        }
        follower.progress().finish();
        if !self.way.by_service {
            self.way.metrics.queue_left(&destination.queue);
        }
        drop(outcomes);
        if let Err(error) = broker.close_mailbox(&mailbox).await {
            tracing::debug!(%error, "the mailbox stays until it expires");
        }
        report.interrupted = followed? == Followed::Interrupted;
        if report.interrupted {
            // What the worker still finishes counts.
            self.fleet.drain_worker().await?;
            follower.look_for_parts().await;
        }
        observer.tell(report);
        let book = follower.book();
        refused.add(book.tally());
        report.rows = refused;
        report.dead_jobs = book.dead();
        report.open_jobs = book.open_jobs() as u64;
        report.complete = report.open_jobs == 0 && report.dead_jobs.is_empty();
        report.seconds = started.elapsed().as_secs_f64();
        report.items_per_second = report.rows.rows() as f64 / report.seconds.max(1e-9);
        if !report.interrupted {
            report.tracks = self.track_writer().write(&manifests).await;
        }
        Ok(())
    }

    /// The rows that were written here.
    fn refused(&self) -> Tally {
        let mut tally = Tally::default();
        for refused in self.prepared.plan.new_run.iter().flat_map(|run| &run.refused) {
            for reason in &refused.reasons {
                *tally.failed.entry(reason.code.to_owned()).or_default() += 1;
            }
        }
        tally
    }

    /// Publishes and leaves the rest to the fleet.
    async fn leave(
        &self,
        publishing: impl Future<Output = anyhow::Result<()>>,
        report: &mut Report,
    ) -> anyhow::Result<()> {
        tokio::select! {
            published = publishing => published?,
            () = self.way.stop.cancelled() => report.interrupted = true,
        }
        report.detached = true;
        report.complete = report.open_jobs == 0;
        report.rows = self.refused();
        if !report.interrupted {
            self.way
                .display
                .remark("published; `dispatcher status` shows how far it is, `dispatcher verify` proves it");
        }
        Ok(())
    }
}
