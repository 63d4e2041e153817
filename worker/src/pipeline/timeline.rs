//! From the frames of a segment to spans of time that leave no gap. Pure.
//!
//! A row lasts until the next kept frame is shown, be it in the next segment. Where decoding fails, one more row says
//! so, for the time that nobody saw.

use captionfleet_proto::job::LATE_START_MS;

use crate::engine::CaptionResult;
use crate::telemetry::events;
use crate::video::{Ending, Span, VideoError};

use super::item::ItemFailure;

/// What was seen of a segment.
pub(super) struct Caught {
    pub(super) film_end_ms: Option<u64>,
    /// The frames that each kept one stands for.
    pub(super) counts: Vec<u32>,
    pub(super) ending: Ending,
    /// Every kept frame with what the engine made of it, in the order of time.
    pub(super) answers: Vec<(u64, Result<CaptionResult, ItemFailure>)>,
}

/// What will be a row.
pub(super) struct Line {
    pub(super) ms: u64,
    pub(super) span_ms: Option<u64>,
    pub(super) frames: u32,
    pub(super) what: What,
}

/// What the row says.
pub(super) enum What {
    Captioned(Box<CaptionResult>),
    Failed {
        code: &'static str,
        message: String,
    },
    /// The film has no picture yet.
    Nothing,
}

/// The rows of a segment.
pub(super) fn timeline(span: Span, caught: Caught) -> Vec<Line> {
    let Caught { film_end_ms, counts, ending, answers } = caught;
    let Ending { next_ms, last_end_ms, failure, .. } = ending;
    let starts: Vec<u64> = answers.iter().map(|(ms, _)| *ms).collect();
    let late = starts.first().copied().filter(|first| span.start_ms == 0 && *first > LATE_START_MS);
    let nothing = late.map(|first| Line { ms: 0, span_ms: Some(first), frames: 0, what: What::Nothing });
    let seen_until = last_end_ms.unwrap_or(span.start_ms);
    let end = match (next_ms, &failure) {
        (Some(next), _) => next,
        (None, Some(_)) => seen_until,
        (None, None) => film_end_ms.filter(|end| *end >= seen_until).unwrap_or(seen_until),
    };
    let ends = starts.iter().skip(1).copied().chain([end]);
    let shown = answers.into_iter().zip(ends).zip(counts).map(|(((ms, answer), end), frames)| {
        let what = match answer {
            Ok(answer) => What::Captioned(Box::new(answer)),
            Err(ItemFailure::Row { code, message }) => What::Failed { code, message },
            Err(_) => What::Failed { code: "internal", message: "the model failed on this frame".to_owned() },
        };
        Line { ms, span_ms: Some(end.saturating_sub(ms)), frames, what }
    });
    let mut lines: Vec<Line> = nothing.into_iter().chain(shown).collect();
    lines.extend(last_line(span, film_end_ms, lines.is_empty(), next_ms, seen_until, failure));
    lines
}

/// The row for time without a frame, if there is any.
fn last_line(
    span: Span,
    film_end_ms: Option<u64>,
    is_empty: bool,
    next_ms: Option<u64>,
    seen_until: u64,
    failure: Option<VideoError>,
) -> Option<Line> {
    let failed = |ms: u64, until: Option<u64>, error: &VideoError| {
        let what = What::Failed { code: error.code(), message: events::chain(error) };
        Line { ms, span_ms: until.map(|until| until.saturating_sub(ms)), frames: 0, what }
    };
    match failure {
        // The file ends: the segment that saw its end answers for the rest of the film, those behind are empty.
        Some(VideoError::Truncated(_)) if is_empty && span.start_ms > 0 => None,
        Some(error @ VideoError::Truncated(_)) => Some(failed(seen_until, film_end_ms, &error)),
        Some(error) => {
            let until = span.end_ms.or(film_end_ms);
            let over = until.is_some_and(|until| until <= seen_until);
            (!over).then(|| failed(seen_until, until, &error))
        }
        None if !is_empty || span.start_ms > 0 => None,
        None => Some(match next_ms {
            Some(next) => Line { ms: 0, span_ms: Some(next), frames: 0, what: What::Nothing },
            None => failed(0, film_end_ms, &VideoError::NoFrames),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(
        span: (u64, Option<u64>),
        frames: &[u64],
        ending: Ending,
    ) -> Vec<(u64, Option<u64>, &'static str)> {
        let answers =
            frames.iter().map(|ms| (*ms, Err(ItemFailure::row("degenerate", String::new())))).collect();
        let caught = Caught { film_end_ms: Some(90_000), counts: vec![1; frames.len()], ending, answers };
        let lines = timeline(Span { start_ms: span.0, end_ms: span.1 }, caught);
        let name = |what: &What| match what {
            What::Captioned(_) => "ok",
            What::Failed { code, .. } => code,
            What::Nothing => "nothing",
        };
        lines.iter().map(|line| (line.ms, line.span_ms, name(&line.what))).collect()
    }

    fn ending(next_ms: Option<u64>, last_end_ms: Option<u64>, failure: Option<VideoError>) -> Ending {
        Ending { next_ms, last_ms: None, last_end_ms, taken_ms: None, lost: false, failure }
    }

    #[test]
    fn a_row_lasts_until_the_next_frame_even_in_the_next_segment() {
        let rows = told((0, Some(60_000)), &[0, 4000], ending(Some(60_020), Some(59_980), None));
        assert_eq!(rows, [(0, Some(4000), "degenerate"), (4000, Some(56_020), "degenerate")]);
    }

    #[test]
    fn the_last_row_lasts_until_the_film_ends() {
        let rows = told((60_000, None), &[60_020], ending(None, Some(89_000), None));
        assert_eq!(rows, [(60_020, Some(29_980), "degenerate")]);
    }

    #[test]
    fn damage_is_one_row_for_the_time_behind_it() {
        let corrupt = || Some(VideoError::Corrupt(String::new()));
        let rows = told((0, Some(60_000)), &[0], ending(None, Some(5040), corrupt()));
        assert_eq!(rows, [(0, Some(5040), "degenerate"), (5040, Some(54_960), "corrupt")]);
        assert_eq!(
            told((0, Some(60_000)), &[], ending(None, None, corrupt())),
            [(0, Some(60_000), "corrupt")]
        );
    }

    #[test]
    fn an_early_end_is_told_once() {
        let truncated = || Some(VideoError::Truncated(String::new()));
        let rows = told((0, Some(60_000)), &[0], ending(None, Some(5040), truncated()));
        assert_eq!(rows, [(0, Some(5040), "degenerate"), (5040, Some(84_960), "truncated")]);
        assert!(told((60_000, None), &[], ending(None, None, truncated())).is_empty());
    }

    #[test]
    fn a_film_without_frames_fails_once() {
        assert_eq!(told((0, None), &[], ending(None, None, None)), [(0, Some(90_000), "no_frames")]);
        assert_eq!(
            told((0, Some(60_000)), &[], ending(Some(61_000), None, None)),
            [(0, Some(61_000), "nothing")]
        );
        assert!(told((60_000, None), &[], ending(None, None, None)).is_empty());
        let late = told((0, None), &[80, 9000], ending(None, Some(9040), None));
        assert_eq!(late[0], (80, Some(8920), "degenerate"));
        assert_eq!(told((0, None), &[9000], ending(None, None, None))[0], (0, Some(9000), "nothing"));
    }
}
