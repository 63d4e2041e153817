//! Frames of videos: what ffmpeg and ffprobe say about a film, and the frames of it that are worth a caption.
//!
//! Both run as subprocesses on a file: they open no other one, reach no network, understand no playlists, and have
//! limits on memory, processor time and silence. Nothing here knows a queue, a store or the engine.
//!
//! Times are milliseconds on the clock that ffprobe shows (`pts_time`, rounded). MPEG transport and program streams,
//! whose clocks begin anywhere, are counted from their start.

mod colour;
mod decode;
mod error;
mod film;
mod frame;
mod output;
mod packets;
mod pixels;
mod probe;
mod quirks;
mod sampler;
mod selection;
mod signature;
mod tail;
mod thumbnail;
mod tool;

pub use decode::{Approach, Decoding, Ending, Span};
pub use error::VideoError;
pub use film::Film;
pub use frame::Frame;
pub use packets::{Packet, Packets};
pub use pixels::{Pixels, Planar};
pub use probe::probe;
pub use quirks::Quirks;
pub use sampler::{Sampler, Seen};
pub use signature::Signature;
pub use thumbnail::{small_jpeg, thumbnail};
pub use tool::{VideoLimits, versions};

/// Extensions of files that are treated as videos; playlists are among them, to be refused with the right words.
const EXTENSIONS: [&str; 41] = [
    "3g2", "3gp", "asf", "avi", "divx", "dv", "f4v", "ffconcat", "flv", "ivf", "m1v", "m2t", "m2ts", "m2v",
    "m3u", "m3u8", "m4v", "mk3d", "mkv", "mod", "mov", "mp4", "mpd", "mpe", "mpeg", "mpg", "mpv", "mts",
    "mxf", "nut", "ogm", "ogv", "qt", "tod", "tp", "trp", "ts", "vob", "webm", "wmv", "wtv",
];

/// Whether `name` ends in a video's extension, in any case.
pub fn is_video_name(name: &str) -> bool {
    name.rsplit_once('.')
        .is_some_and(|(_, extension)| EXTENSIONS.iter().any(|known| extension.eq_ignore_ascii_case(known)))
}

#[cfg(test)]
mod tests {
    use super::is_video_name;
    use super::tool::FORMATS;

    #[test]
    fn extensions_count_in_any_case() {
        assert!(is_video_name("s3://b/a.b.MoV") && is_video_name("walk.mp4"));
        assert!(!is_video_name("a.gif") && !is_video_name("mp4") && !is_video_name("mp4.txt"));
    }

    #[test]
    fn a_name_leads_to_every_container_that_is_read() {
        for format in FORMATS.split(',') {
            // What people call files whose container has another name.
            let extension = match format {
                "matroska" => "mkv",
                "mpegts" => "ts",
                "mpegvideo" => "m2v",
                "ogg" => "ogv",
                format => format,
            };
            assert!(is_video_name(&format!("a.{extension}")), "{format}");
        }
    }
}
