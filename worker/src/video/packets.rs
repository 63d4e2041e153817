//! What lies in a file, packet by packet: it is read, and nothing decoded.

use std::ops::Range;
use std::path::Path;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout};
use tokio::time::timeout;

use super::VideoError;
use super::film::{Film, milliseconds};
use super::tool::{self, FFPROBE, VideoLimits};

/// Packets are stored in the order of decoding: so many behind the first one that is late enough may be shown before it.
const REORDERED: usize = 32;

/// A stored frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet {
    /// When it is shown.
    pub ms: u64,
    /// When the next one is, as far as the container tells.
    pub end_ms: u64,
    /// Where it lies in the file; `None` if the container does not tell.
    pub bytes: Option<Range<u64>>,
    /// Whether decoding may begin with it.
    pub is_key: bool,
}

/// The packets of a film's video, one after another. Dropping it ends the program.
pub struct Packets {
    lines: Lines<BufReader<ChildStdout>>,
    origin_us: i64,
    frame_ms: u64,
    silence: Duration,
    _child: Child,
}

impl Packets {
    /// Begins to read at `from_ms`, or at a key frame before; at the file's beginning if not given.
    ///
    /// # Errors
    /// When `ffprobe` cannot be started.
    pub fn of(
        path: &Path,
        film: &Film,
        from_ms: Option<u64>,
        limits: &VideoLimits,
    ) -> Result<Self, VideoError> {
        let mut command = tool::command(FFPROBE);
        command.args(["-select_streams", &film.stream.to_string()]);
        if let Some(from_ms) = from_ms {
            let start = film.origin_us as f64 / 1e6 + from_ms as f64 / 1000.0;
            command.args(["-read_intervals", &format!("{start:.3}%")]);
        }
        command
            .args([
                "-show_entries",
                "packet=pts_time,dts_time,duration_time,size,pos,flags",
                "-of",
                "csv=p=0",
                "-i",
            ])
            .arg(tool::input(path))
            .stderr(std::process::Stdio::null());
        let mut child = tool::start(&mut command, FFPROBE, limits)?;
        let missing = || std::io::Error::other("a pipe is missing");
        let output =
            child.stdout.take().ok_or_else(|| VideoError::Talk { program: FFPROBE, source: missing() })?;
        Ok(Self {
            lines: BufReader::new(output).lines(),
            origin_us: film.origin_us,
            frame_ms: film.frame_ms,
            silence: limits.silence,
            _child: child,
        })
    }

    /// The next packet; `None` at the end of what can be read.
    ///
    /// # Errors
    /// When ffprobe falls silent, or cannot be talked to.
    pub async fn next(&mut self) -> Result<Option<Packet>, VideoError> {
        loop {
            let line = timeout(self.silence, self.lines.next_line()).await;
            let line = line.map_err(|_| VideoError::Stalled { program: FFPROBE, silence: self.silence })?;
            let line = line.map_err(|source| VideoError::Talk { program: FFPROBE, source })?;
            let Some(line) = line else { return Ok(None) };
            if let Some(packet) = packet(&line, self.origin_us, self.frame_ms) {
                return Ok(Some(packet));
            }
        }
    }

    /// When the first packet is shown that is not shown before `ms`; `None` if none can be read any more.
    ///
    /// # Errors
    /// As [`Self::next`].
    pub async fn first_at(mut self, ms: u64) -> Result<Option<u64>, VideoError> {
        let (mut first, mut behind) = (None, 0);
        while behind <= REORDERED
            && let Some(packet) = self.next().await?
        {
            if packet.ms >= ms {
                first = Some(first.map_or(packet.ms, |first: u64| first.min(packet.ms)));
            }
            behind += usize::from(first.is_some());
        }
        Ok(first)
    }

    /// When the last one ends; `None` without any.
    ///
    /// # Errors
    /// As [`Self::next`].
    pub async fn end_ms(mut self) -> Result<Option<u64>, VideoError> {
        let mut end = None;
        while let Some(packet) = self.next().await? {
            end = end.max(Some(packet.end_ms));
        }
        Ok(end)
    }
}

/// `1.480000,1.400000,0.040000,812,5300,K_`; what is not known is `N/A`.
fn packet(line: &str, origin_us: i64, frame_ms: u64) -> Option<Packet> {
    let fields: Vec<&str> = line.split(',').map(str::trim).collect();
    let [shown, decoded, lasts, size, at, flags, ..] = fields[..] else { return None };
    let seconds = |field: &str| field.parse::<f64>().ok();
    let start = seconds(shown).or(seconds(decoded))?;
    let end = start + seconds(lasts).unwrap_or(frame_ms as f64 / 1000.0);
    // No time is 0 to the arithmetic of films, and the first frame's is.
    let ms = milliseconds(start, origin_us).or_else(|| (start * 1e6 >= origin_us as f64).then_some(0))?;
    let bytes = at.parse().ok().zip(size.parse::<u64>().ok());
    let bytes = bytes.map(|(at, size): (u64, u64)| at..at.saturating_add(size));
    Some(Packet { ms, end_ms: milliseconds(end, origin_us)?, bytes, is_key: flags.starts_with('K') })
}

#[cfg(test)]
mod tests {
    use super::{Packet, packet};

    #[test]
    fn packets_are_read_from_lines() {
        let told = |line| packet(line, 1_400_000, 40);
        let expected = Packet { ms: 80, end_ms: 120, bytes: Some(5300..6112), is_key: true };
        assert_eq!(told("1.480000,1.400000,0.040000,812,5300,K_"), Some(expected.clone()));
        let bare = Packet { bytes: None, is_key: false, ..expected };
        assert_eq!(told("N/A,1.480000,N/A,812,N/A,__,"), Some(bare));
        assert_eq!(told("1.400000,1.400000,0.040000,9,9,K_").map(|packet| packet.ms), Some(0));
        assert_eq!(told("0.400000,N/A,0.040000,9,9,K_"), None);
        assert_eq!((told("N/A,N/A,N/A,9,9,__"), told(""), told("nan,inf,1e300,9,9,K_")), (None, None, None));
    }
}
