//! From items to jobs: what is done already, what an earlier run still owes, what is new. No I/O.

mod segments;
mod slices;

pub(crate) use slices::cut;

use crate::catalog::{Catalog, Identity, Item, Unreadable};
use crate::history::{History, Standing, UnfinishedRun};
use crate::planned_job::{PlannedJob, weight};
use crate::scale::price::OpenWork;
use crate::wish::Wish;
use captionfleet_proto::job::{Job, JobItem, RunId};
use captionfleet_proto::manifest::RunManifest;
use captionfleet_proto::uri::ItemUri;
use std::collections::HashMap;

/// How a new run is cut.
#[derive(Debug, Clone)]
pub struct PlanOptions {
    /// Name of the new run, if one is needed.
    pub run: RunId,
    /// Most items per job.
    pub job_size: usize,
    /// Do again what failed before.
    pub retry_failed: bool,
    /// Write the rows of unreadable items here, because no worker could even try to read them.
    pub refuse_unreadable: bool,
    /// How long videos are, in milliseconds, where it is known. Others are not cut.
    pub lengths: HashMap<ItemUri, u64>,
}

/// A slice of items that could not be read when they were listed: their rows are written at once.
#[derive(Debug, Clone, PartialEq)]
pub struct RefusedJob {
    /// Its id and items.
    pub job: PlannedJob,
    /// Why each item could not be read, in the same order.
    pub reasons: Vec<Unreadable>,
}

/// An earlier run with jobs that have no part yet.
#[derive(Debug, Clone)]
pub struct ContinuedRun {
    /// Its manifest, which decides what is asked.
    pub manifest: RunManifest,
    /// The jobs that are published again, with the ids they had.
    pub jobs: Vec<PlannedJob>,
}

/// A run for what is new.
#[derive(Debug, Clone, PartialEq)]
pub struct NewRun {
    /// Its name.
    pub run: RunId,
    /// Its jobs.
    pub jobs: Vec<PlannedJob>,
    /// Its jobs that need no worker.
    pub refused: Vec<RefusedJob>,
}

impl NewRun {
    /// All jobs in the order of their ordinals.
    pub fn all_jobs(&self) -> impl Iterator<Item = &PlannedJob> {
        self.jobs.iter().chain(self.refused.iter().map(|refused| &refused.job))
    }

    /// All items.
    pub fn items(&self) -> u64 {
        self.all_jobs().map(|job| job.items.len() as u64).sum()
    }

    /// Whether any item is a segment of a video.
    pub fn has_videos(&self) -> bool {
        self.all_jobs().flat_map(|job| &job.items).any(|item| item.sample.is_some())
    }
}

/// What is to be done.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Items of all sources.
    pub listed: u64,
    /// Items given more than once, counted once.
    pub duplicates: u64,
    /// Items whose bytes already have an `ok` row for this prompt and bundle.
    pub already_done: u64,
    /// Items whose bytes failed before and are not tried again.
    pub already_failed: u64,
    /// Earlier runs that go on.
    pub continued: Vec<ContinuedRun>,
    /// Earlier runs that are unfinished but have none of these items.
    pub left_alone: Vec<RunId>,
    /// What is new.
    pub new_run: Option<NewRun>,
}

/// A part of a video.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Stretch<'a> {
    /// The video.
    pub uri: &'a ItemUri,
    /// Where it begins.
    pub start_ms: u64,
    /// 0 if nothing tells it.
    pub length_ms: u64,
}

impl Plan {
    /// Items of the jobs that are going to be worked on.
    pub fn items(&self) -> u64 {
        let continued = self.continued.iter().flat_map(|run| &run.jobs).map(|job| job.items.len() as u64);
        continued.sum::<u64>() + self.new_run.as_ref().map_or(0, NewRun::items)
    }

    /// About how many pictures and frames the jobs will look at.
    pub fn weight(&self) -> u64 {
        self.job_items().map(weight).sum()
    }

    /// About how many frames of videos the jobs will look at.
    pub fn frames(&self) -> u64 {
        self.weight() - self.pictures()
    }

    /// Pictures of the jobs that are going to be worked on.
    pub fn pictures(&self) -> u64 {
        self.job_items().filter(|item| item.sample.is_none()).count() as u64
    }

    /// Bytes of the items, of those whose size is known; segments of one video count it once.
    pub fn bytes(&self) -> u64 {
        let whole = self.job_items().filter(|item| item.sample.is_none() || item.frame_ms == Some(0));
        whole.filter_map(|item| item.size).sum()
    }

    /// Videos of the new run.
    pub fn new_videos(&self) -> u64 {
        let items = self.new_run.iter().flat_map(NewRun::all_jobs).flat_map(|job| &job.items);
        items.filter(|item| item.sample.is_some() && item.frame_ms == Some(0)).count() as u64
    }

    /// What is to be captioned of videos, new ones and begun ones.
    pub fn stretches(&self) -> impl Iterator<Item = Stretch<'_>> {
        self.job_items().filter(|item| item.sample.is_some()).map(|item| {
            let start_ms = item.frame_ms.unwrap_or(0);
            let rest = item.film_ms.map(|end| end.saturating_sub(start_ms));
            Stretch { uri: &item.uri, start_ms, length_ms: item.span_ms.or(rest).unwrap_or(0) }
        })
    }

    fn job_items(&self) -> impl Iterator<Item = &JobItem> {
        let continued = self.continued.iter().flat_map(|run| &run.jobs);
        let new = self.new_run.iter().flat_map(NewRun::all_jobs);
        continued.chain(new).flat_map(|job| &job.items)
    }

    /// Jobs that are going to be worked on.
    pub fn jobs(&self) -> u64 {
        let continued = self.continued.iter().map(|run| run.jobs.len() as u64);
        continued.sum::<u64>() + self.new_run.as_ref().map_or(0, |run| run.all_jobs().count() as u64)
    }

    /// What workers must do of it.
    pub fn open_work(&self) -> OpenWork {
        let continued = self.continued.iter().flat_map(|run| &run.jobs);
        let mut open = OpenWork::default();
        for job in continued.chain(self.new_run.iter().flat_map(|run| &run.jobs)) {
            open.add(job.kind(), job.weight());
        }
        open
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.jobs() == 0
    }
}

/// Compares the sources with the archive.
pub fn plan(mut catalog: Catalog, history: &History, wish: &Wish, options: &PlanOptions) -> Plan {
    let mut plan = Plan {
        listed: catalog.items.len() as u64,
        duplicates: catalog.duplicates as u64,
        already_done: 0,
        already_failed: 0,
        continued: Vec::new(),
        left_alone: Vec::new(),
        new_run: None,
    };
    let is_open = |item: &Item| {
        match history.records.standing(item) {
            Some(Standing::Done) => plan.already_done += 1,
            Some(Standing::Failed) if !options.retry_failed => plan.already_failed += 1,
            _ => return true,
        }
        false
    };
    catalog.items.retain(is_open);
    continue_runs(&mut plan, &mut catalog, &history.unfinished, wish);
    plan.new_run = new_run(catalog, wish, options);
    plan
}

/// The videos that something is to be done about.
pub fn open_videos<'a>(catalog: &'a Catalog, history: &History, retry_failed: bool) -> Vec<&'a Item> {
    let is_open = |item: &&Item| match history.records.standing(item) {
        Some(Standing::Done) => false,
        Some(Standing::Failed) => retry_failed,
        None => !matches!(item.identity, Identity::Unreadable(_)),
    };
    catalog.items.iter().filter(|item| item.is_video()).filter(is_open).collect()
}

/// Gives unfinished runs their open items; the rest stays, in order.
fn continue_runs(plan: &mut Plan, catalog: &mut Catalog, unfinished: &[UnfinishedRun], wish: &Wish) {
    if unfinished.is_empty() {
        return;
    }
    let open = &catalog.items;
    let mut places: HashMap<ItemUri, usize> =
        open.iter().enumerate().map(|(place, item)| (item.uri.clone(), place)).collect();
    let mut taken = vec![false; open.len()];
    for run in unfinished {
        let manifest = &run.manifest;
        if !wish.is_met_by_run(manifest) {
            continue;
        }
        let planned = run.jobs.iter().flat_map(|job| &job.items);
        // What is asked about a picture alone is no part of the wish.
        let planned = planned.filter(|item| item.questions == catalog.questions_about(&item.uri));
        let owed: Vec<_> = planned
            .filter_map(|item| Some((item, *places.get(&item.uri)?)))
            .map(|(item, place)| (item.clone(), place))
            .collect();
        if owed.is_empty() {
            plan.left_alone.push(manifest.run.clone());
            continue;
        }
        for (planned, place) in owed {
            // A picture that changed since then needs a row of its own in the new run.
            if is_same(&planned, &open[place]) {
                taken[place] = true;
                places.remove(&planned.uri);
            }
        }
        plan.continued.push(ContinuedRun { manifest: manifest.clone(), jobs: run.jobs.clone() });
    }
    let mut taken = taken.into_iter();
    catalog.items.retain(|_| !taken.next().unwrap_or_default());
}

/// Whether `item` still has the content that was planned.
fn is_same(planned: &JobItem, item: &Item) -> bool {
    match &item.identity {
        Identity::Sha256(sha256) => planned.sha256.as_ref() == Some(sha256),
        Identity::Etag(etag) => planned.etag.as_ref() == Some(etag),
        Identity::Unversioned => true,
        Identity::Unreadable(_) => planned.sha256.is_none() && planned.etag.is_none(),
    }
}

fn new_run(catalog: Catalog, wish: &Wish, options: &PlanOptions) -> Option<NewRun> {
    let Catalog { items: mut open, mut questions, .. } = catalog;
    if open.is_empty() {
        return None;
    }
    let prompt_hash = wish.prompt_hash();
    let mut ordinal = 0;
    let mut named = |items: Vec<JobItem>| {
        let id = Job::deterministic_id(&options.run, ordinal, &items, &prompt_hash);
        ordinal += 1;
        PlannedJob { id, items, begun: false }
    };
    let mut pieces = |item: Item| {
        let questions = questions.remove(&item.uri).unwrap_or_default();
        let length = options.lengths.get(&item.uri).copied();
        let is_video = item.is_video();
        let item = JobItem { questions, ..job_item(item) };
        if is_video { segments::of(item, length, &wish.sample, options.job_size) } else { vec![item] }
    };
    let mut refused = Vec::new();
    if options.refuse_unreadable {
        for item in open.extract_if(.., |item| matches!(item.identity, Identity::Unreadable(_))) {
            let Identity::Unreadable(reason) = item.identity.clone() else { continue };
            refused.extend(pieces(item).into_iter().map(|piece| (piece, reason.clone())));
        }
    }
    // Items become jobs one after the other: there may be millions, and all of them twice is what decides the memory.
    let readable = open.into_iter().flat_map(pieces);
    let jobs = slices::cut(readable, options.job_size, |item| item).into_iter().map(&mut named).collect();
    let refused = slices::cut(refused, options.job_size, |(item, _)| item)
        .into_iter()
        .map(|slice| {
            let (items, reasons) = slice.into_iter().unzip();
            RefusedJob { job: named(items), reasons }
        })
        .collect();
    Some(NewRun { run: options.run.clone(), jobs, refused })
}

fn job_item(item: Item) -> JobItem {
    let mut job_item = JobItem::new(item.uri);
    job_item.size = item.size;
    match item.identity {
        Identity::Sha256(sha256) => job_item.sha256 = Some(sha256),
        Identity::Etag(etag) => job_item.etag = Some(etag),
        Identity::Unversioned | Identity::Unreadable(_) => {}
    }
    job_item
}

#[cfg(test)]
mod tests;
