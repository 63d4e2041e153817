//! Search jobs: embed one query and answer whoever asked. They are never retried: the asker waits, and asks again. An asker
//! who has left has closed the mailbox; such a job is dropped before it costs the device anything.

use std::time::Instant;

use captionfleet_proto::chain;
use captionfleet_proto::codec;
use captionfleet_proto::job::{Job, Query, SPACE_MISMATCH, SearchJob, SearchReply, SearchResult, VERSION};
use tokio::time::timeout;

use super::fetch::Facts;
use super::item_failure::ItemFailure;
use super::outcome::failed_reply;
use super::task::{HandOver, Verdict};
use super::{Failure, Pipeline, Tally};
use crate::engine::EngineError;
use crate::telemetry::{events, spans};

/// Why there is no answer: a code, as rows have it, and what went wrong.
pub(super) type Told = (&'static str, String);

impl Pipeline {
    /// Embeds the query and replies, with the vectors or with the reason why there are none.
    pub(super) async fn answer(&self, job: &Job, search: &SearchJob, hand_over: &HandOver) -> Verdict {
        let limit = self.options.item_deadline;
        let work = timeout(limit, self.embed(job, search, hand_over));
        let Some(embedded) = self.while_awaited(job, &hand_over.message, work).await else {
            events::question_dropped(&self.metrics, "search", &job.id);
            return Verdict::Done;
        };
        let embedded = embedded.unwrap_or_else(|_| {
            Err(("deadline", format!("the query was not embedded within {} s", limit.as_secs_f64())))
        });
        if let Err((code, _)) = &embedded {
            spans::failed(code);
        }
        let reply = match &embedded {
            Ok(result) => {
                SearchReply { version: VERSION.to_owned(), job: job.id.clone(), result: result.clone() }
            }
            Err((code, message)) => failed_reply(job.id.clone(), code, message),
        };
        let failure = embedded.as_ref().err().map(|(code, message)| (*code, message.as_str()));
        events::question_answered(&self.metrics, "search", &job.id, hand_over.started.elapsed(), failure);
        Tally::add(&self.tally.jobs, 1);
        self.reply(&hand_over.message, &job.id, codec::encode_reply(&reply)).await;
        Verdict::Done
    }

    async fn embed(&self, job: &Job, search: &SearchJob, hand_over: &HandOver) -> Result<SearchResult, Told> {
        self.check_bundle(job).map_err(|failure| told(&failure))?;
        let info = self.engine.info();
        let space = info.embedding_space.clone().ok_or_else(|| engine_told(&EngineError::NoRetrievalHead))?;
        if let Some(wanted) = search.embedding_space.as_ref().filter(|wanted| **wanted != space) {
            let message =
                format!("the query is wanted in the space {wanted}, this worker's model has {space}");
            return Err((SPACE_MISMATCH, message));
        }
        let (embedding, elapsed) = match &search.query {
            Query::Text { text } => {
                let asked = Instant::now();
                let vector =
                    self.engine.embed_text(text.clone()).await.map_err(|error| engine_told(&error))?;
                (vec![vector], asked.elapsed())
            }
            Query::Image { item } => {
                // What a picture does to a process must not be laid to one that is tried alone meanwhile.
                let _company = self.isolation.read().await;
                let mut facts = Facts::planned(item);
                let picture = self.fetch(item, hand_over.lane, true, &mut facts).await;
                let picture = picture.map_err(picture_told)?;
                let asked = Instant::now();
                let vectors =
                    self.engine.embed_picture(picture).await.map_err(|error| engine_told(&error))?;
                (vectors, asked.elapsed())
            }
        };
        spans::past("infer", elapsed);
        Ok(SearchResult::Ok { embedding, embedding_space: space, bundle: info.bundle.clone() })
    }
}

pub(super) fn told(failure: &Failure) -> Told {
    (failure.code(), chain(failure))
}

pub(super) fn engine_told(error: &EngineError) -> Told {
    (error.code(), error.to_string())
}

/// Why a picture that someone asks about cannot be used.
pub(super) fn picture_told(failure: ItemFailure) -> Told {
    match failure {
        ItemFailure::Row { code, message } => (code, message),
        ItemFailure::Job(failure) => told(&failure),
        ItemFailure::Unclear(_) => ("internal", "the model failed on this picture".to_owned()),
    }
}
