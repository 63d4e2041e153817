//! Which items people had forgotten.

use crate::catalog::{Identity, Item};
use crate::planned_job::PlannedJob;
use captionfleet_proto::job::{JobItem, RunId};
use captionfleet_proto::layout;
use captionfleet_proto::storage::{Storage, StorageError};
use captionfleet_proto::uri::ItemUri;
use futures::TryStreamExt as _;
use std::collections::BTreeSet;

/// The marks of forgotten items: whatever is asked, none of these bytes is captioned again.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Marks(BTreeSet<String>);

impl Marks {
    /// Lists them.
    ///
    /// # Errors
    /// When the archive cannot be listed.
    pub async fn load(archive: &dyn Storage) -> Result<Self, StorageError> {
        archive.list(layout::FORGOTTEN_PREFIX).map_ok(|mark| mark.key).try_collect().await.map(Self)
    }

    /// Whether an item is forgotten. Of one whose bytes cannot be told before they are read, any mark counts: what was to be
    /// forgotten is not looked at to find out.
    pub fn cover(&self, item: &Item) -> bool {
        match &item.identity {
            Identity::Sha256(sha256) => self.cover_bytes(&item.uri, Some(sha256), None),
            Identity::Etag(etag) => self.cover_bytes(&item.uri, None, Some(etag)),
            Identity::Unversioned | Identity::Unreadable(_) => self.names(&item.uri),
        }
    }

    /// Whether these bytes of an item are forgotten; without digest and version, nothing is.
    pub fn cover_bytes(&self, item: &ItemUri, sha256: Option<&str>, etag: Option<&str>) -> bool {
        !self.0.is_empty() && self.0.contains(&layout::forgotten(item, layout::content_key(sha256, etag)))
    }

    /// Takes out of what a run owes the jobs with forgotten items, and says so: forgetting was interrupted before it had answered
    /// them, or is at it. How many those are.
    pub fn sift(&self, run: &RunId, jobs: &mut Vec<PlannedJob>) -> usize {
        let before = jobs.len();
        jobs.retain(|job| !job.items.iter().any(|item| self.cover_planned(item)));
        let held = before - jobs.len();
        if held > 0 {
            tracing::warn!(
                %run,
                jobs = held,
                "jobs with forgotten items wait until forgetting them has ended; if it was interrupted, call it again"
            );
        }
        held
    }

    fn cover_planned(&self, item: &JobItem) -> bool {
        match (item.sha256.as_deref(), item.etag.as_deref()) {
            (None, None) => self.names(&item.uri),
            (sha256, etag) => self.cover_bytes(&item.uri, sha256, etag),
        }
    }

    /// Whether there is a mark of an item, whatever its bytes.
    fn names(&self, item: &ItemUri) -> bool {
        if self.0.is_empty() {
            return false;
        }
        let prefix = layout::forgotten_prefix(item);
        self.0.range(prefix.clone()..).next().is_some_and(|mark| mark.starts_with(&prefix))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::Marks;
    use crate::catalog::{Identity, Item};
    use captionfleet_proto::layout;
    use captionfleet_proto::uri::ItemUri;

    #[test]
    fn bytes_are_forgotten_and_not_whatever_comes_by_that_name() {
        let uri = ItemUri::parse("file:///a.png").unwrap();
        let marks = Marks([layout::forgotten(&uri, layout::content_key(Some("aa"), None))].into());
        let covers = |identity| marks.cover(&Item { uri: uri.clone(), identity, size: None });
        assert!(covers(Identity::Sha256("aa".to_owned())));
        assert!(covers(Identity::Unversioned), "nobody looks to find out");
        assert!(!covers(Identity::Sha256("bb".to_owned())));
        assert!(!covers(Identity::Etag("bb".to_owned())));
        let other = ItemUri::parse("file:///b.png").unwrap();
        assert!(!marks.cover(&Item { uri: other, identity: Identity::Unversioned, size: None }));
    }
}
