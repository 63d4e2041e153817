//! Comparing the items of a run with its rows. No I/O.

use super::film::{Film, FrameRow};
use super::finding::{Finding, ItemKey};
use crate::ledger::Tally;
use captionfleet_proto::job::{JobId, JobItem, RunId};
use captionfleet_proto::rows::{RowKey, Status};
use captionfleet_proto::uri::ItemUri;
use serde::Serialize;
use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

/// What verification found out about one run.
#[derive(Debug, Clone, Serialize)]
pub struct Audit {
    /// The run.
    pub run: RunId,
    /// Whether every picture has exactly one row, the time of every video is covered, and there is nothing else.
    pub whole: bool,
    /// Whether the run was planned by a dispatcher. Other programs publish jobs without a manifest: each of their parts
    /// can only be held against itself.
    pub planned: bool,
    /// Items of the run: pictures, and segments of videos.
    pub items: u64,
    /// Jobs of the run.
    pub jobs: u64,
    /// Rows by what became of them.
    pub rows: Tally,
    /// Items without a row.
    pub missing: Vec<Finding>,
    /// Items with more than one row.
    pub doubled: Vec<Finding>,
    /// Rows and parts that belong to nothing in the run.
    pub unexpected: Vec<Finding>,
    /// Parts, item tables and manifests that cannot be read or disagree.
    pub unreadable: Vec<Finding>,
}

/// The comparison of one run, fed with its items and then with its rows.
#[derive(Debug)]
pub struct Auditor {
    run: RunId,
    /// The job of each item, and the parts in which a row of it was seen.
    items: HashMap<ItemKey, (JobId, Vec<String>)>,
    films: BTreeMap<ItemUri, Film>,
    /// Segments of all films.
    segments: u64,
    jobs: BTreeMap<JobId, bool>,
    planned: bool,
    /// Rows of jobs that were not planned, each of another item of its job.
    own_rows: u64,
    rows: Tally,
    doubled_items: Vec<Finding>,
    unexpected: BTreeSet<Finding>,
    unreadable: Vec<Finding>,
}

impl Auditor {
    /// A run without items.
    pub fn new(run: RunId) -> Self {
        Self {
            run,
            items: HashMap::new(),
            films: BTreeMap::new(),
            segments: 0,
            jobs: BTreeMap::new(),
            planned: true,
            own_rows: 0,
            rows: Tally::default(),
            doubled_items: Vec::new(),
            unexpected: BTreeSet::new(),
            unreadable: Vec::new(),
        }
    }

    /// The run that is audited.
    pub fn run(&self) -> &RunId {
        &self.run
    }

    /// An item of the run and the job it belongs to.
    pub fn expect(&mut self, item: &JobItem, job: JobId) {
        self.jobs.entry(job.clone()).or_insert(false);
        let key = (item.uri.clone(), item.frame_ms);
        if item.sample.is_some() {
            self.segments += 1;
            if !self.films.entry(item.uri.clone()).or_default().expect(item, job) {
                let reason = "listed twice in the run's items".to_owned();
                self.doubled_items.push(Finding::new(Some(&key), Vec::new(), reason));
            }
            return;
        }
        match self.items.entry(key) {
            Entry::Vacant(place) => {
                place.insert((job, Vec::new()));
            }
            Entry::Occupied(place) => {
                let reason = "listed twice in the run's items".to_owned();
                self.doubled_items.push(Finding::new(Some(place.key()), Vec::new(), reason));
            }
        }
    }

    /// A part of the run was found, its rows follow.
    pub fn see_part(&mut self, job: &JobId, key: &str) {
        if let Some(seen) = self.jobs.get_mut(job) {
            *seen = true;
        } else {
            let reason = "the run has no such job".to_owned();
            self.unexpected.insert(Finding::new(None, vec![key.to_owned()], reason));
        }
    }

    /// A row in the part at `key`.
    pub fn see_row(&mut self, row: RowKey, key: &str) {
        let tally = Tally::of(std::slice::from_ref(&row));
        self.rows.add(&tally);
        if let (Some(film), Some(start_ms)) = (self.films.get_mut(&row.item), row.frame_ms) {
            if row.is_forgotten() {
                film.forget();
            }
            let failed = row.status == Status::Failed;
            let part = key.to_owned();
            film.see(FrameRow { start_ms, span_ms: row.span_ms, failed, job: row.job, part });
            return;
        }
        let item = (row.item, row.frame_ms);
        if let Some((_, parts)) = self.items.get_mut(&item) {
            parts.push(key.to_owned());
        } else {
            let reason = "the run has no such item".to_owned();
            self.unexpected.insert(Finding::new(Some(&item), vec![key.to_owned()], reason));
        }
    }

    /// A part of a job that another program published without planning a run, with its rows.
    pub fn see_own_part(&mut self, job: &JobId, key: &str, rows: &[RowKey]) {
        self.planned = false;
        self.jobs.insert(job.clone(), true);
        let mut seen = HashSet::new();
        self.rows.add(&Tally::of(rows));
        for row in rows {
            if let Some(item) = seen.replace((row.item.clone(), row.frame_ms)) {
                self.doubled_items.push(Finding::new(Some(&item), vec![key.to_owned()], "2 rows".to_owned()));
            } else {
                self.own_rows += 1;
            }
        }
    }

    /// Something could not be read, or does not fit together.
    pub fn see_unreadable(&mut self, key: &str, reason: String) {
        self.unreadable.push(Finding::new(None, vec![key.to_owned()], reason));
    }

    /// A part that says of itself that it belongs elsewhere.
    pub fn see_stray(&mut self, key: &str, reason: String) {
        self.unexpected.insert(Finding::new(None, vec![key.to_owned()], reason));
    }

    /// The result.
    pub fn finish(self) -> Audit {
        let Self {
            run,
            items,
            films,
            segments,
            jobs,
            planned,
            own_rows,
            rows,
            doubled_items,
            mut unexpected,
            unreadable,
        } = self;
        let (mut missing, mut doubled) = (Vec::new(), doubled_items);
        let count = items.len() as u64 + segments + own_rows;
        for (uri, film) in films {
            let found = film.finish(&uri, &|job| jobs.get(job).copied().unwrap_or_default());
            missing.extend(found.missing);
            doubled.extend(found.doubled);
            unexpected.extend(found.unexpected);
        }
        for (item, (job, parts)) in items {
            match parts.len() {
                0 => {
                    let reason = if jobs.get(&job).copied().unwrap_or_default() {
                        format!("the part of job {job} has no row of it")
                    } else {
                        format!("job {job} has no part")
                    };
                    missing.push(Finding::new(Some(&item), Vec::new(), reason));
                }
                1 => {}
                times => doubled.push(Finding::new(Some(&item), parts, format!("{times} rows"))),
            }
        }
        missing.sort();
        doubled.sort();
        let unexpected: Vec<_> = unexpected.into_iter().collect();
        let whole = [&missing, &doubled, &unexpected, &unreadable].iter().all(|findings| findings.is_empty());
        Audit {
            run,
            whole,
            planned,
            items: count,
            jobs: jobs.len() as u64,
            rows,
            missing,
            doubled,
            unexpected,
            unreadable,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::{Audit, Auditor};
    use captionfleet_proto::job::{JobId, JobItem, RunId};
    use captionfleet_proto::rows::{RowKey, Status};
    use captionfleet_proto::uri::ItemUri;
    use jiff::Timestamp;

    fn item(name: &str) -> JobItem {
        JobItem::new(ItemUri::s3("b", name))
    }

    fn row(name: &str, job: &str) -> RowKey {
        RowKey {
            item: ItemUri::s3("b", name),
            frame_ms: None,
            span_ms: None,
            frames: None,
            sha256: None,
            etag: None,
            status: Status::Ok,
            error_code: None,
            embedding_space: None,
            bundle: None,
            prompt_hash: String::new(),
            run: RunId::new("r").unwrap(),
            job: JobId::new(job).unwrap(),
            worker: None,
            device_seconds: None,
            device_joules: None,
            started_at: None,
            finished_at: Timestamp::UNIX_EPOCH,
        }
    }

    /// A run of items a and b in job 1 and c in job 2, with the given (part, item) rows.
    fn audit(parts: &[&str], rows: &[(&str, &str)]) -> Audit {
        let mut auditor = Auditor::new(RunId::new("r").unwrap());
        for (item, job) in [("a", "1"), ("b", "1"), ("c", "2")] {
            auditor.expect(&self::item(item), JobId::new(job).unwrap());
        }
        for part in parts {
            auditor.see_part(&JobId::new(*part).unwrap(), part);
        }
        for (part, item) in rows {
            auditor.see_row(row(item, part), part);
        }
        auditor.finish()
    }

    #[test]
    fn one_row_per_item_is_whole() {
        let audit = audit(&["1", "2"], &[("1", "a"), ("1", "b"), ("2", "c")]);
        assert!(audit.whole);
        assert_eq!((audit.items, audit.jobs, audit.rows.ok), (3, 2, 3));
    }

    #[test]
    fn jobs_without_a_plan_are_held_against_themselves() {
        let own = |rows: &[&[&str]]| {
            let mut auditor = Auditor::new(RunId::new("r").unwrap());
            for (number, rows) in rows.iter().enumerate() {
                let (job, part) = (JobId::new(number.to_string()).unwrap(), format!("p{number}"));
                let rows: Vec<_> = rows.iter().map(|name| row(name, job.as_str())).collect();
                auditor.see_own_part(&job, &part, &rows);
            }
            auditor.finish()
        };
        let audit = own(&[&["a", "b"], &["a"]]);
        assert!(audit.whole && !audit.planned);
        assert_eq!((audit.items, audit.jobs, audit.rows.ok), (3, 2, 3));
        assert_eq!(own(&[&["a", "a"]]).doubled.len(), 1);
    }

    #[test]
    fn a_lost_part_is_missing() {
        let audit = audit(&["1"], &[("1", "a"), ("1", "b")]);
        assert!(!audit.whole);
        assert_eq!(audit.missing.len(), 1);
        assert_eq!(audit.missing[0].reason, "job 2 has no part");
    }

    #[test]
    fn a_lost_row_is_missing() {
        let audit = audit(&["1", "2"], &[("1", "a"), ("2", "c")]);
        assert_eq!(audit.missing[0].item.as_deref(), Some("s3://b/b"));
        assert!(audit.missing[0].reason.contains("no row"));
    }

    #[test]
    fn a_copied_part_is_doubled_and_unexpected() {
        let rows = [("1", "a"), ("1", "b"), ("2", "c"), ("3", "a"), ("3", "b")];
        let audit = audit(&["1", "2", "3"], &rows);
        assert_eq!((audit.doubled.len(), audit.unexpected.len()), (2, 1));
        assert_eq!(audit.doubled[0].parts, ["1", "3"]);
    }

    #[test]
    fn a_strange_row_is_unexpected() {
        let audit = audit(&["1", "2"], &[("1", "a"), ("1", "b"), ("2", "c"), ("2", "z")]);
        assert_eq!(audit.unexpected[0].item.as_deref(), Some("s3://b/z"));
        assert!(audit.missing.is_empty() && audit.doubled.is_empty());
    }

    #[test]
    fn an_item_listed_twice_is_doubled() {
        let mut auditor = Auditor::new(RunId::new("r").unwrap());
        auditor.expect(&item("a"), JobId::new("1").unwrap());
        auditor.expect(&item("a"), JobId::new("2").unwrap());
        auditor.see_part(&JobId::new("1").unwrap(), "1");
        auditor.see_row(row("a", "1"), "1");
        assert!(!auditor.finish().whole);
    }
}
