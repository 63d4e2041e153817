//! Small pictures of the frames found.

use crate::staging::address;
use captionfleet_proto::layout;
use captionfleet_proto::storage::{Storage, StorageError, StorageErrorKind};
use captionfleet_proto::uri::{ArchiveUri, ItemUri};
use futures::{StreamExt as _, TryStreamExt as _};

/// Small pictures looked for at a time.
const HEADS_AT_ONCE: usize = 16;

/// A hit's item, frame and content, and where its small picture is to be written.
type Frame<'a> = (&'a str, Option<u64>, u64, &'a mut Option<String>);

/// Looks up which of the frames were kept as small pictures.
pub(super) async fn find(
    archive: &dyn Storage,
    uri: &ArchiveUri,
    frames: Vec<Frame<'_>>,
) -> Result<(), StorageError> {
    let keys = frames.into_iter().filter_map(|(item, frame, content, place)| {
        let key = layout::thumbnail(&ItemUri::parse(item).ok()?, content, frame?);
        Some((place, key))
    });
    futures::stream::iter(keys)
        .map(|(place, key)| async move {
            match archive.head(&key).await {
                Ok(_) => *place = Some(address(uri, &key).to_string()),
                Err(error) if error.kind() == StorageErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
            Ok(())
        })
        .buffer_unordered(HEADS_AT_ONCE)
        .try_collect()
        .await
}
