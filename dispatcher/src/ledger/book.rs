//! Which jobs of a submission have settled, and how. No I/O.

use crate::bill::Effort;
use crate::planned_job::PlannedJob;
use crate::scale::price::{Kind, OpenWork};
use captionfleet_proto::job::{JobId, RunId};
use captionfleet_proto::outcome::{FrameCounts, JobOutcome};
use jiff::Timestamp;
use serde::Serialize;
use std::collections::{BTreeMap, HashMap, HashSet};

/// Rows by what became of them.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Tally {
    /// Rows with status `ok`.
    pub ok: u64,
    /// Rows with status `failed`, by code.
    pub failed: BTreeMap<String, u64>,
    /// Rows with status `skipped`.
    pub skipped: u64,
    /// Frames of videos that were looked at; absent if there were none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub frames: Option<FrameCounts>,
    /// What they took.
    #[serde(skip)]
    pub effort: Effort,
}

impl Tally {
    /// All failed rows.
    pub fn failed_total(&self) -> u64 {
        self.failed.values().sum()
    }

    /// Failed rows by code, the number behind each.
    pub fn codes(&self) -> String {
        let codes: Vec<_> = self.failed.iter().map(|(code, count)| format!("{code} {count}")).collect();
        codes.join(", ")
    }

    /// How many frames of videos were seen, kept and dropped, in words; `None` if there were none.
    pub fn frames_told(&self) -> Option<String> {
        let frames = self.frames?;
        let share = 100.0 * frames.dropped() as f64 / frames.seen.max(1) as f64;
        let (seen, kept, dropped) = (frames.seen, frames.kept, frames.dropped());
        Some(format!("{seen} seen, {kept} kept, {dropped} dropped as near-identical ({share:.1} %)"))
    }

    /// All rows.
    pub fn rows(&self) -> u64 {
        self.ok + self.failed_total() + self.skipped
    }

    /// What kind of work a job of a run was that has these rows.
    pub fn kind(&self) -> Kind {
        if self.frames.is_some() { Kind::Films } else { Kind::Pictures }
    }

    /// Pictures and frames that were looked at: all rows, and the frames that needed none.
    pub fn looked_at(&self) -> u64 {
        self.rows() + self.frames.map_or(0, |frames| frames.dropped())
    }

    /// Counts the rows of `other` as well.
    pub fn add(&mut self, other: &Self) {
        self.ok += other.ok;
        self.skipped += other.skipped;
        if let Some(more) = other.frames {
            let FrameCounts { seen, kept } = self.frames.unwrap_or_default();
            self.frames = Some(FrameCounts { seen: seen + more.seen, kept: kept + more.kept });
        }
        for (code, count) in &other.failed {
            *self.failed.entry(code.clone()).or_default() += count;
        }
        self.effort.add(&other.effort);
    }
}

impl From<&JobOutcome> for Tally {
    fn from(outcome: &JobOutcome) -> Self {
        Self {
            ok: outcome.ok,
            failed: outcome.failed.clone(),
            skipped: outcome.skipped,
            frames: outcome.frames,
            effort: Effort::told(outcome, Timestamp::now()),
        }
    }
}

/// A job that was given up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DeadJob {
    /// The job.
    pub job: JobId,
    /// Its run.
    pub run: RunId,
    /// Why, in the words of the worker that gave it up.
    pub reason: String,
}

/// The jobs of a submission.
///
/// Outcomes are hints (they may be lost or come twice), parts are the truth: a job counts once, by whichever is seen
/// first, and a part also settles a job that was given up before.
#[derive(Debug, Default)]
pub struct Book {
    /// Each with its kind, and about how many pictures and frames it looks at.
    open: HashMap<(RunId, JobId), (Kind, u64)>,
    work: OpenWork,
    dead: HashMap<(RunId, JobId), String>,
    tally: Tally,
}

impl Book {
    /// Waits for one more job.
    pub fn expect(&mut self, run: &RunId, job: &PlannedJob) {
        let (kind, looks) = (job.kind(), job.weight());
        if self.open.insert((run.clone(), job.id.clone()), (kind, looks)).is_none() {
            self.work.add(kind, looks);
        }
    }

    /// Takes an outcome; the tally of its rows if it settled a job just now.
    pub fn note_outcome(&mut self, outcome: &JobOutcome) -> Option<Tally> {
        let key = (outcome.run.clone(), outcome.job.clone());
        match &outcome.error {
            None => self.settle(&key, Tally::from(outcome)),
            Some(reason) => {
                if self.close(&key) {
                    self.dead.insert(key, reason.clone());
                }
                None
            }
        }
    }

    /// Takes the rows of a part that was found; the tally if that settled a job just now.
    pub fn note_part(&mut self, run: &RunId, job: &JobId, tally: Tally) -> Option<Tally> {
        self.settle(&(run.clone(), job.clone()), tally)
    }

    fn settle(&mut self, key: &(RunId, JobId), tally: Tally) -> Option<Tally> {
        let known = self.close(key) | self.dead.remove(key).is_some();
        known.then(|| {
            self.tally.add(&tally);
            tally
        })
    }

    /// Whether the job was open until now.
    fn close(&mut self, key: &(RunId, JobId)) -> bool {
        let Some((kind, looks)) = self.open.remove(key) else { return false };
        self.work.take(kind, looks);
        true
    }

    /// Whether jobs of this run are open.
    pub fn is_waiting_for(&self, run: &RunId) -> bool {
        self.open.keys().any(|(one, _)| one == run)
    }

    /// Gives up what is open of a run; how many jobs that were.
    pub fn give_up(&mut self, run: &RunId, reason: &str) -> usize {
        let of_run: Vec<_> = self.open.keys().filter(|(one, _)| one == run).cloned().collect();
        for key in &of_run {
            self.close(key);
            self.dead.insert(key.clone(), reason.to_owned());
        }
        of_run.len()
    }

    /// Whether a part of this job would be news.
    pub fn waits_for(&self, run: &RunId, job: &JobId) -> bool {
        let key = (run.clone(), job.clone());
        self.open.contains_key(&key) || self.dead.contains_key(&key)
    }

    /// Whether every job has settled or was given up.
    pub fn is_closed(&self) -> bool {
        self.open.is_empty()
    }

    /// The jobs that are still open.
    pub fn open_keys(&self) -> HashSet<(RunId, JobId)> {
        self.open.keys().cloned().collect()
    }

    /// How many jobs are still open.
    pub fn open_jobs(&self) -> usize {
        self.open.len()
    }

    /// The open jobs by kind.
    pub fn open_work(&self) -> OpenWork {
        self.work
    }

    /// The rows so far.
    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    /// The jobs that were given up, in the order of their names.
    pub fn dead(&self) -> Vec<DeadJob> {
        let mut dead: Vec<_> = self
            .dead
            .iter()
            .map(|((run, job), reason)| DeadJob {
                job: job.clone(),
                run: run.clone(),
                reason: reason.clone(),
            })
            .collect();
        dead.sort_by(|one, other| (&one.run, &one.job).cmp(&(&other.run, &other.job)));
        dead
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::{Book, Tally};
    use crate::planned_job::PlannedJob;
    use crate::scale::price::Work;
    use captionfleet_proto::job::{JobId, JobItem, RunId, Sampling};
    use captionfleet_proto::outcome::JobOutcome;
    use captionfleet_proto::uri::ItemUri;
    use std::collections::BTreeMap;

    fn outcome(job: &str, ok: u64, error: Option<&str>) -> JobOutcome {
        JobOutcome {
            version: "1.0".to_owned(),
            job: JobId::new(job).unwrap(),
            run: RunId::new("r").unwrap(),
            part: None,
            ok,
            failed: BTreeMap::new(),
            skipped: 0,
            frames: None,
            attempts: 1,
            worker: "w".to_owned(),
            seconds: 0.1,
            device_seconds: None,
            device_joules: None,
            already_done: false,
            error: error.map(str::to_owned),
            extra: serde_json::Map::default(),
        }
    }

    /// A picture, or so many milliseconds of a film.
    fn job_of(id: &str, film_ms: Option<u64>) -> PlannedJob {
        let mut item = JobItem::new(ItemUri::s3("b", id));
        item.sample = film_ms.map(|_| Sampling::default());
        item.span_ms = film_ms;
        PlannedJob { id: JobId::new(id).unwrap(), items: vec![item], begun: false }
    }

    fn book() -> Book {
        let mut book = Book::default();
        for job in ["a", "b"] {
            book.expect(&RunId::new("r").unwrap(), &job_of(job, None));
        }
        book
    }

    #[test]
    fn a_job_counts_once() {
        let mut book = book();
        assert_eq!(book.note_outcome(&outcome("a", 3, None)).unwrap().rows(), 3);
        assert_eq!(book.note_outcome(&outcome("a", 3, None)), None);
        let (run, job) = (RunId::new("r").unwrap(), JobId::new("a").unwrap());
        assert_eq!(book.note_part(&run, &job, Tally { ok: 3, ..Tally::default() }), None);
        assert_eq!((book.tally().ok, book.open_jobs(), book.is_closed()), (3, 1, false));
    }

    #[test]
    fn a_stranger_does_not_count() {
        let mut book = book();
        assert_eq!(book.note_outcome(&outcome("z", 3, None)), None);
        assert_eq!(book.tally().rows(), 0);
    }

    #[test]
    fn a_part_revives_a_job_that_was_given_up() {
        let mut book = book();
        assert_eq!(book.note_outcome(&outcome("a", 0, Some("no such bucket"))), None);
        book.note_outcome(&outcome("b", 1, None)).unwrap();
        assert!(book.is_closed());
        assert_eq!(book.dead()[0].reason, "no such bucket");
        assert!(book.note_outcome(&outcome("a", 2, None)).is_some());
        assert!(book.dead().is_empty());
        assert_eq!(book.tally().ok, 3);
    }

    #[test]
    fn a_run_is_given_up_as_far_as_it_is_open() {
        let mut book = book();
        let (run, other) = (RunId::new("r").unwrap(), RunId::new("s").unwrap());
        book.expect(&other, &job_of("a", None));
        book.note_outcome(&outcome("b", 1, None)).unwrap();
        assert_eq!(book.give_up(&run, "cancelled"), 1);
        assert!(!book.is_waiting_for(&run) && book.is_waiting_for(&other));
        assert_eq!((book.dead().len(), book.give_up(&run, "cancelled")), (1, 0));
        let a = JobId::new("a").unwrap();
        assert!(book.waits_for(&run, &a), "its part is still news");
        assert_eq!((book.open_jobs(), book.open_work().pictures.jobs), (1, 1));
    }

    #[test]
    fn open_work_is_what_was_expected_and_not_settled() {
        let (mut book, run) = (book(), RunId::new("r").unwrap());
        let film = job_of("film", Some(60_000));
        let frames = film.weight();
        for _ in 0..2 {
            book.expect(&run, &film);
        }
        let open = |book: &Book| (book.open_work().pictures, book.open_work().films);
        assert!(frames > 1);
        assert_eq!(open(&book), (Work { jobs: 2, looks: 2 }, Work { jobs: 1, looks: frames }));
        book.note_outcome(&outcome("film", 5, None)).unwrap();
        book.note_outcome(&outcome("a", 0, Some("no such bucket")));
        assert_eq!(open(&book), (Work { jobs: 1, looks: 1 }, Work::default()));
        book.note_outcome(&outcome("a", 1, None)).unwrap();
        assert_eq!(open(&book).0.jobs, 1, "it was taken when it was given up");
    }

    #[test]
    fn giving_up_does_not_undo_a_part() {
        let mut book = book();
        book.note_outcome(&outcome("a", 3, None)).unwrap();
        book.note_outcome(&outcome("a", 0, Some("late")));
        assert!(book.dead().is_empty());
    }
}
