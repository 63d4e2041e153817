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
        SearchResult::Err { code, message } => {
            anyhow::bail!("the query cannot be embedded ({code}): {message}")
        }
    }
}
