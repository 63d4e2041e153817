//! Many segments seen as one.

mod alike;
mod browse;
mod company;
mod keywords;
mod nearest;

use crate::contents::Contents;
use crate::segment::{PartStamp, Record, Segment, Status};
use company::{ALONE, Companies};
use std::collections::HashMap;
use std::sync::Arc;

pub use nearest::doubtful;

/// A row of a view.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Place {
    /// Which segment.
    pub segment: u32,
    /// Which of its rows.
    pub row: u32,
}

/// A row that answers a query.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Found {
    /// The row.
    pub place: Place,
    /// How well it does.
    pub score: f32,
    /// How far `score` may typically be from the true one.
    pub error: f32,
}

/// Several segments, of which the latest row of each item counts, of the bytes that were captioned last.
#[derive(Debug)]
pub struct View {
    segments: Vec<Arc<Segment>>,
    /// For each row whether it counts, and how the item ended last.
    standing: Vec<Vec<Standing>>,
    companies: Companies,
    /// For each part of each segment whether it exists.
    there: Vec<Vec<bool>>,
    items: usize,
}

/// What a row is among the rows of its item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Standing {
    /// It is the latest that has codes.
    has_vectors: bool,
    /// It is the latest that was captioned, or that answered the same questions.
    has_caption: bool,
    /// It is the latest of all.
    is_latest: bool,
    /// How the latest of all ended.
    latest: Status,
    /// The rows that stand beside it.
    company: u32,
}

const OLD: Standing = Standing {
    has_vectors: false,
    has_caption: false,
    is_latest: false,
    latest: Status::Skipped,
    company: ALONE,
};

/// The rows of one item that count.
#[derive(Debug, Clone, Copy)]
struct Item {
    latest: (i64, Status, Place),
    vectors: Option<(i64, Place)>,
    caption: Option<(i64, Place)>,
}

impl View {
    /// Looks at `segments`, without the parts for which `exists` says no.
    pub fn new(segments: Vec<Arc<Segment>>, exists: impl Fn(&PartStamp) -> bool) -> Self {
        let mut items: HashMap<u128, Item> =
            HashMap::with_capacity(segments.iter().map(|segment| segment.rows()).sum());
        let mut answers: HashMap<(u128, u32), (i64, Place)> = HashMap::new();
        let there: Vec<Vec<bool>> =
            segments.iter().map(|segment| segment.parts().iter().map(&exists).collect()).collect();
        let records = || {
            segments.iter().zip(&there).enumerate().flat_map(|(number, (segment, there))| {
                let place = move |row| Place { segment: number as u32, row: row as u32 };
                let records = (0..segment.rows()).map(move |row| (place(row), segment.record(row)));
                records.filter(move |(_, record)| there[record.part as usize])
            })
        };
        let mut contents = Contents::default();
        for (_, record) in records().filter(|(_, record)| record.status == Status::Ok) {
            contents.see(record.source(), record.finished, record.content);
        }
        let stands =
            |record: &Record| !contents.are_replaced(&record.source(), record.finished, record.content);
        for (place, record) in records().filter(|(_, record)| stands(record)) {
            note(&mut items, &mut answers, &record, place);
        }
        let mut standing: Vec<Vec<Standing>> =
            segments.iter().map(|segment| vec![OLD; segment.rows()]).collect();
        let mut companies = Companies::default();
        let mut answered: HashMap<u128, Vec<(i64, Place)>> = HashMap::new();
        for ((key, _), answer) in answers {
            answered.entry(key).or_default().push(answer);
        }
        let mut texts: Vec<Place> = Vec::new();
        for (key, item) in &items {
            texts.clear();
            texts.extend(item.caption.map(|(_, place)| place));
            if let Some(mut answers) = answered.remove(key) {
                answers.sort_unstable_by(|one, other| other.cmp(one));
                texts.extend(answers.into_iter().map(|(_, place)| place));
            }
            item.mark(&texts, &mut standing, &mut companies);
        }
        Self { segments, standing, companies, there, items: items.len() }
    }

    /// Its segments.
    pub fn segments(&self) -> &[Arc<Segment>] {
        &self.segments
    }

    /// Number of different items.
    pub fn items(&self) -> usize {
        self.items
    }

    /// Number of items that can be found by their vectors.
    pub fn pictures(&self) -> usize {
        self.standing.iter().flatten().filter(|standing| standing.has_vectors).count()
    }

    /// What these items are called ([`Record::key`]), in no order.
    pub fn picture_keys(&self) -> impl Iterator<Item = u128> + '_ {
        self.places().filter(|place| self.standing(*place).has_vectors).map(|place| self.row(place).1.key)
    }

    /// The segment and the record of a row.
    pub fn row(&self, place: Place) -> (&Segment, Record) {
        let segment = &self.segments[place.segment as usize];
        (segment, segment.record(place.row as usize))
    }
}

impl Item {
    /// Notes which rows of the item count; `texts` are those whose texts do.
    fn mark(&self, texts: &[Place], standing: &mut [Vec<Standing>], companies: &mut Companies) {
        let mut mark = |place: Place, set: &dyn Fn(&mut Standing)| {
            let standing = &mut standing[place.segment as usize][place.row as usize];
            standing.latest = self.latest.1;
            set(standing);
        };
        mark(self.latest.2, &|standing| standing.is_latest = true);
        for text in texts {
            mark(*text, &|standing| standing.has_caption = true);
        }
        let vectors = self.vectors.map(|(_, place)| place);
        if let Some(place) = vectors {
            mark(place, &|standing| standing.has_vectors = true);
        }
        let apart = vectors.filter(|place| !texts.contains(place));
        if texts.len() + usize::from(apart.is_some()) > 1 {
            let rows: Vec<Place> = texts.iter().copied().chain(apart).collect();
            let company = companies.add(&rows);
            for row in rows {
                mark(row, &|standing| standing.company = company);
            }
        }
    }
}

/// Of equal times the first row seen counts: copies of a row in several segments are the same.
fn note(
    items: &mut HashMap<u128, Item>,
    answers: &mut HashMap<(u128, u32), (i64, Place)>,
    record: &Record,
    place: Place,
) {
    let finished = record.finished;
    let item = items.entry(record.key).or_insert(Item {
        latest: (finished, record.status, place),
        vectors: None,
        caption: None,
    });
    if finished > item.latest.0 {
        item.latest = (finished, record.status, place);
    }
    let newer = |known: Option<(i64, Place)>| known.is_none_or(|(known, _)| finished > known);
    if record.code.is_some() && newer(item.vectors) {
        item.vectors = Some((finished, place));
    }
    if record.status != Status::Ok {
        return;
    }
    // Answers to different questions, and captions, stand side by side.
    if record.asked == 0 {
        if newer(item.caption) {
            item.caption = Some((finished, place));
        }
    } else if newer(answers.get(&(record.key, record.asked)).copied()) {
        answers.insert((record.key, record.asked), (finished, place));
    }
}
