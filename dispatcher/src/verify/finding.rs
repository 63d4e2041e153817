//! Something that is not as it must be.

use captionfleet_proto::uri::ItemUri;
use serde::Serialize;

/// An item as verification knows it: its name, and the frame of a video.
pub type ItemKey = (ItemUri, Option<u64>);

/// Something of a run that is not as it must be.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Finding {
    /// The item; absent where a whole part is meant.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub item: Option<String>,
    /// Time of the frame in a video.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub frame_ms: Option<u64>,
    /// The parts (keys in the archive) that are concerned.
    pub parts: Vec<String>,
    /// What is wrong, in words.
    pub reason: String,
}

impl Finding {
    pub(super) fn new(item: Option<&ItemKey>, mut parts: Vec<String>, reason: String) -> Self {
        parts.sort();
        Self {
            item: item.map(|(uri, _)| uri.to_string()),
            frame_ms: item.and_then(|(_, frame)| *frame),
            parts,
            reason,
        }
    }
}
