//! How many of a run's frames are near-identical to others, from a minute of a few of its videos.

use captionfleet_proto::job::Sampling;
use captionfleet_proto::storage::Stores;
use captionfleet_proto::uri::ItemUri;
use captionfleet_worker::video::{Decoding, Sampler, Signature, Span, VideoLimits, probe};

/// Videos that are looked into.
const MOST: usize = 4;

/// The share of frames that is kept, in samples of `videos` (with their lengths); `None` if none could be looked into.
/// Videos in buckets are not copied for it.
pub async fn kept_share(videos: &[(ItemUri, u64)], sampling: &Sampling, stores: &Stores) -> Option<f64> {
    let (mut seen, mut kept) = (0, 0);
    let local: Vec<_> = videos.iter().filter(|(uri, _)| uri.is_local()).collect();
    for (uri, length) in local.iter().step_by(local.len().div_ceil(MOST).max(1)) {
        match look_into(uri, *length, sampling, stores).await {
            Ok(counts) => {
                seen += counts.iter().map(|count| u64::from(*count)).sum::<u64>();
                kept += counts.len() as u64;
            }
            Err(error) => tracing::debug!(item = %uri, error = format!("{error:#}"), "no sample of a video"),
        }
    }
    (seen > 0).then(|| kept as f64 / seen as f64)
}

/// The frames that each kept one stands for, in the middle of a video.
async fn look_into(
    uri: &ItemUri,
    length: u64,
    sampling: &Sampling,
    stores: &Stores,
) -> anyhow::Result<Vec<u32>> {
    let limits = VideoLimits::default();
    let Some(path) = stores.local_path(uri).await? else { return Ok(Vec::new()) };
    let film = probe(&path, &limits).await?;
    let anchor = sampling.anchor_ms();
    let start_ms = length / 2 / anchor * anchor;
    let span = Span { start_ms, end_ms: Some(start_ms + anchor) };
    let mut decoding = Decoding::start(&path, &film, span, sampling, false, &limits)?;
    let mut sampler = Sampler::new(*sampling);
    while let Some(frame) = decoding.next().await? {
        let (width, height) = (film.width as usize, film.height as usize);
        sampler.see(frame.ms, Signature::of(&frame.rgb, width, height));
    }
    Ok(sampler.counts())
}
