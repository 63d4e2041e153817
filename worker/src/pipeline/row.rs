//! What an item's terminal record says.

use captionfleet_proto::job::JobItem;
use captionfleet_proto::rows::{EmbeddingShape, Row, Status, USUAL_SHAPE};
use jiff::Timestamp;

use super::Pipeline;
use super::answers::{Asked, Told, told};
use super::fetch::Facts;
use super::task::Received;
use super::timeline::{Line, What};
use crate::engine::CaptionResult;
use crate::telemetry::events;

/// Error messages may quote hostile input; rows keep the beginning.
pub(super) const MAX_MESSAGE_CHARS: usize = 2000;

impl Pipeline {
    /// How embeddings are arranged in parts of this worker.
    pub(super) fn embedding_shape(&self) -> EmbeddingShape {
        self.engine
            .info()
            .embedding_shape
            .map_or(USUAL_SHAPE, |(vectors, dim)| EmbeddingShape { vectors: vectors as u32, dim: dim as u32 })
    }

    pub(super) fn ok_row(
        &self,
        task: &Received,
        item: &JobItem,
        facts: Facts,
        answer: CaptionResult,
        asked: &[Asked],
    ) -> Row {
        let Told { caption, answers, fields } = told(asked, &answer);
        let embedded = answer.embedding.is_some();
        let joules = self.energy.as_ref().and_then(|meter| meter.joules_of(&answer.device));
        Row {
            status: Status::Ok,
            caption: Some(caption),
            answers,
            fields,
            tokens: Some(answer.tokens),
            mean_logprob: Some(answer.mean_logprob),
            stop_reason: Some(answer.stop_reason.as_str().to_owned()),
            device_seconds: Some(answer.device.seconds() as f32),
            device_joules: joules.map(|joules| joules as f32),
            embedding: answer.embedding,
            embedding_space: self.engine.info().embedding_space.clone().filter(|_| embedded),
            ..self.blank_row(task, item, facts)
        }
    }

    pub(super) fn failed_row(
        &self,
        task: &Received,
        item: &JobItem,
        facts: Facts,
        code: &str,
        message: String,
    ) -> Row {
        let message = if message.chars().count() > MAX_MESSAGE_CHARS {
            message.chars().take(MAX_MESSAGE_CHARS).collect()
        } else {
            message
        };
        Row {
            status: Status::Failed,
            error_code: Some(code.to_owned()),
            error_message: Some(message),
            ..self.blank_row(task, item, facts)
        }
    }

    /// The row of a frame, or of a part of a segment without one.
    pub(super) fn line_row(
        &self,
        task: &Received,
        item: &JobItem,
        facts: &Facts,
        line: Line,
        asked: &[Asked],
    ) -> Row {
        let place = JobItem { frame_ms: Some(line.ms), span_ms: line.span_ms, ..item.clone() };
        let row = match line.what {
            What::Captioned(answer) => self.ok_row(task, &place, facts.clone(), *answer, asked),
            What::Failed { code, message } => {
                events::item_failed(&task.id, item.uri.as_str(), code, &message);
                self.failed_row(task, &place, facts.clone(), code, message)
            }
            What::Nothing => {
                let message = "the video shows nothing yet".to_owned();
                let row = self.failed_row(task, &place, facts.clone(), "no_frames", message);
                Row { status: Status::Skipped, ..row }
            }
        };
        Row { frames: Some(line.frames), ..row }
    }

    fn blank_row(&self, task: &Received, item: &JobItem, facts: Facts) -> Row {
        Row {
            item: item.uri.clone(),
            frame_ms: item.frame_ms,
            span_ms: item.span_ms,
            // A row for a whole segment stands for no frame that anyone saw.
            frames: item.sample.map(|_| 0),
            sha256: facts.sha256,
            etag: facts.etag,
            width: facts.width,
            height: facts.height,
            status: Status::Failed,
            error_code: None,
            error_message: None,
            attempts: task.attempts,
            caption: None,
            answers: None,
            fields: None,
            tokens: None,
            mean_logprob: None,
            stop_reason: None,
            embedding: None,
            embedding_space: None,
            bundle: Some(self.engine.info().bundle.clone()),
            adapter: task.caption.adapter.as_ref().map(|adapter| adapter.sha256.clone()),
            prompt_hash: task.caption.prompt_hash_of(item),
            duplicate_of: None,
            run: task.run.clone(),
            job: task.id.clone(),
            trace_id: task.trace_id.clone(),
            worker: Some(self.options.worker_name.clone()),
            device_seconds: None,
            device_joules: None,
            started_at: Some(task.started_at),
            finished_at: Timestamp::now(),
        }
    }
}
