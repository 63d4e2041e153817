//! What cannot be read for a reason that may pass: one item, or everything in its store.

use std::time::Duration;

use captionfleet_proto::storage::{StorageError, StorageErrorKind, Stores};
use captionfleet_proto::uri::ItemUri;

use super::Failure;

/// How long a store has to answer when it is asked whether it answers at all.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// What it means for a job that `item` cannot be read. Attempts are for an object that its store cannot give, so that it does
/// not hold up its run for a day; a store that gives nothing costs none.
pub(super) async fn failure(stores: &Stores, item: String, source: StorageError) -> Failure {
    let is_away = match source.kind() {
        // That is never about one object. A store may well ask readers to slow down and answer whoever lists.
        StorageErrorKind::Throttled | StorageErrorKind::NoSpace => true,
        // A signature is wrong for one object alone where a gateway on the way writes its key in another way.
        StorageErrorKind::Unauthenticated | StorageErrorKind::Unavailable | StorageErrorKind::Timeout => {
            match ItemUri::parse(&item) {
                Ok(uri) => !stores.answers(&uri, ANSWER_WITHIN).await,
                Err(_) => false,
            }
        }
        _ => false,
    };
    if is_away { Failure::SourceAway { item, source } } else { Failure::Source { item, source } }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use captionfleet_proto::storage::StorageOptions;

    use super::*;

    #[tokio::test]
    async fn only_what_concerns_the_whole_store_is_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let stores = Stores::new(StorageOptions::default());
        let item = ItemUri::from_path(&folder.path().join("picture.png")).unwrap().to_string();
        for (kind, waits) in [
            (StorageErrorKind::Throttled, true),
            (StorageErrorKind::NoSpace, true),
            // The file system answers, be it that there is no such file.
            (StorageErrorKind::Unauthenticated, false),
            (StorageErrorKind::Unavailable, false),
            (StorageErrorKind::Timeout, false),
            (StorageErrorKind::Other, false),
        ] {
            let error = StorageError::new(kind, "reading", item.as_str(), "no");
            let failure = failure(&stores, item.clone(), error).await;
            assert_eq!(matches!(failure, Failure::SourceAway { .. }), waits, "{kind:?}");
        }
    }
}
