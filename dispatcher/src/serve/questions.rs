//! What only a worker can answer: embeddings of queries, captions and answers for one picture. All of it goes over the
//! interactive lane, before any bulk work.

mod kept;
mod room;

use super::Ground;
use super::http::problem::Problem;
use super::members::Members;
use crate::archive;
use crate::exchange::{Exchange, new_id};
use crate::fleet::Fleet;
use crate::search::query::{Embedded, NotEmbedded, Wanted, embed};
use crate::search::rerank;
use anyhow::Context as _;
use axum::http::StatusCode;
use captionfleet_proto::codec;
use captionfleet_proto::job::{CaptionJob, Job, JobItem, Match, Prompt, Query, RunId};
use captionfleet_proto::layout;
use captionfleet_proto::rows::{Row, Status};
use captionfleet_proto::uri::{ArchiveUri, Location};
use captionfleet_worker::telemetry::spans;
use kept::{Kept, Key};
use prometheus::Registry;
use room::Room;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// How long a worker may take.
const PATIENCE: Duration = Duration::from_secs(45);
/// How long a space that no worker has is not asked for again.
const ABSENT: Duration = Duration::from_mins(1);
/// Questions at a time: the workers' lane is short.
const AT_ONCE: usize = 32;
/// The run of all questions, which is none.
const RUN: &str = "question";

/// Asks workers.
#[derive(Debug)]
pub struct Questions {
    exchange: Arc<Exchange>,
    room: Room,
    kept: Kept,
    members: Arc<Members>,
    /// A space that no worker had when it was asked for last.
    absent: Mutex<Option<(String, Instant)>>,
}

impl Questions {
    /// Asks the workers of `fleet`, tells `members` which of them answered, and counts in `registry`.
    pub fn new(fleet: &Fleet, members: Arc<Members>, registry: &Registry) -> prometheus::Result<Self> {
        let exchange = Arc::new(Exchange::new(fleet.broker.clone(), fleet.topology.clone(), PATIENCE));
        let (room, kept) = (Room::new(AT_ONCE), Kept::new(registry)?);
        Ok(Self { exchange, room, kept, members, absent: Mutex::default() })
    }

    /// Leaves nothing at the broker.
    pub async fn close(&self) {
        self.exchange.close().await;
    }

    /// Questions that wait for their answers, those included that are not asked yet.
    pub fn open(&self) -> u64 {
        self.room.asking()
    }

    /// The embedding of a query: the one that is kept of it, or else a worker's; in `space`, if a worker has it.
    pub async fn embed(
        &self,
        ground: &Ground,
        query: Query,
        space: Option<&str>,
    ) -> Result<Embedded, Problem> {
        if !ground.embeds {
            return Err(Problem::conflict(
                "this model has no retrieval heads and cannot search by meaning; search by words",
            ));
        }
        // Where one bundle answers there is nothing to choose.
        let space = space.filter(|space| ground.bundle.is_none() && !self.is_absent(space));
        let wanted = Wanted { bundle: ground.bundle.clone(), space: space.map(str::to_owned) };
        match Key::of(&wanted, &query) {
            Some(key) => self.kept.get_or_ask(key, || self.ask_to_embed(ground, query, wanted)).await,
            None => self.ask_to_embed(ground, query, wanted).await,
        }
    }

    async fn ask_to_embed(&self, ground: &Ground, query: Query, wanted: Wanted) -> Result<Embedded, Problem> {
        let _seat = self.room.seat(PATIENCE).await?;
        let (exchange, uri, space) = (self.exchange.clone(), ground.uri.clone(), wanted.space.clone());
        let asking = |gone| async move { embed(&exchange, &uri, &wanted, query, &gone).await };
        let embedded = attended(asking).await.map_err(|error| unanswered(&error))?;
        if let Some(space) = space.filter(|space| *space != embedded.space) {
            *self.absent.lock().unwrap_or_else(PoisonError::into_inner) = Some((space, Instant::now()));
        }
        Ok(embedded)
    }

    fn is_absent(&self, space: &str) -> bool {
        let absent = self.absent.lock().unwrap_or_else(PoisonError::into_inner);
        absent.as_ref().is_some_and(|(absent, since)| absent == space && since.elapsed() < ABSENT)
    }

    /// How well `text` describes each of some pictures, those that can be read.
    pub async fn judge(
        &self,
        ground: &Ground,
        text: String,
        items: Vec<Result<JobItem, Match>>,
    ) -> Result<Vec<Match>, Problem> {
        if !ground.embeds {
            return Err(Problem::conflict(
                "this model has no retrieval heads and cannot re-rank; search without",
            ));
        }
        let _seat = self.room.seat(PATIENCE).await?;
        let (exchange, uri, bundle) = (self.exchange.clone(), ground.uri.clone(), ground.bundle.clone());
        let asking = |gone| async move {
            rerank::judge(&exchange, &uri, bundle.as_deref(), &text, items, &gone).await
        };
        attended(asking).await.map_err(|error| unanswered(&error))
    }

    /// What the model says about one picture. The row goes through an archive of its own inside the archive, so that it
    /// is not taken for the picture's caption.
    pub async fn ask(&self, ground: &Ground, item: JobItem, prompt: Prompt) -> Result<Row, Problem> {
        let _seat = self.room.seat(PATIENCE).await?;
        let failed = |error: anyhow::Error| unanswered(&error);
        let answers = answers(&ground.uri).map_err(failed)?;
        let (id, run) = (new_id().map_err(failed)?, RunId::new(RUN).map_err(|error| failed(error.into()))?);
        let caption = CaptionJob { prompt, embed: false, ..CaptionJob::new(vec![item]) };
        let mut job = Job::caption(id.clone(), run.clone(), answers.clone(), caption);
        job.bundle.clone_from(&ground.bundle);
        let exchange = self.exchange.clone();
        let asking = |gone| async move { exchange.ask(&job, &gone, codec::decode_outcome).await };
        let outcome = attended(asking).await.map_err(failed)?;
        if let Some(reason) = outcome.error {
            return Err(Problem::new(StatusCode::BAD_GATEWAY, "not_answered", reason));
        }
        self.members.answered(&outcome);
        let store = ground.fleet.stores.archive(&answers).await?;
        let key = layout::part(&run, &id);
        let rows = archive::rows(&*store, key.clone()).await;
        if let Err(error) = store.delete(&key).await {
            tracing::debug!(%error, "an answer stays until it is tidied away");
        }
        let row = rows?.into_iter().next();
        let row = row.ok_or_else(|| {
            Problem::new(StatusCode::BAD_GATEWAY, "not_answered", "the worker wrote no row")
        })?;
        if row.status == Status::Ok {
            return Ok(row);
        }
        let (code, message) = (row.error_code.unwrap_or_default(), row.error_message.unwrap_or_default());
        let detail = format!("the picture cannot be captioned ({code}): {message}");
        Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "not_captioned", detail))
    }
}

/// Asks in a task of its own: a request whose client has left is dropped at any point, and the question must be taken
/// back all the same.
async fn attended<T, F>(ask: impl FnOnce(CancellationToken) -> F) -> anyhow::Result<T>
where
    T: Send + 'static,
    F: Future<Output = anyhow::Result<T>> + Send + 'static,
{
    let gone = CancellationToken::new();
    let asking = tokio::spawn(spans::carried(ask(gone.clone())));
    let _gone = gone.drop_guard();
    asking.await.context("asking was interrupted; please report this")?
}

/// The archive that answers go through.
fn answers(uri: &ArchiveUri) -> anyhow::Result<ArchiveUri> {
    Ok(match uri.location() {
        Location::File(folder) => ArchiveUri::from_folder(&folder.join(layout::ANSWERS))?,
        Location::S3 { .. } => {
            ArchiveUri::parse(&format!("{}/{}", uri.as_str().trim_end_matches('/'), layout::ANSWERS))?
        }
    })
}

fn unanswered(error: &anyhow::Error) -> Problem {
    let detail = crate::exit::line(error);
    match error.downcast_ref::<NotEmbedded>() {
        Some(refused) if refused.is_about_its_picture() => {
            Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "picture_refused", detail)
        }
        _ => Problem::unavailable("not_answered", detail),
    }
}
