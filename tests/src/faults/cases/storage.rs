//! An S3 server that fails, stalls, cuts off and forgets; a disk that is full.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::Context;
use captionfleet_proto::uri::ArchiveUri;
use captionfleet_world::film::ffmpeg;
use hyper::Method;
use tokio::process::Command;

use super::{Figures, Scale};
use crate::faults::{Corpus, Expected, Fault, Rule, S3Front, Scenario, wait_for};
use crate::fleet::Endpoints;

const LIMIT: Duration = Duration::from_secs(600);

async fn behind_front(
    case: &str,
    scale: Scale,
    items: usize,
) -> anyhow::Result<(Scenario, S3Front, Endpoints)> {
    let scenario = Scenario::new(case, Corpus::shared().await?, items).await?;
    let front = S3Front::start(scenario.fleet.s3_endpoint(), scale.seed).await?;
    let through = Endpoints { s3: front.endpoint(), ..scenario.fleet.endpoints().clone() };
    Ok((scenario, front, through))
}

/// Case 4: an item whose bytes come so slowly that it hangs, and one whose bytes never come.
pub(super) async fn hanging_item(scale: Scale) -> anyhow::Result<Figures> {
    let (scenario, front, through) = behind_front("hanging", scale, 60).await?;
    let (slow, silent) = (scenario.files[20].clone(), scenario.files[40].clone());
    let get = |fault| Rule::always(fault).method(Method::GET);
    front.set([
        get(Fault::Trickle(Duration::from_millis(400))).path(scenario.corpus.digest(&slow)?),
        get(Fault::Swallow).path(scenario.corpus.digest(&silent)?),
    ]);
    let member = scenario.worker_through(&through, "worker", &["--item-deadline", "6"])?;
    let since = Instant::now();
    scenario.finish(scenario.caption("run", &["--job-size", "20"])?, LIMIT).await?;
    let failed = BTreeMap::from([(slow, "deadline"), (silent, "deadline")]);
    scenario.judge(&Expected { failed, ..Expected::default() }).await?;
    anyhow::ensure!(member.is_ready().await, "{}", member.child.output());
    Ok(Figures::default().with("seconds", since.elapsed().as_secs()))
}

const RETRIED: &str = "captionfleet_worker_jobs_total{kind=\"caption\",outcome=\"retried\"}";

/// Case 4, the store of all items: nothing that is read comes, for longer than an item may take. That is no item's fault.
pub(super) async fn hanging_store(scale: Scale) -> anyhow::Result<Figures> {
    let (scenario, front, through) = behind_front("hanging-store", scale, 24).await?;
    // What an archive is asked about a job goes on: the items are what hangs.
    front.set([Rule::always(Fault::Swallow).method(Method::GET)]);
    let member = scenario.worker_through(&through, "worker", &["--item-deadline", "6"])?;
    let since = Instant::now();
    let run = scenario.caption("run", &["--job-size", "12"])?;
    wait_for("a job that is tried again, or rows", LIMIT, || async {
        member.metric(RETRIED).await > 0.0 || scenario.parts().await.is_ok_and(|parts| !parts.is_empty())
    })
    .await?;
    front.set([]);
    scenario.finish(run, LIMIT).await?;
    scenario.judge(&Expected::default()).await?;
    Ok(Figures::default().with("seconds", since.elapsed().as_secs()))
}

/// Case 19, the archive wholly: jobs wait for it without losing an attempt, the worker says so, and goes on by itself.
pub(super) async fn archive_away(scale: Scale) -> anyhow::Result<Figures> {
    let overloaded = [Rule::always(Fault::Answer(503, "SlowDown"))];
    let refusing = [
        // An answer to HEAD has no body that could tell the reason.
        Rule::always(Fault::Answer(403, "")).method(Method::HEAD),
        Rule::always(Fault::Answer(403, "SignatureDoesNotMatch")),
    ];
    let overloaded = without_archive(scale, &overloaded, "the server failed").await.context("overloaded")?;
    let refusing = without_archive(scale, &refusing, "credentials are refused").await.context("refusing")?;
    let seconds = |time: Duration| format!("{:.1} s", time.as_secs_f64());
    Ok(Figures::default().with("recovered", seconds(overloaded)).with("credentials", seconds(refusing)))
}

/// Time from the end of the rules, which meet every request, to the end of a run.
async fn without_archive(scale: Scale, rules: &[Rule], reason: &str) -> anyhow::Result<Duration> {
    let (scenario, front, through) = behind_front("archive-away", scale, 24).await?;
    let member = scenario.worker_through(&through, "worker", &[])?;
    member.wait_until_ready().await?;
    front.set(rules.iter().cloned());
    let run = scenario.caption("run", &["--job-size", "12"])?;
    wait_for("both jobs to be tried", LIMIT, || async { member.metric(RETRIED).await >= 3.0 }).await?;
    let told = member.readiness().await;
    anyhow::ensure!(told.contains("archive:") && told.contains(reason), "{told}");
    anyhow::ensure!(!member.is_ready().await, "{told}");
    front.set([]);
    let since = Instant::now();
    wait_for("readiness", LIMIT, || member.is_ready()).await?;
    scenario.finish(run, LIMIT).await?;
    let recovered = since.elapsed();
    scenario.judge(&Expected::default()).await?;
    let rows = scenario.rows().await?;
    anyhow::ensure!(rows.iter().all(|row| row.attempts == 1), "an attempt was counted: {rows:?}");
    Ok(recovered)
}

/// Case 19: 503 for one request in a hundred, in ten, in two; 429 as often, with a code and without. For both programs: what copies
/// the pictures and writes down the run meets them, too.
pub(super) async fn errors(scale: Scale) -> anyhow::Result<Figures> {
    let mut figures = Figures::default();
    for (name, chance) in [("at 0 %", 0.0), ("at 1 %", 0.01), ("at 10 %", 0.1), ("at 50 %", 0.5)] {
        let items = scale.pick(80, 240);
        let (scenario, front, through) = behind_front("errors", scale, items).await?;
        front.set([
            Rule::always(Fault::Answer(503, "SlowDown")).chance(chance / 4.0),
            Rule::always(Fault::Answer(500, "InternalError")).chance(chance / 4.0),
            Rule::always(Fault::Answer(429, "TooManyRequests")).chance(chance / 4.0),
            Rule::always(Fault::Answer(429, "")).chance(chance / 4.0),
        ]);
        let member = scenario.worker_through(&through, "worker", &[])?;
        member.wait_until_ready().await?;
        let since = Instant::now();
        let run = scenario.caption_through(&through, "run", &["--job-size", "16"])?;
        scenario.finish(run, LIMIT).await.with_context(|| name.to_owned())?;
        let rate = items as f64 / since.elapsed().as_secs_f64();
        scenario.judge(&Expected::default()).await.with_context(|| name.to_owned())?;
        figures = figures.with(name, format!("{rate:.1} items/s"));
    }
    Ok(figures)
}

/// Case 20: bodies that stall, trickle, are cut off; an object that changes under its name; refusals.
pub(super) async fn bodies(scale: Scale) -> anyhow::Result<Figures> {
    let (scenario, front, through) = behind_front("bodies", scale, 60).await?;
    let digest = |at: usize| scenario.corpus.digest(&scenario.files[at]);
    let get = |fault| Rule::always(fault).method(Method::GET);
    front.set([
        get(Fault::Stall).path(digest(5)?).times(1),
        get(Fault::Trickle(Duration::from_millis(1))).path(digest(10)?),
        get(Fault::Truncate).path(digest(15)?).times(2),
        get(Fault::LoseReply).path(digest(20)?).times(2),
        get(Fault::Answer(404, "NoSuchKey")).path(digest(25)?),
        get(Fault::Answer(403, "AccessDenied")).path(digest(30)?),
        get(Fault::Delay(Duration::from_secs(2))).path(digest(35)?),
        get(Fault::Damage).path(digest(40)?).times(1),
        get(Fault::Damage).path(digest(45)?),
    ]);
    let _member = scenario.worker_through(&through, "worker", &[])?;
    scenario.finish(scenario.caption("run", &["--job-size", "20"])?, LIMIT).await?;
    let failed = BTreeMap::from([
        (scenario.files[25].clone(), "not_found"),
        (scenario.files[30].clone(), "permission_denied"),
        // The same wrong bytes each time are what the store holds.
        (scenario.files[45].clone(), "corrupt"),
    ]);
    scenario.judge(&Expected { failed, ..Expected::default() }).await?;
    changed_object().await?;
    objects_without_end(scale).await?;
    Ok(Figures::default().with("faults", 11))
}

/// Objects that their store never gives, in the last of all attempts at their job: rows of their own, and their neighbours' captions.
async fn objects_without_end(scale: Scale) -> anyhow::Result<()> {
    let (scenario, front, through) = behind_front("never-given", scale, 8).await?;
    let (broken, cut) = (&scenario.files[2], &scenario.files[5]);
    let get = |fault| Rule::always(fault).method(Method::GET);
    front.set([get(Fault::Answer(500, "InternalError")).path(broken), get(Fault::Truncate).path(cut)]);
    let _member = scenario.worker_through(&through, "worker", &[])?;
    let attempts_before = scenario.topology.max_attempts() - 1;
    scenario.publish_after(attempts_before, &scenario.job("never-given", &scenario.files).await?).await?;
    scenario.wait_for_parts(1).await?;
    let failed = [broken, cut].map(|file| (file.clone(), "source_unavailable"));
    scenario.judge(&Expected { failed: BTreeMap::from(failed), ..Expected::default() }).await
}

/// An object that is another one than the job says: the row tells which bytes were captioned.
async fn changed_object() -> anyhow::Result<()> {
    let scenario = Scenario::new("changed", Corpus::shared().await?, 2).await?;
    let mut job = scenario.job("changed", &scenario.files).await?;
    let captionfleet_proto::job::JobKind::Caption(caption) = &mut job.kind else {
        anyhow::bail!("a caption job");
    };
    for item in &mut caption.items {
        item.etag = Some("0123456789abcdef0123456789abcdef".to_owned());
        item.sha256 = Some("0".repeat(64));
    }
    scenario.publish(&job).await?;
    let _member = scenario.worker("worker", &[])?;
    scenario.wait_for_parts(1).await?;
    for row in scenario.rows().await? {
        let name = crate::faults::file_name(row.item.as_str());
        let read = scenario.corpus.digest(name)?;
        anyhow::ensure!(
            row.sha256 == Some(read),
            "{name} does not tell which bytes were read: {:?}",
            row.sha256
        );
    }
    wait_for("the ack", Duration::from_secs(20), || async {
        scenario.judge(&Expected::default()).await.is_ok()
    })
    .await?;
    scenario.judge(&Expected::default()).await
}

/// Case 21: a part is written over a connection that was idle, and that the server has forgotten.
pub(super) async fn idle_connection(scale: Scale) -> anyhow::Result<Figures> {
    let scenario = Scenario::new("idle", Corpus::shared().await?, 8).await?;
    let front =
        crate::faults::Proxy::start(scenario.fleet.s3_endpoint().trim_start_matches("http://")).await?;
    let through =
        Endpoints { s3: format!("http://127.0.0.1:{}", front.port()), ..scenario.fleet.endpoints().clone() };
    let _member = scenario.worker_through(&through, "worker", &[])?;
    let (first, second) = scenario.files.split_at(4);
    scenario.publish(&scenario.job("before", first).await?).await?;
    scenario.wait_for_parts(1).await?;
    // What a load balancer does to connections without traffic: nothing passes any more, and nobody is told.
    front.forget();
    tokio::time::sleep(Duration::from_secs(scale.pick(25, 120))).await;
    let since = Instant::now();
    scenario.publish(&scenario.job("after", second).await?).await?;
    scenario.wait_for_parts(2).await?;
    let took = since.elapsed();
    anyhow::ensure!(took < Duration::from_secs(20), "the first part after the pause took {took:?}");
    wait_for("the ack", Duration::from_secs(20), || async {
        scenario.judge(&Expected::default()).await.is_ok()
    })
    .await?;
    scenario.judge(&Expected::default()).await?;
    Ok(Figures::default().with("first part after the pause", format!("{:.1} s", took.as_secs_f64())))
}

/// Case 22: the part is written and the reply is lost.
pub(super) async fn lost_reply(scale: Scale) -> anyhow::Result<Figures> {
    let (scenario, front, through) = behind_front("lost-reply", scale, 48).await?;
    front.set([Rule::always(Fault::LoseReply).method(Method::PUT).path("/parts/").chance(0.5)]);
    let _member = scenario.worker_through(&through, "worker", &[])?;
    scenario.finish(scenario.caption("run", &["--job-size", "8"])?, LIMIT).await?;
    scenario.verify().await?;
    scenario.judge(&Expected::default()).await?;
    Ok(Figures::default().with("parts", scenario.parts().await?.len()))
}

/// Case 23: the disk of a local archive is full, then that for copies of videos: not ready, nothing acked; with room
/// again the job is done.
pub(super) async fn disk_full(_: Scale) -> anyhow::Result<Figures> {
    let (archive, spool) = (archive_full().await?, spool_full().await?);
    let seconds = |time: Duration| format!("{:.1} s", time.as_secs_f64());
    Ok(Figures::default().with("archive recovered", seconds(archive)).with("spool recovered", seconds(spool)))
}

/// Time from the first free byte of the archive's disk to the ack.
async fn archive_full() -> anyhow::Result<Duration> {
    let scenario = Scenario::new("disk-full", Corpus::shared().await?, 8).await?;
    let disk = SmallDisk::mount(&scenario.fleet.folder().join("disk")).await?;
    let ballast = disk.fill()?;
    let mut job = scenario.job("full", &scenario.files).await?;
    job.archive = ArchiveUri::from_folder(disk.folder())?;
    let root = disk.folder().display().to_string();
    let mut member = scenario.worker("worker", &["--local-root", &root])?;
    member.wait_until_ready().await?;
    scenario.publish(&job).await?;
    wait_for("the worker to say so", Duration::from_secs(60), || async {
        let told = member.readiness().await;
        told.contains("archive:") && told.contains("full")
    })
    .await
    .with_context(|| member.child.output())?;
    anyhow::ensure!(!member.is_ready().await && member.child.is_running(), "{}", member.child.output());
    std::fs::remove_file(ballast)?;
    let since = Instant::now();
    let part = disk.folder().join("parts/by-hand/full.parquet");
    wait_for("the part", Duration::from_secs(120), || async { part.exists() }).await?;
    wait_for("readiness", Duration::from_secs(20), || member.is_ready()).await?;
    let rows = captionfleet_proto::rows::read_part(
        std::fs::read(&part)?.into(),
        captionfleet_proto::rows::Projection::All,
    )?;
    anyhow::ensure!(rows.len() == 8 && rows.iter().all(|row| row.error_code.is_none()), "{rows:?}");
    wait_for("the ack", Duration::from_secs(20), || async {
        member.metric("captionfleet_worker_jobs_in_flight").await == 0.0
    })
    .await?;
    let dead = scenario.drain(&scenario.topology.dead_queue()).await?;
    anyhow::ensure!(dead.is_empty(), "{dead:?}");
    let recovered = since.elapsed();
    member.child.signal("TERM");
    member.child.wait(Duration::from_secs(60)).await?;
    disk.unmount().await?;
    Ok(recovered)
}

/// Time from the first free byte of the spool's disk to the end of a run over a film in the bucket.
async fn spool_full() -> anyhow::Result<Duration> {
    let scenario = Scenario::new("spool-full", Corpus::shared().await?, 0).await?;
    let film = scenario.fleet.folder().join("film.mp4");
    // Four seconds of moving colours, smaller than the small disk.
    ffmpeg(&["-f", "lavfi", "-i", "testsrc2=duration=4:size=160x120:rate=5"], &film)?;
    let source = scenario.put_beside("films/film.mp4", std::fs::read(&film)?).await?;
    let disk = SmallDisk::mount(&scenario.fleet.folder().join("disk")).await?;
    let ballast = disk.fill()?;
    let folder = disk.folder().display().to_string();
    let mut member = scenario.worker("worker", &["--spool-dir", &folder])?;
    member.wait_until_ready().await?;
    let archive = scenario.archive();
    let mut arguments = vec!["caption".to_owned(), source, "--archive".to_owned(), archive];
    arguments.extend(scenario.fleet.service_options());
    let mut run = scenario.fleet.start_dispatcher("run", arguments)?;
    wait_for("the worker to say so", Duration::from_secs(60), || async {
        let told = member.readiness().await;
        told.contains("spool:") && told.contains("full")
    })
    .await
    .with_context(|| format!("{}\n{}", run.output(), member.child.output()))?;
    anyhow::ensure!(!member.is_ready().await && run.is_running(), "{}", member.child.output());
    // For longer than room is waited for within an attempt.
    wait_for("the job to rest", LIMIT, || async { member.metric(RETRIED).await > 0.0 }).await?;
    anyhow::ensure!(scenario.parts().await?.is_empty(), "a part of a film that nobody could read");
    std::fs::remove_file(ballast)?;
    let since = Instant::now();
    scenario.finish(run, LIMIT).await?;
    let recovered = since.elapsed();
    wait_for("readiness", Duration::from_secs(20), || member.is_ready()).await?;
    let rows = scenario.rows().await?;
    anyhow::ensure!(
        !rows.is_empty() && rows.iter().all(|row| row.error_code.is_none() && row.attempts == 1),
        "{rows:?}"
    );
    let dead = scenario.drain(&scenario.topology.dead_queue()).await?;
    anyhow::ensure!(dead.is_empty(), "{dead:?}");
    // A process that is killed lets go of its files some time after the signal: only one that has ended leaves the disk
    // free.
    member.child.signal("TERM");
    member.child.wait(Duration::from_secs(60)).await?;
    disk.unmount().await?;
    Ok(recovered)
}

/// A file system of one MiB.
struct SmallDisk {
    folder: std::path::PathBuf,
}

impl SmallDisk {
    async fn mount(folder: &std::path::Path) -> anyhow::Result<Self> {
        std::fs::create_dir_all(folder)?;
        let mut command = Command::new("mount");
        command.args(["-t", "tmpfs", "-o", "size=1m", "none"]).arg(folder);
        let outcome = command.output().await.context("mount(8) could not be run")?;
        anyhow::ensure!(
            outcome.status.success(),
            "this case needs the right to mount a small disk: {}",
            String::from_utf8_lossy(&outcome.stderr)
        );
        Ok(Self { folder: folder.to_owned() })
    }

    fn folder(&self) -> &std::path::Path {
        &self.folder
    }

    /// Writes until nothing more fits; the file to remove for room.
    fn fill(&self) -> anyhow::Result<std::path::PathBuf> {
        use std::io::Write;
        let path = self.folder.join("ballast");
        let mut file = std::fs::File::create(&path)?;
        while file.write_all(&[0; 4096]).is_ok() {}
        Ok(path)
    }

    /// # Errors
    /// When somebody still holds a file on it.
    async fn unmount(self) -> anyhow::Result<()> {
        let status = Command::new("umount").arg(&self.folder).status().await?;
        anyhow::ensure!(status.success(), "somebody still uses the small disk at {}", self.folder.display());
        Ok(())
    }
}

/// A case that failed leaves no file system mounted.
impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount")
            .arg("--lazy")
            .arg(&self.folder)
            .stderr(std::process::Stdio::null())
            .status();
    }
}
