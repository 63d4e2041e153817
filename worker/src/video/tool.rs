//! ffmpeg and ffprobe as subprocesses that cannot do much.

use std::ffi::OsString;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, Command};

use super::VideoError;

/// Demuxers that may open a file. None of them opens another one.
const FORMATS: &str = "mov,matroska,webm,avi,mpegts,mpeg,flv,asf,ogg,mxf,ivf,dv,nut,mpegvideo,wtv";
/// What is kept of an error stream.
const WORDS: usize = 4096;
/// How much lower than ours the programs' priority is: the engine goes first.
#[cfg(target_os = "linux")]
const NICENESS: i32 = 10;

/// What a video may cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VideoLimits {
    /// Longest video, in seconds.
    pub max_seconds: u64,
    /// Width times height of a frame.
    pub max_pixels: u64,
    /// Address space of one decoder, in bytes.
    pub memory: u64,
    /// Processor time of one decoder, in seconds.
    pub cpu_seconds: u64,
    /// Longest silence of a decoder that nobody keeps waiting.
    pub silence: Duration,
    /// Threads of one decoder.
    pub threads: usize,
}

impl Default for VideoLimits {
    /// A day, 100 million pixels, 4 GiB, an hour of processor time, two minutes of silence, half of the cores.
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            max_seconds: 24 * 3600,
            max_pixels: 100_000_000,
            memory: 4 << 30,
            cpu_seconds: 3600,
            silence: Duration::from_secs(120),
            threads: (cores / 2).clamp(1, 4),
        }
    }
}

/// The program, told to open nothing but local files of known containers.
pub(super) fn command(program: &'static str) -> Command {
    let mut command = Command::new(program);
    command
        .args(["-hide_banner", "-loglevel", "level+error", "-protocol_whitelist", "file"])
        .args(["-format_whitelist", FORMATS])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        // Reports and option files that the environment may ask for have no place here.
        .env_remove("FFREPORT")
        .env("AV_LOG_FORCE_NOCOLOR", "1")
        .kill_on_drop(true);
    command
}

/// The argument that names a file and nothing else.
pub(super) fn input(path: &Path) -> OsString {
    let mut input = OsString::from("file:");
    input.push(path);
    input
}

/// Which versions of the programs are on PATH.
///
/// # Errors
/// If one of them is not there.
pub async fn versions() -> Result<String, VideoError> {
    let mut told = Vec::new();
    for program in ["ffmpeg", "ffprobe"] {
        let output = Command::new(program).arg("-version").stdin(Stdio::null()).kill_on_drop(true).output();
        let output = output.await.map_err(|source| VideoError::NoTool { program, source })?;
        let text = String::from_utf8_lossy(&output.stdout);
        let version = text.split_whitespace().nth(2).unwrap_or("of an unknown version").to_owned();
        told.push(format!("{program} {version}"));
    }
    Ok(told.join(", "))
}

/// Starts the program within `limits`.
pub(super) fn start(
    command: &mut Command,
    program: &'static str,
    limits: &VideoLimits,
) -> Result<Child, VideoError> {
    let child = command.spawn().map_err(|source| VideoError::NoTool { program, source })?;
    restrain(&child, limits);
    Ok(child)
}

/// The limits are set from outside as soon as the program has started: before that it has read nothing.
#[cfg(target_os = "linux")]
fn restrain(child: &Child, limits: &VideoLimits) {
    use rustix::process::{Pid, Resource, Rlimit, prlimit, setpriority_process};
    let Some(pid) = child.id().and_then(|id| Pid::from_raw(id as i32)) else { return };
    let most = |value: u64| Rlimit { current: Some(value), maximum: Some(value) };
    // Only a program that has ended already cannot be limited, and that one needs no limits.
    for (resource, value) in [
        (Resource::As, limits.memory),
        (Resource::Cpu, limits.cpu_seconds),
        (Resource::Fsize, 0),
        (Resource::Core, 0),
    ] {
        let _ = prlimit(Some(pid), resource, most(value));
    }
    let _ = setpriority_process(Some(pid), NICENESS);
}

/// Other systems cannot limit another process; silence and pixels are limited everywhere.
#[cfg(not(target_os = "linux"))]
fn restrain(_: &Child, _: &VideoLimits) {}

/// Reads a stream to its end and keeps the beginning, on one line.
pub(super) async fn words(mut stream: impl AsyncRead + Unpin) -> String {
    let (mut kept, mut buffer) = (Vec::new(), [0; 4096]);
    while let Ok(count @ 1..) = stream.read(&mut buffer).await {
        let room = WORDS.saturating_sub(kept.len()).min(count);
        kept.extend_from_slice(&buffer[..room]);
    }
    let text = String::from_utf8_lossy(&kept);
    let lines = text.lines().map(tidy).filter(|line| !line.is_empty());
    lines.collect::<Vec<_>>().join("; ")
}

/// A log line without the addresses that it begins with.
fn tidy(line: &str) -> String {
    let plain: String = line.chars().map(|letter| if letter.is_control() { ' ' } else { letter }).collect();
    let mut rest = plain.trim();
    while let Some((tag, text)) = rest.strip_prefix('[').and_then(|rest| rest.split_once("] ")) {
        if !(tag.contains(" @ 0x") || matches!(tag, "error" | "fatal")) {
            break;
        }
        rest = text.trim_start();
    }
    rest.to_owned()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[tokio::test]
    async fn words_are_short_and_plain() {
        let said = b"[mov,mp4 @ 0x55] [error] moov atom\x1b not found\n\n[fatal] x\n";
        assert_eq!(words(said.as_slice()).await, "moov atom  not found; x");
        assert!(words(vec![b'a'; 100_000].as_slice()).await.len() <= WORDS);
    }

    #[test]
    fn a_missing_program_says_what_to_install() {
        let error =
            start(&mut Command::new("no-such-ffmpeg"), "ffmpeg", &VideoLimits::default()).unwrap_err();
        assert!(error.is_local() && error.to_string().contains("apt-get install ffmpeg"), "{error}");
    }
}
