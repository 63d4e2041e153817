//! Asking a file about its video, before anything of it is decoded.

use std::io::Read;
use std::path::Path;
use std::process::Output;
use std::time::Instant;

use tokio::time::timeout;

use super::VideoError;
use super::film::Film;
use super::packets::Packets;
use super::tool::{self, FFPROBE, VideoLimits};

/// Reads what `path` says about its video.
///
/// # Errors
/// When there is none that can be decoded within `limits`, or `ffprobe` is missing.
pub async fn probe(path: &Path, limits: &VideoLimits) -> Result<Film, VideoError> {
    look(path)?;
    let mut command = tool::command(FFPROBE);
    command.args(["-print_format", "json", "-show_entries", ENTRIES, "-i"]).arg(tool::input(path));
    let started = Instant::now();
    let output = run(&mut command, limits).await?;
    let words = tool::words(output.stderr.as_slice()).await.text;
    if !output.status.success() {
        return Err(tool::failure(FFPROBE, output.status, &words, started.elapsed(), limits));
    }
    let mut film = Film::of_report(&output.stdout, &words, limits)?;
    film.quirks.look_at_end(path).map_err(|source| VideoError::Talk { program: FFPROBE, source })?;
    if film.end_ms.is_none() {
        film.end_ms = Packets::of(path, &film, None, limits)?.end_ms().await?;
    }
    match film.end_ms {
        Some(end) if end / 1000 > limits.max_seconds => {
            Err(VideoError::TooLong { seconds: end / 1000, limit: limits.max_seconds })
        }
        _ => Ok(film),
    }
}

const ENTRIES: &str = "format=format_name,start_time,duration:stream=index,codec_type,codec_name,width,height,\
    pix_fmt,color_space,color_range,chroma_location,start_time,duration,avg_frame_rate:stream_disposition=attached_pic:stream_side_data=rotation:stream_tags=DURATION";

/// Refuses what would have other files read, by its first bytes: an honest message is better than the demuxer's.
fn look(path: &Path) -> Result<(), VideoError> {
    let mut head = Vec::new();
    let file = std::fs::File::open(path).map_err(|source| VideoError::Talk { program: FFPROBE, source })?;
    file.take(1024).read_to_end(&mut head).map_err(|source| VideoError::Talk { program: FFPROBE, source })?;
    if head.is_empty() {
        return Err(VideoError::Empty);
    }
    let text = String::from_utf8_lossy(&head);
    let text = text.trim_start_matches('\u{feff}').trim_start();
    let playlists = [
        ("#EXTM3U", "HLS or M3U"),
        ("ffconcat version", "ffconcat"),
        ("[playlist]", "PLS"),
        ("<?xml", "DASH or another XML"),
        ("<MPD", "DASH"),
        ("<smil", "SMIL"),
        ("[Reference]", "ASX"),
        ("RTSPtext", "RTSP"),
        ("v=0", "SDP"),
    ];
    match playlists.into_iter().find(|(start, _)| text.starts_with(start)) {
        Some((_, kind)) => Err(VideoError::Playlist(kind)),
        None => Ok(()),
    }
}

async fn run(command: &mut tokio::process::Command, limits: &VideoLimits) -> Result<Output, VideoError> {
    let child = tool::start(command, FFPROBE, limits)?;
    match timeout(limits.silence, child.wait_with_output()).await {
        Ok(output) => output.map_err(|source| VideoError::Talk { program: FFPROBE, source }),
        Err(_) => Err(VideoError::Stalled { program: FFPROBE, silence: limits.silence }),
    }
}
