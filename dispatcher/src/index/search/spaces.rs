//! The embedding spaces of an archive: which one has most of its pictures, and what lies in others only.

use super::computed;
use crate::archive::ArchiveError;
use crate::index::collect::{Listing, Part};
use crate::index::shelf::{Shelf, Stored};
use captionfleet_index::{Segment, View, item_key};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

/// What the segments of an archive say about its spaces.
#[derive(Debug, Clone, Default)]
pub struct Spaces {
    segments: Vec<String>,
    fullest: Option<String>,
}

impl Spaces {
    /// Looks at the index as it is now; what was seen `before` counts while it has the same segments.
    pub async fn look(shelf: &Shelf, before: Option<Self>) -> Result<Self, ArchiveError> {
        let (stored, _) = shelf.segments().await?;
        let segments: Vec<String> = stored.iter().map(|stored| stored.key.clone()).collect();
        if let Some(before) = before.filter(|before| before.segments == segments) {
            return Ok(before);
        }
        Ok(Self { segments, fullest: computed(move || fullest(&stored)).await? })
    }

    /// The space in which most pictures can be found: another model's takes over when it has as many.
    pub fn fullest(&self) -> Option<&str> {
        self.fullest.as_deref()
    }
}

/// The space of most items; of equally full ones the one that got the latest row.
pub(super) fn fullest(stored: &[Stored]) -> Option<String> {
    let mut spaces: BTreeMap<&str, Vec<&Segment>> = BTreeMap::new();
    for stored in stored.iter().filter(|stored| !stored.is_for_words()) {
        spaces.entry(stored.segment.space()).or_default().push(&stored.segment);
    }
    if spaces.len() < 2 {
        return spaces.into_keys().next().map(str::to_owned);
    }
    let fullness = |segments: &[&Segment]| {
        let records = segments.iter().flat_map(|segment| (0..segment.rows()).map(|row| segment.record(row)));
        let (mut items, mut latest) = (HashSet::new(), i64::MIN);
        for record in records.filter(|record| record.code.is_some()) {
            items.insert(record.key);
            latest = latest.max(record.finished);
        }
        (items.len(), latest)
    };
    let fullest = spaces.into_iter().max_by_key(|(space, segments)| (fullness(segments), *space));
    fullest.map(|(space, _)| space.to_owned())
}

/// Items whose vectors lie in other spaces than the one that is searched.
#[derive(Debug, Default)]
pub(super) struct Others {
    items: HashMap<String, HashSet<u128>>,
}

impl Others {
    /// What the segments of all spaces but `space` have, of parts that are still there.
    pub(super) fn indexed(stored: &[Stored], space: &str, listing: &Listing) -> Self {
        let mut segments: HashMap<&str, Vec<Arc<Segment>>> = HashMap::new();
        let others = |stored: &&Stored| !stored.is_for_words() && stored.segment.space() != space;
        for stored in stored.iter().filter(others) {
            segments.entry(stored.segment.space()).or_default().push(stored.segment.clone());
        }
        let there = |segments| {
            View::new(segments, |part| listing.get(&part.key).is_some_and(|there| there.matches(part)))
        };
        let items = segments.into_iter().map(|(space, segments)| {
            let view = there(segments);
            (space.to_owned(), view.picture_keys().collect())
        });
        Self { items: items.collect() }
    }

    /// Adds what parts have that no segment of `space` has.
    pub(super) fn add(&mut self, parts: &[Part], space: &str) {
        for row in parts.iter().flat_map(|part| &part.rows) {
            if let Some(other) = row.embedding_space.as_ref().filter(|other| *other != space) {
                let items = self.items.entry(other.clone()).or_default();
                items.insert(item_key(row.item.as_str(), row.frame_ms));
            }
        }
    }

    /// How many items of each space are not found by `view`.
    pub(super) fn left_out(mut self, view: &View) -> BTreeMap<String, usize> {
        if !self.items.is_empty() {
            let found: HashSet<u128> = view.picture_keys().collect();
            for items in self.items.values_mut() {
                items.retain(|item| !found.contains(item));
            }
        }
        let counted = self.items.into_iter().map(|(space, items)| (space, items.len()));
        counted.filter(|(_, count)| *count > 0).collect()
    }
}
