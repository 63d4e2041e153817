//! Asking for a query's embedding: one job on the interactive lane, one answer; more of them while a fleet has several models.

use crate::exchange::{Exchange, new_id};
use captionfleet_proto::codec;
use captionfleet_proto::job::{Job, JobKind, Query, RunId, SPACE_MISMATCH, SearchResult};
use captionfleet_proto::uri::ArchiveUri;
use tokio_util::sync::CancellationToken;

/// A query's embedding.
#[derive(Debug, Clone)]
pub struct Embedded {
    /// Unit vectors: one for a text, several for a picture.
    pub vectors: Vec<Vec<f32>>,
    /// The space they lie in.
    pub space: String,
}

/// How often a question is asked at the most while workers of other models answer.
const MOST_TURNS: u64 = 32;
/// What is wrong with a picture itself, in the codes of rows.
const OF_PICTURES: [&str; 6] =
    ["empty", "unsupported_format", "truncated", "corrupt", "too_large", "too_many_pixels"];

/// A worker's word that it cannot embed a query.
#[derive(Debug, thiserror::Error)]
#[error("the query cannot be embedded ({code}): {message}")]
pub struct NotEmbedded {
    code: String,
    message: String,
}

impl NotEmbedded {
    /// Whether another worker may well embed it.
    fn is_of_another_model(&self) -> bool {
        [SPACE_MISMATCH, "bundle_mismatch"].contains(&self.code.as_str())
    }

    /// Whether the query's picture is the reason, so that asking again is of no use.
    pub fn is_about_its_picture(&self) -> bool {
        OF_PICTURES.contains(&self.code.as_str())
    }
}

/// Whose vectors are wanted.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// The bundle that must answer.
    pub bundle: Option<String>,
    /// The space that the vectors should lie in. Where no worker has it, another's vectors are taken.
    pub space: Option<String>,
}

/// Asks the workers to embed `query`, until `gone`. The broker deals questions out in turn: while workers of another model answer,
/// the question is asked again.
pub async fn embed(
    workers: &Exchange,
    archive: &ArchiveUri,
    wanted: &Wanted,
    query: Query,
    gone: &CancellationToken,
) -> anyhow::Result<Embedded> {
    let question = Question { workers, archive, bundle: wanted.bundle.as_deref(), gone };
    let (mut asked, mut turns, mut other) = (0, 1, None);
    while asked < turns {
        match question.ask(wanted.space.as_deref(), &query).await {
            Ok(embedded) if wanted.space.as_ref().is_none_or(|space| *space == embedded.space) => {
                return Ok(embedded);
            }
            // A worker of an earlier version does not know that a space can be wanted.
            Ok(embedded) => other = Some(Ok(embedded)),
            Err(error) => match error.downcast::<NotEmbedded>() {
                Ok(refused) if refused.is_of_another_model() => other = other.or(Some(Err(refused))),
                Ok(refused) => return Err(refused.into()),
                Err(error) => return Err(error),
            },
        }
        if asked == 0 {
            turns = turns_of(workers).await;
        }
        asked += 1;
    }
    match other {
        Some(Ok(embedded)) => Ok(embedded),
        Some(Err(refused)) if refused.code != SPACE_MISMATCH => Err(refused.into()),
        _ => question.ask(None, &query).await,
    }
}

/// How often a question is asked until every worker has had its turn, most likely.
async fn turns_of(workers: &Exchange) -> u64 {
    match workers.workers().await.unwrap_or(1) {
        0 | 1 => 1,
        several => (2 * u64::from(several)).min(MOST_TURNS),
    }
}

/// What every asking of a query has in common.
struct Question<'a> {
    workers: &'a Exchange,
    archive: &'a ArchiveUri,
    bundle: Option<&'a str>,
    gone: &'a CancellationToken,
}

impl Question<'_> {
    async fn ask(&self, space: Option<&str>, query: &Query) -> anyhow::Result<Embedded> {
        let mut job = Job::search(new_id()?, RunId::new("search")?, self.archive.clone(), query.clone());
        job.bundle = self.bundle.map(str::to_owned);
        if let JobKind::Search(search) = &mut job.kind {
            search.embedding_space = space.map(str::to_owned);
        }
        match self.workers.ask(&job, self.gone, codec::decode_reply).await?.result {
            SearchResult::Ok { embedding, embedding_space, .. } => {
                Ok(Embedded { vectors: embedding, space: embedding_space })
            }
            SearchResult::Err { code, message } => Err(NotEmbedded { code, message }.into()),
        }
    }
}
