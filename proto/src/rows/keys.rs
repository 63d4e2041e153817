//! The narrow read of resume and verify: which item ended how, without texts and vectors.

use arrow_array::RecordBatch;
use bytes::Bytes;
use jiff::Timestamp;

use super::read::{float_at, status_at};
use super::{FORGOTTEN, Status, TableError};
use crate::job::{JobId, RunId};
use crate::table::{self, Cells};
use crate::uri::ItemUri;

/// What identifies a row and its content.
#[derive(Clone, Debug, PartialEq)]
pub struct RowKey {
    /// The item's name.
    pub item: ItemUri,
    /// Time of a video's frame, in milliseconds from its start.
    pub frame_ms: Option<u64>,
    /// How long that frame stands for, in milliseconds.
    pub span_ms: Option<u64>,
    /// How many frames that were looked at it stands for.
    pub frames: Option<u32>,
    /// SHA-256 of the bytes.
    pub sha256: Option<String>,
    /// Version of the bytes that were read.
    pub etag: Option<String>,
    /// What became of the item.
    pub status: Status,
    /// Why it failed or was skipped.
    pub error_code: Option<String>,
    /// Which space the embedding lies in; present exactly when the row has one.
    pub embedding_space: Option<String>,
    /// Id of the bundle that served the job.
    pub bundle: Option<String>,
    /// What was asked.
    pub prompt_hash: String,
    /// The run.
    pub run: RunId,
    /// The job.
    pub job: JobId,
    /// The worker that made the row.
    pub worker: Option<String>,
    /// This row's share of the device's time in seconds.
    pub device_seconds: Option<f32>,
    /// Energy that the device used in that time, in joules.
    pub device_joules: Option<f32>,
    /// When that worker got the job.
    pub started_at: Option<Timestamp>,
    /// When the row was made.
    pub finished_at: Timestamp,
}

impl RowKey {
    /// Whether what was seen was removed from the archive on request.
    pub fn is_forgotten(&self) -> bool {
        self.status == Status::Skipped && self.error_code.as_deref() == Some(FORGOTTEN)
    }
}

/// Reads the keys of all rows of a part, in their order.
pub fn read_keys(bytes: Bytes) -> Result<Vec<RowKey>, TableError> {
    table::read(bytes, &COLUMNS, append, Vec::new())
}

const COLUMNS: [&str; 18] = [
    "item",
    "frame_ms",
    "span_ms",
    "frames",
    "sha256",
    "etag",
    "status",
    "error_code",
    "embedding_space",
    "bundle",
    "prompt_hash",
    "run",
    "job",
    "worker",
    "device_seconds",
    "device_joules",
    "started_at",
    "finished_at",
];

fn append(keys: &mut Vec<RowKey>, batch: &RecordBatch, before: usize) -> Result<(), TableError> {
    let cells = Cells { batch, before };
    let (item, frame_ms) = (cells.text("item")?, cells.number("frame_ms")?);
    let (span_ms, frames) = (cells.number("span_ms")?, cells.number("frames")?);
    let (sha256, etag) = (cells.text("sha256")?, cells.text("etag")?);
    let (status, error_code) = (cells.text("status")?, cells.text("error_code")?);
    let (embedding_space, bundle) = (cells.text("embedding_space")?, cells.text("bundle")?);
    let (prompt_hash, run, job) = (cells.text("prompt_hash")?, cells.text("run")?, cells.text("job")?);
    let worker = cells.text("worker")?;
    let (device_seconds, device_joules) = (cells.floats("device_seconds")?, cells.floats("device_joules")?);
    let (started_at, finished_at) = (cells.time("started_at")?, cells.time("finished_at")?);
    keys.reserve(batch.num_rows());
    for row in 0..batch.num_rows() {
        keys.push(RowKey {
            item: item.parsed(row)?,
            frame_ms: frame_ms.get(row)?,
            span_ms: span_ms.get(row)?,
            frames: frames.get(row)?,
            sha256: sha256.owned(row),
            etag: etag.owned(row),
            status: status_at(&status, row)?,
            error_code: error_code.owned(row),
            embedding_space: embedding_space.owned(row),
            bundle: bundle.owned(row),
            prompt_hash: prompt_hash.required(row)?.to_owned(),
            run: run.parsed(row)?,
            job: job.parsed(row)?,
            worker: worker.owned(row),
            device_seconds: float_at(device_seconds, row),
            device_joules: float_at(device_joules, row),
            started_at: started_at.get(row)?,
            finished_at: finished_at.required(row)?,
        });
    }
    Ok(())
}
