//! Finding pictures: the archive as it is, opened once and looked at again while nothing changes.

use super::Ground;
use super::http::problem::Problem;
use crate::archive;
use crate::index::collect::stamp;
use crate::index::{Asked, Hits, Opened, Ranked, Ready, Spaces};
use crate::search::query::Embedded;
use axum::http::StatusCode;
use captionfleet_index::PartStamp;
use captionfleet_proto::rows::{Row, read_embeddings};
use captionfleet_proto::uri::ItemUri;
use futures::FutureExt as _;
use lru::LruCache;
use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Mutex as AsyncMutex;

/// How long the archive is taken to be as it was.
const FRESH: Duration = Duration::from_secs(1);
/// Embedding spaces that are kept open.
const SPACES: usize = 4;
/// Parts whose rows are kept.
const PARTS: NonZeroUsize = NonZeroUsize::new(512).expect("it is not 0");
/// Hits of which it is remembered where their rows are.
const FOUND: usize = 20_000;

/// Opened archives by embedding space.
#[derive(Debug)]
pub struct Lookup {
    open: AsyncMutex<HashMap<Opening, Seen>>,
    spaces: AsyncMutex<Option<(Instant, Spaces)>>,
    rows: Mutex<LruCache<String, Kept>>,
    found: Mutex<HashMap<(String, Option<u64>), String>>,
}

/// A space, and whether it was asked for by its name: only where it was not may words stand in for it.
type Opening = (String, bool);

/// When the archive was looked at, and what was there.
type Seen = (Instant, Result<Arc<Ready>, Problem>);

/// The rows of a part, and which object it was.
type Kept = (PartStamp, Arc<Vec<Row>>);

impl Default for Lookup {
    fn default() -> Self {
        let rows = Mutex::new(LruCache::new(PARTS));
        Self { open: AsyncMutex::default(), spaces: AsyncMutex::default(), rows, found: Mutex::default() }
    }
}

impl Lookup {
    /// The archive in one embedding space; without a `space` the one with the most pictures.
    pub async fn ready(&self, ground: &Ground, space: Option<&str>) -> Result<Arc<Ready>, Problem> {
        let fullest = match space {
            Some(_) => None,
            None => self.fullest(ground).await?,
        };
        let name = space.or(fullest.as_deref()).unwrap_or_default().to_owned();
        let (mut opening, other) = ((name.clone(), space.is_some()), (name, space.is_none()));
        let mut open = self.open.lock().await;
        // Unless words stand in, both are the same.
        let of_other = open.get(&other).filter(|(_, seen)| seen.as_ref().is_ok_and(|seen| !seen.stands_in()));
        let before = open.get(&opening).into_iter().chain(of_other).max_by_key(|(at, _)| *at).cloned();
        if let Some((at, seen)) = &before
            && at.elapsed() < FRESH
        {
            return seen.clone();
        }
        let before = before.and_then(|(_, seen)| seen.ok());
        let seen = match Ready::open_again(&ground.shelf, space, before).boxed().await? {
            Opened::Ready(ready) => Ok(ready),
            Opened::Behind { unindexed } => Err(Problem::unavailable(
                "index_behind",
                format!("the index lacks {unindexed} parts and is being brought up; ask again in a while"),
            )),
            Opened::Elsewhere(elsewhere) => {
                Err(Problem::new(StatusCode::CONFLICT, "other_space", elsewhere.to_string()))
            }
        };
        if let Ok(ready) = &seen {
            // Another model's space may have become the fullest meanwhile.
            ready.space().clone_into(&mut opening.0);
        }
        if open.len() >= 2 * SPACES && !open.contains_key(&opening) {
            open.clear();
        }
        open.insert(opening, (Instant::now(), seen.clone()));
        seen
    }

    /// The space in which most pictures can be found: queries should be embedded there. Without an index there is none.
    pub async fn fullest(&self, ground: &Ground) -> Result<Option<String>, Problem> {
        let mut spaces = self.spaces.lock().await;
        let before = match spaces.take() {
            Some((at, seen)) if at.elapsed() < FRESH => {
                let fullest = seen.fullest().map(str::to_owned);
                *spaces = Some((at, seen));
                return Ok(fullest);
            }
            before => before.map(|(_, seen)| seen),
        };
        let seen = Spaces::look(&ground.shelf, before).boxed().await?;
        let fullest = seen.fullest().map(str::to_owned);
        *spaces = Some((Instant::now(), seen));
        Ok(fullest)
    }

    /// Takes nothing to be as it was: the archive was changed.
    pub async fn look_again(&self) {
        self.open.lock().await.clear();
        self.spaces.lock().await.take();
    }

    /// Searches with embedded queries, by their names.
    pub async fn search(
        &self,
        ground: &Ground,
        embedded: Vec<(&'static str, Embedded)>,
        asked: Asked,
    ) -> Result<Ranked, Problem> {
        let space = embedded.first().map(|(_, embedded)| embedded.space.clone());
        if embedded.iter().any(|(_, embedded)| Some(&embedded.space) != space.as_ref()) {
            return Err(Problem::conflict(
                "text and picture were embedded by workers with different models; name one with --model",
            ));
        }
        let ready = self.ready(ground, space.as_deref()).await?;
        let vectors = embedded.into_iter().map(|(name, embedded)| (name, embedded.vectors)).collect();
        Ok(ready.search(&ground.shelf, Asked { vectors, ..asked }).boxed().await?)
    }

    /// The page of what was found; remembers where the rows of its hits are.
    pub async fn page(&self, ranked: Ranked) -> Result<Hits, Problem> {
        let hits = ranked.page().boxed().await?;
        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        if found.len() > FOUND {
            found.clear();
        }
        found.extend(hits.hits.iter().map(|hit| ((hit.item.clone(), hit.frame_ms), hit.part.clone())));
        drop(found);
        Ok(hits)
    }

    /// A row of a picture or frame that was read: where a search has just found it, or else the newest. A page of hits
    /// asks for hundreds.
    pub async fn row(&self, ground: &Ground, item: &ItemUri, frame_ms: Option<u64>) -> Result<Row, Problem> {
        let place = (item.to_string(), frame_ms);
        let found = self.found.lock().unwrap_or_else(PoisonError::into_inner).get(&place).cloned();
        if let Some(key) = found
            && let Ok(part) = self.part(ground, &key).await
            && let Some(row) = part.iter().find(|row| row.item == *item && row.frame_ms == frame_ms)
        {
            return Ok(row.clone());
        }
        let rows = self.rows(ground, item, frame_ms).await?;
        // A newer row may have failed without having read anything.
        let read = rows.iter().position(|row| row.sha256.is_some()).unwrap_or(0);
        rows.into_iter().nth(read).ok_or_else(|| Problem::missing("no row"))
    }

    /// The rows of a picture or of one frame, the newest first, without their embeddings.
    pub async fn rows(
        &self,
        ground: &Ground,
        item: &ItemUri,
        frame_ms: Option<u64>,
    ) -> Result<Vec<Row>, Problem> {
        let ready = self.ready(ground, None).await?;
        let mut rows = Vec::new();
        for key in ready.parts_of(item.to_string(), frame_ms).await? {
            let part = match self.part(ground, &key).await {
                Err(problem) if problem.status() == StatusCode::NOT_FOUND => continue,
                part => part?,
            };
            rows.extend(part.iter().filter(|row| row.item == *item && row.frame_ms == frame_ms).cloned());
        }
        if rows.is_empty() {
            return Err(Problem::missing(format!("the archive has no row for {item}")));
        }
        rows.sort_by_key(|row| std::cmp::Reverse(row.finished_at));
        Ok(rows)
    }

    /// The newest embedding of a picture or frame that the archive has, in `space` if there is one.
    pub async fn embedding(
        &self,
        ground: &Ground,
        item: &ItemUri,
        frame_ms: Option<u64>,
        space: Option<&str>,
    ) -> Result<Embedded, Problem> {
        let ready = self.ready(ground, None).await?;
        let mut other = None;
        for key in ready.parts_of(item.to_string(), frame_ms).await? {
            let bytes = ground.archive.get(&key, archive::TABLE_BYTES).await?.bytes;
            let read = tokio::task::spawn_blocking(move || read_embeddings(bytes)).await;
            let Ok(Ok(part)) = read else { continue };
            let Some(shape) = part.shape else { continue };
            let found = (0..part.items.len())
                .find(|row| part.items[*row] == *item && part.frame_ms[*row] == frame_ms);
            let Some(row) = found else { continue };
            let Some(values) = part.values.get(row * shape.len()..(row + 1) * shape.len()) else { continue };
            let vectors = values
                .chunks_exact((shape.dim as usize).max(1))
                .map(|vector| vector.iter().map(|value| value.to_f32()).collect())
                .collect();
            let embedded = Embedded { vectors, space: part.spaces[row].clone() };
            if space.is_none_or(|space| space == embedded.space) {
                return Ok(embedded);
            }
            other.get_or_insert(embedded);
        }
        other.ok_or_else(|| {
            Problem::missing(format!("{item} has no embedding: it failed, or was captioned with --no-embed"))
        })
    }

    /// The rows of one part, as it is now.
    pub async fn part(&self, ground: &Ground, key: &str) -> Result<Arc<Vec<Row>>, Problem> {
        let stamp = match self.stamp(ground, key).await {
            Err(problem) => {
                self.kept().pop(key);
                return Err(problem);
            }
            Ok(stamp) => stamp,
        };
        if let Some((_, rows)) = self.kept().get(key).filter(|(kept, _)| *kept == stamp) {
            return Ok(rows.clone());
        }
        let mut rows = archive::rows(&*ground.archive, key.to_owned()).await?;
        rows.retain(|row| !row.is_forgotten());
        let rows = Arc::new(rows);
        self.kept().put(key.to_owned(), (stamp, rows.clone()));
        Ok(rows)
    }

    /// Which object a part is: as the archive was listed last; what is not listed may be new.
    async fn stamp(&self, ground: &Ground, key: &str) -> Result<PartStamp, Problem> {
        if let Ok(ready) = self.ready(ground, None).await
            && let Some(stamp) = ready.part(key)
        {
            return Ok(stamp.clone());
        }
        Ok(stamp(ground.archive.head(key).await?))
    }

    fn kept(&self) -> std::sync::MutexGuard<'_, LruCache<String, Kept>> {
        self.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
