//! Which items the archive already has a terminal row for. No I/O.

use super::Marks;
use crate::catalog::{Identity, Item};
use captionfleet_proto::uri::ItemUri;
use std::collections::HashMap;

/// How an item stands in the archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It has an `ok` (or `skipped`) row for the same bytes, or is forgotten.
    Done,
    /// It failed for a reason that lies in the same bytes.
    Failed,
}

/// What is kept of a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// SHA-256 of the bytes that were read.
    pub sha256: Option<String>,
    /// Entity tag of the object that was read.
    pub etag: Option<String>,
    /// The row's error code; `None` for rows that did not fail.
    pub error_code: Option<String>,
}

/// Rows of one prompt (and bundle) by item.
#[derive(Debug, Clone, Default)]
pub struct Records {
    by_item: HashMap<ItemUri, Vec<Record>>,
    forgotten: Marks,
}

/// Failures that may be gone the next time although the picture is the same.
const CIRCUMSTANCES: [&str; 5] =
    ["internal", "not_found", "permission_denied", "source_refused", "source_unavailable"];

/// Whether a failure lies in the bytes of the item, so that it would be the same again.
pub(super) fn lasts(code: &str) -> bool {
    !CIRCUMSTANCES.contains(&code)
}

impl Records {
    /// Keeps one more row.
    pub fn add(&mut self, item: ItemUri, record: Record) {
        let records = self.by_item.entry(item).or_default();
        if !records.contains(&record) {
            records.push(record);
        }
    }

    /// Keeps what is forgotten, whoever asks what.
    pub fn forget(&mut self, marks: Marks) {
        self.forgotten = marks;
    }

    /// How `item` stands; `None` if there is something to do.
    pub fn standing(&self, item: &Item) -> Option<Standing> {
        if self.forgotten.cover(item) {
            return Some(Standing::Done);
        }
        let records = self.by_item.get(&item.uri)?;
        let same = || records.iter().filter(|record| record.is_of(&item.identity));
        if same().any(|record| record.error_code.is_none()) {
            return Some(Standing::Done);
        }
        let lasting = |record: &Record| match (&item.identity, record.error_code.as_deref()) {
            // It could not be read then, and cannot be read now.
            (Identity::Unreadable(_), Some(_)) => true,
            (_, Some(code)) => lasts(code),
            (_, None) => false,
        };
        same().any(lasting).then_some(Standing::Failed)
    }
}

impl Record {
    /// Whether the row was made from the content that `identity` stands for.
    fn is_of(&self, identity: &Identity) -> bool {
        match identity {
            Identity::Sha256(sha256) => self.sha256.as_ref() == Some(sha256),
            Identity::Etag(etag) => self.etag.as_ref() == Some(etag),
            Identity::Unversioned => false,
            Identity::Unreadable(_) => {
                self.sha256.is_none() && self.etag.is_none() && self.error_code.is_some()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::{Record, Records, Standing};
    use crate::catalog::{Identity, Item, Unreadable};
    use captionfleet_proto::uri::ItemUri;

    fn item(identity: Identity) -> Item {
        Item { uri: ItemUri::parse("file:///a.png").unwrap(), identity, size: None }
    }

    fn records(sha256: Option<&str>, error_code: Option<&str>) -> Records {
        let mut records = Records::default();
        let text = |text: &str| text.to_owned();
        records.add(
            ItemUri::parse("file:///a.png").unwrap(),
            Record { sha256: sha256.map(text), etag: None, error_code: error_code.map(text) },
        );
        records
    }

    fn sha(digest: &str) -> Item {
        item(Identity::Sha256(digest.to_owned()))
    }

    #[test]
    fn only_the_same_bytes_are_done() {
        let records = records(Some("aa"), None);
        assert_eq!(records.standing(&sha("aa")), Some(Standing::Done));
        assert_eq!(records.standing(&sha("bb")), None);
        assert_eq!(records.standing(&item(Identity::Unversioned)), None);
        assert_eq!(records.standing(&item(Identity::Etag("aa".into()))), None);
    }

    #[test]
    fn a_failure_lasts_if_it_lies_in_the_picture() {
        assert_eq!(records(Some("aa"), Some("truncated")).standing(&sha("aa")), Some(Standing::Failed));
        assert_eq!(records(Some("aa"), Some("permission_denied")).standing(&sha("aa")), None);
        assert_eq!(records(Some("aa"), Some("truncated")).standing(&sha("bb")), None);
    }

    #[test]
    fn success_outweighs_failure() {
        let mut both = records(Some("aa"), Some("worker_crash"));
        both.add(
            ItemUri::parse("file:///a.png").unwrap(),
            Record { sha256: Some("aa".into()), etag: None, error_code: None },
        );
        assert_eq!(both.standing(&sha("aa")), Some(Standing::Done));
    }

    #[test]
    fn what_stays_unreadable_stays_failed() {
        let closed = item(Identity::Unreadable(Unreadable { code: "not_found", message: String::new() }));
        let records = records(None, Some("not_found"));
        assert_eq!(records.standing(&closed), Some(Standing::Failed));
        assert_eq!(records.standing(&sha("aa")), None);
    }
}
