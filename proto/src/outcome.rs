//! What became of a job: one small message per finished job, and the question whether a failure may pass.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::job::{JobId, RunId};

/// Sent when a job has settled, to the mailbox named in the job's `reply_to` and to the results queue.
///
/// It is a notice, not the record: the rows in [`part`](Self::part) are the truth, and an outcome may be lost or
/// arrive twice.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct JobOutcome {
    /// Version of the contract, `MAJOR.MINOR`.
    pub version: String,
    /// The job that settled.
    pub job: JobId,
    /// The run it belongs to.
    pub run: RunId,
    /// Key of the part inside the archive, e.g. `parts/RUN/JOB.parquet`; absent if none was written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub part: Option<String>,
    /// Number of rows with status `ok`.
    pub ok: u64,
    /// Number of rows with status `failed`, by error code.
    #[serde(default)]
    pub failed: BTreeMap<String, u64>,
    /// Number of rows with status `skipped`.
    #[serde(default)]
    pub skipped: u64,
    /// Frames of videos that were looked at; absent if the job had none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frames: Option<FrameCounts>,
    /// How often the job was tried, this time included.
    pub attempts: u32,
    /// Name of the worker that settled it.
    pub worker: String,
    /// Wall time from delivery to settlement.
    pub seconds: f64,
    /// The rows' share of the device's time, in seconds; absent if nothing was computed for them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device_seconds: Option<f64>,
    /// Energy that the device used in that time, in joules; absent if nothing measured it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device_joules: Option<f64>,
    /// The part existed already, so that nothing was inferred this time.
    #[serde(default)]
    pub already_done: bool,
    /// Why the job as a whole was given up (it lies in the dead-letter queue then); absent otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Fields of later minor versions, kept as they came.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// What became of the frames of videos that were looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FrameCounts {
    /// Frames that the sampling chose.
    pub seen: u64,
    /// Those that have a row; the others were near-identical to one that has.
    pub kept: u64,
}

impl FrameCounts {
    /// The count of rows, each given by the number of frames that it stands for; `None` if none is a frame's.
    pub fn of(frames: impl Iterator<Item = Option<u32>>) -> Option<Self> {
        let add = |counts: Option<Self>, frames: u32| {
            let Self { seen, kept } = counts.unwrap_or_default();
            Some(Self { seen: seen + u64::from(frames), kept: kept + u64::from(frames > 0) })
        };
        frames.flatten().fold(None, add)
    }

    /// Frames that were near-identical to a kept one.
    pub fn dropped(&self) -> u64 {
        self.seen.saturating_sub(self.kept)
    }
}

/// The code of a job that was dropped because its run was cancelled.
pub const CANCELLED: &str = "cancelled";

impl JobOutcome {
    /// Whether the job was dropped because its run was cancelled.
    pub fn is_cancelled(&self) -> bool {
        let code = self.error.as_deref().and_then(|error| error.split(':').next());
        code == Some(CANCELLED)
    }

    /// Number of rows with status `failed`, all codes together.
    pub fn failed_total(&self) -> u64 {
        self.failed.values().sum()
    }

    /// Number of rows in the part.
    pub fn rows(&self) -> u64 {
        self.ok + self.failed_total() + self.skipped
    }
}

/// Whether trying a failed job again can help.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FailureClass {
    /// The cause may pass (network, throttling, a full disk): try again after a delay.
    Retry,
    /// Another worker may well be able to do it: let it pass by, without counting an attempt.
    PassOn,
    /// What no worker can do without is away, which is no fault of the job: let it rest, without counting an attempt.
    Wait,
    /// The cause lies in the job itself: keep it for a human.
    DeadLetter,
}
