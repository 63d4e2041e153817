//! How long the videos of a run are, so that each can be shared out in segments.
//!
//! Only headers are read. A video in a bucket is not copied for it: its beginning and its end (and the index that some
//! containers put in between) are written into a file that is as long and otherwise empty, which is enough for ffprobe.
//! What does not tell its length is not cut, and is done all the same: nothing but the sharing depends on what is found
//! out here.

mod header;
mod sample;

pub use sample::{Sample, sample};

use crate::catalog::Item;
use anyhow::Context as _;
use captionfleet_proto::storage::Stores;
use captionfleet_proto::uri::ItemUri;
use captionfleet_worker::video::{Film, VideoError, VideoLimits, probe};
use futures::StreamExt as _;
use header::Outline;
use std::collections::HashMap;

/// Videos that are looked at side by side.
const AT_ONCE: usize = 4;

/// Looks at every one of `videos`; its length in milliseconds, where it tells one.
///
/// # Errors
/// When this machine has no ffprobe.
pub async fn lengths(videos: Vec<&Item>, stores: &Stores) -> anyhow::Result<HashMap<ItemUri, u64>> {
    let looks = videos.into_iter().map(|item| async move { (item.uri.clone(), look(item, stores).await) });
    let mut looks = futures::stream::iter(looks).buffer_unordered(AT_ONCE);
    let mut lengths = HashMap::new();
    while let Some((uri, film)) = looks.next().await {
        match film {
            Ok(film) => lengths.extend(film.end_ms.map(|end| (uri, end))),
            Err(error) if error.downcast_ref::<VideoError>().is_some_and(VideoError::is_local) => {
                return Err(error.context("the sources hold videos"));
            }
            // The worker that gets it will say so in a row.
            Err(error) => {
                tracing::debug!(item = %uri, error = format!("{error:#}"), "a video tells no length")
            }
        }
    }
    Ok(lengths)
}

async fn look(item: &Item, stores: &Stores) -> anyhow::Result<Film> {
    let limits = VideoLimits::default();
    if let Some(path) = stores.local_path(&item.uri).await? {
        return Ok(probe(&path, &limits).await?);
    }
    let outline = Outline::fetch(&item.uri, stores).await.context("read the header")?;
    Ok(probe(outline.path(), &limits).await?)
}
