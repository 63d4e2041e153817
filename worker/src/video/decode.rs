//! The frames of one segment, one after another, out of a running ffmpeg.
//!
//! The pixels come through standard output. What comes through descriptor 0 are lines with the time of every frame that
//! was decoded, and of every one that was chosen, in order: a frame's line always leaves before its pixels do. Nothing
//! that a file's author can write gets between these lines, as it could in a log.

use std::path::Path;
use std::process::Stdio;
use std::time::Instant;

use captionfleet_proto::job::{SampleBy, Sampling};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::net::unix::pipe;
use tokio::process::{Child, ChildStdout};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::selection;
use super::tool::{self, VideoLimits, Words};
use super::{Film, Frame, VideoError};

const PROGRAM: &str = "ffmpeg";
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
    span: Span,
    film: Film,
    limits: VideoLimits,
    started: Instant,
    child: Child,
    times: mpsc::UnboundedReceiver<std::io::Result<String>>,
    pixels: ChildStdout,
    words: JoinHandle<Words>,
    /// The time on the line that was read last.
    at: Option<u64>,
    /// Of all decoded frames, and of those inside the segment.
    first: Option<u64>,
    inside: Option<u64>,
    last: Option<u64>,
    /// The longest time between two frames, and when the one before it is shown.
    widest_gap: Option<(u64, u64)>,
    next: Option<u64>,
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
        let (times, their_end) = std::io::pipe().map_err(talk)?;
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
        command.args(["-f", "rawvideo", "pipe:1"]).stdin(Stdio::from(their_end));
        let mut child = tool::start(&mut command, PROGRAM, limits)?;
        // Our copy of the writing end must go, or the lines would never end.
        drop(command);
        let times = pipe::Receiver::from_owned_fd(times.into()).map_err(talk)?;
        let (Some(pixels), Some(errors)) = (child.stdout.take(), child.stderr.take()) else {
            return Err(talk(std::io::Error::other("a pipe is missing")));
        };
        Ok(Self {
            span,
            film: film.clone(),
            limits: *limits,
            started: Instant::now(),
            child,
            times: drain(times),
            pixels,
            words: tokio::spawn(tool::words(errors)),
            at: None,
            first: None,
            inside: None,
            last: None,
            widest_gap: None,
            next: None,
            taken: None,
            lost: false,
        })
    }

    /// The next chosen frame; `None` at the end of the segment, or where decoding fails: [`Self::end`] tells.
    ///
    /// # Errors
    /// When ffmpeg falls silent, or cannot be talked to.
    pub async fn next(&mut self) -> Result<Option<Frame>, VideoError> {
        while let Some(line) = self.line().await? {
            if let Some(pts) = line.strip_prefix("frame:") {
                self.at = time_of(pts);
            } else if line == selection::SEEN {
                self.see();
                if self.next.is_some() {
                    return Ok(None);
                }
            } else if line == selection::CHOSEN
                && let Some(ms) = self.at
            {
                // After the last pixels the remaining lines still tell how far decoding came.
                let Some(bytes) = self.read_pixels().await? else {
                    self.lost = true;
                    continue;
                };
                // Rows are told apart by their milliseconds.
                if self.taken.is_none_or(|before| ms > before) {
                    self.taken = Some(ms);
                    return Ok(Some(Frame::new(&self.film, ms, bytes)));
                }
            }
        }
        Ok(None)
    }

    /// When the first frame is shown that was decoded at all, wherever it lies; `None` as long as there was none.
    pub fn first_ms(&self) -> Option<u64> {
        self.first
    }

    fn see(&mut self) {
        self.first = self.first.or(self.at);
        let Some(ms) = self.at.filter(|ms| *ms >= self.span.start_ms) else { return };
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
        if self.next.is_some() {
            let _ = self.child.kill().await;
            let words = (&mut self.words).await.unwrap_or_default();
            return Ok(self.ending(None, &words));
        }
        let status = timeout(self.limits.silence, self.child.wait()).await;
        let status =
            status.map_err(|_| VideoError::Stalled { program: PROGRAM, silence: self.limits.silence })?;
        let status = status.map_err(|source| VideoError::Talk { program: PROGRAM, source })?;
        let words = (&mut self.words).await.unwrap_or_default();
        let failure = if status.success() {
            self.missing().or_else(|| {
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
    fn missing(&self) -> Option<VideoError> {
        if self.film.quirks.is_cut && self.last.is_some() {
            return Some(VideoError::Truncated("its last page is not whole".to_owned()));
        }
        let (end, last) = (self.film.end_ms.filter(|_| self.film.end_is_exact)?, self.last?);
        let short = end.saturating_sub(last);
        (short > 2000.max(3 * self.gap()))
            .then(|| VideoError::Truncated(format!("frames until {last} ms, but it should last {end} ms")))
    }

    async fn line(&mut self) -> Result<Option<String>, VideoError> {
        match timeout(self.limits.silence, self.times.recv()).await {
            Ok(line) => line.transpose().map_err(|source| VideoError::Talk { program: PROGRAM, source }),
            Err(_) => Err(VideoError::Stalled { program: PROGRAM, silence: self.limits.silence }),
        }
    }

    /// The pixels of one frame; `None` if the program ended first.
    async fn read_pixels(&mut self) -> Result<Option<Vec<u8>>, VideoError> {
        let mut bytes = vec![0; self.film.pixels.bytes(self.film.width, self.film.height)];
        let (mut filled, mut lines) = (0, self.times.len());
        while filled < bytes.len() {
            match timeout(self.limits.silence, self.pixels.read(&mut bytes[filled..])).await {
                Ok(Ok(0)) => return Ok(None),
                Ok(Ok(count)) => filled += count,
                Ok(Err(source)) => return Err(VideoError::Talk { program: PROGRAM, source }),
                // The last pixels may be held back until the next frame is chosen: decoding goes on meanwhile.
                Err(_) if self.times.len() > lines => lines = self.times.len(),
                Err(_) => return Err(VideoError::Stalled { program: PROGRAM, silence: self.limits.silence }),
            }
        }
        Ok(Some(bytes))
    }
}

/// Takes the lines as they come: a decoder that waits for them to be read would hold back the pixels that its reader
/// waits for. There are as many as frames between two chosen ones, and a few in flight.
fn drain(times: pipe::Receiver) -> mpsc::UnboundedReceiver<std::io::Result<String>> {
    let (lines, drained) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        let mut times = BufReader::new(times).lines();
        while let Some(line) = times.next_line().await.transpose() {
            let failed = line.is_err();
            if lines.send(line).is_err() || failed {
                break;
            }
        }
    });
    drained
}

/// The milliseconds in `12   pts:480000  pts_time:0.48`, whose `pts` are microseconds.
fn time_of(line: &str) -> Option<u64> {
    let (_, rest) = line.split_once("pts:")?;
    let us: i64 = rest.split_whitespace().next()?.parse().ok()?;
    // As the filter rounds: what lies before the beginning belongs to no segment.
    u64::try_from(us.saturating_add(500).div_euclid(1000)).ok()
}

#[cfg(test)]
mod tests {
    use super::time_of;

    #[test]
    fn times_are_rounded_microseconds() {
        assert_eq!(time_of("7    pts:66667   pts_time:0.066667"), Some(67));
        assert_eq!(time_of("0    pts:0       pts_time:0"), Some(0));
        assert_eq!((time_of("0    pts:-21000  pts_time:-0.021"), time_of("0 pts:NOPTS")), (None, None));
    }
}
