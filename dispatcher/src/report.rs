//! What a submission came to, for people and for programs.

use crate::bill::Bill;
use crate::ledger::{DeadJob, Tally};
use crate::output::{counted, plain};
use crate::plan::Plan;
use crate::progress::duration;
use captionfleet_proto::job::{JobId, RunId};
use serde::Serialize;

/// What a submission came to.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Where the results live.
    pub archive: String,
    /// Where the rows are.
    pub parts: String,
    /// The runs that were worked on, continued ones first.
    pub runs: Vec<RunId>,
    /// Items of all sources.
    pub items: u64,
    /// Items given more than once, counted once.
    pub duplicates: u64,
    /// Items that had an `ok` row already.
    pub already_done: u64,
    /// Items that failed before and were not tried again.
    pub already_failed: u64,
    /// Rows of this submission by what became of them.
    #[serde(flatten)]
    pub rows: Tally,
    /// Where captions and chapters of finished videos are.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tracks: Vec<String>,
    /// Jobs that the broker has confirmed.
    pub published_jobs: u64,
    /// Bytes of their messages.
    pub published_bytes: u64,
    /// Wall time until it had confirmed the last of them; absent if it did not come to that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub publishing_seconds: Option<f64>,
    /// Jobs that the broker returned as unroutable, and that were published again.
    pub returned_jobs: Vec<JobId>,
    /// Jobs that were given up.
    pub dead_jobs: Vec<DeadJob>,
    /// Jobs that have not settled.
    pub open_jobs: u64,
    /// Whether every item has its row now.
    pub complete: bool,
    /// Whether the user stopped it.
    pub interrupted: bool,
    /// Whether jobs were published and left to the fleet.
    pub detached: bool,
    /// Wall time of the work.
    pub seconds: f64,
    /// Rows per second.
    pub items_per_second: f64,
    /// What it took and cost, as far as workers told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bill: Option<Bill>,
}

impl Report {
    /// The report of a submission in which nothing has happened yet.
    pub fn new(archive: String, parts: String, plan: &Plan) -> Self {
        let continued = plan.continued.iter().map(|run| run.manifest.run.clone());
        Self {
            archive,
            parts,
            runs: continued.chain(plan.new_run.iter().map(|run| run.run.clone())).collect(),
            items: plan.listed,
            duplicates: plan.duplicates,
            already_done: plan.already_done,
            already_failed: plan.already_failed,
            rows: Tally::default(),
            tracks: Vec::new(),
            published_jobs: 0,
            published_bytes: 0,
            publishing_seconds: None,
            returned_jobs: Vec::new(),
            dead_jobs: Vec::new(),
            open_jobs: 0,
            complete: true,
            interrupted: false,
            detached: false,
            seconds: 0.0,
            items_per_second: 0.0,
            bill: None,
        }
    }

    /// The report as text, without a last line feed.
    pub fn text(&self) -> String {
        if self.runs.is_empty() {
            return self.nothing_to_do();
        }
        let mut lines: Vec<String> = Vec::new();
        let mut put = |name: &str, value: String| lines.push(line(name, &value));
        if self.detached {
            put("published", counted(self.open_jobs, "job"));
        } else {
            put("ok", self.rows.ok.to_string());
        }
        if !self.detached || self.rows.failed_total() > 0 {
            let told = format!("{}   {}", self.rows.failed_total(), self.rows.codes());
            put("failed", told.trim_end().to_owned());
        }
        if !self.detached {
            put("skipped", self.rows.skipped.to_string());
        }
        if let Some(frames) = self.rows.frames_told() {
            put("frames", frames);
        }
        if self.already_done + self.already_failed > 0 {
            put("done before", before(self));
        }
        if self.duplicates > 0 {
            put("given twice", self.duplicates.to_string());
        }
        if !self.returned_jobs.is_empty() {
            let ids: Vec<&str> = self.returned_jobs.iter().map(JobId::as_str).collect();
            put("sent twice", format!("returned as unroutable at first: job {}", ids.join(", ")));
        }
        for dead in &self.dead_jobs {
            put("given up", format!("job {}: {}", dead.job, plain(&dead.reason)));
        }
        if self.open_jobs > 0 && !self.detached {
            put("open", counted(self.open_jobs, "job"));
        }
        if self.seconds > 0.0 {
            put("time", format!("{}, {:.1} items/s", duration(self.seconds), self.items_per_second));
        }
        if let Some(bill) = &self.bill {
            put("bill", bill.text());
        }
        put(
            if self.runs.len() == 1 { "run" } else { "runs" },
            self.runs.iter().map(RunId::as_str).collect::<Vec<_>>().join(" "),
        );
        put("rows", self.parts.clone());
        for folder in &self.tracks {
            put("tracks", folder.clone());
        }
        lines.join("\n")
    }

    fn nothing_to_do(&self) -> String {
        let items = if self.items == 1 {
            "1 item has its row".to_owned()
        } else {
            format!("all {} items have their rows", self.items)
        };
        let mut lines = vec![format!("nothing to do: {items} already ({})", before(self))];
        lines.push(line("rows", &self.parts));
        lines.extend(self.tracks.iter().map(|folder| line("tracks", folder)));
        lines.join("\n")
    }
}

fn line(name: &str, value: &str) -> String {
    format!("{name:<12} {value}")
}

/// What was done before, and how to try again what failed.
fn before(report: &Report) -> String {
    let failed = match report.already_failed {
        0 => String::new(),
        failed => format!(", {failed} failed; --retry-failed tries those again"),
    };
    format!("{} ok{failed}", report.already_done)
}

#[cfg(test)]
mod tests {
    use super::Report;
    use crate::history::History;
    use crate::plan::{PlanOptions, plan};
    use crate::wish::Wish;
    use captionfleet_proto::job::{Prompt, RunId, Sampling};
    use std::collections::HashMap;

    fn report() -> Report {
        let wish = Wish {
            prompt: Prompt::Caption,
            max_tokens: None,
            adapter: None,
            embed: true,
            bundle: None,
            sample: Sampling::default(),
            thumbnails: false,
        };
        let options = PlanOptions {
            run: RunId::new("r").expect("a valid id"),
            job_size: 1,
            retry_failed: false,
            refuse_unreadable: false,
            lengths: HashMap::new(),
        };
        let plan = plan(crate::catalog::Catalog::default(), &History::default(), &wish, &options);
        Report::new("file:///a".to_owned(), "file:///a/parts/".to_owned(), &plan)
    }

    #[test]
    fn a_run_without_work_says_so() {
        let tracks = vec!["file:///a/videos/r/".to_owned()];
        let report = Report { items: 12, already_done: 11, already_failed: 1, tracks, ..report() };
        let text = report.text();
        assert!(text.ends_with("rows         file:///a/parts/\ntracks       file:///a/videos/r/"), "{text}");
        assert!(text.starts_with("nothing to do: all 12 items have their rows already"), "{text}");
        assert!(text.contains("--retry-failed"), "{text}");
    }

    #[test]
    fn failures_are_told_by_code() {
        let mut report = report();
        report.runs = vec![RunId::new("r").expect("a valid id")];
        report.rows.ok = 3;
        report.rows.failed = [("corrupt".to_owned(), 1), ("empty".to_owned(), 2)].into();
        assert!(report.text().contains("failed       3   corrupt 1, empty 2"), "{}", report.text());
    }
}
