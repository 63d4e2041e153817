//! Rows without a query: those of one item, and the newest of all.

use super::company::ALONE;
use super::{Found, Place, View};
use crate::Filter;
use crate::segment::{Status, item_key};
use std::collections::HashSet;

impl View {
    /// All rows of an item (of one frame of a video), the newest first, failed ones included.
    pub fn rows_of(&self, item: &str, frame_ms: Option<u64>) -> Vec<Place> {
        let key = item_key(item, frame_ms);
        let mut rows: Vec<(i64, Place)> = self
            .places()
            .filter_map(|place| {
                let record = self.row(place).1;
                (record.key == key && self.exists(place)).then_some((record.finished, place))
            })
            .collect();
        rows.sort_unstable_by(|one, other| other.cmp(one));
        rows.into_iter().map(|(_, place)| place).collect()
    }

    /// The captioned items that `filter` lets through, in the order of their newest text, each by the row that is shown of it
    /// ([`Self::shown`]); the score is 0. A filter for items that failed or were skipped finds the rows that say so, which have
    /// neither caption nor vectors.
    pub fn newest(&self, filter: &Filter, count: usize) -> Vec<Found> {
        let without_caption = matches!(filter.status, Some(Status::Failed | Status::Skipped));
        let mut rows: Vec<(i64, Place)> = Vec::new();
        let mut any_company = false;
        for place in self.places() {
            let standing = self.standing(place);
            let counts = if without_caption { standing.is_latest } else { standing.has_caption };
            if counts && (filter.is_open() || self.row_is_let_through(place, filter)) {
                rows.push((self.row(place).1.finished, place));
                any_company |= standing.company != ALONE;
            }
        }
        let newest_first = |one: &(i64, Place), other: &(i64, Place)| (other.0, one.1).cmp(&(one.0, other.1));
        if any_company {
            // An item with several texts stands once, where its newest one stands.
            rows.sort_unstable_by(newest_first);
            let mut seen = HashSet::new();
            rows.retain(|(_, place)| seen.insert(self.row(*place).1.key));
        }
        if count < rows.len() && count > 0 {
            rows.select_nth_unstable_by(count - 1, newest_first);
        }
        rows.truncate(count);
        rows.sort_unstable_by(newest_first);
        let shown = |place| if without_caption { place } else { self.shown(place, filter) };
        rows.into_iter().map(|(_, place)| Found { place: shown(place), score: 0.0, error: 0.0 }).collect()
    }

    /// The rows of all segments.
    pub(super) fn places(&self) -> impl Iterator<Item = Place> + '_ {
        self.segments.iter().enumerate().flat_map(|(segment, rows)| {
            (0..rows.rows()).map(move |row| Place { segment: segment as u32, row: row as u32 })
        })
    }

    /// Whether the part of a row is still there.
    fn exists(&self, place: Place) -> bool {
        self.there[place.segment as usize][self.row(place).1.part as usize]
    }
}
