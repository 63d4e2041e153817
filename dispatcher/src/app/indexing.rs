//! Keeping the index up to date beside a run.

use crate::index::indexer::Progress;
use crate::index::{Indexed, Indexer, Shelf};
use crate::output::counted;
use crate::progress::Display;
use captionfleet_proto::storage::Storage;
use captionfleet_proto::uri::ArchiveUri;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// How often new parts are taken in.
const PAUSE: Duration = Duration::from_secs(10);
/// How long the end of a run waits for the index.
const LAST: Duration = Duration::from_secs(60);

/// Takes in parts as they appear until `last` is cancelled, then what is left, for a limited time, and says what could
/// not be done. The run itself is well either way: parts without a segment are read by those who search.
pub(super) async fn keep_up(
    archive: Arc<dyn Storage>,
    uri: &ArchiveUri,
    last: CancellationToken,
    display: Display,
) {
    let mut indexer = Indexer::new(Arc::new(Shelf::new(archive, uri)));
    let unseen: Progress = Arc::new(|_, _| {});
    while tokio::time::timeout(PAUSE, last.cancelled()).await.is_err() {
        let stop = last.child_token();
        if let Err(error) = indexer.catch_up(stop, false, unseen.clone()).await {
            tracing::debug!(%error, "indexing is tried again");
        }
    }
    let stop = CancellationToken::new();
    let in_time = async {
        tokio::time::sleep(LAST).await;
        stop.cancel();
        std::future::pending().await
    };
    let indexed = tokio::select! {
        indexed = indexer.catch_up(stop.clone(), false, unseen) => indexed,
        never = in_time => never,
    };
    match indexed {
        Ok(Indexed { left: 0, .. }) => {}
        Ok(Indexed { left, .. }) => {
            let parts = counted(left, "part");
            display.remark(format!("the search index lacks {parts}; `dispatcher index` takes them in"));
        }
        Err(error) => {
            display.remark(format!(
                "the search index is behind ({error}); `dispatcher index` takes in the rest"
            ));
        }
    }
}
