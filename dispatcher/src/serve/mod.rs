//! The service: an HTTP API over what the other modules can do, and pages for people.
//!
//! [`http`] knows requests and answers and nothing of captions: who may ask, how often, how errors look, the OpenAPI
//! document. [`api`] has one file a resource, each a few lines over what lies beside it: [`desk`] runs submissions,
//! [`progress`] says how far runs are, [`lookup`] finds pictures, [`questions`] asks the workers, [`media`] reads bytes,
//! [`keeper`] keeps the index fresh, [`waiting`] weighs what waits for workers, by what [`members`] heard and [`sampling`] read about
//! the cost of work and what the [`lanes`] hold. [`pages`] are files in this program. Nothing here has state that is not in the archive or can be made again: a
//! service may be killed and started anew at any time.

pub mod api;
pub mod desk;
pub mod http;
pub mod keeper;
pub mod lanes;
pub mod lookup;
pub mod media;
pub mod members;
pub mod pages;
pub mod progress;
pub mod questions;
pub mod router;
pub mod sampling;
pub mod uploads;
pub mod waiting;

use crate::config::FleetSettings;
use crate::config::serve_args::SourceRules;
use crate::fleet::Fleet;
use crate::index::Shelf;
use captionfleet_proto::storage::{Storage, Stores};
use captionfleet_proto::uri::ArchiveUri;
use std::sync::Arc;
use tokio::sync::{Mutex, Semaphore};
use tokio_util::sync::CancellationToken;

/// What every part of the service needs.
pub struct Ground {
    /// The archive's name.
    pub uri: ArchiveUri,
    /// The archive, for whoever waits for an answer.
    pub archive: Arc<dyn Storage>,
    /// The archive, for submissions: a request that fails undoes all that was done before it.
    pub patient: Arc<dyn Storage>,
    /// What submissions read their sources from.
    pub patient_stores: Stores,
    /// Queue and storage.
    pub fleet: Fleet,
    /// How they were chosen.
    pub settings: FleetSettings,
    /// The bundle that must serve, where it is known.
    pub bundle: Option<String>,
    /// Whether that bundle makes embeddings, as far as it is known.
    pub embeds: bool,
    /// Whether the small demo model answers.
    pub is_demo: bool,
    /// The index.
    pub shelf: Arc<Shelf>,
    /// What may be submitted.
    pub sources: SourceRules,
    /// What an hour of a worker's machine costs.
    pub price_per_hour: Option<f64>,
}

/// The service.
pub struct Service {
    /// What every part of it needs.
    pub ground: Arc<Ground>,
    /// Submissions.
    pub desk: Arc<desk::Desk>,
    /// How far runs are.
    pub progress: progress::Progress,
    /// Search.
    pub lookup: lookup::Lookup,
    /// Questions to workers.
    pub questions: questions::Questions,
    /// Pictures and films.
    pub media: media::Media,
    /// What waits for workers.
    pub waiting: waiting::Waiting,
    /// How fresh the index is.
    pub index: keeper::Kept,
    /// Who may ask, and how often.
    pub access: http::access::Access,
    /// What is counted.
    pub metrics: http::metrics::Metrics,
    /// Held by whoever forgets items: two who write the same part at once would each bring back what the other removed.
    pub forgetting: Arc<Mutex<()>>,
    /// Seats for those who follow runs.
    pub watchers: Arc<Semaphore>,
    /// Cancelled when the service ends.
    pub stop: CancellationToken,
}

/// Pages that may follow runs at a time.
pub const WATCHERS: usize = 256;
