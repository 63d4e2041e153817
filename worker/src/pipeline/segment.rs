//! A segment of a video: its frames go through the engine while the next ones are decoded, and become rows that cover
//! its time without a gap.

use std::sync::Arc;
use std::time::Instant;

use captionfleet_proto::chain;
use captionfleet_proto::job::{JobItem, Sampling};
use captionfleet_proto::layout;
use captionfleet_proto::rows::Row;
use captionfleet_proto::storage::{PutMode, StorageErrorKind};
use futures::{StreamExt, TryStreamExt};
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;
use tracing::Instrument as _;

use super::budget::permit;
use super::fetch::Facts;
use super::infer::{Mode, request};
use super::item::asked;
use super::item_failure::ItemFailure;
use super::patience::Patience;
use super::prompt::Plan;
use super::source;
use super::spool::Local;
use super::task::Received;
use super::timeline::{Caught, timeline};
use super::viewing::{Kept, Viewed, Viewing};
use super::{Failure, Pipeline};
use crate::engine::CaptionResult;
use crate::telemetry::events::{self, HostStage};
use crate::telemetry::spans;
use crate::video::{self, Film, Span, VideoError, VideoLimits};

/// Kept frames that wait for a seat in the engine, beside those in it: each is a small square by then.
const WAITING: usize = 8;

/// What an attempt at a frame came to.
type Answer = Result<CaptionResult, ItemFailure>;

/// A segment on its way to rows.
#[derive(Clone, Copy)]
struct Segment<'a> {
    task: &'a Received,
    plan: &'a Plan,
    item: &'a JobItem,
    sampling: Sampling,
    span: Span,
    mode: Mode,
}

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
            Ok(plan) => {
                let segment = Segment { task, plan, item, sampling: *sampling, span, mode };
                self.catch(segment, &mut facts).await
            }
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
    async fn catch(&self, segment: Segment<'_>, facts: &mut Facts) -> Result<Caught, ItemFailure> {
        let Segment { task, item, mode, .. } = segment;
        let _in_flight = self.metrics.item_in_flight();
        let (film, viewed, answers) = {
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
            let (viewed, answers) = self.overlap(segment, facts, local, &film).await?;
            (film, viewed, answers)
        };
        let mut cleared = Vec::with_capacity(answers.len());
        for (ms, answer) in answers {
            match self.clear(answer, mode).await {
                Err(ItemFailure::Job(failure)) => return Err(ItemFailure::Job(failure)),
                answer => cleared.push((ms, answer)),
            }
        }
        Ok(Caught { film_end_ms: film.end_ms, viewed, answers: cleared })
    }

    /// Decoding and captioning side by side: neither waits for the other longer than a few frames.
    async fn overlap(
        &self,
        segment: Segment<'_>,
        facts: &Facts,
        local: Arc<Local>,
        film: &Film,
    ) -> Result<(Viewed, Vec<(u64, Answer)>), ItemFailure> {
        let Segment { task, plan, item, sampling, span, mode } = segment;
        let (frames, kept) = mpsc::channel(WAITING);
        let (film, limits, model) = (film.clone(), self.video_limits(), Arc::clone(&self.model));
        let thumbnails = task.caption.thumbnails;
        let content = layout::content_key(facts.sha256.as_deref(), facts.etag.as_deref());
        let viewing = Viewing { local, film, span, sampling, limits, model, thumbnails, frames };
        let started = Instant::now();
        let viewing = AbortOnDropHandle::new(tokio::spawn(viewing.run()));
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
                        let key = layout::thumbnail(&item.uri, content, ms);
                        let kept = task.archive.put(&key, jpeg.into(), PutMode::Overwrite).await;
                        kept.map_err(Failure::Archive)?;
                    }
                    let asked = request(picture, plan, task.lane, mode);
                    let _place = match mode {
                        Mode::Together => Some(permit(&self.budgets.of(task.lane).device).await),
                        Mode::Alone => None,
                    };
                    Ok((ms, self.ask(asked, task.lane).await))
                };
                captioned.instrument(span)
            })
            .buffered(width)
            .try_collect()
            .await
            .map_err(ItemFailure::Job)?;
        let viewed = viewing.await.map_err(|error| ItemFailure::Job(Failure::Panicked(error.to_string())))?;
        events::stage(&self.metrics, HostStage::VideoDecode, started.elapsed());
        Ok((viewed.map_err(video_failure)?, answers))
    }

    async fn spooled(&self, item: &JobItem, task: &Received) -> Result<Arc<Local>, ItemFailure> {
        let started = Instant::now();
        let (mut pauses, mut patience) =
            (self.options.fetch_pauses.iter(), Patience::new(self.options.room_patience));
        loop {
            let error = match self.spool.open(&self.stores, item.source()).await {
                Ok(local) => {
                    self.spool_takes_copies();
                    events::stage(&self.metrics, HostStage::Fetch, started.elapsed());
                    return Ok(local);
                }
                Err(error) => error,
            };
            let pause = match error.kind() {
                StorageErrorKind::NoSpace => {
                    self.spool_is_full(&error);
                    patience.pause()
                }
                _ if error.is_transient() => pauses.next().copied(),
                _ => None,
            };
            let Some(pause) = pause else {
                return Err(source::unreadable(&self.stores, item, error, task.last_attempt).await);
            };
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
    ItemFailure::row(error.code(), chain(&error))
}
