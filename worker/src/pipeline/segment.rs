//! A segment of a video: its frames go through the engine while the next ones are decoded, and become rows that cover
//! its time without a gap.

use std::sync::Arc;
use std::time::Instant;

use captionfleet_model::ModelConfig;
use captionfleet_model::preprocess::{Picture, PreparedPicture, prepare};
use captionfleet_proto::job::{JobItem, Sampling};
use captionfleet_proto::layout;
use captionfleet_proto::rows::Row;
use captionfleet_proto::storage::{PutMode, StorageErrorKind};
use futures::{StreamExt, TryStreamExt};
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;
use tracing::Instrument as _;

use super::budget::permit;
use super::fetch::{Facts, sort_out};
use super::infer::request;
use super::item::{ItemFailure, Mode, asked};
use super::patience::Patience;
use super::prompt::Plan;
use super::spool::Local;
use super::task::Received;
use super::timeline::{Caught, timeline};
use super::{Failure, Pipeline};
use crate::engine::CaptionResult;
use crate::telemetry::events::{self, HostStage};
use crate::telemetry::spans;
use crate::video::{self, Decoding, Ending, Film, Sampler, Seen, Signature, Span, VideoError, VideoLimits};

/// The readiness condition that appears when there is no room for a copy of a video.
const SPOOL: &str = "spool";
/// Kept frames that wait for a seat in the engine, beside those in it: each is a small square by then.
const WAITING: usize = 8;
/// Most rows of one segment: enough for every frame of an hour.
const MAX_ROWS: usize = 100_000;

/// A kept frame on its way to the engine.
struct Kept {
    ms: u64,
    picture: PreparedPicture,
    thumbnail: Option<Vec<u8>>,
}

/// What decoding came to.
struct Decoded {
    /// The frames that each kept one stands for.
    counts: Vec<u32>,
    ending: Ending,
}

/// What an attempt at a frame came to.
type Answer = Result<CaptionResult, ItemFailure>;

impl Pipeline {
    /// Does one segment: as many rows as it shows.
    pub(super) async fn run_segment(
        &self,
        task: &Received,
        plan: Result<&Plan, &ItemFailure>,
        item: &JobItem,
        sampling: &Sampling,
        mode: Mode,
    ) -> Result<Vec<Row>, Failure> {
        let mut facts = Facts::planned(item);
        let start_ms = item.frame_ms.unwrap_or(0);
        let span = Span { start_ms, end_ms: item.span_ms.map(|span| start_ms.saturating_add(span)) };
        let caught = match plan {
            Ok(plan) => self.catch(task, plan, item, sampling, span, mode, &mut facts).await,
            Err(ItemFailure::Row { code, message }) => Err(ItemFailure::row(code, message.clone())),
            Err(_) => Err(ItemFailure::row("internal", "the prompt cannot be used".to_owned())),
        };
        match caught {
            Ok(caught) => {
                let lines = timeline(span, caught);
                Ok(lines
                    .into_iter()
                    .map(|line| self.line_row(task, item, &facts, line, asked(plan)))
                    .collect())
            }
            Err(ItemFailure::Job(failure)) => Err(failure),
            Err(ItemFailure::Row { code, message }) => {
                events::item_failed(&task.id, item.uri.as_str(), code, &message);
                Ok(vec![self.failed_row(task, item, facts, code, message)])
            }
            Err(ItemFailure::Unclear(_)) => {
                let message = "the model failed on this segment".to_owned();
                Ok(vec![self.failed_row(task, item, facts, "internal", message)])
            }
        }
    }

    /// Decodes and captions; what the rows are made of.
    #[allow(clippy::too_many_arguments)]
    async fn catch(
        &self,
        task: &Received,
        plan: &Plan,
        item: &JobItem,
        sampling: &Sampling,
        span: Span,
        mode: Mode,
        facts: &mut Facts,
    ) -> Result<Caught, ItemFailure> {
        let _in_flight = self.metrics.item_in_flight();
        let (film, decoded, answers) = {
            let _company = match mode {
                Mode::Together => {
                    let place = permit(&self.budgets.of(task.lane).pictures).await;
                    Some((place, self.isolation.read().await))
                }
                Mode::Alone => None,
            };
            let local = self.spooled(item, task).await?;
            facts.etag.clone_from(&local.etag);
            // A file is known by the digest that it was planned with, as long as it has not changed its size.
            if local.sha256().is_some() || item.size.is_some_and(|size| size != local.size) {
                facts.sha256 = local.sha256().cloned();
            }
            let film = self.film(&local).await?;
            (facts.width, facts.height) = (Some(film.width), Some(film.height));
            let _decoder = permit(&self.budgets.decoders).await;
            let (decoded, answers) =
                self.overlap(task, plan, item, local, &film, span, sampling, mode).await?;
            (film, decoded, answers)
        };
        let mut cleared = Vec::with_capacity(answers.len());
        for (ms, answer) in answers {
            match self.clear(answer, mode).await {
                Err(ItemFailure::Job(failure)) => return Err(ItemFailure::Job(failure)),
                answer => cleared.push((ms, answer)),
            }
        }
        let Decoded { counts, ending } = decoded;
        Ok(Caught { film_end_ms: film.end_ms, counts, ending, answers: cleared })
    }

    /// Decoding and captioning side by side: neither waits for the other longer than a few frames.
    #[allow(clippy::too_many_arguments)]
    async fn overlap(
        &self,
        task: &Received,
        plan: &Plan,
        item: &JobItem,
        local: Arc<Local>,
        film: &Film,
        span: Span,
        sampling: &Sampling,
        mode: Mode,
    ) -> Result<(Decoded, Vec<(u64, Answer)>), ItemFailure> {
        let (frames, kept) = mpsc::channel(WAITING);
        let (film, sampling, limits, model) =
            (film.clone(), *sampling, self.video_limits(), Arc::clone(&self.model));
        let thumbnails = task.caption.thumbnails;
        let work = Work { local, film, span, sampling, limits, model, thumbnails, frames };
        let started = Instant::now();
        let decoding = AbortOnDropHandle::new(tokio::spawn(work.run()));
        let width = match mode {
            Mode::Together => self.budgets.of(task.lane).width,
            Mode::Alone => 1,
        };
        let kept = futures::stream::unfold(kept, |mut kept| async { Some((kept.recv().await?, kept)) });
        let answers: Vec<_> = kept
            .map(|Kept { ms, picture, thumbnail }| {
                let span = tracing::info_span!(target: spans::TARGET, "frame", frame.ms = ms);
                let captioned = async move {
                    if let Some(jpeg) = thumbnail {
                        self.keep_thumbnail(task, item, ms, jpeg).await?;
                    }
                    let asked = request(picture, plan, task.lane, mode);
                    let _place = match mode {
                        Mode::Together => Some(permit(&self.budgets.of(task.lane).device).await),
                        Mode::Alone => None,
                    };
                    Ok((ms, self.ask(self.options.item_deadline, asked, task.lane).await))
                };
                captioned.instrument(span)
            })
            .buffered(width)
            .try_collect()
            .await
            .map_err(ItemFailure::Job)?;
        let decoded =
            decoding.await.map_err(|error| ItemFailure::Job(Failure::Panicked(error.to_string())))?;
        events::stage(&self.metrics, HostStage::VideoDecode, started.elapsed());
        Ok((decoded.map_err(video_failure)?, answers))
    }

    async fn keep_thumbnail(
        &self,
        task: &Received,
        item: &JobItem,
        ms: u64,
        jpeg: Vec<u8>,
    ) -> Result<(), Failure> {
        let key = layout::thumbnail(&item.uri, ms);
        let written = task.archive.put(&key, jpeg.into(), PutMode::Overwrite).await;
        written.map(drop).map_err(Failure::Archive)
    }

    async fn spooled(&self, item: &JobItem, task: &Received) -> Result<Arc<Local>, ItemFailure> {
        let started = Instant::now();
        let (mut pauses, mut patience) =
            (self.options.fetch_pauses.iter(), Patience::new(self.options.room_patience));
        loop {
            let error = match self.spool.open(&self.stores, item.source()).await {
                Ok(local) => {
                    self.readiness.recovered(SPOOL);
                    events::stage(&self.metrics, HostStage::Fetch, started.elapsed());
                    return Ok(local);
                }
                Err(error) => error,
            };
            let pause = match error.kind() {
                StorageErrorKind::NoSpace => {
                    self.readiness.not_ready(SPOOL, events::chain(&error));
                    patience.pause()
                }
                _ if error.is_transient() => pauses.next().copied(),
                _ => None,
            };
            let Some(pause) = pause else { return Err(sort_out(item, error, task.last_attempt)) };
            events::storage_retry(item.source().as_str(), &error);
            tokio::time::sleep(pause).await;
        }
    }

    async fn film(&self, local: &Local) -> Result<Film, ItemFailure> {
        let limits = self.video_limits();
        let probed = local.film.get_or_try_init(|| video::probe(&local.path, &limits)).await;
        probed.cloned().map_err(video_failure)
    }

    fn video_limits(&self) -> VideoLimits {
        VideoLimits { silence: self.options.item_deadline, ..self.options.video_limits }
    }
}

/// A machine without ffmpeg gives the job back; everything else is said in a row.
fn video_failure(error: VideoError) -> ItemFailure {
    if error.is_local() {
        return ItemFailure::Job(Failure::Video(error));
    }
    ItemFailure::row(error.code(), events::chain(&error))
}

/// The decoding of a segment: hands on what is worth a caption.
struct Work {
    local: Arc<Local>,
    film: Film,
    span: Span,
    sampling: Sampling,
    limits: VideoLimits,
    model: Arc<ModelConfig>,
    /// Whether kept frames are wanted as small pictures.
    thumbnails: bool,
    frames: mpsc::Sender<Kept>,
}

/// One run of the decoder over a segment, or over what an earlier one left.
struct Pass {
    strict: bool,
    /// Frames up to here have been handed on.
    after_ms: Option<u64>,
    end_ms: Option<u64>,
}

impl Work {
    async fn run(self) -> Result<Decoded, VideoError> {
        let sampler = Sampler::new(self.sampling);
        let whole = |strict| Pass { strict, after_ms: None, end_ms: self.span.end_ms };
        let (mut sampler, mut ending) = self.pass(sampler, whole(true)).await?;
        if ending.failure.is_some() {
            match (ending.last_ms, ending.lost) {
                // What the decoder took for damage lies before the segment.
                (None, _) if self.span.start_ms > 0 => {
                    (sampler, ending) = self.pass(sampler, whole(false)).await?;
                }
                // A decoder that gives up forgets the frames that it has finished.
                (Some(last_ms), true) => {
                    let rest = Pass {
                        strict: false,
                        after_ms: ending.taken_ms,
                        end_ms: Some(last_ms.saturating_add(1)),
                    };
                    (sampler, _) = self.pass(sampler, rest).await?;
                }
                _ => {}
            }
        }
        if let (Some(VideoError::Corrupt(words)), Some(last_ms)) = (&ending.failure, ending.last_ms)
            && !video::follows(&self.local.path, &self.film, last_ms, &self.limits).await
        {
            ending.failure = Some(VideoError::Truncated(words.clone()));
        }
        Ok(Decoded { counts: sampler.counts(), ending })
    }

    async fn pass(&self, mut sampler: Sampler, pass: Pass) -> Result<(Sampler, Ending), VideoError> {
        let span = Span { start_ms: self.span.start_ms, end_ms: pass.end_ms };
        let mut decoding =
            Decoding::start(&self.local.path, &self.film, span, &self.sampling, pass.strict, &self.limits)?;
        loop {
            let frame = match decoding.next().await {
                Ok(Some(frame)) => frame,
                Ok(None) => return Ok((sampler, decoding.end().await?)),
                Err(error) if error.is_local() => return Err(error),
                // The frames so far are good.
                Err(error) => return Ok((sampler, decoding.abandon(error))),
            };
            if pass.after_ms.is_some_and(|after| frame.ms <= after) {
                continue;
            }
            let (model, (width, height)) = (Arc::clone(&self.model), (self.film.width, self.film.height));
            let thumbnails = self.thumbnails;
            let looked_at = tokio::task::spawn_blocking(move || {
                let signature = Signature::of(&frame.rgb, width as usize, height as usize);
                let seen = sampler.see(frame.ms, signature);
                let kept = (seen == Seen::Kept).then(|| {
                    let thumbnail = thumbnails.then(|| video::thumbnail(&frame.rgb, width, height)).flatten();
                    let picture = prepare(&Picture { width, height, rgb: frame.rgb }, &model);
                    Kept { ms: frame.ms, picture, thumbnail }
                });
                (sampler, kept)
            });
            let kept;
            (sampler, kept) = looked_at
                .await
                .map_err(|error| VideoError::Corrupt(format!("a frame cannot be used: {error}")))?;
            let Some(kept) = kept else { continue };
            // Nobody waits for the frames of a segment that is being given back.
            let _ = self.frames.send(kept).await;
            if sampler.kept() >= MAX_ROWS {
                return Ok((sampler, decoding.abandon(VideoError::TooManyFrames { limit: MAX_ROWS })));
            }
        }
    }
}
