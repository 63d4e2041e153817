//! From an item's URI to pixels of the network's size. Storage on the async threads, pixels on blocking ones.

use std::time::{Duration, Instant};

use captionfleet_model::preprocess::{PreparedPicture, decode, footprint, prepare};
use captionfleet_proto::chain;
use captionfleet_proto::job::{JobItem, Lane};
use captionfleet_proto::storage::{Object, StorageError, StorageErrorKind};
use sha2::{Digest, Sha256};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;

use super::budget::Room;
use super::item_failure::ItemFailure;
use super::source::{self, ANSWER_WITHIN, TOO_LARGE};
use super::{Failure, Pipeline};
use crate::telemetry::events::{self, HostStage};

/// Room for a picture whose size nobody has told. One that needs more is read again, with room for the largest.
const USUAL_BYTES: u64 = 8 << 20;

/// What is known of an item's bytes and picture; rows carry it whether the item succeeds or not.
#[derive(Clone, Debug, Default)]
pub(super) struct Facts {
    pub(super) sha256: Option<String>,
    pub(super) etag: Option<String>,
    pub(super) width: Option<u32>,
    pub(super) height: Option<u32>,
}

impl Facts {
    /// What the job says; replaced by what is read.
    pub(super) fn planned(item: &JobItem) -> Self {
        Self { sha256: item.sha256.clone(), etag: item.etag.clone(), ..Self::default() }
    }
}

/// A file that was read.
struct FileRead {
    object: Object,
    room: Room,
    /// How long that took.
    reading: Duration,
    /// Bytes that its decoding takes.
    footprint: u64,
}

impl Pipeline {
    /// As [`Self::fetch`], within the item's deadline. Waiting does not count, neither for room nor for a turn to decode: others
    /// are large, and many.
    pub(super) async fn fetch_in_time(
        &self,
        item: &JobItem,
        lane: Lane,
        last_attempt: bool,
        facts: &mut Facts,
    ) -> Result<PreparedPicture, ItemFailure> {
        let limit = self.options.item_deadline;
        let file = self.read_in_time(item, lane, last_attempt, facts).await?;
        let budget = self.budgets.of(lane);
        let turn = budget.turn_to_decode().await;
        let pixels = budget.room_to_decode(file.footprint).await;
        let left = limit.saturating_sub(file.reading);
        let decoded = timeout(left, self.decode(file, (turn, pixels), item, lane, facts)).await;
        decoded.unwrap_or_else(|_| Err(ItemFailure::deadline(limit, "reading and decoding")))
    }

    /// Reads an item within its deadline.
    ///
    /// A store that hangs is no fault of the item. So a store that answers nothing ends the job, which is tried again; and
    /// as it may have hung until just now, an item is late only when its bytes do not come a second time.
    async fn read_in_time(
        &self,
        item: &JobItem,
        lane: Lane,
        last_attempt: bool,
        facts: &mut Facts,
    ) -> Result<FileRead, ItemFailure> {
        let (limit, most) = (self.options.item_deadline, self.options.decode_limits.max_bytes);
        let budget = self.budgets.of(lane);
        let mut bytes = self.likely_bytes(item);
        let mut is_second = false;
        loop {
            let room = budget.room(bytes).await;
            match timeout(limit, self.read_into(room, item, last_attempt, facts)).await {
                Ok(Err(ItemFailure::Row { code: TOO_LARGE, .. })) if bytes < most => bytes = most,
                Ok(read) => return read,
                Err(_) if !self.stores.answers(item.source(), ANSWER_WITHIN).await => {
                    let problem = "its store does not answer";
                    let (kind, object) = (StorageErrorKind::Timeout, item.source().as_str());
                    let source = StorageError::new(kind, "reading", object, problem);
                    return Err(ItemFailure::Job(Failure::Source { item: object.to_owned(), source }));
                }
                Err(_) if is_second => return Err(ItemFailure::deadline(limit, "reading")),
                Err(_) => is_second = true,
            }
        }
    }

    /// Reads, decodes and resizes an item. `facts` is filled in as they become known.
    pub(super) async fn fetch(
        &self,
        item: &JobItem,
        lane: Lane,
        last_attempt: bool,
        facts: &mut Facts,
    ) -> Result<PreparedPicture, ItemFailure> {
        let (budget, most) = (self.budgets.of(lane), self.options.decode_limits.max_bytes);
        let mut bytes = self.likely_bytes(item);
        let file = loop {
            let room = budget.room(bytes).await;
            match self.read_into(room, item, last_attempt, facts).await {
                Err(ItemFailure::Row { code: TOO_LARGE, .. }) if bytes < most => bytes = most,
                read => break read?,
            }
        };
        let turn = budget.turn_to_decode().await;
        let pixels = budget.room_to_decode(file.footprint).await;
        self.decode(file, (turn, pixels), item, lane, facts).await
    }

    /// The size that an item is likely to have.
    fn likely_bytes(&self, item: &JobItem) -> u64 {
        item.size.unwrap_or(USUAL_BYTES).min(self.options.decode_limits.max_bytes)
    }

    /// Reads an item that fits into `room`.
    async fn read_into(
        &self,
        mut room: Room,
        item: &JobItem,
        last_attempt: bool,
        facts: &mut Facts,
    ) -> Result<FileRead, ItemFailure> {
        let started = Instant::now();
        let read = self.read(item, room.bytes()).await;
        events::stage(&self.metrics, HostStage::Fetch, started.elapsed());
        let object = match read {
            Ok(object) => object,
            Err(error) => return Err(source::unreadable(&self.stores, item, error, last_attempt).await),
        };
        facts.etag.clone_from(&object.etag);
        facts.sha256 = None;
        room.shrink_to(object.bytes.len() as u64);
        let (bytes, limits) = (object.bytes.clone(), self.options.decode_limits);
        let side = self.model.largest_image_size();
        // What panics here panics when it is decoded, and is told there.
        let footprint =
            tokio::task::spawn_blocking(move || footprint(&bytes, &limits, side)).await.unwrap_or(0);
        Ok(FileRead { object, room, footprint, reading: started.elapsed() })
    }

    /// Decodes and resizes what was read, with a turn to decode and room for the pixels. A decoder cannot be stopped: its turn and
    /// the room are given back when it ends, even if the item is late by then.
    async fn decode(
        &self,
        file: FileRead,
        (turn, pixels): (OwnedSemaphorePermit, Room),
        item: &JobItem,
        lane: Lane,
        facts: &mut Facts,
    ) -> Result<PreparedPicture, ItemFailure> {
        let FileRead { object, room, reading, .. } = file;
        let started = Instant::now();
        let (limits, model) = (self.options.decode_limits, std::sync::Arc::clone(&self.model));
        let decoded = tokio::task::spawn_blocking(move || {
            let digest = hex::encode(Sha256::digest(&object.bytes));
            // A panic in a decoder is a property of the picture, and must not hide its digest.
            let prepared = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                decode(&object.bytes, &limits)
                    .map(|picture| (picture.width, picture.height, prepare(&picture, &model)))
            }));
            drop((object, room, turn, pixels));
            (digest, prepared)
        });
        let (digest, prepared) =
            decoded.await.map_err(|error| ItemFailure::Job(Failure::Panicked(error.to_string())))?;
        let decoding = started.elapsed();
        events::stage(&self.metrics, HostStage::ImageDecode, decoding);
        self.budgets.of(lane).prepared((reading + decoding).as_secs_f64());
        facts.sha256 = Some(digest);
        let decoded = prepared.map_err(|panic| {
            let message = crate::panics::message(panic.as_ref());
            events::panicked(&self.metrics, item.uri.as_str(), &message);
            ItemFailure::row("internal", format!("the decoder panicked: {message}"))
        })?;
        let (width, height, picture) =
            decoded.map_err(|error| ItemFailure::row(error.code(), chain(&error)))?;
        (facts.width, facts.height) = (Some(width), Some(height));
        Ok(picture)
    }

    /// Reads the bytes; what may pass soon is tried again here, so that one hiccup does not repeat a whole job.
    async fn read(&self, item: &JobItem, max_bytes: u64) -> Result<Object, StorageError> {
        let mut pauses = self.options.fetch_pauses.iter();
        loop {
            let error = match self.stores.read_item(item.source(), max_bytes).await {
                Ok(object) => return Ok(object),
                Err(error) => error,
            };
            match pauses.next() {
                Some(pause) if error.is_transient() => {
                    events::storage_retry(item.source().as_str(), &error);
                    tokio::time::sleep(*pause).await;
                }
                _ => return Err(error),
            }
        }
    }
}
