//! The scores as bars: this run's, and beside them what others have published.

use super::report::Report;
use super::scores::Share;
use std::fmt::Write as _;

const ROW: usize = 30;
const LABELS: usize = 250;
const WIDTH: usize = 400;

/// An SVG picture of the scores; `None` where there is nothing to show.
pub fn svg(report: &Report) -> Option<String> {
    let all = report.all.as_ref()?;
    let mut bars: Vec<(String, f64, Option<Share>)> = vec![
        ("this run, as the reference counts".to_owned(), 100.0 * all.reference.mean, Some(all.reference)),
        ("this run, own rule".to_owned(), 100.0 * all.own.mean, Some(all.own)),
    ];
    let others = report.published_by_others.iter();
    bars.extend(others.map(|one| (format!("{} (published)", one.model), one.score, None)));
    let (width, height) = (LABELS + WIDTH + 70, 50 + ROW * bars.len());
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" \
         font-size=\"13\">\n<rect width=\"{width}\" height=\"{height}\" fill=\"#fff\"/>\n<text x=\"10\" y=\"24\" \
         font-size=\"16\">{}, percent right</text>\n",
        report.benchmark
    );
    for (at, (label, score, bounds)) in bars.into_iter().enumerate() {
        let top = 40 + ROW * at;
        let (middle, length) = (top + 10, score / 100.0 * WIDTH as f64);
        let colour = if bounds.is_some() { "#1f6f8b" } else { "#b8b8b8" };
        let _ = writeln!(
            svg,
            "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{label}</text>",
            LABELS - 8,
            middle + 5
        );
        let _ = writeln!(
            svg,
            "<rect x=\"{LABELS}\" y=\"{top}\" width=\"{length:.1}\" height=\"20\" fill=\"{colour}\"/>"
        );
        if let Some(Share { low, high, .. }) = bounds {
            let place = |share: f64| LABELS as f64 + share * WIDTH as f64;
            let _ = writeln!(
                svg,
                "<path d=\"M{:.1} {middle}H{:.1}\" stroke=\"#000\" stroke-width=\"2\"/>",
                place(low),
                place(high)
            );
        }
        let _ = writeln!(
            svg,
            "<text x=\"{:.1}\" y=\"{}\">{score:.1}</text>",
            LABELS as f64 + length.max(bounds.map_or(0.0, |share| share.high * WIDTH as f64)) + 6.0,
            middle + 5
        );
    }
    svg.push_str("</svg>\n");
    Some(svg)
}
