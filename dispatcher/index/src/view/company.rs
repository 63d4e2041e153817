//! Rows of one item that stand side by side: its caption, answers to different questions, and the row with its vectors.

use super::{Place, Standing, View};
use crate::Filter;

/// What stands for itself.
pub(super) const ALONE: u32 = u32::MAX;

/// Items of which several rows stand. Most archives have none.
#[derive(Debug, Default)]
pub(super) struct Companies {
    places: Vec<Place>,
    /// Where the rows of each company end.
    ends: Vec<u32>,
}

impl Companies {
    /// Puts rows together: the caption first, then answers, the newest first, then what has vectors alone.
    pub(super) fn add(&mut self, rows: &[Place]) -> u32 {
        self.places.extend_from_slice(rows);
        self.ends.push(self.places.len() as u32);
        (self.ends.len() - 1) as u32
    }

    fn of(&self, company: u32) -> &[Place] {
        let company = company as usize;
        let Some(end) = self.ends.get(company) else { return &[] };
        let start = company.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.places[start as usize..*end as usize]
    }
}

impl View {
    /// The rows whose texts stand for the item of `place`: its caption, then answers, the newest first.
    pub fn texts(&self, place: Place) -> impl Iterator<Item = Place> + '_ {
        self.company(place).filter(|place| self.standing(*place).has_caption)
    }

    /// The row whose vectors stand for the item of `place`.
    pub fn vectors(&self, place: Place) -> Option<Place> {
        self.company(place).find(|place| self.standing(*place).has_vectors)
    }

    /// The row whose text is shown for the item of `place`: the caption, or the newest answer, of those that `filter` lets
    /// through.
    pub fn shown(&self, place: Place, filter: &Filter) -> Place {
        let through = |text: &Place| filter.is_open() || self.row_is_let_through(*text, filter);
        self.texts(place).find(through).unwrap_or(place)
    }

    /// Whether `filter` lets an item through, by any of its texts.
    pub(super) fn is_let_through(&self, place: Place, filter: &Filter) -> bool {
        if filter.is_open() {
            return true;
        }
        self.texts(place).any(|text| self.row_is_let_through(text, filter))
    }

    /// Whether `filter` lets this very row through.
    pub(super) fn row_is_let_through(&self, place: Place, filter: &Filter) -> bool {
        let (segment, record) = self.row(place);
        filter.lets_through(segment, &record, self.standing(place).latest)
    }

    fn company(&self, place: Place) -> impl Iterator<Item = Place> + '_ {
        let company = self.standing(place).company;
        let alone = (company == ALONE).then_some(place);
        self.companies.of(company).iter().copied().chain(alone)
    }

    pub(super) fn standing(&self, place: Place) -> Standing {
        self.standing[place.segment as usize][place.row as usize]
    }
}
