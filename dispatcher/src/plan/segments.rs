//! Cutting videos into segments. Pure.

use captionfleet_proto::job::{JobItem, Sampling};

/// Longest segment, unless frames are further apart than this: a job must be done long before the broker takes it for
/// lost, and long films shall be shared.
const MOST_MS: u64 = 600_000;
/// Most segments of one video; far above any film, and a guard against nonsense in a header.
const MOST_SEGMENTS: u64 = 10_000;

/// The segments of a video of the given length; a single one for the whole if the length is not known.
///
/// Each has about `most` frames to look at. All but the last begin and end at anchors; the last goes to the video's end.
pub(super) fn of(video: JobItem, length_ms: Option<u64>, sample: &Sampling, most: usize) -> Vec<JobItem> {
    let anchor = sample.anchor_ms();
    let anchors = (most as u64).div_ceil(sample.frames_in(anchor));
    let segment = (anchor * anchors.max(1)).min(anchor.max(MOST_MS / anchor * anchor));
    let length = length_ms.unwrap_or(0);
    let last = if length / segment < MOST_SEGMENTS { length.saturating_sub(1) / segment } else { 0 };
    let piece = |number: u64| JobItem {
        frame_ms: Some(number * segment),
        span_ms: (number < last).then_some(segment),
        sample: Some(*sample),
        film_ms: length_ms,
        ..video.clone()
    };
    (0..=last).map(piece).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::planned_job::weight;
    use captionfleet_proto::job::SampleBy;
    use captionfleet_proto::uri::ItemUri;

    fn cut(length_ms: Option<u64>, every_ms: u64, most: usize) -> Vec<(u64, Option<u64>)> {
        let sample = Sampling { by: SampleBy::Interval { every_us: every_ms * 1000 }, ..Sampling::default() };
        let pieces = of(JobItem::new(ItemUri::s3("b", "a.mp4")), length_ms, &sample, most);
        pieces.iter().map(|piece| (piece.frame_ms.unwrap_or(1), piece.span_ms)).collect()
    }

    #[test]
    fn segments_have_about_the_wanted_number_of_frames() {
        let segments = [(0, Some(120_000)), (120_000, Some(120_000)), (240_000, None)];
        assert_eq!(cut(Some(300_000), 1000, 64), segments);
        assert_eq!(
            cut(Some(240_000), 1000, 64),
            segments[..1].iter().copied().chain([(120_000, None)]).collect::<Vec<_>>()
        );
        assert_eq!(cut(Some(150_000), 40, 64), [(0, Some(60_000)), (60_000, Some(60_000)), (120_000, None)]);
    }

    #[test]
    fn segments_are_never_very_long() {
        assert_eq!(
            cut(Some(1_300_000), 1000, 10_000),
            [(0, Some(600_000)), (600_000, Some(600_000)), (1_200_000, None)]
        );
        assert_eq!(cut(Some(1_300_000), 1_000_000, 64), [(0, Some(1_000_000)), (1_000_000, None)]);
    }

    #[test]
    fn what_has_no_known_length_is_not_cut() {
        assert_eq!(cut(None, 1000, 64), [(0, None)]);
        assert_eq!(cut(Some(u64::MAX / 2), 1000, 64), [(0, None)]);
    }

    #[test]
    fn weights_add_up_to_the_frames() {
        let pieces = of(JobItem::new(ItemUri::s3("b", "a.mp4")), Some(300_000), &Sampling::default(), 64);
        assert_eq!(pieces.iter().map(weight).collect::<Vec<_>>(), [120, 120, 60]);
        assert_eq!(weight(&JobItem::new(ItemUri::s3("b", "a.png"))), 1);
    }
}
