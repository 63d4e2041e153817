//! The choice of frames as a filter of ffmpeg's, so that only what is looked at is piped.
//!
//! Segments and anchors are compared as whole milliseconds, computed from whole microseconds, on both sides of the pipe.
//! Intervals are microseconds: frames of most rates lie between milliseconds, and two of them must not round into one.
//! Which frame is the first of its interval depends on nothing before the anchor that the interval lies behind.

use captionfleet_proto::job::{SampleBy, Sampling};

use super::{Film, Span};

/// More intervals than an anchor's time can have.
const PER_ANCHOR: u64 = 1_000_000;

/// Value of the mark on frames that the filter has come across.
pub(super) const SEEN: &str = "captionfleet=seen";
/// Value of the mark on frames that it lets through.
pub(super) const CHOSEN: &str = "captionfleet=chosen";

/// The filter graph: a line on descriptor 0 for every frame, another one for the chosen, which come out with the film's
/// pixels.
pub(super) fn graph(sampling: &Sampling, span: Span, film: &Film) -> String {
    let mark = |mode: &str, value: &str| {
        format!(
            "metadata={mode}:key=captionfleet:value={value},metadata=print:key=captionfleet:file='pipe\\:0':direct=1"
        )
    };
    format!(
        "settb=1/1000000,setpts=PTS-({}),{},select='{}',{},{}",
        film.origin_us,
        mark("add", "seen"),
        expression(sampling, span),
        mark("modify", "chosen"),
        film.pixels.filters(film.width, film.height),
    )
}

/// Above 0 for the frames that are looked at.
fn expression(sampling: &Sampling, span: Span) -> String {
    let ms = |pts: &str| format!("round({pts}/1000)");
    let anchor = sampling.anchor_ms();
    let after = format!("gte({},{})", ms("pts"), span.start_ms);
    // What grows from one interval to the next, and from one anchor to the next.
    let place = |pts: &str| {
        match sampling.by {
            SampleBy::Interval { every_us } => {
                // Half a millisecond more: an anchor begins where its rounded time does, and containers round as well.
                let (us, anchor) = (format!("({pts}+500)"), anchor * 1000);
                format!("(floor({us}/{anchor})*{PER_ANCHOR}+floor(mod({us},{anchor})/{every_us}))")
            }
            SampleBy::Scenes { .. } | SampleBy::Keyframes => format!("floor({}/{anchor})", ms(pts)),
        }
    };
    let first = format!("isnan(prev_selected_pts)+gt({},{})", place("pts"), place("prev_selected_pts"));
    let chosen = match sampling.by {
        SampleBy::Interval { .. } => first,
        SampleBy::Scenes { cut } => format!("gt(scene,{cut})+{first}"),
        SampleBy::Keyframes => "1".to_owned(),
    };
    let Some(end) = span.end_ms else { return format!("{after}*({chosen})") };
    // Everything behind the segment is let through, until the reader ends the program: where ffmpeg holds the last chosen
    // frame back, others must come after it.
    let at = ms("pts");
    format!("{after}*(lt({at},{end})*({chosen})+gte({at},{end}))")
}
