//! Whether a film is whole whose last decoded frame lies far before its end: that frame may be shown for long, or be the
//! last key frame of those that alone were decoded. Only what is stored behind it tells.

use std::path::Path;

use super::tool::VideoLimits;
use super::{Film, Packets, VideoError};

/// How much earlier than its header says a film may end, in milliseconds: headers are careless about their last frames.
pub(super) const SLACK_MS: u64 = 2000;
/// How far behind the last decoded frame another one may be stored that is never shown, in milliseconds.
const UNSEEN_MS: u64 = 1000;

/// What lies behind the last decoded frame.
pub(super) struct Tail {
    /// When that frame is shown.
    pub(super) last_ms: u64,
    /// When the film ends, as its header says.
    pub(super) end_ms: u64,
    /// Whether only key frames were decoded: then others may be stored behind the last one.
    pub(super) are_keys: bool,
    /// Whether it is known that everything that was stored is there.
    pub(super) is_all_there: bool,
}

impl Tail {
    /// Whether nothing is missing between the last frame and the end.
    ///
    /// # Errors
    /// When this machine cannot look at films at all.
    pub(super) async fn is_whole(
        &self,
        path: &Path,
        film: &Film,
        limits: &VideoLimits,
    ) -> Result<bool, VideoError> {
        match self.read(path, film, limits).await {
            // What cannot be read behind the last frame is not there.
            Err(error) if !error.is_local() => Ok(false),
            read => read,
        }
    }

    async fn read(&self, path: &Path, film: &Film, limits: &VideoLimits) -> Result<bool, VideoError> {
        let mut packets = Packets::of(path, film, Some(self.last_ms), limits)?;
        let mut until = 0;
        while let Some(packet) = packets.next().await? {
            if !self.are_keys && packet.ms > self.last_ms + UNSEEN_MS {
                return Ok(false);
            }
            until = packet.end_ms.max(until);
        }
        Ok(self.is_all_there || until + SLACK_MS >= self.end_ms)
    }
}
