//! The frames of one segment, one after another, out of a running ffmpeg.
//!
//! The pixels come through standard output. What comes through descriptor 0 are lines with the time of every frame that
//! was decoded, and of every one that was chosen, in order: a frame's line always leaves before its pixels do. Nothing
//! that a file's author can write gets between these lines, as it could in a log.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Instant;

use captionfleet_proto::job::{SampleBy, Sampling};
use tokio::process::Child;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::output::{Heard, Output};
use super::selection;
use super::tail::{self, Tail};
use super::tool::{self, VideoLimits, Words};
use super::{Film, Frame, VideoError};

const PROGRAM: &str = "ffmpeg";
/// How far a clock may go back between two frames, in milliseconds: less is the carelessness of a muxer, such as one that lets a
/// Matroska file begin before its clock does, whose first frames are shown from its beginning on.
const BACK_MS: i64 = 2000;

/// A piece of a film's time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// Where it begins.
    pub start_ms: u64,
    /// Where the next one begins; `None` for the last.
    pub end_ms: Option<u64>,
}

/// How a decoder goes about its segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Approach {
    /// Where in the film it begins to read; at the last key frame before, if the container knows where they are.
    pub from_ms: u64,
    /// Whether the first damage ends it; if not, it goes on as well as it can.
    pub strict: bool,
}

/// How a segment ended.
#[derive(Debug)]
pub struct Ending {
    /// When the first frame behind the segment is shown, if there is one.
    pub next_ms: Option<u64>,
    /// When the first decoded frame inside is shown.
    pub first_ms: Option<u64>,
    /// When the last one is, as far as the film is whole.
    pub last_ms: Option<u64>,
    /// When it ends, as far as its neighbours tell.
    pub last_end_ms: Option<u64>,
    /// When the last frame that was chosen and came is shown.
    pub taken_ms: Option<u64>,
    /// Whether frames were chosen of which no pixels came.
    pub lost: bool,
    /// What went wrong behind that.
    pub failure: Option<VideoError>,
}

/// A running decoder. Dropping it ends it.
pub struct Decoding {
    path: PathBuf,
    span: Span,
    sampling: Sampling,
    film: Film,
    limits: VideoLimits,
    started: Instant,
    child: Child,
    output: Output,
    words: JoinHandle<Words>,
    /// Of all decoded frames, and of those inside the segment.
    first: Option<i64>,
    latest: Option<i64>,
    inside: Option<u64>,
    last: Option<u64>,
    /// The longest time between two frames, and when the one before it is shown.
    widest_gap: Option<(u64, u64)>,
    next: Option<u64>,
    /// From when to when the clock goes back.
    back: Option<(i64, i64)>,
    taken: Option<u64>,
    lost: bool,
}

impl Decoding {
    /// Starts decoding `span` of the film at `path`.
    ///
    /// # Errors
    /// When `ffmpeg` cannot be started.
    pub fn start(
        path: &Path,
        film: &Film,
        span: Span,
        sampling: &Sampling,
        approach: Approach,
        limits: &VideoLimits,
    ) -> Result<Self, VideoError> {
        let talk = |source| VideoError::Talk { program: PROGRAM, source };
        let (output, ends) = Output::new(film.pixels.bytes(film.width, film.height)).map_err(talk)?;
        let mut command = tool::command(PROGRAM);
        command.args(["-nostdin", "-copyts", "-noaccurate_seek"]);
        command.args(film.quirks.options());
        if approach.strict {
            command.arg("-xerror");
        }
        if approach.from_ms > 0 {
            let seek = film.origin_us.saturating_add_unsigned(approach.from_ms.saturating_mul(1000));
            command.args(["-seek_timestamp", "1", "-ss", &format!("{seek}us")]);
        }
        if sampling.by == SampleBy::Keyframes {
            command.args(["-skip_frame", "nokey"]);
        }
        command.args(["-threads", &limits.threads.to_string(), "-i"]).arg(tool::input(path));
        command.args(["-map", &format!("0:{}", film.stream), "-an", "-sn", "-dn", "-vf"]);
        command.arg(selection::graph(sampling, span, film));
        command.args(["-filter_threads", "1", "-fps_mode", "passthrough", "-flush_packets", "1"]);
        // More threads for copying pixels would hold the last frame back, and wake each other for every one.
        command.args(["-threads", "1", "-f", "rawvideo", "pipe:1"]);
        command.stdin(Stdio::from(ends.lines)).stdout(Stdio::from(ends.pixels));
        let mut child = tool::start(&mut command, PROGRAM, limits)?;
        // Our copies of the writing ends must go, or what is read would never end.
        drop(command);
        let Some(errors) = child.stderr.take() else {
            return Err(talk(std::io::Error::other("a pipe is missing")));
        };
        Ok(Self {
            path: path.to_owned(),
            span,
            sampling: *sampling,
            film: film.clone(),
            limits: *limits,
            started: Instant::now(),
            child,
            output,
            words: tokio::spawn(tool::words(errors)),
            first: None,
            latest: None,
            inside: None,
            last: None,
            widest_gap: None,
            next: None,
            back: None,
            taken: None,
            lost: false,
        })
    }

    /// The next chosen frame; `None` at the end of the segment, or where decoding fails: [`Self::end`] tells.
    ///
    /// # Errors
    /// When ffmpeg falls silent, or cannot be talked to.
    pub async fn next(&mut self) -> Result<Option<Frame>, VideoError> {
        loop {
            let heard = self.output.next(self.limits.silence).await;
            match heard.map_err(|source| VideoError::Talk { program: PROGRAM, source })? {
                Heard::Seen(ms) => {
                    self.see(ms);
                    if self.next.is_some() || self.back.is_some() {
                        return Ok(None);
                    }
                }
                // After the last pixels the remaining lines still tell how far decoding came.
                Heard::Chosen(_, None) => self.lost = true,
                // Rows are told apart by their milliseconds.
                Heard::Chosen(ms, Some(bytes)) if self.taken.is_none_or(|before| ms > before) => {
                    self.taken = Some(ms);
                    return Ok(Some(Frame::new(&self.film, ms, bytes)));
                }
                Heard::Chosen(..) => {}
                Heard::Silence => {
                    return Err(VideoError::Stalled { program: PROGRAM, silence: self.limits.silence });
                }
                Heard::End => return Ok(None),
            }
        }
    }

    /// When the first frame is shown that was decoded at all, wherever it lies; `None` as long as there was none.
    pub fn first_ms(&self) -> Option<u64> {
        self.first.map(|first| u64::try_from(first).unwrap_or(0))
    }

    fn see(&mut self, ms: Option<i64>) {
        let Some(ms) = ms else { return };
        self.first = self.first.or(Some(ms));
        if let Some(latest) = self.latest.filter(|latest| ms + BACK_MS < *latest) {
            self.back = Some((latest, ms));
            return;
        }
        self.latest = self.latest.max(Some(ms));
        let Some(ms) = u64::try_from(ms).ok().filter(|ms| *ms >= self.span.start_ms) else { return };
        if let Some(last) = self.last {
            let gap = ms.saturating_sub(last);
            if self.widest_gap.is_none_or(|(widest, _)| gap > widest) {
                self.widest_gap = Some((gap, last));
            }
        }
        if self.span.end_ms.is_some_and(|end| ms >= end) {
            self.next = Some(ms);
            return;
        }
        self.inside = self.inside.or(Some(ms));
        self.last = Some(self.last.map_or(ms, |last| last.max(ms)));
    }

    /// Says how the segment ended, and ends the decoder.
    ///
    /// # Errors
    /// When ffmpeg falls silent, cannot be talked to, or was ended from outside.
    pub async fn end(mut self) -> Result<Ending, VideoError> {
        if self.next.is_some() || self.back.is_some() {
            let _ = self.child.kill().await;
            let words = (&mut self.words).await.unwrap_or_default();
            let failure = self.back.map(|(from_ms, to_ms)| VideoError::ClockGoesBack { from_ms, to_ms });
            return Ok(self.ending(failure, &words));
        }
        let status = timeout(self.limits.silence, self.child.wait()).await;
        let status =
            status.map_err(|_| VideoError::Stalled { program: PROGRAM, silence: self.limits.silence })?;
        let status = status.map_err(|source| VideoError::Talk { program: PROGRAM, source })?;
        let words = (&mut self.words).await.unwrap_or_default();
        let failure = if status.success() {
            self.missing(&words).await?.or_else(|| {
                // Nothing could be decoded, but there was something.
                (self.last.is_none() && !words.text.is_empty()).then(|| VideoError::from_words(&words.text))
            })
        } else {
            let ran = self.started.elapsed();
            let failure = tool::failure(PROGRAM, status, &words.text, ran, &self.limits);
            if failure.is_local() {
                return Err(failure);
            }
            Some(failure)
        };
        Ok(self.ending(failure, &words))
    }

    /// Ends the decoder before its time, because of `failure` if there is one.
    pub fn abandon(self, failure: Option<VideoError>) -> Ending {
        self.ending(failure, &Words::default())
    }

    fn ending(&self, failure: Option<VideoError>, words: &Words) -> Ending {
        let ending = |next_ms, last: Option<u64>, failure| Ending {
            next_ms,
            first_ms: self.inside,
            last_ms: last,
            last_end_ms: last.map(|last| last + self.film.frame_ms.min(self.gap()).max(1)),
            taken_ms: self.taken,
            lost: self.lost,
            failure,
        };
        match self.widest_gap {
            Some((gap, before)) if failure.is_none() && self.is_hole(gap, words) => {
                ending(None, Some(before), Some(VideoError::Corrupt(words.text.clone())))
            }
            _ => ending(self.next, self.last, failure),
        }
    }

    /// Whether frames are missing where two are so far apart: some containers are read on behind damage, and no decoder
    /// notices it.
    fn is_hole(&self, gap: u64, words: &Words) -> bool {
        let is_damage = || matches!(VideoError::from_words(&words.text), VideoError::Corrupt(_));
        words.of_container && 2 * gap > 3 * self.film.frame_ms && is_damage()
    }

    /// The longest time between two frames.
    fn gap(&self) -> u64 {
        self.widest_gap.map_or(self.film.frame_ms, |(gap, _)| gap)
    }

    /// Whether the file ended clearly before the film should have.
    async fn missing(&self, words: &Words) -> Result<Option<VideoError>, VideoError> {
        if self.film.quirks.is_cut && self.last.is_some() {
            return Ok(Some(VideoError::Truncated("its last page is not whole".to_owned())));
        }
        let end = self.film.end_ms.filter(|_| self.film.end_is_exact);
        let Some((end, last)) = end.zip(self.last) else { return Ok(None) };
        let short = end.saturating_sub(last);
        if short <= tail::SLACK_MS.max(3 * self.film.frame_ms) {
            return Ok(None);
        }
        let tail = Tail {
            last_ms: last,
            end_ms: end,
            are_keys: self.sampling.by == SampleBy::Keyframes,
            is_all_there: self.film.quirks.tells_losses() && words.text.is_empty(),
        };
        let is_whole = tail.is_whole(&self.path, &self.film, &self.limits).await?;
        let problem = || format!("frames until {last} ms, but it should last {end} ms");
        Ok((!is_whole).then(|| VideoError::Truncated(problem())))
    }
}
