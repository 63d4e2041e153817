//! Making segments from rows.

use super::record::{RECORD_BYTES, Record, Status, item_key};
use super::{ALIGNMENT, Head, MAGIC, PartStamp, Segment, SegmentError};
use crate::codes::{Encoder, ItemCodes, ItemCodesMut, Shape};
use crate::words::words;
use bytes::Bytes;
use half::f16;
use rayon::prelude::*;
use std::collections::BTreeMap;

/// A row as the part has it.
#[derive(Debug, Clone, Copy)]
pub struct NewRow<'a> {
    /// The item's URI.
    pub item: &'a str,
    /// Time of a video's frame.
    pub frame_ms: Option<u64>,
    /// When the row was made, in microseconds since 1970.
    pub finished: i64,
    /// What became of the item.
    pub status: Status,
    /// The caption.
    pub caption: Option<&'a str>,
    /// Tells captions (0) and the answers to different questions apart; 24 bits of it count.
    pub asked: u32,
    /// Tells the bytes of a picture or film apart ([`super::content_key`]); 0 where they are not known.
    pub content: u64,
    /// Width and height in pixels.
    pub size: Option<(u32, u32)>,
    /// The vectors, if they are of the segment's space and shape.
    pub embedding: Option<&'a [f16]>,
}

/// Collects rows.
#[derive(Debug)]
pub struct SegmentBuilder {
    space: String,
    encoder: Encoder,
    shape: Shape,
    parts: Vec<PartStamp>,
    records: Vec<u8>,
    rows: usize,
    coded: usize,
    text: Vec<u8>,
    /// First, second, rest, scales.
    layers: [Vec<u8>; 4],
    postings: BTreeMap<String, Vec<(u32, u32)>>,
}

impl SegmentBuilder {
    /// For vectors of `space`.
    pub fn new(space: impl Into<String>, shape: Shape) -> Self {
        Self {
            space: space.into(),
            encoder: Encoder::new(shape),
            shape,
            parts: Vec::new(),
            records: Vec::new(),
            rows: 0,
            coded: 0,
            text: Vec::new(),
            layers: Default::default(),
            postings: BTreeMap::new(),
        }
    }

    /// Adds a part with its rows. Vectors are coded by all threads.
    pub fn add_part(&mut self, stamp: PartStamp, rows: &[NewRow<'_>]) {
        let part = self.open_part(stamp);
        let shape = self.shape;
        let vectors: Vec<&[f16]> =
            rows.iter().filter(|row| fits_shape(row, shape)).filter_map(|row| row.embedding).collect();
        let sizes = layer_sizes(self.shape);
        let before = self.layers.each_ref().map(Vec::len);
        for (layer, size) in self.layers.iter_mut().zip(sizes) {
            layer.resize(layer.len() + vectors.len() * size, 0);
        }
        let [first, second, rest, scales] = &mut self.layers;
        let places = first[before[0]..]
            .par_chunks_exact_mut(sizes[0])
            .zip(second[before[1]..].par_chunks_exact_mut(sizes[1]))
            .zip(rest[before[2]..].par_chunks_exact_mut(sizes[2]))
            .zip(scales[before[3]..].par_chunks_exact_mut(sizes[3]));
        let encoder = &self.encoder;
        places.zip(vectors).with_min_len(8).for_each(|((((first, second), rest), scales), values)| {
            encoder.encode(values, &mut ItemCodesMut { first, second, rest, scales });
        });
        for row in rows {
            let code = fits_shape(row, self.shape).then_some(self.coded as u32);
            self.coded += usize::from(code.is_some());
            let record = Record {
                key: item_key(row.item, row.frame_ms),
                finished: row.finished,
                frame_ms: row.frame_ms,
                part,
                code,
                size: row.size,
                status: row.status,
                words: 0,
                asked: row.asked & 0x00FF_FFFF,
                content: row.content,
                text: 0,
                item_length: 0,
                caption_length: None,
            };
            self.push(record, row.item, row.caption);
        }
    }

    /// Adds a part without rows: they follow by [`Self::copy`].
    pub(super) fn open_part(&mut self, stamp: PartStamp) -> u32 {
        self.parts.push(stamp);
        (self.parts.len() - 1) as u32
    }

    /// Takes over a row of another segment of the same space.
    pub(super) fn copy(
        &mut self,
        mut record: Record,
        item: &str,
        caption: Option<&str>,
        codes: Option<ItemCodes<'_>>,
    ) {
        record.code = codes.map(|codes| {
            let [first, second, rest, scales] = &mut self.layers;
            first.extend_from_slice(codes.first);
            second.extend_from_slice(codes.second);
            rest.extend_from_slice(codes.rest);
            scales.extend_from_slice(codes.scales);
            self.coded += 1;
            (self.coded - 1) as u32
        });
        self.push(record, item, caption);
    }

    fn push(&mut self, mut record: Record, item: &str, caption: Option<&str>) {
        let row = self.rows as u32;
        record.words = 0;
        for word in caption.into_iter().flat_map(words) {
            record.words += 1;
            let rows = self.postings.entry(word).or_default();
            match rows.last_mut() {
                Some((last, times)) if *last == row => *times += 1,
                _ => rows.push((row, 1)),
            }
        }
        record.text = self.text.len() as u64;
        record.item_length = item.len() as u32;
        record.caption_length = caption.map(|caption| caption.len() as u32);
        self.text.extend(item.as_bytes());
        self.text.extend(caption.unwrap_or_default().as_bytes());
        record.write(&mut self.records);
        self.rows += 1;
        debug_assert_eq!(self.records.len(), self.rows * RECORD_BYTES);
    }

    /// Number of rows so far.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// The segment as an object.
    pub fn finish(self) -> Bytes {
        let (mut terms, mut spelled, mut postings) = (Vec::new(), Vec::new(), Vec::new());
        let mut count = 0_u32;
        for (word, rows) in &self.postings {
            for number in [spelled.len() as u32, word.len() as u32, count, rows.len() as u32] {
                terms.extend(number.to_le_bytes());
            }
            spelled.extend(word.as_bytes());
            postings.extend(rows.iter().flat_map(|(row, times)| [*row, *times]).flat_map(u32::to_le_bytes));
            count += rows.len() as u32;
        }
        let [first, second, rest, scales] = self.layers;
        let contents = [self.records, self.text, first, second, rest, scales, terms, spelled, postings];
        let mut end = 0_usize;
        let mut place = |content: &Vec<u8>| {
            let from = end.next_multiple_of(ALIGNMENT);
            end = from + content.len();
            (from, content.len())
        };
        let sections: Vec<(usize, usize)> = contents.iter().map(&mut place).collect();
        let head = Head {
            space: self.space,
            vectors: self.shape.vectors,
            dim: self.shape.dim,
            rows: self.rows,
            coded: self.coded,
            parts: self.parts,
            sections: sections.clone(),
        };
        let head = serde_json::to_vec(&head).expect("a head is plain data");
        let start = (16 + head.len()).next_multiple_of(ALIGNMENT);
        let mut bytes = Vec::with_capacity(start + end);
        bytes.extend(MAGIC);
        bytes.extend((head.len() as u64).to_le_bytes());
        bytes.extend(head);
        for ((from, _), content) in sections.into_iter().zip(contents) {
            bytes.resize(start + from, 0);
            bytes.extend(content);
        }
        bytes.into()
    }

    /// The segment, ready to be searched.
    pub fn open(self) -> Result<Segment, SegmentError> {
        Segment::open(self.finish())
    }
}

fn fits_shape(row: &NewRow<'_>, shape: Shape) -> bool {
    row.embedding.is_some_and(|values| values.len() == shape.len())
}

fn layer_sizes(shape: Shape) -> [usize; 4] {
    [shape.sign_bytes(), shape.sign_bytes(), shape.rest_bytes(), shape.scale_bytes()]
}
