//! Notices: what became of a job, sent to whoever asked for it. They may be lost; the part is the truth.

use std::collections::BTreeMap;
use std::time::Instant;

use bytes::Bytes;
use captionfleet_proto::broker::{Message, QueueName};
use captionfleet_proto::codec;
use captionfleet_proto::codec::DecodeError;
use captionfleet_proto::job::{JobId, RerankReply, RerankResult, RunId, SearchReply, SearchResult, VERSION};
use captionfleet_proto::outcome::{FrameCounts, JobOutcome};
use captionfleet_proto::rows::{Row, Status};
use serde_json::{Map, Value};

use super::Pipeline;
use super::task::Received;
use crate::telemetry::{events, spans};

/// What can be read off a message even if it is no valid job.
pub(super) struct MessageFacts {
    pub(super) id: String,
    pub(super) kind: &'static str,
    job: Option<JobId>,
    run: Option<RunId>,
}

impl MessageFacts {
    pub(super) fn of(message: &Message) -> Self {
        // Over-long bodies are refused before they are read; they are not parsed for the refusal either.
        let parsed = (message.body.len() <= codec::MAX_MESSAGE_BYTES)
            .then(|| serde_json::from_slice::<Value>(&message.body).ok())
            .flatten();
        let text = |name: &str| parsed.as_ref()?.get(name)?.as_str();
        let job = text("id").or(Some(&*message.message_id)).and_then(|id| JobId::new(id).ok());
        let id = job.as_ref().map_or_else(|| message.message_id.clone(), ToString::to_string);
        let kind = match text("kind") {
            Some("caption") => "caption",
            Some("search") => "search",
            Some("rerank") => "rerank",
            _ => "unknown",
        };
        Self { id, kind, job, run: text("run").and_then(|run| RunId::new(run).ok()) }
    }
}

/// The outcome of a caption job whose part holds `rows`.
pub(super) fn outcome_of(
    task: &Received,
    rows: &[Row],
    part: String,
    worker: &str,
    already_done: bool,
) -> JobOutcome {
    let mut failed = BTreeMap::new();
    for row in rows.iter().filter(|row| row.status == Status::Failed) {
        *failed.entry(row.error_code.clone().unwrap_or_default()).or_insert(0) += 1;
    }
    let count = |status| rows.iter().filter(|row| row.status == status).count() as u64;
    JobOutcome {
        version: VERSION.to_owned(),
        job: task.id.clone(),
        run: task.run.clone(),
        part: Some(part),
        ok: count(Status::Ok),
        failed,
        skipped: count(Status::Skipped),
        frames: FrameCounts::of(rows.iter().map(|row| row.frames)),
        attempts: task.attempts,
        worker: worker.to_owned(),
        seconds: seconds_since(task.started),
        device_seconds: known_sum(rows, |row| row.device_seconds),
        device_joules: known_sum(rows, |row| row.device_joules),
        already_done,
        error: None,
        extra: Map::new(),
    }
}

fn known_sum(rows: &[Row], value: impl Fn(&Row) -> Option<f32>) -> Option<f64> {
    let known: Vec<f64> = rows.iter().filter_map(|row| value(row).map(f64::from)).collect();
    (!known.is_empty()).then(|| known.iter().sum())
}

fn seconds_since(start: Instant) -> f64 {
    start.elapsed().as_secs_f64()
}

impl Pipeline {
    /// Leaves an outcome for the job's mailbox, or for the results queue if it has none.
    pub(super) fn tell(&self, message: &Message, outcome: &JobOutcome) {
        if let Some((mailbox, notice)) = self.outcome_notice(message, outcome) {
            self.notices.leave(mailbox, notice);
        }
    }

    /// Says that a job was given up, in the form its asker expects.
    pub(super) async fn tell_dead(
        &self,
        message: &Message,
        facts: &MessageFacts,
        attempts: u32,
        code: &str,
        chain: &str,
    ) {
        let Some(job) = facts.job.clone() else { return };
        match facts.kind {
            "search" => {
                let reply = failed_reply(job.clone(), code, chain);
                return self.reply(message, &job, codec::encode_reply(&reply)).await;
            }
            "rerank" => {
                let result = RerankResult::Err { code: code.to_owned(), message: chain.to_owned() };
                let reply = RerankReply { version: VERSION.to_owned(), job: job.clone(), result };
                return self.reply(message, &job, codec::encode_rerank_reply(&reply)).await;
            }
            _ => {}
        }
        let Some(run) = facts.run.clone() else { return };
        let outcome = JobOutcome {
            version: VERSION.to_owned(),
            job,
            run,
            part: None,
            ok: 0,
            failed: BTreeMap::new(),
            skipped: 0,
            frames: None,
            attempts,
            worker: self.options.worker_name.clone(),
            seconds: 0.0,
            device_seconds: None,
            device_joules: None,
            already_done: false,
            error: Some(format!("{code}: {chain}")),
            extra: Map::new(),
        };
        // Waited for before the job is acked: no part tells of it, should the notice be lost with this process.
        if let Some((mailbox, notice)) = self.outcome_notice(message, &outcome) {
            self.notices.deliver(&mailbox, notice).await;
        }
    }

    /// The notice of an outcome, and where it goes.
    fn outcome_notice(&self, message: &Message, outcome: &JobOutcome) -> Option<(QueueName, Message)> {
        match codec::encode_outcome(outcome) {
            Ok(body) => Some(self.notice(message, outcome.job.as_str(), body)),
            Err(error) => {
                events::notice_lost(outcome.job.as_str(), &self.options.topology.results_queue(), &error);
                None
            }
        }
    }

    /// Sends the answer to a search or a re-ranking. Without a mailbox nobody wants it.
    pub(super) async fn reply(&self, message: &Message, job: &JobId, body: Result<Bytes, DecodeError>) {
        let Some(mailbox) = &message.reply_to else { return };
        match body {
            Ok(body) => {
                let (mailbox, notice) = self.notice(message, job.as_str(), body);
                self.notices.deliver(&mailbox, notice).await;
            }
            Err(error) => events::notice_lost(job.as_str(), mailbox, &error),
        }
    }

    /// The notice `body` about a message, and where it goes.
    fn notice(&self, about: &Message, id: &str, body: Bytes) -> (QueueName, Message) {
        let mailbox = about.reply_to.clone().unwrap_or_else(|| self.options.topology.results_queue());
        let mut notice = Message::new(id, body);
        notice.correlation_id.clone_from(&about.correlation_id);
        notice.trace = spans::outgoing_or(about.trace.as_ref());
        (mailbox, notice)
    }
}

/// The answer to a search that failed.
pub(super) fn failed_reply(job: JobId, code: &str, message: &str) -> SearchReply {
    SearchReply {
        version: VERSION.to_owned(),
        job,
        result: SearchResult::Err { code: code.to_owned(), message: message.to_owned() },
    }
}
