//! The archive: what a worker does there, done once with an object of a few bytes.

use std::time::{Duration, Instant};

use bytes::Bytes;
use captionfleet_proto::chain;
use captionfleet_proto::storage::{PutMode, PutOutcome, Storage, StorageError, Stores};
use captionfleet_proto::uri::{ArchiveUri, Location};
use jiff::Timestamp;

use super::Finding;
use super::clock::clock;

const WHAT: &str = "archive";
/// A request that takes longer costs throughput: a job makes three of them.
const SLOW: Duration = Duration::from_millis(500);

/// Whether an archive can be listed, read, written and cleaned up, and whether it knows conditional writes; and whether it has
/// our time.
pub async fn archive(uri: &str, stores: &Stores) -> Vec<Finding> {
    match tried(uri, stores).await {
        Ok(findings) => findings,
        Err(error) => vec![Finding::fail(WHAT, chain(error.as_ref()))],
    }
}

async fn tried(uri: &str, stores: &Stores) -> anyhow::Result<Vec<Finding>> {
    let uri = ArchiveUri::parse(uri)?;
    // To try it would be to make it, and a name may be mistyped.
    if let Location::File(folder) = uri.location()
        && !folder.exists()
    {
        let text = format!("{} is not there yet: it is made when the first rows come", folder.display());
        return Ok(vec![Finding::warn(WHAT, text)]);
    }
    let store = stores.archive(&uri).await?;
    store.check().await?;
    let key = format!("doctor-{}-{}", std::process::id(), Timestamp::now().as_nanosecond());
    let tried = write_and_read(store.as_ref(), &key).await;
    // Also after a failure: nothing of ours shall stay.
    let removed = store.delete(&key).await;
    let Tried { conditional, slowest, between, written } = tried?;
    removed?;
    let place = store.location();
    Ok(vec![used(&place, conditional, slowest), clock(&place, between, written)])
}

fn used(place: &str, conditional: bool, slowest: Duration) -> Finding {
    let slowest_ms = slowest.as_millis();
    if !conditional {
        let meaning =
            "a job that is delivered twice may be done twice; its rows are the same, none is doubled";
        return Finding::warn(
            WHAT,
            format!("{place} does not know conditional writes (If-None-Match): {meaning}"),
        );
    }
    let text = format!(
        "{place}: listed, written, read and removed, conditional writes work, slowest request {slowest_ms} ms"
    );
    if slowest > SLOW {
        let remedy = "use a bucket in the workers' region, and larger jobs (--job-size)";
        return Finding::warn(WHAT, format!("{text}; {remedy}"));
    }
    Finding::ok(WHAT, text)
}

struct Tried {
    conditional: bool,
    slowest: Duration,
    /// Our time before and after the first write.
    between: (Timestamp, Timestamp),
    /// When the store says that it was.
    written: Option<Timestamp>,
}

async fn write_and_read(store: &dyn Storage, key: &str) -> Result<Tried, StorageError> {
    const FIRST: &[u8] = b"written by doctor";
    let mut slowest = Duration::ZERO;
    let mut time = |since: Instant| slowest = slowest.max(since.elapsed());
    let (since, before) = (Instant::now(), Timestamp::now());
    store.put(key, Bytes::from_static(FIRST), PutMode::IfAbsent).await?;
    let between = (before, Timestamp::now());
    time(since);
    let written = store.head(key).await?.modified;
    let since = Instant::now();
    let again = store.put(key, Bytes::from_static(b"written twice"), PutMode::IfAbsent).await?;
    time(since);
    let since = Instant::now();
    let read = store.get(key, 1024).await?;
    time(since);
    let conditional = again == PutOutcome::Exists && read.bytes == FIRST;
    Ok(Tried { conditional, slowest, between, written })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use captionfleet_proto::storage::StorageOptions;

    use super::*;

    #[tokio::test]
    async fn nothing_is_left_behind() {
        let folder = tempfile::tempdir().unwrap();
        let stores = Stores::new(StorageOptions::default());
        let tried = async |path: &std::path::Path| archive(path.to_str().unwrap(), &stores).await;
        let here = tried(folder.path()).await;
        assert!(here.len() == 2 && here[0].to_string().contains("written, read and removed"), "{here:?}");
        let missing = folder.path().join("mistyped");
        let told = tried(&missing).await;
        assert!(told.len() == 1 && told[0].to_string().contains("is not there yet"), "{told:?}");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
