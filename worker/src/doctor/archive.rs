//! The archive: what a worker does there, done once with an object of a few bytes.

use std::time::{Duration, Instant};

use bytes::Bytes;
use captionfleet_proto::storage::{PutMode, PutOutcome, Storage, StorageError, Stores};
use captionfleet_proto::uri::ArchiveUri;

use super::Finding;
use crate::telemetry::events::chain;

const WHAT: &str = "archive";
/// A request that takes longer costs throughput: a job makes three of them.
const SLOW: Duration = Duration::from_millis(500);

/// Whether an archive can be listed, read, written and cleaned up, and whether it knows conditional writes.
pub async fn archive(uri: &str, stores: &Stores) -> Finding {
    match tried(uri, stores).await {
        Ok(finding) => finding,
        Err(error) => Finding::fail(WHAT, chain(error.as_ref())),
    }
}

async fn tried(uri: &str, stores: &Stores) -> anyhow::Result<Finding> {
    let uri = ArchiveUri::parse(uri)?;
    let store = stores.archive(&uri).await?;
    store.check().await?;
    let key = format!("doctor/{}-{}", std::process::id(), jiff::Timestamp::now().as_nanosecond());
    let tried = write_and_read(store.as_ref(), &key).await;
    // Also after a failure: nothing of ours shall stay.
    let removed = store.delete(&key).await;
    let Tried { conditional, slowest } = tried?;
    removed?;
    let place = store.location();
    let slowest_ms = slowest.as_millis();
    if !conditional {
        let meaning =
            "a job that is delivered twice may be done twice; its rows are the same, none is doubled";
        return Ok(Finding::warn(
            WHAT,
            format!("{place} does not know conditional writes (If-None-Match): {meaning}"),
        ));
    }
    let text = format!(
        "{place}: listed, written, read and removed, conditional writes work, slowest request {slowest_ms} ms"
    );
    if slowest > SLOW {
        let remedy = "use a bucket in the workers' region, and larger jobs (--job-size)";
        return Ok(Finding::warn(WHAT, format!("{text}; {remedy}")));
    }
    Ok(Finding::ok(WHAT, text))
}

struct Tried {
    conditional: bool,
    slowest: Duration,
}

async fn write_and_read(store: &dyn Storage, key: &str) -> Result<Tried, StorageError> {
    const FIRST: &[u8] = b"written by doctor";
    let mut slowest = Duration::ZERO;
    let mut time = |since: Instant| slowest = slowest.max(since.elapsed());
    let since = Instant::now();
    store.put(key, Bytes::from_static(FIRST), PutMode::IfAbsent).await?;
    time(since);
    let since = Instant::now();
    let again = store.put(key, Bytes::from_static(b"written twice"), PutMode::IfAbsent).await?;
    time(since);
    let since = Instant::now();
    let read = store.get(key, 1024).await?;
    time(since);
    let conditional = again == PutOutcome::Exists && read.bytes == FIRST;
    Ok(Tried { conditional, slowest })
}
