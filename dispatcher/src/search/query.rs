//! Asking for a query's embedding: one job on the interactive lane, one answer.

use crate::exchange::{exchange, new_id};
use captionfleet_proto::broker::{Broker, Topology};
use captionfleet_proto::codec;
use captionfleet_proto::job::{Job, Query, RunId, SearchResult};
use captionfleet_proto::uri::ArchiveUri;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// A query's embedding.
#[derive(Debug, Clone)]
pub struct Embedded {
    /// Unit vectors: one for a text, several for a picture.
    pub vectors: Vec<Vec<f32>>,
    /// The space they lie in.
    pub space: String,
}

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
    /// Whether the query's picture is the reason, so that asking again is of no use.
    pub fn is_about_its_picture(&self) -> bool {
        OF_PICTURES.contains(&self.code.as_str())
    }
}

/// Asks the workers of `broker` to embed `query`, and waits at most `patience` and until `gone`.
pub async fn embed(
    broker: &dyn Broker,
    topology: &Topology,
    archive: &ArchiveUri,
    bundle: Option<String>,
    query: Query,
    patience: Duration,
    gone: &CancellationToken,
) -> anyhow::Result<Embedded> {
    let id = new_id()?;
    let mut job = Job::search(id.clone(), RunId::new("search")?, archive.clone(), query);
    job.bundle = bundle;
    let read = |body: &[u8]| {
        let reply = codec::decode_reply(body)?;
        Ok((reply.job == id).then_some(reply.result))
    };
    match exchange(broker, topology, &job, patience, gone, read).await? {
        SearchResult::Ok { embedding, embedding_space, .. } => {
            Ok(Embedded { vectors: embedding, space: embedding_space })
        }
        SearchResult::Err { code, message } => Err(NotEmbedded { code, message }.into()),
    }
}
