//! What a decoder puts out: lines that tell times, and pixels.
//!
//! Both come in small pieces, a line for every frame that is decoded. Whoever waits for them is woken for each piece, which
//! costs more than taking it. So nothing waits: what has come is taken every few milliseconds, as long as the pipe of the
//! pixels has room for a frame and the decoder goes on meanwhile.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, ErrorKind, PipeReader, PipeWriter, Read as _};
#[cfg(target_os = "linux")]
use std::os::fd::AsRawFd as _;
use std::time::{Duration, Instant};

use tokio::net::unix::pipe;
use tokio::time::{sleep, timeout};

use super::selection::{CHOSEN, SEEN};

/// How soon what has come is taken after pixels came; twice as long each time that none have.
const SHORTEST: Duration = Duration::from_millis(1);
/// How often at least. The lines' pipe holds those of a thousand frames.
const LONGEST: Duration = Duration::from_millis(10);
/// Room for pixels in their pipe, in bytes: as much as Linux grants anybody, unless it is told otherwise.
#[cfg(target_os = "linux")]
const ROOM: libc::c_int = 1 << 20;
/// Most bytes of lines that are taken at once.
const LINES: usize = 1 << 20;

/// What is heard next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Heard {
    /// A frame was decoded that is shown at these milliseconds, if at any; below 0 before the film begins.
    Seen(Option<i64>),
    /// It was chosen, and these are its pixels; `None` if the decoder ended before they came.
    Chosen(u64, Option<Vec<u8>>),
    /// Nothing for as long as the decoder may be silent.
    Silence,
    /// Nothing ever again.
    End,
}

/// The reading ends of a decoder's pipes.
#[derive(Debug)]
pub(super) struct Output {
    lines: Lines,
    pixels: File,
    /// Whether a whole frame has room in the pipe.
    is_roomy: bool,
    /// Bytes of a frame.
    size: usize,
    /// As much of the next frame as has come.
    frame: Vec<u8>,
    /// Whether no more pixels come.
    is_dry: bool,
    /// When the frame is shown that was chosen and whose pixels are awaited.
    awaited: Option<u64>,
    /// How long the next pause is.
    pause: Duration,
}

/// The writing ends.
pub(super) struct Ends {
    pub(super) lines: PipeWriter,
    pub(super) pixels: PipeWriter,
}

impl Output {
    /// Pipes for frames of `size` bytes.
    ///
    /// # Errors
    /// When the system has no more of them.
    pub(super) fn new(size: usize) -> io::Result<(Self, Ends)> {
        let (lines, lines_end) = io::pipe()?;
        let (pixels, pixels_end) = io::pipe()?;
        let output = Self {
            lines: Lines::new(lines)?,
            is_roomy: enlarge(&pixels) >= size,
            pixels: without_waiting(pixels)?,
            size,
            frame: Vec::new(),
            is_dry: false,
            awaited: None,
            pause: SHORTEST,
        };
        Ok((output, Ends { lines: lines_end, pixels: pixels_end }))
    }

    /// Waits for what comes next, but not for longer than `silence` without a sign of life.
    ///
    /// # Errors
    /// When a pipe cannot be read.
    pub(super) async fn next(&mut self, silence: Duration) -> io::Result<Heard> {
        let mut heard_at = Instant::now();
        loop {
            if let Some(ms) = self.awaited {
                if self.frame.len() == self.size || self.is_dry {
                    self.awaited = None;
                    let frame = std::mem::take(&mut self.frame);
                    return Ok(Heard::Chosen(ms, (frame.len() == self.size).then_some(frame)));
                }
            } else {
                match self.lines.next() {
                    Some(Mark::Seen(ms)) => return Ok(Heard::Seen(ms)),
                    Some(Mark::Chosen(ms)) => {
                        self.awaited = Some(ms);
                        continue;
                    }
                    None if self.lines.have_ended => return Ok(Heard::End),
                    None => {}
                }
            }
            // Lines are a sign of life, too: the last pixels may be held back until the next frame is chosen.
            if self.take_pixels()? | self.lines.take()? {
                heard_at = Instant::now();
            } else if heard_at.elapsed() >= silence {
                return Ok(Heard::Silence);
            } else {
                self.pause().await?;
            }
        }
    }

    /// Takes the pixels that have come, of one frame; whether there were any.
    fn take_pixels(&mut self) -> io::Result<bool> {
        let (before, missing) = (self.frame.len(), self.size - self.frame.len());
        if missing == 0 || self.is_dry {
            return Ok(false);
        }
        self.frame.reserve_exact(missing);
        self.is_dry = take(&self.pixels, &mut self.frame, missing)?;
        let has_grown = self.frame.len() > before;
        if has_grown {
            self.pause = SHORTEST;
        }
        Ok(has_grown)
    }

    async fn pause(&mut self) -> io::Result<()> {
        if self.is_roomy || self.is_dry || self.frame.len() == self.size {
            sleep(self.pause).await;
            self.pause = LONGEST.min(2 * self.pause);
        } else {
            // The decoder waits for room again and again, and goes on only when we do.
            let pixels = pipe::Receiver::from_owned_fd_unchecked(self.pixels.try_clone()?.into())?;
            if let Ok(Err(error)) = timeout(LONGEST, pixels.readable()).await {
                return Err(error);
            }
        }
        Ok(())
    }
}

/// Makes room in a pipe: how much there is, as far as that is known. A refusal is no error, and what there was stays.
#[cfg(target_os = "linux")]
#[allow(unsafe_code)]
fn enlarge(pipe: &PipeReader) -> usize {
    // SAFETY: the descriptor is open for as long as it is borrowed, and the call takes a number and touches no memory of ours.
    let room = unsafe { libc::fcntl(pipe.as_raw_fd(), libc::F_SETPIPE_SZ, ROOM) };
    usize::try_from(room).unwrap_or(0)
}

/// Other systems choose for themselves.
#[cfg(not(target_os = "linux"))]
fn enlarge(_: &PipeReader) -> usize {
    0
}

/// A pipe that does not keep its reader waiting.
fn without_waiting(pipe: PipeReader) -> io::Result<File> {
    // There and back: tokio knows how any system is told.
    Ok(pipe::Receiver::from_owned_fd(pipe.into())?.into_nonblocking_fd()?.into())
}

/// Takes what has come, `most` bytes of it; whether that was the end.
fn take(pipe: &File, bytes: &mut Vec<u8>, most: usize) -> io::Result<bool> {
    match pipe.take(most as u64).read_to_end(bytes) {
        Ok(count) => Ok(count < most),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(false),
        Err(error) => Err(error),
    }
}

/// What a line says.
#[derive(Debug, PartialEq, Eq)]
enum Mark {
    Seen(Option<i64>),
    Chosen(u64),
}

/// Lines, as far as they have come.
#[derive(Debug)]
struct Lines {
    pipe: File,
    /// The beginning of a line.
    rest: Vec<u8>,
    marks: VecDeque<Mark>,
    /// The time on the line that was read last.
    at: Option<i64>,
    have_ended: bool,
}

impl Lines {
    fn new(pipe: PipeReader) -> io::Result<Self> {
        let (rest, marks) = (Vec::new(), VecDeque::new());
        Ok(Self { pipe: without_waiting(pipe)?, rest, marks, at: None, have_ended: false })
    }

    /// The next mark, of what was taken.
    fn next(&mut self) -> Option<Mark> {
        self.marks.pop_front()
    }

    /// Takes what has come; whether that was anything.
    fn take(&mut self) -> io::Result<bool> {
        let before = self.rest.len();
        self.have_ended = take(&self.pipe, &mut self.rest, LINES)?;
        let is_new = self.rest.len() > before;
        self.understand();
        Ok(is_new)
    }

    /// Turns whole lines into marks. Nothing else is written there, and what is no line of ours is passed over.
    fn understand(&mut self) {
        let mut start = 0;
        while let Some(length) = self.rest[start..].iter().position(|byte| *byte == b'\n') {
            let line = &self.rest[start..start + length];
            start += length + 1;
            if let Some(told) = line.strip_prefix(b"frame:") {
                self.at = time_of(told);
            } else if line == SEEN.as_bytes() {
                self.marks.push_back(Mark::Seen(self.at));
            } else if line == CHOSEN.as_bytes() {
                // What lies before the beginning belongs to no segment.
                self.marks.extend(self.at.and_then(|at| u64::try_from(at).ok()).map(Mark::Chosen));
            }
        }
        self.rest.drain(..start);
    }
}

/// The milliseconds in `12   pts:480000  pts_time:0.48`, whose `pts` are microseconds.
fn time_of(line: &[u8]) -> Option<i64> {
    let (_, rest) = std::str::from_utf8(line).ok()?.split_once("pts:")?;
    let us: i64 = rest.split_whitespace().next()?.parse().ok()?;
    // As the filter rounds.
    Some(us.saturating_add(500).div_euclid(1000))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::io::Write as _;

    use super::*;

    const PATIENT: Duration = Duration::from_secs(60);

    #[test]
    fn times_are_rounded_microseconds() {
        assert_eq!(time_of(b"7    pts:66667   pts_time:0.066667"), Some(67));
        assert_eq!(time_of(b"0    pts:0       pts_time:0"), Some(0));
        assert_eq!(time_of(b"0    pts:-21000  pts_time:-0.021"), Some(-21));
        assert_eq!(time_of(b"0 pts:NOPTS"), None);
    }

    #[tokio::test]
    async fn pixels_may_come_long_after_their_line_and_in_pieces() {
        let (mut output, mut ends) = Output::new(4).unwrap();
        ends.lines.write_all(b"frame:0 pts:1000 x\ncaptionfleet=seen\nframe:0 pts:1000 x\ncaption").unwrap();
        assert_eq!(output.next(PATIENT).await.unwrap(), Heard::Seen(Some(1)));
        ends.lines.write_all(b"fleet=chosen\nframe:1 pts:2000 x\ncaptionfleet=seen\n").unwrap();
        ends.pixels.write_all(&[1, 2, 3]).unwrap();
        let silence = Duration::from_millis(1);
        assert_eq!(output.next(silence).await.unwrap(), Heard::Silence);
        ends.pixels.write_all(&[4, 5]).unwrap();
        assert_eq!(output.next(PATIENT).await.unwrap(), Heard::Chosen(1, Some(vec![1, 2, 3, 4])));
        assert_eq!(output.next(PATIENT).await.unwrap(), Heard::Seen(Some(2)));
        ends.lines.write_all(b"frame:1 pts:2000 x\ncaptionfleet=chosen\n").unwrap();
        drop(ends);
        assert_eq!(output.next(PATIENT).await.unwrap(), Heard::Chosen(2, None));
        assert_eq!(output.next(PATIENT).await.unwrap(), Heard::End);
    }

    #[tokio::test]
    async fn a_frame_may_be_larger_than_any_pipe() {
        let frame: Vec<u8> = (0..=3 << 20).map(|index| (index % 251) as u8).collect();
        let (mut output, mut ends) = Output::new(frame.len()).unwrap();
        assert!(!output.is_roomy);
        let written = frame.clone();
        let writer = std::thread::spawn(move || {
            for ms in [0, 1] {
                let line = format!("frame:{ms} pts:{ms}000 x\n{CHOSEN}\n");
                ends.lines.write_all(line.as_bytes()).unwrap();
                ends.pixels.write_all(&written).unwrap();
            }
        });
        for ms in [0, 1] {
            assert!(output.next(PATIENT).await.unwrap() == Heard::Chosen(ms, Some(frame.clone())));
        }
        assert_eq!(output.next(PATIENT).await.unwrap(), Heard::End);
        writer.join().unwrap();
    }

    /// More lines than a pipe holds, before any pixels: the decoder would wait for room, and its reader for pixels.
    #[tokio::test]
    async fn lines_are_taken_while_pixels_are_held_back() {
        let (mut output, mut ends) = Output::new(4).unwrap();
        let writer = std::thread::spawn(move || {
            ends.lines.write_all(b"frame:0 pts:0 x\ncaptionfleet=chosen\n").unwrap();
            for frame in 1..20_000_u32 {
                ends.lines.write_all(format!("frame:{frame} pts:{frame}000 x\n{SEEN}\n").as_bytes()).unwrap();
            }
            ends.pixels.write_all(&[7; 4]).unwrap();
        });
        assert_eq!(output.next(PATIENT).await.unwrap(), Heard::Chosen(0, Some(vec![7; 4])));
        for frame in 1..20_000 {
            assert_eq!(output.next(PATIENT).await.unwrap(), Heard::Seen(Some(frame)));
        }
        assert_eq!(output.next(PATIENT).await.unwrap(), Heard::End);
        writer.join().unwrap();
    }
}
