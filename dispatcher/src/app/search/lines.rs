//! Hits and remarks as text.

use std::fmt::Write as _;

use crate::index::{Finding, Reranked};
use crate::output::{clipped, counted, plain};
use crate::progress::clock;
use crate::search::Hit;
use captionfleet_proto::uri::{ItemUri, Location};

/// Width of a caption.
const CAPTION: usize = 100;

/// One hit of an exact search.
pub(super) fn hit(hit: &Hit) -> String {
    let text = line(hit.rank, hit.score, &name(&hit.item, hit.frame_ms), &hit.caption);
    format!("{text}{}", thumbnail(hit.thumbnail.as_deref()))
}

/// One hit of a search through the index, with what it matched where several rankings took part.
pub(super) fn finding(finding: &Finding) -> String {
    let mut text =
        line(finding.rank, finding.score, &name(&finding.item, finding.frame_ms), &finding.caption);
    text.push_str(&thumbnail(finding.thumbnail.as_deref()));
    if finding.matched.len() > 1 {
        let matched: Vec<_> =
            finding.matched.iter().map(|(name, score)| format!("{name} {score:.3}")).collect();
        // Writing to a string cannot fail.
        let _ = write!(text, "  [{}]", matched.join(", "));
    }
    if !finding.duplicates.is_empty() {
        let _ = write!(text, "  (and {} like it)", finding.duplicates.len());
    }
    text
}

fn line(rank: usize, score: f32, name: &str, caption: &str) -> String {
    format!("{rank:>3}  {score:.3}  {name}  {}", clipped(&plain(caption), CAPTION))
}

fn thumbnail(at: Option<&str>) -> String {
    at.map(|at| format!("  {at}")).unwrap_or_default()
}

/// The picture's name as people write it.
fn name(item: &str, frame_ms: Option<u64>) -> String {
    let frame = frame_ms.map(|frame| format!(" at {}", clock(frame))).unwrap_or_default();
    let name = match ItemUri::parse(item).as_ref().map(ItemUri::location) {
        Ok(Location::File(path)) => path.display().to_string(),
        Ok(Location::S3 { bucket, key }) => format!("s3://{bucket}/{key}"),
        Err(_) => item.to_owned(),
    };
    format!("{}{frame}", plain(&name))
}

/// What the model judged, and what it could not.
pub(super) fn reranked(reranked: &Reranked) -> String {
    let mut text = format!("the model has judged the best {}", reranked.judged);
    for (code, count) in &reranked.failed {
        let _ = write!(text, "; {} could not be read ({code})", counted(*count as u64, "picture"));
    }
    text
}

/// Spaces with how many of `what` they have.
pub(super) fn spaces<'a>(counts: impl Iterator<Item = (&'a String, u64)>, what: &str) -> String {
    counts.map(|(space, count)| format!("{space} ({})", counted(count, what))).collect::<Vec<_>>().join(", ")
}

/// What was not compared.
pub(super) fn foreign<'a>(counts: impl Iterator<Item = (&'a String, u64)>, what: &str) -> String {
    format!("not compared, because made by other models: {}", spaces(counts, what))
}

/// What could not be read.
pub(super) fn damaged(parts: u64) -> String {
    format!("{} could not be read; `dispatcher verify` says which", counted(parts, "part"))
}
