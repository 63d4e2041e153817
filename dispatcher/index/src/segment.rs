//! One immutable object of the index.
//!
//! ```text
//! "CFINDEX2"  length of the head (u64)  head (JSON)  sections, each at a multiple of 64
//! records     80 bytes for each row: see `record`
//! text        items and captions, as the records say
//! first, second, rest, scales    codes of the rows that have a vector, layer by layer
//! terms       for each word in order: place in `words` (u32), its length (u32), first posting (u32), postings (u32)
//! words       the words, one after the other
//! postings    row and how often the word is in its caption (u32 each)
//! ```
//!
//! All numbers are little-endian.

mod build;
mod merge;
mod record;

pub use build::{NewRow, SegmentBuilder};
pub use merge::merge;
pub use record::{Record, Status, content_key, item_key};

use crate::codes::{ItemCodes, Shape};
use bytes::Bytes;
use record::RECORD_BYTES;
use serde::{Deserialize, Serialize};
use std::ops::Range;

const MAGIC: &[u8; 8] = b"CFINDEX2";
const ALIGNMENT: usize = 64;
const SECTIONS: usize = 9;
const TERM_BYTES: usize = 16;
const POSTING_BYTES: usize = 8;

/// Which section is which.
#[derive(Debug, Clone, Copy)]
enum Section {
    Records,
    Text,
    First,
    Second,
    Rest,
    Scales,
    Terms,
    Words,
    Postings,
}

/// Why bytes are no segment.
#[derive(Debug, thiserror::Error)]
#[error("this is no whole segment of a search index: {0}")]
pub struct SegmentError(&'static str);

/// The exact object that a part was when it was read: a part made anew counts as another one.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PartStamp {
    /// Its key in the archive.
    pub key: String,
    /// Its size in bytes.
    pub size: u64,
    /// Its version, where the storage tells it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub etag: Option<String>,
}

impl PartStamp {
    /// Whether both may be the same object, as far as the storage tells.
    pub fn matches(&self, other: &Self) -> bool {
        let etags = self.etag.as_ref().zip(other.etag.as_ref());
        self.key == other.key && self.size == other.size && etags.is_none_or(|(one, other)| one == other)
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Head {
    space: String,
    vectors: usize,
    dim: usize,
    rows: usize,
    coded: usize,
    parts: Vec<PartStamp>,
    /// Where each section lies, from the end of the head.
    sections: Vec<(usize, usize)>,
}

/// A segment, in memory or mapped from a file.
#[derive(Debug, Clone)]
pub struct Segment {
    head: Head,
    shape: Shape,
    sections: [Bytes; SECTIONS],
    /// The row of each code.
    rows_of_codes: Vec<u32>,
}

impl Segment {
    /// Reads a segment; its bytes are shared, not copied.
    pub fn open(bytes: Bytes) -> Result<Self, SegmentError> {
        let number = bytes.get(8..16).and_then(|length| length.try_into().ok()).map(u64::from_le_bytes);
        let length = number.and_then(|length| usize::try_from(length).ok());
        let Some(length) = length.filter(|_| bytes.starts_with(MAGIC)) else {
            return Err(SegmentError("it begins differently, or is of another version"));
        };
        let end = 16_usize.checked_add(length).filter(|end| *end <= bytes.len());
        let end = end.ok_or(SegmentError("its head is cut off"))?;
        let head: Head =
            serde_json::from_slice(&bytes[16..end]).map_err(|_| SegmentError("its head is damaged"))?;
        let shape = Shape::new(head.vectors, head.dim).ok_or(SegmentError("its shape is impossible"))?;
        let start = end.next_multiple_of(ALIGNMENT);
        let cut = |&(from, length): &(usize, usize)| {
            let from = start.checked_add(from)?;
            let until = from.checked_add(length).filter(|until| *until <= bytes.len())?;
            Some(bytes.slice(from..until))
        };
        let sections: Option<Vec<Bytes>> = head.sections.iter().map(cut).collect();
        let sections = sections.and_then(|sections| sections.try_into().ok());
        let sections: [Bytes; SECTIONS] = sections.ok_or(SegmentError("it is cut off"))?;
        let mut segment = Self { head, shape, sections, rows_of_codes: Vec::new() };
        segment.check()?;
        Ok(segment)
    }

    /// Compares the sections' sizes and the places that records name, so that nothing later can be out of range.
    fn check(&mut self) -> Result<(), SegmentError> {
        let (rows, coded) = (self.head.rows, self.head.coded);
        let sized = [
            (Section::Records, rows, RECORD_BYTES),
            (Section::First, coded, self.shape.sign_bytes()),
            (Section::Second, coded, self.shape.sign_bytes()),
            (Section::Rest, coded, self.shape.rest_bytes()),
            (Section::Scales, coded, self.shape.scale_bytes()),
        ];
        let right = |&(section, count, each): &(Section, usize, usize)| {
            count.checked_mul(each) == Some(self.section(section).len())
        };
        let whole = self.section(Section::Terms).len().is_multiple_of(TERM_BYTES)
            && self.section(Section::Postings).len().is_multiple_of(POSTING_BYTES);
        if !sized.iter().all(right) || !whole {
            return Err(SegmentError("its sections have wrong sizes"));
        }
        let mut rows_of_codes = vec![u32::MAX; coded];
        for row in 0..rows {
            let record = self.record(row);
            if record.part as usize >= self.head.parts.len() || self.text(&record).is_none() {
                return Err(SegmentError("a record is damaged"));
            }
            if let Some(code) = record.code {
                let place =
                    rows_of_codes.get_mut(code as usize).ok_or(SegmentError("a record is damaged"))?;
                *place = row as u32;
            }
        }
        if rows_of_codes.contains(&u32::MAX) {
            return Err(SegmentError("a code belongs to no row"));
        }
        self.rows_of_codes = rows_of_codes;
        Ok(())
    }

    /// The embedding space of its codes.
    pub fn space(&self) -> &str {
        &self.head.space
    }

    /// How its codes are arranged.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// The parts whose rows it has.
    pub fn parts(&self) -> &[PartStamp] {
        &self.head.parts
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.head.rows
    }

    /// Number of rows with codes.
    pub fn coded(&self) -> usize {
        self.head.coded
    }

    /// The row of a code.
    pub(crate) fn row_of_code(&self, code: usize) -> usize {
        self.rows_of_codes[code] as usize
    }

    /// Which one of its part's rows with codes a row is, from 0, and how many of those the part has. `None` for a row without.
    pub fn place_in_part(&self, record: &Record) -> Option<(usize, usize)> {
        let code = record.code? as usize;
        // The rows of a part lie together, in the part's order.
        let is_of_part = |code: &usize| self.record(self.row_of_code(*code)).part == record.part;
        let before = (0..code).rev().take_while(is_of_part).count();
        let after = (code..self.coded()).take_while(is_of_part).count();
        Some((before, before + after))
    }

    /// What is known of a row.
    pub fn record(&self, row: usize) -> Record {
        Record::read(&self.section(Section::Records)[row * RECORD_BYTES..][..RECORD_BYTES])
    }

    /// The URI of a row's item.
    pub fn item(&self, record: &Record) -> &str {
        self.text(record).map_or("", |(item, _)| item)
    }

    /// The caption of a row.
    pub fn caption(&self, record: &Record) -> Option<&str> {
        self.text(record).and_then(|(_, caption)| caption)
    }

    fn text(&self, record: &Record) -> Option<(&str, Option<&str>)> {
        let from = usize::try_from(record.text).ok()?;
        let middle = from.checked_add(record.item_length as usize)?;
        let end = middle.checked_add(record.caption_length.unwrap_or(0) as usize)?;
        let text = self.section(Section::Text);
        let part = |range: Range<usize>| text.get(range).and_then(|bytes| std::str::from_utf8(bytes).ok());
        let item = part(from..middle)?;
        let caption = part(middle..end)?;
        Some((item, record.caption_length.map(|_| caption)))
    }

    /// The first layer of all codes.
    pub(crate) fn first_layer(&self) -> &[u8] {
        self.section(Section::First)
    }

    /// The codes of one item.
    pub fn codes(&self, code: usize) -> ItemCodes<'_> {
        let cut = |section: Section, each: usize| &self.section(section)[code * each..][..each];
        ItemCodes {
            first: cut(Section::First, self.shape.sign_bytes()),
            second: cut(Section::Second, self.shape.sign_bytes()),
            rest: cut(Section::Rest, self.shape.rest_bytes()),
            scales: cut(Section::Scales, self.shape.scale_bytes()),
        }
    }

    /// The rows whose captions have `word`, and how often.
    pub(crate) fn postings(&self, word: &str) -> impl Iterator<Item = (usize, u32)> {
        let found = self.find_term(word).unwrap_or(0..0);
        let numbers = |bytes: &[u8; POSTING_BYTES]| {
            let [row, times] = [0, 4].map(|at| u32_at(bytes, at));
            (row as usize, times)
        };
        let rows = self.head.rows;
        self.section(Section::Postings)
            .as_chunks::<POSTING_BYTES>()
            .0
            .get(found)
            .unwrap_or_default()
            .iter()
            .map(numbers)
            .filter(move |(row, _)| *row < rows)
    }

    fn find_term(&self, word: &str) -> Option<Range<usize>> {
        let terms = self.section(Section::Terms).as_chunks::<TERM_BYTES>().0;
        let place = terms.binary_search_by(|term| self.word_of(term).cmp(word.as_bytes())).ok()?;
        let [first, count] = [8, 12].map(|at| u32_at(&terms[place], at) as usize);
        Some(first..first.checked_add(count)?)
    }

    fn word_of(&self, term: &[u8; TERM_BYTES]) -> &[u8] {
        let [from, length] = [0, 4].map(|at| u32_at(term, at) as usize);
        let range = from.checked_add(length).map(|end| from..end);
        range.and_then(|range| self.section(Section::Words).get(range)).unwrap_or_default()
    }

    fn section(&self, section: Section) -> &[u8] {
        &self.sections[section as usize]
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut number = [0; 4];
    number.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(number)
}
