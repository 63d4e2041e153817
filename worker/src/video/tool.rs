//! ffmpeg and ffprobe as subprocesses that cannot do much.

use std::ffi::OsString;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, Command};

use super::VideoError;

/// What tells about a file.
pub(super) const FFPROBE: &str = "ffprobe";
/// Demuxers that may open a file. None of them opens another one.
pub(super) const FORMATS: &str = "mov,matroska,webm,avi,mpegts,mpeg,flv,asf,ogg,mxf,ivf,dv,nut,mpegvideo,wtv";
/// SIGHUP, SIGINT and SIGTERM, which have these numbers everywhere.
const TELLING: [i32; 3] = [1, 2, 15];
/// SIGILL, SIGABRT, SIGBUS, SIGFPE and SIGSEGV, as Linux numbers them: a program dies of them by its own fault.
const CRASHES: [i32; 5] = [4, 6, 7, 8, 11];
/// What is kept of an error stream, in bytes.
const TOLD: usize = 4096;
/// How ffmpeg marks lines.
const LEVELS: [&str; 5] = ["panic", "fatal", "error", "warning", "info"];
/// What the reader of ASF says in passing when a part of a frame is missing.
const MUTTERED: &str = "freeing incomplete packet";
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
        // An interrupt from the terminal is meant for us, who finish what was begun.
        .process_group(0)
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

/// The limits are set from outside as soon as the program has started. Setting them in the child would mean to fork, with all the
/// pages of a process that holds a model, where a spawn copies none. A moment may pass until then, in which the program may have
/// begun to read: what it has used counts, and it gets no more than the limits allow from then on.
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

/// Why a program failed that ran for so long and said this.
///
/// ffmpeg ends by itself when it is told to, without a word: be it by somebody who stops all processes of a service, or
/// by the system because of its processor time.
pub(super) fn failure(
    program: &'static str,
    status: ExitStatus,
    words: &str,
    ran: Duration,
    limits: &VideoLimits,
) -> VideoError {
    let signal = status.signal();
    let was_told = match signal {
        Some(signal) => TELLING.contains(&signal),
        None => status.code() == Some(255) && words.is_empty(),
    };
    let is_used_up = ran.as_secs() * (limits.threads as u64 + 1) >= limits.cpu_seconds;
    match signal {
        _ if was_told && !is_used_up => VideoError::Stopped { program },
        Some(signal) if CRASHES.contains(&signal) => {
            VideoError::Corrupt(format!("the decoder crashed: signal {signal}"))
        }
        Some(signal) => VideoError::Limit(format!("signal {signal}")),
        None if was_told => VideoError::Limit("processor time".to_owned()),
        None => VideoError::from_words(words),
    }
}

/// What a program said on its error stream.
#[derive(Debug, Default)]
pub(super) struct Words {
    /// The beginning of it, on one line.
    pub(super) text: String,
    /// Whether it was the reader of the container that complained, and not only a decoder.
    pub(super) of_container: bool,
}

/// Reads a stream to its end.
pub(super) async fn words(mut stream: impl AsyncRead + Unpin) -> Words {
    let (mut words, mut line, mut buffer) = (Words::default(), Vec::new(), [0; 4096]);
    while let Ok(count @ 1..) = stream.read(&mut buffer).await {
        for byte in &buffer[..count] {
            match byte {
                b'\n' => {
                    words.add(&line);
                    line.clear();
                }
                byte if line.len() < TOLD => line.push(*byte),
                _ => {}
            }
        }
    }
    words.add(&line);
    words
}

impl Words {
    fn add(&mut self, line: &[u8]) {
        let Some((text, of_container)) = tidy(&String::from_utf8_lossy(line)) else { return };
        self.of_container |= of_container;
        if self.text.len() < TOLD && !text.is_empty() {
            let joint = if self.text.is_empty() { "" } else { "; " };
            self.text.extend([joint, &text]);
            self.text.truncate(self.text.floor_char_boundary(TOLD));
        }
    }
}

/// A log line that complains, without the addresses that it begins with, and whether the reader of a container wrote it.
fn tidy(line: &str) -> Option<(String, bool)> {
    let plain: String = line.chars().map(|letter| if letter.is_control() { ' ' } else { letter }).collect();
    let (mut rest, mut of_container, mut level) = (plain.trim(), false, None);
    while let Some((tag, text)) = rest.strip_prefix('[').and_then(|rest| rest.split_once("] ")) {
        match tag.split_once(" @ 0x") {
            Some((name, _)) => {
                let is_format = |name: &str| FORMATS.split(',').any(|format| format == name);
                // The speaker comes before the level; what comes behind it may be the title of the file.
                of_container |= level.is_none() && name.split(',').any(is_format);
            }
            None if level.is_none() && LEVELS.contains(&tag) => level = Some(tag),
            None => break,
        }
        rest = text.trim_start();
    }
    let complains = match level? {
        "info" => of_container && rest.starts_with(MUTTERED),
        level => matches!(level, "error" | "fatal" | "panic"),
    };
    complains.then(|| (rest.to_owned(), of_container))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[tokio::test]
    async fn words_are_short_and_plain() {
        let said = b"[h264 @ 0x55] [error] moov atom\x1b not found\n\n[fatal] x\n";
        let said = words(said.as_slice()).await;
        assert_eq!((said.text.as_str(), said.of_container), ("moov atom  not found; x", false));
        let lines = "[matroska,webm @ 0x55] [error] 0x00 is no number\n".repeat(10_000);
        let said = words(lines.as_bytes()).await;
        assert!(said.of_container && said.text.len() <= TOLD);
        let long = [vec![b'x'; 100_000], b"\n[error] y".to_vec()].concat();
        assert_eq!(words(long.as_slice()).await.text, "y");
    }

    #[tokio::test]
    async fn what_is_no_complaint_is_not_heard() {
        let said = b"[info]   title : [asf @ 0x5] [error] a\n  : [asf @ 0x5] [info] freeing incomplete packet\n\
            [info] [asf @ 0x5] freeing incomplete packet b\n[asf @ 0x5] [info] freeing incomplete packet size 4483, new 3680\n\
            [asf @ 0x5] [info] all is well\n[mjpeg @ 0x5] [warning] EOI missing\n";
        let said = words(said.as_slice()).await;
        assert_eq!(said.text, "freeing incomplete packet size 4483, new 3680");
        assert!(said.of_container);
    }

    #[tokio::test]
    async fn a_program_that_was_told_to_end_says_nothing_of_the_video() {
        let limits = VideoLimits::default();
        let (now, late) = (Duration::ZERO, Duration::from_secs(limits.cpu_seconds));
        for (script, words, ran, code, is_local) in [
            ("kill -TERM $$", "", now, "internal", true),
            ("kill -INT $$", "x", now, "internal", true),
            ("exit 255", "", now, "internal", true),
            ("exit 255", "", late, "deadline", false),
            ("kill -KILL $$", "", now, "deadline", false),
            ("kill -SEGV $$", "", late, "corrupt", false),
            ("kill -ABRT $$", "x", now, "corrupt", false),
            ("exit 1", "moov atom not found", now, "truncated", false),
            ("exit 255", "Invalid data", now, "corrupt", false),
        ] {
            let status = Command::new("sh").args(["-c", script]).status().await.unwrap();
            let told = failure("ffmpeg", status, words, ran, &limits);
            assert_eq!((told.code(), told.is_local()), (code, is_local), "{script}: {told}");
        }
    }

    #[test]
    fn a_missing_program_says_what_to_install() {
        let error =
            start(&mut Command::new("no-such-ffmpeg"), "ffmpeg", &VideoLimits::default()).unwrap_err();
        assert!(error.is_local() && error.to_string().contains("apt-get install ffmpeg"), "{error}");
    }
}
