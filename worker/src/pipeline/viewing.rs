//! Looking at a segment of a video: its frames are decoded, and those that are worth a caption handed on.

use std::sync::Arc;

use captionfleet_model::ModelConfig;
use captionfleet_model::preprocess::{Picture, PreparedPicture, prepare};
use captionfleet_proto::job::Sampling;
use tokio::sync::mpsc;

use super::spool::Local;
use crate::video::{
    self, Approach, Decoding, Ending, Film, Frame, Packets, Sampler, Seen, Span, VideoError, VideoLimits,
};

/// Most rows of one segment: enough for every frame of an hour.
const MAX_ROWS: usize = 100_000;
/// How far before a segment decoding begins. Containers without an index are entered anywhere, and show nothing until the
/// next key frame: they are entered earlier and earlier, until something is seen that lies before the segment.
const LEADS_MS: [u64; 4] = [1000, 4000, 16_000, 64_000];
/// The same, where damage is in the way.
const OTHER_LEADS_MS: [u64; 3] = [0, 4000, 16_000];
/// Key frames behind damage that are tried.
const MOST_KEYS: usize = 4;
/// Behind which time of a key frame ffmpeg is told to begin, so that it begins there: where frames are stored in another
/// order than they are shown in, it goes back by 130 ms of its own accord.
const BEHIND_KEY_MS: [u64; 2] = [1, 200];
/// Frames, and milliseconds, that a decoder may have in hand when it gives up.
const IN_HAND: (u64, u64) = (4, 1000);

/// A kept frame on its way to the engine.
pub(super) struct Kept {
    pub(super) ms: u64,
    pub(super) picture: PreparedPicture,
    pub(super) thumbnail: Option<Vec<u8>>,
}

/// What was seen.
pub(super) struct Viewed {
    /// When the segment's first frame is stored, where nothing of it can be decoded; otherwise where the segment begins.
    pub(super) begins_ms: u64,
    /// Why nothing was seen from there to the first frame, if so.
    pub(super) blind: Option<VideoError>,
    /// The frames that each kept one stands for.
    pub(super) counts: Vec<u32>,
    pub(super) ending: Ending,
    /// Behind damage: when the first frame behind the segment is stored.
    pub(super) resumes_ms: Option<u64>,
}

/// The decoding of a segment.
pub(super) struct Viewing {
    pub(super) local: Arc<Local>,
    pub(super) film: Film,
    pub(super) span: Span,
    pub(super) sampling: Sampling,
    pub(super) limits: VideoLimits,
    pub(super) model: Arc<ModelConfig>,
    /// Whether kept frames are wanted as small pictures.
    pub(super) thumbnails: bool,
    pub(super) frames: mpsc::Sender<Kept>,
}

/// One run of the decoder over the segment, or over what an earlier one left.
struct Pass {
    approach: Approach,
    /// Whether it is given up where nothing before the segment is seen.
    must_be_early: bool,
    /// Frames up to here have been handed on.
    after_ms: Option<u64>,
    end_ms: Option<u64>,
}

/// What a run of the decoder came to.
struct Run {
    approach: Approach,
    sampler: Sampler,
    ending: Ending,
    /// It saw nothing before the segment, and was given up for that.
    is_late: bool,
}

impl Viewing {
    /// Decodes the segment up to its end, or to the first damage.
    ///
    /// # Errors
    /// When this machine cannot decode at all.
    pub(super) async fn run(self) -> Result<Viewed, VideoError> {
        let start_ms = self.span.start_ms;
        let (mut begins_ms, mut blind) = (start_ms, None);
        let mut run = self.enter().await?;
        if start_ms > 0 && run.ending.first_ms.is_none() && is_damage(run.ending.failure.as_ref()) {
            let stored = self.stored_at(start_ms).await?;
            let Some(stored) = stored.filter(|ms| self.span.end_ms.is_none_or(|end| *ms < end)) else {
                // The segment in which the damage begins answers for all the time without a frame.
                run.ending.failure = None;
                return Ok(viewed(begins_ms, blind, run, None));
            };
            begins_ms = stored;
            if let Some(clean) = self.enter_elsewhere().await? {
                let is_late = clean.ending.first_ms.is_some_and(|first| first > begins_ms + 1);
                blind = run.ending.failure.filter(|_| is_late);
                run = clean;
            }
        }
        // A decoder that gives up forgets the frames that it has finished.
        if run.ending.lost
            && let Some(last_ms) = run.ending.last_ms
        {
            let rest = Pass {
                approach: Approach { strict: false, ..run.approach },
                must_be_early: false,
                after_ms: run.ending.taken_ms,
                end_ms: Some(last_ms.saturating_add(1)),
            };
            run.sampler = self.pass(run.sampler, rest).await?.sampler;
        }
        let resumes_ms = self.judge(&mut run.ending).await?;
        Ok(viewed(begins_ms, blind, run, resumes_ms))
    }

    /// Decodes from as little before the segment as shows something of what comes before it.
    async fn enter(&self) -> Result<Run, VideoError> {
        for lead in LEADS_MS.into_iter().filter(|lead| *lead < self.span.start_ms) {
            let run = self.pass_from(self.span.start_ms - lead, true).await?;
            if !run.is_late {
                return Ok(run);
            }
        }
        self.pass_from(0, false).await
    }

    /// Looks for a place behind damage from which frames of the segment can be decoded.
    async fn enter_elsewhere(&self) -> Result<Option<Run>, VideoError> {
        let start_ms = self.span.start_ms;
        let before = OTHER_LEADS_MS.into_iter().map(|lead| start_ms.saturating_sub(lead));
        let keys = self.keys().await?;
        let behind = keys.into_iter().flat_map(|key| BEHIND_KEY_MS.map(|behind| key + behind));
        for from_ms in before.chain(behind) {
            let run = self.pass_from(from_ms, false).await?;
            if run.ending.first_ms.is_some() {
                return Ok(Some(run));
            }
        }
        Ok(None)
    }

    /// The first key frames of the segment.
    async fn keys(&self) -> Result<Vec<u64>, VideoError> {
        let Span { start_ms, end_ms } = self.span;
        let read = async {
            let mut packets = Packets::of(&self.local.path, &self.film, Some(start_ms), &self.limits)?;
            let mut keys = Vec::new();
            while keys.len() < MOST_KEYS
                && let Some(packet) = packets.next().await?
                && end_ms.is_none_or(|end| packet.ms < end)
            {
                keys.extend((packet.is_key && packet.ms > start_ms).then_some(packet.ms));
            }
            Ok(keys)
        };
        or_unless_local(read.await, Vec::new())
    }

    /// When the first frame is stored that is not shown before `ms`. Without an answer there is taken to be one.
    async fn stored_at(&self, ms: u64) -> Result<Option<u64>, VideoError> {
        let read = async {
            let packets = Packets::of(&self.local.path, &self.film, Some(ms), &self.limits)?;
            packets.first_at(ms).await
        };
        or_unless_local(read.await, Some(ms))
    }

    /// Tells damage from the end of the file, and whether it is this segment's; when the film goes on behind the segment.
    async fn judge(&self, ending: &mut Ending) -> Result<Option<u64>, VideoError> {
        let Some(failure) = ending.failure.take_if(|failure| is_damage(Some(failure))) else {
            return Ok(None);
        };
        let resumes_ms = match self.span.end_ms {
            Some(end_ms) => self.stored_at(end_ms).await?,
            None => None,
        };
        let follows = match ending.last_ms {
            Some(last_ms) => resumes_ms.is_some() || self.stored_at(last_ms + IN_HAND.1 + 1).await?.is_some(),
            None => matches!(failure, VideoError::Corrupt(_)),
        };
        let in_hand = (IN_HAND.0 * self.film.frame_ms).min(IN_HAND.1);
        if let (Some(end_ms), Some(seen_until), Some(resumes)) =
            (self.span.end_ms, ending.last_end_ms, resumes_ms)
            && seen_until + in_hand >= end_ms
            && resumes <= end_ms + in_hand
        {
            // All of the segment is there, and its neighbour will tell what became of the next frame.
            ending.next_ms = Some(resumes);
            return Ok(None);
        }
        ending.failure = Some(match failure {
            VideoError::Corrupt(words) if !follows => VideoError::Truncated(words),
            VideoError::Truncated(words) if follows => VideoError::Corrupt(words),
            failure => failure,
        });
        Ok(resumes_ms)
    }

    async fn pass_from(&self, from_ms: u64, must_be_early: bool) -> Result<Run, VideoError> {
        let approach = Approach { from_ms, strict: true };
        let pass = Pass { approach, must_be_early, after_ms: None, end_ms: self.span.end_ms };
        self.pass(Sampler::new(self.sampling), pass).await
    }

    async fn pass(&self, mut sampler: Sampler, pass: Pass) -> Result<Run, VideoError> {
        let approach = pass.approach;
        let span = Span { start_ms: self.span.start_ms, end_ms: pass.end_ms };
        let path = &self.local.path;
        let mut decoding = Decoding::start(path, &self.film, span, &self.sampling, approach, &self.limits)?;
        let (ending, is_late) = loop {
            let frame = match decoding.next().await {
                Ok(frame) => frame,
                Err(error) if error.is_local() => return Err(error),
                // The frames so far are good.
                Err(error) => break (decoding.abandon(Some(error)), false),
            };
            if pass.must_be_early && decoding.first_ms().is_some_and(|first| first >= span.start_ms) {
                break (decoding.abandon(None), true);
            }
            let Some(frame) = frame else { break (decoding.end().await?, false) };
            if pass.after_ms.is_some_and(|after| frame.ms <= after) {
                continue;
            }
            sampler = self.look_at(frame, sampler).await?;
            if sampler.kept() >= MAX_ROWS {
                let failure = VideoError::TooManyFrames { limit: MAX_ROWS };
                break (decoding.abandon(Some(failure)), false);
            }
        };
        Ok(Run { approach, sampler, ending, is_late })
    }

    /// Compares a frame with the last kept one, and hands it on if it is worth it.
    async fn look_at(&self, frame: Frame, mut sampler: Sampler) -> Result<Sampler, VideoError> {
        let (model, (width, height)) = (Arc::clone(&self.model), (self.film.width, self.film.height));
        let thumbnails = self.thumbnails;
        let looked_at = tokio::task::spawn_blocking(move || {
            let (ms, seen) = (frame.ms, sampler.see(frame.ms, frame.signature()));
            let kept = (seen == Seen::Kept).then(|| {
                let rgb = frame.into_rgb();
                let thumbnail = thumbnails.then(|| video::thumbnail(&rgb, width, height)).flatten();
                let picture = prepare(&Picture { width, height, rgb }, &model);
                Kept { ms, picture, thumbnail }
            });
            (sampler, kept)
        });
        let (sampler, kept) = looked_at
            .await
            .map_err(|error| VideoError::Corrupt(format!("a frame cannot be used: {error}")))?;
        if let Some(kept) = kept {
            // Nobody waits for the frames of a segment that is being given back.
            let _ = self.frames.send(kept).await;
        }
        Ok(sampler)
    }
}

fn viewed(begins_ms: u64, blind: Option<VideoError>, run: Run, resumes_ms: Option<u64>) -> Viewed {
    Viewed { begins_ms, blind, counts: run.sampler.counts(), ending: run.ending, resumes_ms }
}

/// Whether it lies in the file that there are no more frames.
fn is_damage(failure: Option<&VideoError>) -> bool {
    use VideoError::{ClockGoesBack, Corrupt, Truncated};
    matches!(failure, Some(Corrupt(_) | Truncated(_) | ClockGoesBack { .. }))
}

/// What could be found out about a damaged file, or `otherwise`.
fn or_unless_local<T>(found: Result<T, VideoError>, otherwise: T) -> Result<T, VideoError> {
    match found {
        Err(error) if !error.is_local() => Ok(otherwise),
        found => found,
    }
}
