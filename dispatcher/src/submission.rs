//! Writing down a run before its first job is published: the items table first, the manifest last, so that a run either
//! is in the archive whole or not at all.

use crate::plan::{NewRun, RefusedJob};
use crate::wish::Wish;
use anyhow::Context as _;
use captionfleet_proto::codec;
use captionfleet_proto::job::{JobId, JobItem, RunId, VERSION};
use captionfleet_proto::layout;
use captionfleet_proto::manifest::{PlannedItem, RunManifest, write_items};
use captionfleet_proto::rows::{EmbeddingShape, Row, Status, write_part};
use captionfleet_proto::storage::{PutMode, Storage, StorageError};
use captionfleet_worker::telemetry::spans;
use jiff::Timestamp;

/// Items in one file of the items table.
const ITEMS_PER_FILE: usize = 100_000;
/// Sources that a manifest names; a shell may have expanded a pattern into more than anyone reads.
const MOST_SOURCES: usize = 100;

/// What a manifest says beside the plan.
#[derive(Debug, Clone)]
pub struct About {
    /// The sources as given.
    pub sources: Vec<String>,
    /// Now.
    pub created_at: Timestamp,
    /// Most items per job.
    pub job_size: u64,
    /// Items that were left out because they are done.
    pub already_done: u64,
    /// Whether frames of videos are kept as small pictures.
    pub thumbnails: bool,
    /// Whether a service goes on with it when it is started again.
    pub by_service: bool,
}

impl Default for About {
    fn default() -> Self {
        Self {
            sources: Vec::new(),
            created_at: Timestamp::UNIX_EPOCH,
            job_size: 0,
            already_done: 0,
            thumbnails: false,
            by_service: false,
        }
    }
}

/// The field of a manifest that says that a service publishes the run.
const BY_SERVICE: &str = "by_service";

/// Whether a service publishes the run, and goes on with it when it is started again.
pub fn is_by_service(manifest: &RunManifest) -> bool {
    manifest.extra.get(BY_SERVICE).is_some_and(|value| value == true)
}

/// The manifest of a new run.
pub fn manifest(run: &NewRun, wish: &Wish, about: &About) -> RunManifest {
    let items = run.items();
    let mut source: Vec<_> = about.sources.iter().take(MOST_SOURCES).cloned().collect();
    if about.sources.len() > MOST_SOURCES {
        source.push(format!("… and {} more", about.sources.len() - MOST_SOURCES));
    }
    let mut extra = serde_json::Map::new();
    if about.by_service {
        extra.insert(BY_SERVICE.to_owned(), true.into());
    }
    RunManifest {
        version: VERSION.to_owned(),
        run: run.run.clone(),
        created_at: about.created_at,
        source,
        prompt: wish.prompt.clone(),
        prompt_hash: wish.prompt_hash(),
        max_tokens: wish.max_tokens,
        adapter: wish.adapter.clone(),
        embed: wish.embed,
        bundle: wish.bundle.clone(),
        sample: run.has_videos().then_some(wish.sample),
        thumbnails: (run.has_videos() && about.thumbnails).then_some(true),
        items,
        jobs: run.all_jobs().count() as u64,
        job_size: about.job_size,
        item_files: (items as usize).div_ceil(ITEMS_PER_FILE) as u32,
        already_done: about.already_done,
        captionfleet: env!("CARGO_PKG_VERSION").to_owned(),
        extra,
    }
}

/// Writes items and manifest.
pub async fn write(archive: &dyn Storage, run: &NewRun, manifest: &RunManifest) -> anyhow::Result<()> {
    let bytes = codec::encode_manifest(manifest)
        .context("the run's manifest is too large: ask fewer or shorter questions in one run")?;
    let mut items = run
        .all_jobs()
        .flat_map(|job| job.items.iter().map(|item| (item.clone(), job.id.clone())))
        .zip(0..)
        .map(|((item, job), ordinal)| PlannedItem { item, job, ordinal });
    for number in 0..manifest.item_files {
        // One file's worth at a time: a run of millions is not in memory twice.
        let file: Vec<PlannedItem> = items.by_ref().take(ITEMS_PER_FILE).collect();
        let bytes = write_items(&file).context("write the run's items")?;
        archive.put(&layout::run_items(&run.run, number), bytes, PutMode::Overwrite).await?;
    }
    archive.put(&layout::run_manifest(&run.run), bytes, PutMode::Overwrite).await?;
    Ok(())
}

/// Takes back that a run was cancelled or paused: who asks for a run again wants it, whatever was said before.
pub async fn wanted_again(archive: &dyn Storage, run: &RunId) -> Result<(), StorageError> {
    archive.delete(&layout::run_paused(run)).await?;
    archive.delete(&layout::run_cancelled(run)).await
}

/// Writes the rows of items that could not even be read here, where no worker could do better.
pub async fn write_refused(
    archive: &dyn Storage,
    manifest: &RunManifest,
    refused: &RefusedJob,
    shape: EmbeddingShape,
) -> anyhow::Result<()> {
    let job = &refused.job;
    let rows: Vec<Row> = job
        .items
        .iter()
        .zip(&refused.reasons)
        .map(|(item, reason)| {
            unseen_row(manifest, item, &job.id, (Status::Failed, reason.code, &reason.message))
        })
        .collect();
    let bytes = write_part(&rows, shape).context("write the rows of unreadable items")?;
    archive.put(&layout::part(&manifest.run, &job.id), bytes, PutMode::IfAbsent).await?;
    Ok(())
}

/// The row of an item that no worker has looked at: its status, its code, and the same for people.
pub(crate) fn unseen_row(
    manifest: &RunManifest,
    item: &JobItem,
    job: &JobId,
    (status, code, message): (Status, &str, &str),
) -> Row {
    Row {
        item: item.uri.clone(),
        frame_ms: item.frame_ms,
        span_ms: item.span_ms,
        frames: item.sample.map(|_| 0),
        sha256: None,
        etag: None,
        width: None,
        height: None,
        status,
        error_code: Some(code.to_owned()),
        error_message: Some(message.to_owned()),
        attempts: 1,
        caption: None,
        answers: None,
        fields: None,
        tokens: None,
        mean_logprob: None,
        stop_reason: None,
        embedding: None,
        embedding_space: None,
        bundle: manifest.bundle.clone(),
        adapter: manifest.adapter.as_ref().map(|adapter| adapter.sha256.clone()),
        prompt_hash: manifest.prompt_hash_of(item),
        duplicate_of: None,
        run: manifest.run.clone(),
        job: job.clone(),
        trace_id: spans::trace_id().unwrap_or_else(|| manifest.run.to_string()),
        worker: None,
        device_seconds: None,
        device_joules: None,
        started_at: None,
        finished_at: Timestamp::now(),
    }
}
