//! How many of a run's frames are near-identical to others, and how long looking at them takes, from a minute of a few of
//! its videos.
//!
//! Of a video in a bucket only that minute is copied, into the file with its header: from its middle if an index says where
//! that lies in the file, and from as far in as a few megabytes go otherwise.

use super::header::Outline;
use captionfleet_proto::job::Sampling;
use captionfleet_proto::storage::Stores;
use captionfleet_proto::uri::ItemUri;
use captionfleet_worker::video::{Approach, Decoding, Film, Packets, Sampler, Span, VideoLimits, probe};
use std::ops::Range;
use std::path::Path;
use std::time::{Duration, Instant};

/// Videos that are looked into.
const MOST: usize = 4;
/// How far before the minute decoding begins.
const LEAD_MS: u64 = 1000;
/// Most bytes of one video that are copied for it.
const MOST_BYTES: u64 = 64 << 20;

/// What samples of films tell.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sample {
    /// The share of frames that is kept.
    pub kept: f64,
    /// Seconds that decoding and comparing take on this machine for each frame that is looked at, kept or not.
    pub seconds_per_frame: f64,
}

/// Samples of `videos` (with their lengths in milliseconds); `None` if none could be looked into.
pub async fn sample(videos: &[(ItemUri, u64)], sampling: &Sampling, stores: &Stores) -> Option<Sample> {
    let (mut seen, mut kept, mut took) = (0, 0, Duration::ZERO);
    for (uri, length) in videos.iter().step_by(videos.len().div_ceil(MOST).max(1)) {
        match look_into(uri, *length, sampling, stores).await {
            Ok((counts, time)) => {
                took += time;
                seen += counts.iter().map(|count| u64::from(*count)).sum::<u64>();
                kept += counts.len() as u64;
            }
            Err(error) => tracing::debug!(item = %uri, error = format!("{error:#}"), "no sample of a video"),
        }
    }
    let frames = seen as f64;
    (seen > 0).then(|| Sample { kept: kept as f64 / frames, seconds_per_frame: took.as_secs_f64() / frames })
}

/// The frames that each kept one stands for in a minute of a video, and how long it took to look at that.
async fn look_into(
    uri: &ItemUri,
    length: u64,
    sampling: &Sampling,
    stores: &Stores,
) -> anyhow::Result<(Vec<u32>, Duration)> {
    let limits = VideoLimits::default();
    let anchor = sampling.anchor_ms();
    let minute_at = |ms: u64| {
        let start_ms = ms / anchor * anchor;
        Span { start_ms, end_ms: Some(start_ms + anchor) }
    };
    let middle = minute_at(length / 2);
    if let Some(path) = stores.local_path(uri).await? {
        let film = probe(&path, &limits).await?;
        return kept_in(&path, &film, middle, sampling, &limits).await;
    }
    let outline = Outline::fetch(uri, stores).await?;
    let film = probe(outline.path(), &limits).await?;
    let minute = if let Some(place) = place_of(outline.path(), &film, middle, &limits).await? {
        outline.fill(place.start, (place.end - place.start).min(MOST_BYTES)).await?;
        middle
    } else {
        let reach = outline.size().min(MOST_BYTES);
        outline.fill(0, reach).await?;
        // Bit rates vary, so that half of what these bytes show on average is all that is counted on.
        let shown = u128::from(length) * u128::from(reach) / u128::from(outline.size().max(1)) / 2;
        minute_at((shown as u64).saturating_sub(anchor).min(middle.start_ms))
    };
    kept_in(outline.path(), &film, minute, sampling, &limits).await
}

/// Where the frames of `span` lie in the file, with those that decoding begins with; `None` if it has no index.
async fn place_of(
    path: &Path,
    film: &Film,
    span: Span,
    limits: &VideoLimits,
) -> anyhow::Result<Option<Range<u64>>> {
    let mut packets = Packets::of(path, film, Some(span.start_ms.saturating_sub(LEAD_MS)), limits)?;
    let mut place: Option<Range<u64>> = None;
    let mut is_reached = false;
    while let Some(packet) = packets.next().await? {
        let Some(bytes) = packet.bytes else { return Ok(None) };
        place = Some(match place {
            Some(place) => place.start.min(bytes.start)..place.end.max(bytes.end),
            None => bytes,
        });
        if span.end_ms.is_some_and(|end| packet.ms > end + LEAD_MS) {
            break;
        }
        is_reached |= packet.ms >= span.start_ms;
    }
    Ok(place.filter(|_| is_reached))
}

async fn kept_in(
    path: &Path,
    film: &Film,
    span: Span,
    sampling: &Sampling,
    limits: &VideoLimits,
) -> anyhow::Result<(Vec<u32>, Duration)> {
    let begun = Instant::now();
    // What was not copied looks like damage.
    let approach = Approach { from_ms: span.start_ms.saturating_sub(LEAD_MS), strict: true };
    let mut decoding = Decoding::start(path, film, span, sampling, approach, limits)?;
    let mut sampler = Sampler::new(*sampling);
    while let Some(frame) = decoding.next().await? {
        sampler.see(frame.ms, frame.signature());
    }
    Ok((sampler.counts(), begun.elapsed()))
}
