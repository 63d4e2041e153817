//! A video as its container describes it.

use serde::Deserialize;

use super::VideoError;
use super::pixels::{Pixels, Told};
use super::quirks::Quirks;
use super::tool::VideoLimits;

/// Containers whose clocks begin anywhere.
const FREE_CLOCKS: [&str; 3] = ["mpegts", "mpeg", "wtv"];
/// How long a frame is taken to last where nothing says it.
const A_FRAME_MS: u64 = 40;
/// Most seconds that a container may claim; more is nonsense, or meant to be endless.
const SANE_SECONDS: f64 = 1e9;

/// What a file says about its video.
#[derive(Debug, Clone, PartialEq)]
pub struct Film {
    /// Index of the stream in the file.
    pub stream: u32,
    /// Pixels a row, as shown: rotation is taken into account.
    pub width: u32,
    /// Rows, as shown.
    pub height: u32,
    /// How its frames come out of the decoder.
    pub pixels: Pixels,
    /// What its clock shows at its beginning, in microseconds.
    pub origin_us: i64,
    /// When it ends; `None` if nothing says so.
    pub end_ms: Option<u64>,
    /// Whether that is the video's own end, rather than that of the longest stream.
    pub end_is_exact: bool,
    /// How long one frame lasts, if they all last as long.
    pub frame_ms: u64,
    /// What has to be known about its kind.
    pub quirks: Quirks,
}

impl Film {
    /// From what `ffprobe -print_format json` printed, and its last words.
    ///
    /// # Errors
    /// When it names no video that can be decoded within `limits`.
    pub fn of_report(json: &[u8], words: &str, limits: &VideoLimits) -> Result<Self, VideoError> {
        let report: Report = serde_json::from_slice(json)
            .map_err(|error| VideoError::Corrupt(format!("ffprobe's report cannot be read: {error}")))?;
        report.film(limits, words)
    }
}

/// Milliseconds since the film's beginning; `None` for what no film has.
pub(super) fn milliseconds(seconds: f64, origin_us: i64) -> Option<u64> {
    let ms = (seconds * 1000.0 - origin_us as f64 / 1000.0).round();
    (ms > 0.0 && ms < SANE_SECONDS * 1000.0).then_some(ms as u64)
}

/// `ffprobe -print_format json`.
#[derive(Debug, Deserialize)]
struct Report {
    #[serde(default)]
    streams: Vec<Stream>,
    #[serde(default)]
    format: Format,
}

#[derive(Debug, Default, Deserialize)]
struct Format {
    #[serde(default)]
    format_name: String,
    start_time: Option<String>,
    duration: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
struct Stream {
    index: u32,
    codec_type: Option<String>,
    codec_name: Option<String>,
    #[serde(default)]
    width: u32,
    #[serde(default)]
    height: u32,
    pix_fmt: Option<String>,
    color_space: Option<String>,
    color_range: Option<String>,
    chroma_location: Option<String>,
    start_time: Option<String>,
    duration: Option<String>,
    avg_frame_rate: Option<String>,
    #[serde(default)]
    disposition: Disposition,
    #[serde(default)]
    side_data_list: Vec<SideData>,
    #[serde(default)]
    tags: Tags,
}

#[derive(Debug, Default, Deserialize)]
struct Disposition {
    #[serde(default)]
    attached_pic: u8,
}

#[derive(Debug, Deserialize)]
struct SideData {
    rotation: Option<f64>,
}

#[derive(Debug, Default, Deserialize)]
struct Tags {
    #[serde(rename = "DURATION")]
    duration: Option<String>,
}

impl Report {
    fn film(&self, limits: &VideoLimits, words: &str) -> Result<Film, VideoError> {
        let is_film = |stream: &&Stream| {
            stream.codec_type.as_deref() == Some("video") && stream.disposition.attached_pic == 0
        };
        let Some(stream) = self.streams.iter().find(is_film) else {
            let kinds: Vec<_> =
                self.streams.iter().filter_map(|stream| stream.codec_type.as_deref()).collect();
            return Err(if kinds.is_empty() {
                VideoError::NoFrames
            } else {
                VideoError::NoVideo(kinds.join(" and "))
            });
        };
        if stream.codec_name.as_deref().is_none_or(|name| name == "unknown" || name == "none") {
            return Err(VideoError::Unsupported("the codec of the video is unknown".to_owned()));
        }
        if stream.width == 0 || stream.height == 0 {
            // The header promises a stream of which nothing was found.
            return Err(match words {
                "" => VideoError::NoFrames,
                words => VideoError::from_words(words),
            });
        }
        let quarters = || {
            let angles = stream.side_data_list.iter().filter_map(|data| data.rotation);
            angles.map(|angle| (angle / 90.0).round() as i64)
        };
        let turned = quarters().any(|quarter| quarter % 2 != 0);
        let (width, height) =
            if turned { (stream.height, stream.width) } else { (stream.width, stream.height) };
        if u64::from(width) * u64::from(height) > limits.max_pixels {
            return Err(VideoError::TooManyPixels { width, height, limit: limits.max_pixels });
        }
        let origin_us = self.origin_us();
        let (end, end_is_exact) = self.end(stream);
        Ok(Film {
            stream: stream.index,
            width,
            height,
            pixels: stream.pixels(quarters().any(|quarter| quarter % 4 != 0)),
            origin_us,
            end_ms: end.and_then(|seconds| milliseconds(seconds, origin_us)),
            end_is_exact,
            frame_ms: stream.frame_ms(),
            quirks: Quirks::of(&self.format.format_name, stream.codec_name.as_deref()),
        })
    }

    fn origin_us(&self) -> i64 {
        if !self.format.format_name.split(',').any(|name| FREE_CLOCKS.contains(&name)) {
            return 0;
        }
        number(self.format.start_time.as_ref()).map_or(0, |seconds| (seconds * 1e6).round() as i64)
    }

    /// When the video ends in seconds of its own clock, and whether that is said of the video itself.
    fn end(&self, stream: &Stream) -> (Option<f64>, bool) {
        let start = number(stream.start_time.as_ref()).unwrap_or(0.0);
        if let Some(duration) = number(stream.duration.as_ref()) {
            return (Some(start + duration), true);
        }
        // Matroska writes the end of each stream, though it is called a duration.
        if let Some(end) = stream.tags.duration.as_deref().and_then(clock) {
            return (Some(end), true);
        }
        let start = number(self.format.start_time.as_ref()).unwrap_or(0.0);
        let end = number(self.format.duration.as_ref()).map(|duration| start + duration);
        (end, self.streams.len() == 1)
    }
}

impl Stream {
    fn pixels(&self, is_turned: bool) -> Pixels {
        Pixels::of(Told {
            format: self.pix_fmt.as_deref(),
            matrix: self.color_space.as_deref(),
            range: self.color_range.as_deref(),
            chroma: self.chroma_location.as_deref(),
            is_turned,
        })
    }

    fn frame_ms(&self) -> u64 {
        let rate = self.avg_frame_rate.as_deref().and_then(|rate| {
            let (frames, seconds) = rate.split_once('/')?;
            Some(1000.0 * seconds.parse::<f64>().ok()? / frames.parse::<f64>().ok()?)
        });
        match rate {
            Some(ms) if ms > 0.0 && ms.is_finite() => ms.round().clamp(1.0, SANE_SECONDS * 1000.0) as u64,
            _ => A_FRAME_MS,
        }
    }
}

/// Seconds that a clock may show.
fn number(text: Option<&String>) -> Option<f64> {
    text.and_then(|text| text.parse().ok()).filter(|value: &f64| value.abs() < SANE_SECONDS)
}

/// `00:01:02.500000000` in seconds.
fn clock(text: &str) -> Option<f64> {
    text.trim().split(':').try_fold(0.0, |sum, part| Some(sum * 60.0 + part.parse::<f64>().ok()?))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn film(report: &str) -> Result<Film, VideoError> {
        Film::of_report(report.as_bytes(), "", &VideoLimits::default())
    }

    #[test]
    fn a_turned_film_is_shown_upright() {
        let film = film(
            r#"{"streams":[{"index":1,"codec_type":"video","codec_name":"h264","width":320,"height":240,
                "start_time":"0.5","duration":"10.0","avg_frame_rate":"30000/1001","disposition":{"attached_pic":0},
                "side_data_list":[{"rotation":-90}]}],"format":{"format_name":"mov,mp4","duration":"99"}}"#,
        );
        let film = film.unwrap();
        assert_eq!((film.stream, film.width, film.height, film.frame_ms), (1, 240, 320, 33));
        assert_eq!((film.end_ms, film.end_is_exact, film.origin_us), (Some(10_500), true, 0));
    }

    #[test]
    fn broadcasts_begin_anywhere() {
        let film = film(
            r#"{"streams":[{"index":0,"codec_type":"video","codec_name":"h264","width":32,"height":24,
                "start_time":"1000.5","duration":"2.0","avg_frame_rate":"0/0"}],
                "format":{"format_name":"mpegts","start_time":"1000.4","duration":"2.1"}}"#,
        );
        let film = film.unwrap();
        assert_eq!((film.origin_us, film.end_ms, film.frame_ms), (1_000_400_000, Some(2100), 40));
    }

    #[test]
    fn covers_and_sound_are_no_film() {
        let audio = r#"{"streams":[{"index":0,"codec_type":"audio","codec_name":"mp3"},
            {"index":1,"codec_type":"video","codec_name":"mjpeg","width":9,"height":9,"disposition":{"attached_pic":1}}],
            "format":{}}"#;
        assert_eq!(film(audio).unwrap_err().code(), "unsupported_format");
        let vast = r#"{"streams":[{"index":0,"codec_type":"video","codec_name":"h264","width":60000,"height":60000}]}"#;
        assert_eq!(film(vast).unwrap_err().code(), "too_many_pixels");
    }

    #[test]
    fn nonsense_is_no_time() {
        let film = film(
            r#"{"streams":[{"index":0,"codec_type":"video","codec_name":"h264","width":32,"height":24,
                "start_time":"-1e300","duration":"1e300","avg_frame_rate":"1/1e300"}],
                "format":{"format_name":"mpegts","start_time":"1e300","duration":"inf"}}"#,
        );
        let film = film.unwrap();
        assert_eq!((film.origin_us, film.end_ms, film.frame_ms), (0, None, 1_000_000_000_000));
    }

    #[test]
    fn clocks_are_read() {
        assert_eq!(clock("00:01:02.500000000"), Some(62.5));
        assert_eq!(clock("x"), None);
    }
}
