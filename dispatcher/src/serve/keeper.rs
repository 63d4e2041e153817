//! Keeps the index fresh while the service runs.

use crate::index::indexer::{Freshness, Progress};
use crate::index::{Indexed, Indexer, Shelf};
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::Serialize;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

/// How often new parts are looked for.
const PAUSE: Duration = Duration::from_secs(5);

/// How the index was kept last.
#[derive(Debug, Clone, Default, Serialize, JsonSchema)]
pub struct Look {
    /// When it was last looked at.
    pub looked_at: Option<String>,
    /// Parts that were not indexed then, because another indexer is at work or there was no time.
    pub left: u64,
    /// Parts that cannot be read.
    pub damaged: u64,
    /// Why it could not be looked at.
    pub error: Option<String>,
}

/// The last look.
#[derive(Debug, Clone)]
pub struct Kept {
    last: Arc<Mutex<Look>>,
    freshness: Freshness,
}

impl Kept {
    /// How the index was kept last.
    pub fn last(&self) -> Look {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How long the oldest part that is not indexed has been there: the most that a picture can be done and not be found.
    pub fn lag(&self) -> Duration {
        self.freshness.lag()
    }

    /// Keys of a few parts that have appeared since this was last asked for.
    pub fn newcomers(&self) -> Vec<String> {
        self.freshness.newcomers()
    }

    fn note(&self, outcome: Result<Indexed, String>) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.looked_at = Some(Timestamp::now().to_string());
        last.error = match outcome {
            Ok(indexed) => {
                (last.left, last.damaged) = (indexed.left, indexed.damaged);
                None
            }
            Err(error) => Some(error),
        };
    }
}

/// Takes in new parts until `stop` is cancelled, on a thread of its own: what an indexer does cannot move between threads.
/// The returned thread ends soon after.
///
/// # Errors
/// When the system has no thread left.
pub fn keep(
    shelf: Arc<Shelf>,
    stop: CancellationToken,
) -> std::io::Result<(Kept, std::thread::JoinHandle<()>)> {
    let runtime = Handle::current();
    let mut indexer = Indexer::new(shelf);
    let kept = Kept { last: Arc::default(), freshness: indexer.freshness() };
    let told = kept.clone();
    let thread = std::thread::Builder::new().name("index".to_owned()).spawn(move || {
        runtime.block_on(async {
            let unseen: Progress = Arc::new(|_, _| {});
            loop {
                let outcome = indexer.catch_up(stop.child_token(), false, unseen.clone()).await;
                if let Err(error) = &outcome {
                    tracing::warn!(%error, "the index cannot be kept now and is tried again");
                }
                told.note(outcome.map_err(|error| error.to_string()));
                tokio::select! {
                    () = tokio::time::sleep(PAUSE) => {}
                    () = stop.cancelled() => return,
                }
            }
        });
    })?;
    Ok((kept, thread))
}
