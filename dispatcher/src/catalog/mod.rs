//! What is to be captioned: files, folders, patterns and S3 prefixes, listed as items.
//!
//! Listing reads names and, for local files, bytes (their SHA-256 is how a later run knows that nothing changed).
//! It writes nothing. An entry that cannot be read does not stop the listing: it becomes an item that carries the
//! reason, so that it ends as a failed row like every other input.

mod bucket;
mod digest;
mod error;
mod folder;
mod local;
mod pattern;
mod source;

pub(crate) use digest::sha256 as digest;
pub use error::CatalogError;
pub(crate) use local::absolute;
pub use source::{Objects, Source};

use captionfleet_proto::job::Question;
use captionfleet_proto::storage::Stores;
use captionfleet_proto::uri::{ArchiveUri, ItemUri, Location};
use captionfleet_worker::video::is_video_name;
use std::collections::HashMap;
use std::path::PathBuf;

/// One picture or video to be captioned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// Its name in the row.
    pub uri: ItemUri,
    /// What its content is known by.
    pub identity: Identity,
    /// Bytes, where the listing said so.
    pub size: Option<u64>,
}

impl Item {
    /// Whether it is a video, by its name: listings tell nothing else.
    pub fn is_video(&self) -> bool {
        is_video_name(self.uri.as_str())
    }
}

/// What an item's content is known by, so that a change is noticed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Identity {
    /// SHA-256 of the bytes, in lower-case hex: local files.
    Sha256(String),
    /// The object's entity tag, without quotes: objects in S3.
    Etag(String),
    /// The store names no version: never known to be unchanged.
    Unversioned,
    /// The entry could not be read when it was listed.
    Unreadable(Unreadable),
}

/// Why an entry could not be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unreadable {
    /// The row's error code.
    pub code: &'static str,
    /// The system's words.
    pub message: String,
}

/// What to list, and what to leave out.
#[derive(Debug, Clone, Default)]
pub struct CatalogOptions {
    /// The archive, whose own objects are never items.
    pub archive: Option<ArchiveUri>,
    /// Take only names with a picture's extension from folders, patterns and prefixes.
    pub pictures_only: bool,
}

/// Every item of all sources, each once, in the order of the sources and by name within one.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Catalog {
    /// The items.
    pub items: Vec<Item>,
    /// Items that were given more than once.
    pub duplicates: usize,
    /// What is asked about single items alone, beside what is asked about all.
    pub questions: HashMap<ItemUri, Vec<Question>>,
}

impl Catalog {
    /// What is asked about `item` alone.
    pub fn questions_about(&self, item: &ItemUri) -> &[Question] {
        self.questions.get(item).map_or(&[], Vec::as_slice)
    }

    /// Leaves every item once, at its first place. Sorted by place rather than kept in a set: there may be millions.
    fn drop_duplicates(&mut self) {
        let uri = |place: usize| &self.items[place].uri;
        let mut places: Vec<usize> = (0..self.items.len()).collect();
        // Equal ones stay in their order.
        places.sort_by(|one, other| uri(*one).cmp(uri(*other)));
        let mut again = vec![false; places.len()];
        for pair in places.windows(2) {
            again[pair[1]] = uri(pair[0]) == uri(pair[1]);
        }
        let mut again = again.into_iter();
        let before = self.items.len();
        self.items.retain(|_| !again.next().unwrap_or_default());
        self.duplicates = before - self.items.len();
    }
}

/// Lists every item of `sources`.
///
/// Fails when a source does not exist, cannot be listed or holds nothing, and names it.
pub async fn list(
    sources: &[Source],
    options: &CatalogOptions,
    stores: &Stores,
) -> Result<Catalog, CatalogError> {
    let mut catalog = Catalog::default();
    for source in sources {
        let items = match source {
            Source::Local(path) => {
                let (path, rules) = (path.clone(), local_rules(options));
                tokio::task::spawn_blocking(move || local::list(&path, &rules))
                    .await
                    .map_err(|_| CatalogError::Interrupted { location: source.to_string() })??
            }
            Source::Objects(objects) => bucket::list(objects, options, stores).await?,
        };
        if items.is_empty() {
            return Err(CatalogError::Empty {
                location: source.to_string(),
                pictures_only: options.pictures_only,
            });
        }
        if catalog.items.is_empty() {
            catalog.items = items;
        } else {
            catalog.items.extend(items);
        }
    }
    catalog.drop_duplicates();
    Ok(catalog)
}

/// What a local listing leaves out.
#[derive(Debug, Clone, Default)]
struct LocalRules {
    archive: Option<PathBuf>,
    pictures_only: bool,
}

fn local_rules(options: &CatalogOptions) -> LocalRules {
    let archive = options.archive.as_ref().and_then(|archive| match archive.location() {
        Location::File(path) => Some(path),
        Location::S3 { .. } => None,
    });
    LocalRules { archive, pictures_only: options.pictures_only }
}

/// Extensions of pictures, for `pictures_only`.
const PICTURE_EXTENSIONS: [&str; 22] = [
    "avif", "bmp", "dib", "gif", "heic", "heif", "ico", "jfif", "jpe", "jpeg", "jpg", "pbm", "pgm", "png",
    "pnm", "ppm", "qoi", "svg", "tga", "tif", "tiff", "webp",
];

/// Whether `name` ends in a picture's extension, in any case.
fn has_picture_extension(name: &str) -> bool {
    name.rsplit_once('.').is_some_and(|(_, extension)| {
        PICTURE_EXTENSIONS.iter().any(|known| extension.eq_ignore_ascii_case(known))
    })
}

#[cfg(test)]
mod tests {
    use super::{Catalog, Identity, Item, has_picture_extension};
    use captionfleet_proto::uri::ItemUri;

    #[test]
    fn what_is_given_again_counts_once_and_keeps_its_first_place() {
        let item = |(name, size)| Item {
            uri: ItemUri::s3("b", name),
            identity: Identity::Unversioned,
            size: Some(size),
        };
        let given = [("c", 0), ("a", 1), ("c", 2), ("b", 3), ("a", 4), ("c", 5)];
        let mut catalog = Catalog { items: given.map(item).into(), ..Catalog::default() };
        catalog.drop_duplicates();
        assert_eq!(catalog.items, [("c", 0), ("a", 1), ("b", 3)].map(item));
        assert_eq!(catalog.duplicates, 3);
    }

    #[test]
    fn extensions_count_in_any_case() {
        assert!(has_picture_extension("a.b.JPeG"));
        assert!(!has_picture_extension("notes.txt"));
        assert!(!has_picture_extension("jpg"));
    }
}
