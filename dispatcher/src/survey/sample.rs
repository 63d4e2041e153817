//! How many frames a run's videos show, how many of them are near-identical to others, and how long looking at them takes:
//! from a few minutes, spread evenly over all the time that is to be captioned.
//!
//! Of a video in a bucket only those minutes are copied, into the file with its header: if an index says where they lie in
//! the file. Without one it is a minute from as far in as a few megabytes go.

use super::header::Outline;
use crate::plan::Stretch;
use captionfleet_proto::job::Sampling;
use captionfleet_proto::storage::Stores;
use captionfleet_proto::uri::ItemUri;
use captionfleet_worker::video::{Approach, Decoding, Film, Packets, Sampler, Span, VideoLimits, probe};
use std::ops::Range;
use std::path::Path;
use std::time::{Duration, Instant};

/// Minutes that are looked at.
const MOST: u64 = 8;
/// How far before the minute decoding begins.
const LEAD_MS: u64 = 1000;
/// Most bytes of one minute that are copied for it.
const MOST_BYTES: u64 = 64 << 20;

/// What samples of films tell.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sample {
    /// Frames there are to look at, for each that [`Sampling::frames_in`] counts on.
    pub density: f64,
    /// The share of frames that is kept.
    pub kept: f64,
    /// Seconds that decoding and comparing take on this machine for each frame that is looked at, kept or not.
    pub seconds_per_frame: f64,
}

/// What was seen of some minutes.
#[derive(Debug, Default)]
struct Seen {
    expected: u64,
    frames: u64,
    kept: u64,
    took: Duration,
}

/// Samples of `stretches`; `None` if none could be looked into.
pub async fn sample(stretches: &[Stretch<'_>], sampling: &Sampling, stores: &Stores) -> Option<Sample> {
    let mut seen = Seen::default();
    for (uri, minutes) in spread(stretches, sampling.anchor_ms()) {
        if let Err(error) = look_into(uri, &minutes, sampling, stores, &mut seen).await {
            tracing::debug!(item = %uri, error = format!("{error:#}"), "no sample of a video");
        }
    }
    let frames = seen.frames as f64;
    (seen.frames > 0).then(|| Sample {
        density: frames / seen.expected as f64,
        kept: seen.kept as f64 / frames,
        seconds_per_frame: seen.took.as_secs_f64() / frames,
    })
}

/// Which minutes of which videos are looked at: those at evenly spaced places of all stretches one behind the other, so that
/// a video counts by its length. Where no length is known, it is the first minute of some.
fn spread<'a>(stretches: &[Stretch<'a>], anchor: u64) -> Vec<(&'a ItemUri, Vec<Span>)> {
    let total: u64 = stretches.iter().map(|stretch| stretch.length_ms).sum();
    let mut chosen: Vec<(&ItemUri, Vec<Span>)> = Vec::new();
    let mut choose = |uri, ms: u64| {
        let start_ms = ms / anchor * anchor;
        let minute = Span { start_ms, end_ms: Some(start_ms + anchor) };
        match chosen.last_mut() {
            Some((last, minutes)) if *last == uri => {
                if minutes.last() != Some(&minute) {
                    minutes.push(minute);
                }
            }
            _ => chosen.push((uri, vec![minute])),
        }
    };
    if total == 0 {
        for stretch in stretches.iter().step_by(stretches.len().div_ceil(MOST as usize).max(1)) {
            choose(stretch.uri, 0);
        }
        return chosen;
    }
    let mut number = 0;
    let mut before = 0;
    for stretch in stretches {
        let place =
            |number: u64| (u128::from(total) * u128::from(2 * number + 1) / u128::from(2 * MOST)) as u64;
        while number < MOST && place(number) < before + stretch.length_ms {
            choose(stretch.uri, stretch.start_ms + (place(number) - before));
            number += 1;
        }
        before += stretch.length_ms;
    }
    chosen
}

/// Adds what some minutes of a video show.
async fn look_into(
    uri: &ItemUri,
    minutes: &[Span],
    sampling: &Sampling,
    stores: &Stores,
    seen: &mut Seen,
) -> anyhow::Result<()> {
    let limits = VideoLimits::default();
    if let Some(path) = stores.local_path(uri).await? {
        let film = probe(&path, &limits).await?;
        for minute in minutes {
            seen.look_at(&path, &film, *minute, sampling, &limits).await?;
        }
        return Ok(());
    }
    let outline = Outline::fetch(uri, stores).await?;
    let film = probe(outline.path(), &limits).await?;
    for minute in minutes {
        if let Some(place) = place_of(outline.path(), &film, *minute, &limits).await? {
            outline.fill(place.start, place.end - place.start).await?;
            seen.look_at(outline.path(), &film, *minute, sampling, &limits).await?;
        } else {
            let reach = outline.size().min(MOST_BYTES);
            outline.fill(0, reach).await?;
            let (anchor, length) = (sampling.anchor_ms(), film.end_ms.unwrap_or(0));
            // Bit rates vary, so that half of what these bytes show on average is all that is counted on.
            let shown = u128::from(length) * u128::from(reach) / u128::from(outline.size().max(1)) / 2;
            let start_ms = (shown as u64).saturating_sub(anchor).min(minute.start_ms) / anchor * anchor;
            let span = Span { start_ms, end_ms: Some(start_ms + anchor) };
            return seen.look_at(outline.path(), &film, span, sampling, &limits).await;
        }
    }
    Ok(())
}

/// Where the frames of `span` lie in the file, with those that decoding begins with; `None` if it has no index, or they are too
/// many bytes.
async fn place_of(
    path: &Path,
    film: &Film,
    span: Span,
    limits: &VideoLimits,
) -> anyhow::Result<Option<Range<u64>>> {
    let mut packets = Packets::of(path, film, Some(span.start_ms.saturating_sub(LEAD_MS)), limits)?;
    let mut place: Option<Range<u64>> = None;
    let (end_ms, mut seen_until) = (span.end_ms.into_iter().chain(film.end_ms).min(), 0);
    while let Some(packet) = packets.next().await? {
        let Some(bytes) = packet.bytes else { return Ok(None) };
        place = Some(match place {
            Some(place) => place.start.min(bytes.start)..place.end.max(bytes.end),
            // Without an index it may be the file's end that was found instead.
            None if span.start_ms > 0 && packet.ms > span.start_ms => return Ok(None),
            None => bytes,
        });
        seen_until = packet.end_ms.max(seen_until);
        if span.end_ms.is_some_and(|end| packet.ms > end + LEAD_MS) {
            break;
        }
    }
    // Without one, the file's beginning, and perhaps its end, are all that is found of the minute.
    let is_whole = end_ms.is_none_or(|end| seen_until + LEAD_MS >= end);
    Ok(place.filter(|place| is_whole && place.end - place.start <= MOST_BYTES))
}

impl Seen {
    /// Adds the frames of `span`, and how long it took to look at them.
    async fn look_at(
        &mut self,
        path: &Path,
        film: &Film,
        span: Span,
        sampling: &Sampling,
        limits: &VideoLimits,
    ) -> anyhow::Result<()> {
        let begun = Instant::now();
        // What was not copied looks like damage.
        let approach = Approach { from_ms: span.start_ms.saturating_sub(LEAD_MS), strict: true };
        let mut decoding = Decoding::start(path, film, span, sampling, approach, limits)?;
        let mut sampler = Sampler::new(*sampling);
        while let Some(frame) = decoding.next().await? {
            sampler.see(frame.ms, frame.signature());
        }
        let counts = sampler.counts();
        let end_ms = span.end_ms.into_iter().chain(film.end_ms).min();
        self.expected += sampling.frames_in(end_ms.map_or(0, |end| end.saturating_sub(span.start_ms)));
        self.frames += counts.iter().map(|count| u64::from(*count)).sum::<u64>();
        self.kept += counts.len() as u64;
        self.took += begun.elapsed();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: u64 = 60_000;

    fn chosen(stretches: &[(&ItemUri, u64, u64)]) -> Vec<(String, Vec<u64>)> {
        let stretches: Vec<_> = stretches
            .iter()
            .map(|(uri, start_ms, length_ms)| Stretch { uri, start_ms: *start_ms, length_ms: *length_ms })
            .collect();
        let starts = |minutes: Vec<Span>| minutes.iter().map(|minute| minute.start_ms / MINUTE).collect();
        spread(&stretches, MINUTE)
            .into_iter()
            .map(|(uri, minutes)| (uri.to_string(), starts(minutes)))
            .collect()
    }

    #[test]
    fn videos_count_by_their_lengths() {
        let [a, b, c] = ["a", "b", "c"].map(|key| ItemUri::s3("films", key));
        assert_eq!(
            chosen(&[(&a, 0, 1000), (&b, 0, 80 * MINUTE), (&c, 20 * MINUTE, 80 * MINUTE)]),
            [
                ("s3://films/b".to_owned(), vec![9, 29, 49, 69]),
                ("s3://films/c".to_owned(), vec![29, 49, 69, 89])
            ]
        );
        // A minute is looked at once, however many places are in it.
        assert_eq!(chosen(&[(&a, 0, 90_000)]), [("s3://films/a".to_owned(), vec![0, 1])]);
    }

    #[test]
    fn without_lengths_it_is_the_beginning_of_some() {
        let uris: Vec<_> = (0..20).map(|number| ItemUri::s3("films", &number.to_string())).collect();
        let stretches: Vec<_> = uris.iter().map(|uri| (uri, 0, 0)).collect();
        let found = chosen(&stretches);
        assert_eq!((found.len(), &found[1]), (7, &("s3://films/3".to_owned(), vec![0])));
        assert_eq!(chosen(&[]), []);
    }
}
