//! What earlier runs left.

use super::records::Records;
use crate::planned_job::PlannedJob;
use captionfleet_proto::manifest::RunManifest;

/// A run with jobs that have no part yet.
#[derive(Debug, Clone)]
pub struct UnfinishedRun {
    /// Its manifest.
    pub manifest: RunManifest,
    /// Its jobs without a part, in the order of the run.
    pub jobs: Vec<PlannedJob>,
}

/// What earlier runs left, as far as it matters for one wish.
#[derive(Debug, Default)]
pub struct History {
    /// Rows that answer the wish.
    pub records: Records,
    /// Runs that are not complete, whatever they ask; oldest first.
    pub unfinished: Vec<UnfinishedRun>,
    /// Complete runs with videos that answer the wish.
    pub films: Vec<RunManifest>,
    /// Objects that are damaged: what they held counts as not done.
    pub damaged: Vec<String>,
}
