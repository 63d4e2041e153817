//! Few large segments instead of many small ones, and none that is of no use.

use super::super::collect::Listing;
use super::super::shelf::{Shelf, Stored};
use super::key;
use crate::archive::ArchiveError;
use captionfleet_index::{PartStamp, Segment, merge};
use captionfleet_proto::storage::PutMode;
use std::collections::{BTreeMap, HashMap};

/// Segments of about one size that are merged.
const TOGETHER: usize = 8;
/// Rows of a segment that is merged no further: some 200 MB of the published model's codes.
const FULL: usize = 32_768;

/// What there is to do with some segments.
#[derive(Debug, Default)]
struct Chores {
    /// Segments that go: other ones have all their parts, or their parts are gone. Nothing is missing when these are looked for.
    useless: Vec<String>,
    /// Segments that become one.
    merges: Vec<Vec<Stored>>,
}

/// Whether [`tidy`] would do anything.
pub(super) fn is_due(segments: &[Stored], damaged: &[String], listing: &Listing) -> bool {
    let chores = chores(segments, listing);
    !damaged.is_empty() || !chores.useless.is_empty() || !chores.merges.is_empty()
}

/// Does one round. What replaces others is written before they go.
pub(super) async fn tidy(
    shelf: &Shelf,
    segments: Vec<Stored>,
    damaged: Vec<String>,
    listing: &Listing,
) -> Result<(), ArchiveError> {
    let chores = chores(&segments, listing);
    for key in damaged.into_iter().chain(chores.useless) {
        shelf.archive().delete(&key).await?;
    }
    for group in chores.merges {
        let there = listing.clone();
        let old: Vec<String> = group.iter().map(|stored| stored.key.clone()).collect();
        let merged = tokio::task::spawn_blocking(move || {
            let segments: Vec<&Segment> = group.iter().map(|stored| &*stored.segment).collect();
            let merged = merge(&segments, |part| !exists(&there, part))?;
            let parts =
                segments.iter().flat_map(|segment| segment.parts()).filter(|part| exists(&there, part));
            let mut parts: Vec<&PartStamp> = parts.collect();
            parts.sort();
            parts.dedup();
            Some((key(segments[0].space(), parts.into_iter()), merged.finish()))
        });
        let merged = merged.await.map_err(|_| ArchiveError::Interrupted { key: old.join(" ") })?;
        let Some((key, segment)) = merged else { continue };
        shelf.archive().put(&key, segment, PutMode::Overwrite).await?;
        for old in old.into_iter().filter(|old| *old != key) {
            shelf.archive().delete(&old).await?;
        }
    }
    Ok(())
}

fn exists(listing: &Listing, part: &PartStamp) -> bool {
    listing.get(&part.key).is_some_and(|there| there.matches(part))
}

fn chores(segments: &[Stored], listing: &Listing) -> Chores {
    let mut chores = Chores::default();
    let mut spaces: BTreeMap<(&str, usize, usize), Vec<&Stored>> = BTreeMap::new();
    let (for_words, embedded): (Vec<&Stored>, Vec<&Stored>) =
        segments.iter().partition(|stored| stored.is_for_words());
    let segments = if embedded.is_empty() {
        for_words
    } else {
        chores.useless.extend(for_words.into_iter().map(|stored| stored.key.clone()));
        embedded
    };
    for stored in segments {
        let shape = stored.segment.shape();
        spaces.entry((stored.segment.space(), shape.vectors, shape.dim)).or_default().push(stored);
    }
    for mut segments in spaces.into_values() {
        segments.sort_by_key(|stored| (stored.segment.rows(), &stored.key));
        let mut holders: HashMap<&PartStamp, usize> = HashMap::new();
        for stored in &segments {
            for part in stored.segment.parts() {
                *holders.entry(part).or_default() += 1;
            }
        }
        let mut tiers: BTreeMap<u32, Vec<&Stored>> = BTreeMap::new();
        for stored in segments {
            let parts = stored.segment.parts();
            let needed = parts.iter().any(|part| exists(listing, part) && holders.get(part) == Some(&1));
            if !needed {
                chores.useless.push(stored.key.clone());
                for part in parts {
                    holders.entry(part).and_modify(|holders| *holders -= 1);
                }
            } else if parts.iter().any(|part| !exists(listing, part)) {
                chores.merges.push(vec![stored.clone()]);
            } else if stored.segment.rows() < FULL / 2 {
                tiers.entry(tier(stored.segment.rows())).or_default().push(stored);
            }
        }
        for tier in tiers.into_values() {
            for group in tier.chunks_exact(TOGETHER) {
                chores.merges.push(fitting(group));
            }
        }
    }
    chores
}

/// Segments of one tier differ by a factor of eight at the most.
fn tier(rows: usize) -> u32 {
    rows.max(1).ilog2() / 3
}

/// The first of `group` that fit into one segment: at least two, because each is less than half of it.
fn fitting(group: &[&Stored]) -> Vec<Stored> {
    let mut rows = 0;
    let fits = |stored: &&&Stored| {
        rows += stored.segment.rows();
        rows <= FULL
    };
    group.iter().take_while(fits).map(|stored| (*stored).clone()).collect()
}
