//! What cannot be read: one item, or everything in its store; for good, or for a reason that may pass.

use std::time::Duration;

use captionfleet_proto::chain;
use captionfleet_proto::job::JobItem;
use captionfleet_proto::storage::{StorageError, StorageErrorKind, Stores};
use captionfleet_proto::uri::ItemUri;

use super::Failure;
use super::item_failure::ItemFailure;

/// How long a store has to answer when it is asked whether it answers at all.
pub(super) const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// The code of an item that has more bytes than are read.
pub(super) const TOO_LARGE: &str = "too_large";

/// Whether an item that cannot be read is a row or a reason to try the whole job again. What outlasts all attempts while its store
/// answers is the object's own fault: it is not worth losing its neighbours.
pub(super) async fn unreadable(
    stores: &Stores,
    item: &JobItem,
    error: StorageError,
    last_attempt: bool,
) -> ItemFailure {
    match sort_out(item, error, last_attempt) {
        ItemFailure::Job(Failure::Source { source, .. })
            if last_attempt
                && may_be_one_object(source.kind())
                && stores.answers(item.source(), ANSWER_WITHIN).await =>
        {
            ItemFailure::row("source_unavailable", chain(&source))
        }
        failure => failure,
    }
}

/// The same by the kind of error alone.
fn sort_out(item: &JobItem, error: StorageError, last_attempt: bool) -> ItemFailure {
    let code = match error.kind() {
        StorageErrorKind::NotFound | StorageErrorKind::NoSuchBucket => "not_found",
        StorageErrorKind::PermissionDenied => "permission_denied",
        StorageErrorKind::TooLarge => TOO_LARGE,
        StorageErrorKind::InvalidUri | StorageErrorKind::Refused => "source_refused",
        StorageErrorKind::Damaged => "corrupt",
        // This worker may be the only one that looks in the wrong place. What none of them can read is not worth losing the
        // item's neighbours, nor is what nobody knows.
        StorageErrorKind::WrongRegion if last_attempt => "source_refused",
        StorageErrorKind::Other if last_attempt => "internal",
        _ => {
            let item = item.source().to_string();
            return ItemFailure::Job(Failure::Source { item, source: error });
        }
    };
    ItemFailure::row(code, chain(&error))
}

/// What it means for a job that `item` cannot be read. Attempts are for an object that its store cannot give, so that it does
/// not hold up its run for a day; a store that gives nothing costs none.
pub(super) async fn failure(stores: &Stores, item: String, source: StorageError) -> Failure {
    let is_away = match source.kind() {
        // That is never about one object. A store may well ask readers to slow down and answer whoever lists.
        StorageErrorKind::Throttled | StorageErrorKind::NoSpace => true,
        kind if may_be_one_object(kind) => match ItemUri::parse(&item) {
            Ok(uri) => !stores.answers(&uri, ANSWER_WITHIN).await,
            Err(_) => false,
        },
        _ => false,
    };
    if is_away { Failure::SourceAway { item, source } } else { Failure::Source { item, source } }
}

/// Whether a store may fail so with one object and give the others. A signature is wrong for one alone where a gateway on the way
/// writes its key in another way.
fn may_be_one_object(kind: StorageErrorKind) -> bool {
    matches!(
        kind,
        StorageErrorKind::Unauthenticated | StorageErrorKind::Unavailable | StorageErrorKind::Timeout
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use captionfleet_proto::storage::StorageOptions;

    use super::*;

    fn by_kind(kind: StorageErrorKind, last_attempt: bool) -> ItemFailure {
        let item = JobItem::new(ItemUri::parse("s3://b/k").unwrap());
        sort_out(&item, StorageError::new(kind, "reading", "s3://b/k", "no"), last_attempt)
    }

    #[test]
    fn what_will_not_change_is_a_row() {
        for (kind, expected) in [
            (StorageErrorKind::NotFound, "not_found"),
            (StorageErrorKind::PermissionDenied, "permission_denied"),
            (StorageErrorKind::Refused, "source_refused"),
            (StorageErrorKind::TooLarge, "too_large"),
            (StorageErrorKind::Damaged, "corrupt"),
        ] {
            assert!(
                matches!(by_kind(kind, false), ItemFailure::Row { code, .. } if code == expected),
                "{kind:?}"
            );
        }
    }

    #[test]
    fn faults_that_may_pass_are_no_rows_by_themselves() {
        for kind in
            [StorageErrorKind::Unavailable, StorageErrorKind::Throttled, StorageErrorKind::Unauthenticated]
        {
            assert!(matches!(by_kind(kind, true), ItemFailure::Job(Failure::Source { .. })), "{kind:?}");
        }
        for (kind, in_the_end) in
            [(StorageErrorKind::Other, "internal"), (StorageErrorKind::WrongRegion, "source_refused")]
        {
            assert!(matches!(by_kind(kind, false), ItemFailure::Job(_)), "{kind:?}");
            assert!(
                matches!(by_kind(kind, true), ItemFailure::Row { code, .. } if code == in_the_end),
                "{kind:?}"
            );
        }
    }

    #[tokio::test]
    async fn an_object_that_its_store_does_not_give_is_a_row_in_the_end() {
        let folder = tempfile::tempdir().unwrap();
        let stores = Stores::new(StorageOptions::default());
        let item = JobItem::new(ItemUri::from_path(&folder.path().join("picture.png")).unwrap());
        for (kind, is_row) in [
            (StorageErrorKind::Unauthenticated, true),
            (StorageErrorKind::Unavailable, true),
            (StorageErrorKind::Timeout, true),
            (StorageErrorKind::Throttled, false),
            (StorageErrorKind::NoSpace, false),
        ] {
            let error = || StorageError::new(kind, "reading", item.uri.as_str(), "no");
            let early = unreadable(&stores, &item, error(), false).await;
            assert!(matches!(early, ItemFailure::Job(Failure::Source { .. })), "{kind:?}: {early:?}");
            let late = unreadable(&stores, &item, error(), true).await;
            let told = matches!(late, ItemFailure::Row { code: "source_unavailable", .. });
            assert_eq!(told, is_row, "{kind:?}: {late:?}");
        }
        // Nobody listens there.
        let endpoint = Some("http://127.0.0.1:1".to_owned());
        let away = Stores::new(StorageOptions { s3_endpoint: endpoint, ..StorageOptions::default() });
        let item = JobItem::new(ItemUri::s3("away", "picture.png"));
        let error = StorageError::new(StorageErrorKind::Unavailable, "reading", item.uri.as_str(), "no");
        assert!(matches!(unreadable(&away, &item, error, true).await, ItemFailure::Job(_)));
    }

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
