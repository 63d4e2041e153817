//! Asking for a query's embedding: one job on the interactive lane, one answer.

use anyhow::Context as _;
use captionfleet_proto::broker::{Broker, Message, Topology};
use captionfleet_proto::codec;
use captionfleet_proto::job::{Job, JobId, Lane, Query, RunId, SearchResult};
use captionfleet_proto::uri::ArchiveUri;
use jiff::Timestamp;
use sha2::{Digest as _, Sha256};
use std::time::Duration;

/// A query's embedding.
#[derive(Debug, Clone)]
pub struct Embedded {
    /// Unit vectors: one for a text, several for a picture.
    pub vectors: Vec<Vec<f32>>,
    /// The space they lie in.
    pub space: String,
}

/// Asks the workers of `broker` to embed `query`, and waits at most `patience`.
pub async fn embed(
    broker: &dyn Broker,
    topology: &Topology,
    archive: &ArchiveUri,
    bundle: Option<String>,
    query: Query,
    patience: Duration,
) -> anyhow::Result<Embedded> {
    let id = new_id()?;
    let mut job = Job::search(id.clone(), RunId::new("search")?, archive.clone(), query);
    job.bundle = bundle;
    let mailbox = broker.open_mailbox(&format!("search-{id}")).await?;
    let answered = async {
        let mut replies = broker.consume(&mailbox, 1).await?;
        let mut message = Message::new(id.as_str(), codec::encode_job(&job)?);
        message.correlation_id = Some(id.to_string());
        message.reply_to = Some(mailbox.clone());
        let queue = topology.lane_queue(Lane::Interactive);
        broker.publish(&queue, message).await?;
        loop {
            let delivery = replies.next().await?.context("the mailbox of this search was closed")?;
            let reply = codec::decode_reply(&delivery.message.body);
            delivery.ack().await?;
            let reply = reply.context("the worker's answer cannot be read")?;
            if reply.job == id {
                return anyhow::Ok(reply.result);
            }
        }
    };
    let answer = tokio::time::timeout(patience, answered).await;
    if let Err(error) = broker.close_mailbox(&mailbox).await {
        tracing::debug!(%error, "the mailbox stays until it expires");
    }
    match answer {
        Ok(Ok(SearchResult::Ok { embedding, embedding_space, .. })) => {
            Ok(Embedded { vectors: embedding, space: embedding_space })
        }
        Ok(Ok(SearchResult::Err { code, message })) => {
            anyhow::bail!("the query cannot be embedded ({code}): {message}")
        }
        Ok(Err(error)) => Err(error),
        Err(_) => Err(no_answer(broker, topology, patience).await),
    }
}

/// Why nobody answered, as far as the queue tells.
async fn no_answer(broker: &dyn Broker, topology: &Topology, patience: Duration) -> anyhow::Error {
    let queue = topology.lane_queue(Lane::Interactive);
    let seconds = patience.as_secs();
    match broker.depth(&queue).await {
        Ok(depth) if depth.consumers == 0 => anyhow::anyhow!(
            "no worker consumes {queue} at {}: start `worker run` with the same --broker and --queue-prefix",
            broker.describe()
        ),
        _ => anyhow::anyhow!(
            "no worker answered within {seconds} s; they may be starting or serve another bundle: wait longer with \
             --timeout"
        ),
    }
}

fn new_id() -> anyhow::Result<JobId> {
    let mut digest = Sha256::new();
    digest.update(Timestamp::now().as_nanosecond().to_le_bytes());
    digest.update(std::process::id().to_le_bytes());
    Ok(JobId::new(hex::encode(&digest.finalize()[..10]))?)
}
