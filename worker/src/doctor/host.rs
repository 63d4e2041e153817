//! The machine: programs and how we were built.

use captionfleet_model::preprocess::jpeg_is_accelerated;

use super::Finding;
use crate::video;

/// Whether videos can be decoded.
pub async fn ffmpeg() -> Finding {
    const WHAT: &str = "ffmpeg";
    match video::versions().await {
        Ok(text) => Finding::ok(WHAT, text),
        Err(error) => Finding::warn(WHAT, format!("{error}; pictures are not concerned")),
    }
}

/// Whether JPEG files are decoded as fast as the processor can.
pub fn jpeg() -> Finding {
    const WHAT: &str = "JPEG";
    if jpeg_is_accelerated() {
        Finding::ok(WHAT, "decoded with the processor's vector instructions")
    } else {
        let remedy = "on x86-64 install nasm and build again";
        Finding::warn(
            WHAT,
            format!("decoded without vector instructions, at less than half the speed; {remedy}"),
        )
    }
}
