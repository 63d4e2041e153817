//! Why a video gives no (more) frames.

use std::time::Duration;

/// Why a video gives no (more) frames.
#[derive(Debug, thiserror::Error)]
pub enum VideoError {
    /// The programs are not there: a fault of this machine, not of the video.
    #[error("{program} cannot be started: videos need it on PATH (Debian: apt-get install ffmpeg)")]
    NoTool {
        /// The program.
        program: &'static str,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The system failed while the program ran: a fault of this machine, too.
    #[error("talking to {program} failed")]
    Talk {
        /// The program.
        program: &'static str,
        /// The system's reason.
        source: std::io::Error,
    },
    /// Somebody ended the program, probably with everything else on this machine.
    #[error("{program} was ended from outside")]
    Stopped {
        /// The program.
        program: &'static str,
    },
    /// A playlist: it would have other files read.
    #[error("a playlist ({0}) names other files and is not followed: give the videos themselves")]
    Playlist(&'static str),
    /// Nothing in the file.
    #[error("the file is empty")]
    Empty,
    /// A container, or a codec, that is not read.
    #[error("{0}")]
    Unsupported(String),
    /// Sound, or pictures that are none of a film.
    #[error("there is no video in it, only {0}")]
    NoVideo(String),
    /// The container promises a video and has no frame.
    #[error("the video has no frames")]
    NoFrames,
    /// The file ends too early.
    #[error("the file ends before the video does: {0}")]
    Truncated(String),
    /// Something in it is broken.
    #[error("the video is damaged: {0}")]
    Corrupt(String),
    /// Times begin again: what was put together has no single clock.
    #[error(
        "the clock goes back from {from_ms} to {to_ms} ms, as where films were joined: split the file there"
    )]
    ClockGoesBack {
        /// The latest time before, in milliseconds.
        from_ms: i64,
        /// The time after it.
        to_ms: i64,
    },
    /// Larger frames than are decoded.
    #[error("frames of {width} x {height} pixels; at most {limit} pixels are decoded")]
    TooManyPixels {
        /// Pixels a row.
        width: u32,
        /// Rows.
        height: u32,
        /// The limit.
        limit: u64,
    },
    /// More frames than one job may have.
    #[error("more than {limit} frames of one segment are worth a row: look at fewer")]
    TooManyFrames {
        /// The limit.
        limit: usize,
    },
    /// Longer than is decoded.
    #[error("the video goes on for {seconds} s; at most {limit} s are taken")]
    TooLong {
        /// Its length.
        seconds: u64,
        /// The limit.
        limit: u64,
    },
    /// More memory or processor time than the decoder may have.
    #[error("the decoder was ended by its limits ({0})")]
    Limit(String),
    /// Silence.
    #[error("{program} said nothing for {} s", .silence.as_secs())]
    Stalled {
        /// The program.
        program: &'static str,
        /// How long.
        silence: Duration,
    },
}

impl VideoError {
    /// The row's error code.
    pub fn code(&self) -> &'static str {
        match self {
            Self::NoTool { .. } | Self::Talk { .. } | Self::Stopped { .. } => "internal",
            Self::Empty => "empty",
            Self::Playlist(_) | Self::Unsupported(_) | Self::NoVideo(_) => "unsupported_format",
            Self::NoFrames => "no_frames",
            Self::Truncated(_) => "truncated",
            Self::Corrupt(_) | Self::ClockGoesBack { .. } => "corrupt",
            Self::TooManyPixels { .. } => "too_many_pixels",
            Self::TooLong { .. } | Self::TooManyFrames { .. } => "too_large",
            Self::Limit(_) | Self::Stalled { .. } => "deadline",
        }
    }

    /// Whether the fault lies in this machine: another one may do better.
    pub fn is_local(&self) -> bool {
        matches!(self, Self::NoTool { .. } | Self::Talk { .. } | Self::Stopped { .. })
    }

    /// Sorts what ffmpeg or ffprobe said before they gave up.
    pub(super) fn from_words(words: &str) -> Self {
        let said = if words.is_empty() { "no reason was given".to_owned() } else { words.to_owned() };
        let has = |any: &[&str]| any.iter().any(|part| words.contains(part));
        if has(&["Format not on whitelist"]) {
            Self::Unsupported(
                "a kind of file that is not read as a video: MP4, MOV, Matroska, WebM, AVI, MPEG, FLV, ASF, Ogg and MXF are"
                    .to_owned(),
            )
        } else if has(&["moov atom not found", "partial file", "ended prematurely", "End of file"]) {
            Self::Truncated(said)
        } else if has(&[
            "Decoder not found",
            "Unknown decoder",
            "(codec none)",
            "Decoder (codec",
            "not on whitelist",
        ]) || has(&["not implemented", "Not yet implemented", "Unsupported"])
        {
            Self::Unsupported(said)
        } else if has(&["Cannot allocate memory", "Could not allocate"]) {
            Self::Limit(said)
        } else {
            Self::Corrupt(said)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::VideoError;

    #[test]
    fn words_become_codes() {
        for (words, code) in [
            ("[mov] moov atom not found", "truncated"),
            ("Format not on whitelist 'mov,avi'; Invalid argument", "unsupported_format"),
            ("stream 0, offset 0x1234: partial file", "truncated"),
            ("Decoder (codec none) not found for input stream #0:0", "unsupported_format"),
            ("Error while decoding stream #0:0: Invalid data found", "corrupt"),
            ("Cannot allocate memory", "deadline"),
            ("", "corrupt"),
        ] {
            assert_eq!(VideoError::from_words(words).code(), code, "{words}");
        }
    }
}
