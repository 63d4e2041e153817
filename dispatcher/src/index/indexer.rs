//! Brings the index up to the parts.

mod freshness;
mod tidy;

pub use freshness::Freshness;

use super::collect::{self, Listing, Part};
use super::lease::Lease;
use super::shelf::{Shelf, Stored, WORDS_ALONE};
use crate::archive::ArchiveError;
use captionfleet_index::codes::Shape;
use captionfleet_index::{PartStamp, SegmentBuilder};
use captionfleet_proto::layout;
use captionfleet_proto::storage::PutMode;
use serde::Serialize;
use sha2::{Digest as _, Sha256};
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// Most parts, and most bytes of parts, that become one segment at first.
const BATCH: (usize, u64) = (256, 256 * 1024 * 1024);
/// How long to wait for another indexer before looking again.
const PAUSE: Duration = Duration::from_secs(1);

/// What was done.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize)]
pub struct Indexed {
    /// Parts taken in.
    pub parts: u64,
    /// Their rows.
    pub rows: u64,
    /// Parts that cannot be read.
    pub damaged: u64,
    /// Parts that are still not indexed, because another indexer is at work or there was no time.
    pub left: u64,
}

/// Hears how many parts there are to do and how many were done.
pub type Progress = Arc<dyn Fn(u64, u64) + Send + Sync>;

/// Writes segments.
#[derive(Debug)]
pub struct Indexer {
    shelf: Arc<Shelf>,
    lease: Lease,
    /// Parts that cannot be read.
    unreadable: HashSet<PartStamp>,
    damaged: u64,
    freshness: Freshness,
}

/// What is not indexed yet.
struct Missing {
    /// The spaces that have segments.
    spaces: BTreeMap<String, Shape>,
    /// For each part the spaces that lack it.
    parts: Vec<(PartStamp, HashSet<String>)>,
    segments: Vec<Stored>,
    damaged: Vec<String>,
    listing: Listing,
}

impl Indexer {
    /// Writes to the shelf's archive.
    pub fn new(shelf: Arc<Shelf>) -> Self {
        let freshness = Freshness::default();
        Self { shelf, lease: Lease::new(), unreadable: HashSet::new(), damaged: 0, freshness }
    }

    /// How far the index is behind, as this indexer sees it, while it works too.
    pub fn freshness(&self) -> Freshness {
        self.freshness.clone()
    }

    /// Takes in every part that is not indexed, then tidies up. Stops in order when `stop` is cancelled; with `patience`
    /// it waits while another indexer is at work.
    pub async fn catch_up(
        &mut self,
        stop: CancellationToken,
        patience: bool,
        progress: Progress,
    ) -> Result<Indexed, ArchiveError> {
        let mut done = Indexed::default();
        loop {
            let listed = Instant::now();
            let missing = self.missing().await?;
            self.freshness.note(listed, missing.parts.iter().map(|(part, _)| part));
            done.damaged = self.damaged;
            done.left = missing.parts.len() as u64;
            let tidy = missing.parts.is_empty()
                && !tidy::is_due(&missing.segments, &missing.damaged, &missing.listing);
            if tidy || stop.is_cancelled() {
                break;
            }
            if !self.lease.hold(self.shelf.archive()).await? {
                if !patience {
                    break;
                }
                tokio::select! {
                    () = tokio::time::sleep(PAUSE) => continue,
                    () = stop.cancelled() => break,
                }
            }
            progress(missing.parts.len() as u64 + done.parts, done.parts);
            if missing.parts.is_empty() {
                tidy::tidy(&self.shelf, missing.segments, missing.damaged, &missing.listing).await?;
                continue;
            }
            done = self.take_in(missing, done, stop.clone(), progress.clone()).await?;
        }
        self.lease.release(self.shelf.archive()).await?;
        Ok(done)
    }

    async fn missing(&self) -> Result<Missing, ArchiveError> {
        // Parts first: one that appears in between is seen as indexed at worst a look later, never the other way round.
        let listing = collect::list(self.shelf.archive()).await?;
        let (segments, damaged) = self.shelf.segments().await?;
        let mut spaces: BTreeMap<String, Shape> = segments
            .iter()
            .map(|stored| (stored.segment.space().to_owned(), stored.segment.shape()))
            .collect();
        if spaces.len() > 1 {
            spaces.remove(WORDS_ALONE);
        }
        let mut lacking: BTreeMap<&String, HashSet<String>> =
            listing.keys().map(|key| (key, spaces.keys().cloned().collect())).collect();
        for stored in &segments {
            for part in stored.segment.parts() {
                if listing.get(&part.key).is_some_and(|there| there.matches(part))
                    && let Some(lacking) = lacking.get_mut(&part.key)
                {
                    lacking.remove(stored.segment.space());
                }
            }
        }
        let parts = listing
            .values()
            .filter(|stamp| !self.unreadable.contains(*stamp))
            .filter_map(|stamp| {
                let lacking = lacking.remove(&stamp.key)?;
                (spaces.is_empty() || !lacking.is_empty()).then(|| (stamp.clone(), lacking))
            })
            .collect();
        Ok(Missing { spaces, parts, segments, damaged, listing })
    }

    /// Makes segments of what is missing. A space that turns up on the way gets the parts before it in the next round.
    async fn take_in(
        &mut self,
        missing: Missing,
        mut done: Indexed,
        stop: CancellationToken,
        progress: Progress,
    ) -> Result<Indexed, ArchiveError> {
        let Missing { mut spaces, parts: missing, .. } = missing;
        let total = missing.len() as u64 + done.parts;
        let mut rest = missing.as_slice();
        while !rest.is_empty() && !stop.is_cancelled() {
            if !self.lease.hold(self.shelf.archive()).await? {
                return Ok(done);
            }
            let (batch, after) = rest.split_at(batch(rest));
            rest = after;
            let stamps: Vec<PartStamp> = batch.iter().map(|(stamp, _)| stamp.clone()).collect();
            let (parts, faults) = collect::read(self.shelf.archive(), &stamps).await?;
            for (stamp, error) in faults {
                tracing::warn!(part = stamp.key, error, "a part cannot be read and is not indexed");
                self.unreadable.insert(stamp);
                self.damaged += 1;
            }
            let mut found: BTreeMap<String, Shape> = parts.iter().flat_map(Part::spaces).collect();
            if !found.is_empty() {
                spaces.remove(WORDS_ALONE);
            } else if spaces.is_empty() {
                found.insert(WORDS_ALONE.to_owned(), Shape::LEAST);
            }
            let new: HashSet<String> =
                found.keys().filter(|space| !spaces.contains_key(*space)).cloned().collect();
            for (space, shape) in found {
                spaces.entry(space).or_insert(shape);
            }
            let lacking: BTreeMap<&String, &HashSet<String>> =
                batch.iter().map(|(stamp, lacking)| (&stamp.key, lacking)).collect();
            done.rows += parts.iter().map(|part| part.rows.len() as u64).sum::<u64>();
            let parts = Arc::new(parts);
            // A new space first: once it has a segment, the parts that others have are known to lack it.
            let mut order: Vec<_> = spaces.iter().collect();
            order.sort_by_key(|(space, _)| !new.contains(*space));
            for (space, shape) in order {
                let lacks = |part: &Part| {
                    new.contains(space)
                        || lacking.get(&part.stamp.key).is_some_and(|lacking| lacking.contains(space))
                };
                let wanted: Vec<usize> = (0..parts.len()).filter(|place| lacks(&parts[*place])).collect();
                self.write(space, *shape, parts.clone(), wanted).await?;
            }
            done.parts += batch.len() as u64;
            progress(total, done.parts);
        }
        Ok(done)
    }

    async fn write(
        &self,
        space: &str,
        shape: Shape,
        parts: Arc<Vec<Part>>,
        wanted: Vec<usize>,
    ) -> Result<(), ArchiveError> {
        if wanted.is_empty() {
            return Ok(());
        }
        let key = key(space, wanted.iter().map(|place| &parts[*place].stamp));
        let name = space.to_owned();
        let built = tokio::task::spawn_blocking(move || {
            let mut builder = SegmentBuilder::new(&*name, shape);
            for place in wanted {
                collect::add(&mut builder, &name, &parts[place]);
            }
            builder.finish()
        });
        let segment = built.await.map_err(|_| ArchiveError::Interrupted { key: key.clone() })?;
        self.shelf.archive().put(&key, segment, PutMode::Overwrite).await?;
        Ok(())
    }
}

/// How many of the first parts go into one segment.
fn batch(parts: &[(PartStamp, HashSet<String>)]) -> usize {
    let mut bytes = 0;
    let fits = |(stamp, _): &&(PartStamp, HashSet<String>)| {
        bytes += stamp.size;
        bytes <= BATCH.1
    };
    parts.iter().take(BATCH.0).take_while(fits).count().max(1)
}

/// Where a segment of these parts lies: two indexers that take in the same parts write the same object.
fn key<'a>(space: &str, parts: impl Iterator<Item = &'a PartStamp>) -> String {
    let mut parts: Vec<&PartStamp> = parts.collect();
    parts.sort();
    let mut digest = Sha256::new();
    for part in parts {
        for text in [part.key.as_str(), part.etag.as_deref().unwrap_or_default()] {
            digest.update((text.len() as u64).to_le_bytes());
            digest.update(text.as_bytes());
        }
        digest.update(part.size.to_le_bytes());
    }
    let space = hex::encode(&Sha256::digest(space.as_bytes())[..8]);
    layout::index_segment(&space, &hex::encode(&digest.finalize()[..16]))
}
