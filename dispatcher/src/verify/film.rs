//! Whether the rows of a video cover its time. No I/O.

use super::finding::Finding;
use captionfleet_proto::job::{JobId, JobItem, LATE_START_MS};
use captionfleet_proto::uri::ItemUri;
use std::collections::{BTreeMap, HashSet};

/// How much earlier than its header says a video may end: headers speak of the longest stream.
const EARLY_END_MS: u64 = 2000;

/// The segments of one video, and its rows.
#[derive(Debug, Default)]
pub(super) struct Film {
    /// The job of each segment, by its start.
    segments: BTreeMap<u64, JobId>,
    length_ms: Option<u64>,
    rows: Vec<FrameRow>,
    /// It was removed from the archive on request, perhaps before all of it had been looked at: its rows tell no times.
    forgotten: bool,
}

/// A row of a video.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct FrameRow {
    pub(super) start_ms: u64,
    pub(super) span_ms: Option<u64>,
    /// Nobody knows when the next row begins.
    pub(super) failed: bool,
    pub(super) job: JobId,
    /// Key of its part.
    pub(super) part: String,
}

/// What is not as it must be.
#[derive(Debug, Default)]
pub(super) struct FilmFindings {
    pub(super) missing: Vec<Finding>,
    pub(super) doubled: Vec<Finding>,
    pub(super) unexpected: Vec<Finding>,
}

impl Film {
    /// Takes a planned segment; whether it is a new one.
    pub(super) fn expect(&mut self, item: &JobItem, job: JobId) -> bool {
        self.length_ms = self.length_ms.max(item.film_ms);
        self.segments.insert(item.frame_ms.unwrap_or(0), job).is_none()
    }

    pub(super) fn forget(&mut self) {
        self.forgotten = true;
    }

    pub(super) fn see(&mut self, row: FrameRow) {
        self.rows.push(row);
    }

    /// Compares; `seen` are the jobs whose part was found.
    pub(super) fn finish(mut self, uri: &ItemUri, seen: &dyn Fn(&JobId) -> bool) -> FilmFindings {
        let mut findings = FilmFindings::default();
        let tell = |kind: &mut Vec<Finding>, at: u64, parts: Vec<String>, reason: String| {
            kind.push(Finding::new(Some(&(uri.clone(), Some(at))), parts, reason));
        };
        let jobs: HashSet<&JobId> = self.segments.values().collect();
        for row in self.rows.iter().filter(|row| !jobs.contains(&row.job)) {
            let reason = "the job has no segment of this video".to_owned();
            tell(&mut findings.unexpected, row.start_ms, vec![row.part.clone()], reason);
        }
        let mut whole = true;
        for (start, job) in &self.segments {
            if !seen(job) {
                whole = false;
                tell(&mut findings.missing, *start, Vec::new(), format!("job {job} has no part"));
            }
        }
        if self.forgotten && !self.rows.is_empty() {
            return findings;
        }
        self.rows.sort();
        // Where a part is missing, its time is: that is said already.
        let mut at = Some(0);
        let mut slack = LATE_START_MS;
        for row in &self.rows {
            match at {
                Some(at) if whole && row.start_ms > at + slack => {
                    let reason = format!("no row until {} ms", row.start_ms);
                    tell(&mut findings.missing, at, Vec::new(), reason);
                }
                Some(at) if row.start_ms < at => {
                    let reason = format!("the row before lasts until {at} ms");
                    tell(&mut findings.doubled, row.start_ms, vec![row.part.clone()], reason);
                }
                _ => {}
            }
            at = row.span_ms.map(|span| row.start_ms + span);
            // The frame after damage shows itself where it likes.
            slack = if row.failed { u64::MAX - row.start_ms - row.span_ms.unwrap_or(0) } else { 0 };
        }
        let end = if self.rows.is_empty() { Some(0) } else { at };
        let short = |end: u64| self.length_ms.is_some_and(|length| end + EARLY_END_MS < length);
        if whole && (self.rows.is_empty() || end.is_some_and(short)) {
            let reason = "no row from here to the end".to_owned();
            tell(&mut findings.missing, end.unwrap_or(0), Vec::new(), reason);
        }
        findings
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn job(name: &str) -> JobId {
        JobId::new(name).unwrap()
    }

    /// Missing, doubled and unexpected times of a film of 100 s in jobs 1 and 2.
    fn told(rows: &[(u64, u64, &str)], parts: &[&str]) -> [Vec<u64>; 3] {
        let uri = ItemUri::s3("b", "a.mp4");
        let mut film = Film::default();
        for (start, name) in [(0, "1"), (60_000, "2")] {
            let item = JobItem { frame_ms: Some(start), film_ms: Some(100_000), ..JobItem::new(uri.clone()) };
            assert!(film.expect(&item, job(name)));
        }
        for (start_ms, span_ms, name) in rows {
            let (start_ms, span_ms) = (*start_ms, Some(*span_ms));
            film.see(FrameRow {
                start_ms,
                span_ms,
                failed: *name == "f",
                job: job(if *name == "f" { "1" } else { name }),
                part: (*name).to_owned(),
            });
        }
        let findings = film.finish(&uri, &|job| parts.contains(&job.as_str()));
        [findings.missing, findings.doubled, findings.unexpected]
            .map(|found| found.iter().map(|finding| finding.frame_ms.unwrap()).collect())
    }

    #[test]
    fn rows_without_a_gap_are_whole() {
        let rows = [(80, 59_940, "1"), (60_020, 39_980, "2")];
        assert_eq!(told(&rows, &["1", "2"]), <[Vec<u64>; 3]>::default());
    }

    #[test]
    fn gaps_are_missing_and_overlaps_doubled() {
        let gap = [(0, 20_000, "1"), (40_000, 20_000, "1"), (60_000, 40_000, "2")];
        assert_eq!(told(&gap, &["1", "2"]), [vec![20_000], vec![], vec![]]);
        let twice = [(0, 60_000, "1"), (0, 60_000, "1"), (60_000, 40_000, "2")];
        assert_eq!(told(&twice, &["1", "2"]), [vec![], vec![0], vec![]]);
        assert_eq!(told(&[(40_000, 60_000, "1")], &["1", "2"]), [vec![0], vec![], vec![]]);
        assert_eq!(told(&[(0, 50_000, "1")], &["1", "2"]), [vec![50_000], vec![], vec![]]);
        assert_eq!(told(&[], &["1", "2"]), [vec![0], vec![], vec![]]);
    }

    #[test]
    fn a_lost_part_is_told_once() {
        assert_eq!(told(&[(0, 60_000, "1")], &["1"]), [vec![60_000], vec![], vec![]]);
        assert_eq!(told(&[(60_000, 40_000, "2")], &["2"]), [vec![0], vec![], vec![]]);
    }

    #[test]
    fn after_damage_the_next_frame_may_be_late() {
        let rows = [(0, 5000, "1"), (5000, 55_000, "f"), (60_020, 39_980, "2")];
        assert_eq!(told(&rows, &["1", "2"]), <[Vec<u64>; 3]>::default());
    }

    #[test]
    fn rows_of_other_jobs_are_unexpected() {
        let rows = [(0, 60_000, "1"), (60_000, 40_000, "3")];
        assert_eq!(told(&rows, &["1", "2"]), [vec![], vec![], vec![60_000]]);
    }
}
