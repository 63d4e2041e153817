//! From the frames of a segment to spans of time that leave no gap. Pure.
//!
//! A row lasts until the next kept frame is shown, be it in the next segment. Where decoding fails, one more row says
//! so, for the time that nobody saw.

use captionfleet_proto::chain;
use captionfleet_proto::job::LATE_START_MS;

use crate::engine::CaptionResult;
use crate::video::{Ending, Span, VideoError};

use super::item_failure::ItemFailure;
use super::viewing::Viewed;

/// What was seen of a segment.
pub(super) struct Caught {
    pub(super) film_end_ms: Option<u64>,
    pub(super) viewed: Viewed,
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
    let Caught { film_end_ms, viewed, mut answers } = caught;
    let Viewed { begins_ms, blind, counts, ending, resumes_ms } = viewed;
    let Ending { next_ms, last_ms, last_end_ms, failure, .. } = ending;
    if failure.is_some() {
        // What came behind the damage may be seen before the damage is.
        answers.retain(|(ms, _)| last_ms.is_none_or(|last| *ms <= last));
    }
    let starts: Vec<u64> = answers.iter().map(|(ms, _)| *ms).collect();
    let first = starts.first().copied();
    let late = first.filter(|first| span.start_ms == 0 && *first > LATE_START_MS);
    let nothing = late.map(|first| Line { ms: 0, span_ms: Some(first), frames: 0, what: What::Nothing });
    let blind = blind.zip(first).map(|(error, first)| failed(begins_ms, Some(first), &error));
    let seen_until = last_end_ms.unwrap_or(begins_ms);
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
    let mut lines: Vec<Line> = nothing.into_iter().chain(blind).chain(shown).collect();
    let last = match failure {
        Some(error) => failed_line(span, film_end_ms, resumes_ms, seen_until, &error),
        None if lines.is_empty() && span.start_ms == 0 => Some(match next_ms {
            Some(next) => Line { ms: 0, span_ms: Some(next), frames: 0, what: What::Nothing },
            None => failed(0, film_end_ms, &VideoError::NoFrames),
        }),
        None => None,
    };
    lines.extend(last);
    lines
}

/// The row for the time that nobody saw, if there is any.
fn failed_line(
    span: Span,
    film_end_ms: Option<u64>,
    resumes_ms: Option<u64>,
    seen_until: u64,
    error: &VideoError,
) -> Option<Line> {
    match error {
        // Where nothing comes behind it, all of the rest is lost with it: the segments behind have no rows.
        VideoError::Corrupt(_) | VideoError::Truncated(_) | VideoError::ClockGoesBack { .. } => {
            let until = resumes_ms.or(film_end_ms).or(span.end_ms);
            Some(failed(seen_until, until, error))
        }
        _ => {
            let until = span.end_ms.or(film_end_ms);
            let is_over = until.is_some_and(|until| until <= seen_until);
            (!is_over).then(|| failed(seen_until, until, error))
        }
    }
}

fn failed(ms: u64, until: Option<u64>, error: &VideoError) -> Line {
    let what = What::Failed { code: error.code(), message: chain(error) };
    Line { ms, span_ms: until.map(|until| until.saturating_sub(ms)), frames: 0, what }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Start, length and meaning of the rows of a film of 90 s, of which these frames were captioned.
    fn told(
        span: (u64, Option<u64>),
        frames: &[u64],
        ending: Ending,
        resumes_ms: Option<u64>,
    ) -> Vec<(u64, Option<u64>, &'static str)> {
        let viewed =
            Viewed { begins_ms: span.0, blind: None, counts: vec![1; frames.len()], ending, resumes_ms };
        rows(span, frames, viewed)
    }

    fn rows(
        span: (u64, Option<u64>),
        frames: &[u64],
        viewed: Viewed,
    ) -> Vec<(u64, Option<u64>, &'static str)> {
        let answers =
            frames.iter().map(|ms| (*ms, Err(ItemFailure::row("degenerate", String::new())))).collect();
        let caught = Caught { film_end_ms: Some(90_000), viewed, answers };
        let lines = timeline(Span { start_ms: span.0, end_ms: span.1 }, caught);
        let name = |what: &What| match what {
            What::Captioned(_) => "ok",
            What::Failed { code, .. } => code,
            What::Nothing => "nothing",
        };
        lines.iter().map(|line| (line.ms, line.span_ms, name(&line.what))).collect()
    }

    fn ending(next_ms: Option<u64>, last_end_ms: Option<u64>, failure: Option<VideoError>) -> Ending {
        let last_ms = last_end_ms.map(|end| end - 40);
        Ending { next_ms, first_ms: None, last_ms, last_end_ms, taken_ms: None, lost: false, failure }
    }

    fn corrupt() -> VideoError {
        VideoError::Corrupt(String::new())
    }

    #[test]
    fn a_row_lasts_until_the_next_frame_even_in_the_next_segment() {
        let rows = told((0, Some(60_000)), &[0, 4000], ending(Some(60_020), Some(59_980), None), None);
        assert_eq!(rows, [(0, Some(4000), "degenerate"), (4000, Some(56_020), "degenerate")]);
    }

    #[test]
    fn the_last_row_lasts_until_the_film_ends() {
        let rows = told((60_000, None), &[60_020], ending(None, Some(89_000), None), None);
        assert_eq!(rows, [(60_020, Some(29_980), "degenerate")]);
    }

    #[test]
    fn damage_is_one_row_until_the_film_goes_on() {
        let damaged = || ending(None, Some(5040), Some(corrupt()));
        let first = (0, Some(5040), "degenerate");
        let rows = |resumes_ms| told((0, Some(60_000)), &[0], damaged(), resumes_ms);
        assert_eq!(rows(Some(60_020)), [first, (5040, Some(54_980), "corrupt")]);
        // Nothing comes any more, so that the segments behind are empty.
        assert_eq!(rows(None), [first, (5040, Some(84_960), "corrupt")]);
        let nothing = ending(None, None, Some(corrupt()));
        let rows = told((0, Some(60_000)), &[], nothing, Some(60_000));
        assert_eq!(rows, [(0, Some(60_000), "corrupt")]);
    }

    #[test]
    fn frames_behind_damage_are_no_rows() {
        let damaged = ending(None, Some(5040), Some(corrupt()));
        let rows = told((0, None), &[0, 5000, 9000], damaged, None);
        let expected =
            [(0, Some(5000), "degenerate"), (5000, Some(40), "degenerate"), (5040, Some(84_960), "corrupt")];
        assert_eq!(rows, expected);
    }

    #[test]
    fn a_segment_that_begins_damaged_says_so_and_goes_on() {
        let viewed = Viewed {
            begins_ms: 60_020,
            blind: Some(corrupt()),
            counts: vec![1],
            ending: ending(None, Some(90_000), None),
            resumes_ms: None,
        };
        let rows = rows((60_000, None), &[62_000], viewed);
        assert_eq!(rows, [(60_020, Some(1980), "corrupt"), (62_000, Some(28_000), "degenerate")]);
    }

    /// A film that is joined of two is as long as the second one for its header.
    #[test]
    fn a_clock_that_goes_back_is_a_row_even_behind_the_end_of_the_film() {
        let back = VideoError::ClockGoesBack { from_ms: 95_000, to_ms: 0 };
        let rows = told((0, None), &[0], ending(None, Some(95_040), Some(back)), None);
        assert_eq!(rows, [(0, Some(95_040), "degenerate"), (95_040, Some(0), "corrupt")]);
    }

    #[test]
    fn limits_end_a_segment_where_it_ends() {
        let stalled = VideoError::TooManyFrames { limit: 1 };
        let rows = told((0, Some(60_000)), &[0], ending(None, Some(5040), Some(stalled)), None);
        assert_eq!(rows[1], (5040, Some(54_960), "too_large"));
    }

    #[test]
    fn a_film_without_frames_fails_once() {
        let none = || ending(None, None, None);
        assert_eq!(told((0, None), &[], none(), None), [(0, Some(90_000), "no_frames")]);
        let later = ending(Some(61_000), None, None);
        assert_eq!(told((0, Some(60_000)), &[], later, None), [(0, Some(61_000), "nothing")]);
        assert!(told((60_000, None), &[], none(), None).is_empty());
        let late = told((0, None), &[80, 9000], ending(None, Some(9040), None), None);
        assert_eq!(late[0], (80, Some(8920), "degenerate"));
        assert_eq!(told((0, None), &[9000], none(), None)[0], (0, Some(9000), "nothing"));
    }
}
