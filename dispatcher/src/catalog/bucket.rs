//! Objects of a bucket.
//!
//! `s3://bucket/pictures` is the object of that key and everything below `pictures/`, as a folder would be; other
//! beginnings are patterns (`s3://bucket/2024-*/**`). Hidden names and markers of empty folders do not count.

use super::pattern::KeyPattern;
use super::source::{Objects, is_pattern};
use super::{CatalogError, CatalogOptions, Identity, Item, has_picture_extension};
use captionfleet_proto::layout;
use captionfleet_proto::storage::{ObjectMeta, StorageError, Stores};
use captionfleet_proto::uri::{ArchiveUri, ItemUri, Location};
use futures::TryStreamExt as _;

/// Lists the items of one prefix.
pub(super) async fn list(
    objects: &Objects,
    options: &CatalogOptions,
    stores: &Stores,
) -> Result<Vec<Item>, CatalogError> {
    let location = format!("s3://{}/{}", objects.bucket, objects.key);
    let failed = |source: StorageError| CatalogError::Bucket { location: location.clone(), source };
    let selection = Selection::new(objects, options)?;
    let store = stores.bucket(&objects.bucket).await.map_err(failed)?;
    let mut found: Vec<ObjectMeta> = Vec::new();
    for prefix in selection.prefixes() {
        let mut listing = store.list(&prefix);
        while let Some(object) = listing.try_next().await.map_err(failed)? {
            if selection.takes(&object.key) {
                found.push(object);
            }
        }
    }
    found.sort_by(|one, other| one.key.cmp(&other.key));
    found.dedup_by(|one, other| one.key == other.key);
    Ok(found.into_iter().map(|object| item(&objects.bucket, object)).collect())
}

fn item(bucket: &str, object: ObjectMeta) -> Item {
    Item {
        uri: ItemUri::s3(bucket, &object.key),
        identity: object.etag.map_or(Identity::Unversioned, Identity::Etag),
        size: Some(object.size),
    }
}

/// Which keys count.
struct Selection {
    key: String,
    pattern: Option<KeyPattern>,
    pictures_only: bool,
    /// Prefixes of the archive's own objects.
    own: Vec<String>,
}

impl Selection {
    fn new(objects: &Objects, options: &CatalogOptions) -> Result<Self, CatalogError> {
        let key = objects.key.clone();
        let pattern = if is_pattern(&key) { Some(KeyPattern::new(&key)?) } else { None };
        let own = match options.archive.as_ref().map(ArchiveUri::location) {
            Some(Location::S3 { bucket, key }) if bucket == objects.bucket => own_prefixes(&key),
            _ => Vec::new(),
        };
        Ok(Self { key, pattern, pictures_only: options.pictures_only, own })
    }

    /// What the store is asked for.
    fn prefixes(&self) -> Vec<String> {
        match &self.pattern {
            Some(pattern) => vec![pattern.prefix.clone()],
            None if self.key.is_empty() || self.key.ends_with('/') => vec![self.key.clone()],
            // The store lists every key that begins so; `takes` keeps the object and the folder.
            None => vec![self.key.clone()],
        }
    }

    fn takes(&self, key: &str) -> bool {
        if key.ends_with('/') || self.own.iter().any(|own| key.starts_with(own.as_str())) {
            return false;
        }
        if let Some(pattern) = &self.pattern {
            return pattern.takes(key) && self.has_right_name(key);
        }
        let folder = self.key.trim_end_matches('/');
        if key == self.key {
            return true;
        }
        let below = if folder.is_empty() {
            Some(key)
        } else {
            key.strip_prefix(folder).and_then(|rest| rest.strip_prefix('/'))
        };
        below.is_some_and(|below| {
            !below.split('/').any(|part| part.starts_with('.')) && self.has_right_name(key)
        })
    }

    fn has_right_name(&self, key: &str) -> bool {
        !self.pictures_only || has_picture_extension(key)
    }
}

/// The prefixes under which the archive at `root` keeps its objects.
fn own_prefixes(root: &str) -> Vec<String> {
    layout::TOP_FOLDERS
        .iter()
        .map(|folder| if root.is_empty() { format!("{folder}/") } else { format!("{root}/{folder}/") })
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::{CatalogOptions, Objects, Selection};
    use captionfleet_proto::uri::ArchiveUri;

    fn selection(key: &str, archive: Option<&str>) -> Selection {
        let objects = Objects { bucket: "b".into(), key: key.into() };
        let archive = archive.map(|archive| ArchiveUri::parse(archive).unwrap());
        Selection::new(&objects, &CatalogOptions { archive, pictures_only: false }).unwrap()
    }

    #[test]
    fn a_prefix_is_a_folder() {
        let pictures = selection("pics", None);
        assert!(pictures.takes("pics/a.png") && pictures.takes("pics/x/b") && pictures.takes("pics"));
        assert!(
            !pictures.takes("pics2/a.png") && !pictures.takes("pics/") && !pictures.takes("pics/.x/a.png")
        );
        assert!(selection("", None).takes("a.png"));
        assert!(selection("pics/", None).takes("pics/a.png"));
    }

    #[test]
    fn a_pattern_is_listed_by_its_beginning() {
        let pattern = selection("2024-*/**/*.png", None);
        assert_eq!(pattern.prefixes(), ["2024-"]);
        assert!(pattern.takes("2024-05/a.png") && !pattern.takes("2024-05/a.jpg"));
    }

    #[test]
    fn the_archive_is_no_source() {
        let all = selection("", Some("s3://b/archive"));
        assert!(!all.takes("archive/parts/r/j.parquet") && !all.takes("archive/staged/ab/cd"));
        assert!(all.takes("archive-of-mine/a.png") && all.takes("parts/a.png"));
        assert!(selection("", Some("s3://other/archive")).takes("archive/parts/r/j.parquet"));
    }
}
