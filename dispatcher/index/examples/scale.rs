//! Recall and time of the cascade beside exhaustive search, at any number of items:
//! `cargo run --release -p captionfleet-index --example scale -- 1000000 random`.
//!
//! Items have 32 vectors of 256 values, `random` or `clustered` (1,000 centres; items and queries lie around them). The
//! 16-bit vectors are made anew whenever they are needed, so that a million items need only the 6 GB of their codes (below
//! the system's temporary folder, mapped into memory). The truth is exhaustive max-sim over all items.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

use captionfleet_index::codes::Shape;
use captionfleet_index::{
    Filter, Found, NewRow, PartStamp, Probe, Segment, SegmentBuilder, Status, View, doubtful,
};
use half::f16;
use half::slice::HalfFloatSliceExt as _;
use rayon::prelude::*;
use std::sync::Arc;
use std::time::Instant;

const VECTORS: usize = 32;
const DIM: usize = 256;
const PER_SEGMENT: usize = 65_536;
const CENTRES: u64 = 1_000;
/// How far items lie from their centre, as a share of its length.
const SPREAD: f32 = 0.5;
const HITS: usize = 10;

type Query = Vec<Vec<f32>>;

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Random,
    Clustered,
}

struct Dice(u64);

impl Dice {
    fn new(stream: u64, number: u64) -> Self {
        let mut dice = Self(number.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ stream.rotate_left(32));
        for _ in 0..4 {
            dice.next();
        }
        dice
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A random direction.
    fn unit(&mut self) -> Vec<f32> {
        // Four sums of two 8-bit numbers a draw: near enough to normal in 256 dimensions.
        let mut vector: Vec<f32> = (0..DIM / 4)
            .flat_map(|_| {
                self.next()
                    .to_le_bytes()
                    .as_chunks::<2>()
                    .0
                    .iter()
                    .map(|pair| f32::from(pair[0]) + f32::from(pair[1]) - 255.0)
                    .collect::<Vec<_>>()
            })
            .collect();
        normalise(&mut vector);
        vector
    }
}

fn normalise(vector: &mut [f32]) {
    let norm = vector.iter().map(|value| value * value).sum::<f32>().sqrt();
    for value in vector.iter_mut() {
        *value /= norm;
    }
}

fn near(centre: &[f32], dice: &mut Dice, spread: f32) -> Vec<f32> {
    let mut vector: Vec<f32> =
        centre.iter().zip(dice.unit()).map(|(centre, noise)| centre + spread * noise).collect();
    normalise(&mut vector);
    vector
}

/// `VECTORS` vectors of an item or of a picture query: in a cluster all vectors of an item have centres of their own.
fn vectors(kind: Kind, stream: u64, number: u64) -> Query {
    let mut dice = Dice::new(stream, number);
    let cluster = dice.next() % CENTRES;
    (0..VECTORS as u64)
        .map(|lane| match kind {
            Kind::Random => dice.unit(),
            Kind::Clustered => {
                let centre = Dice::new(3, cluster * VECTORS as u64 + lane).unit();
                near(&centre, &mut dice, SPREAD)
            }
        })
        .collect()
}

fn item(kind: Kind, number: usize) -> Vec<f16> {
    vectors(kind, 1, number as u64).into_iter().flatten().map(f16::from_f32).collect()
}

fn dot(one: &[f32], other: &[f32]) -> f32 {
    let mut sums = [0.0_f32; 16];
    for (ones, others) in one.as_chunks::<16>().0.iter().zip(other.as_chunks::<16>().0) {
        for lane in 0..16 {
            sums[lane] += ones[lane] * others[lane];
        }
    }
    sums.iter().sum()
}

fn exact(query: &Query, item: &[f32]) -> f32 {
    let best = |query: &Vec<f32>| {
        item.chunks_exact(DIM).map(|vector| dot(query, vector)).fold(f32::NEG_INFINITY, f32::max)
    };
    query.iter().map(best).sum::<f32>() / query.len() as f32
}

fn widened(item: &[f16]) -> Vec<f32> {
    let mut wide = vec![0.0; item.len()];
    item.convert_to_f32_slice(&mut wide);
    wide
}

fn best(mut scored: Vec<(f32, usize)>, count: usize) -> Vec<(f32, usize)> {
    scored.sort_unstable_by(|one, other| other.0.total_cmp(&one.0).then(one.1.cmp(&other.1)));
    scored.truncate(count);
    scored
}

fn percentile(times: &mut [f64], share: f64) -> f64 {
    times.sort_unstable_by(f64::total_cmp);
    times[((times.len() - 1) as f64 * share).round() as usize]
}

fn mapped(path: &std::path::Path, segment: bytes::Bytes) -> bytes::Bytes {
    std::fs::write(path, &segment).unwrap();
    drop(segment);
    let file = std::fs::File::open(path).unwrap();
    // SAFETY: nobody else knows the file.
    bytes::Bytes::from_owner(unsafe { memmap2::Mmap::map(&file) }.unwrap())
}

#[allow(clippy::too_many_lines, reason = "one measurement after the other")]
fn main() {
    let mut arguments = std::env::args().skip(1);
    let count: usize = arguments.next().and_then(|text| text.parse().ok()).unwrap_or(10_000);
    let kind = match arguments.next().as_deref() {
        Some("clustered") => Kind::Clustered,
        _ => Kind::Random,
    };
    let texts: usize = arguments.next().and_then(|text| text.parse().ok()).unwrap_or(40);
    let pictures: usize = arguments.next().and_then(|text| text.parse().ok()).unwrap_or(4);
    let shape = Shape::new(VECTORS, DIM).unwrap();
    let queries: Vec<Query> = (0..texts as u64)
        .map(|number| vec![vectors(kind, 2, number).swap_remove(number as usize % VECTORS)])
        .chain((0..pictures as u64).map(|number| vectors(kind, 2, 1_000_000 + number)))
        .collect();

    let folder = tempfile::tempdir().unwrap();
    let (mut segments, mut truth) = (Vec::new(), vec![Vec::new(); queries.len()]);
    let (mut building, mut searching, mut bytes) = (0.0, vec![0.0; 2], 0);
    for first in (0..count).step_by(PER_SEGMENT) {
        let mut builder = SegmentBuilder::new("made", shape);
        let last = (first + PER_SEGMENT).min(count);
        for first in (first..last).step_by(4096) {
            let last = (first + 4096).min(last);
            let items: Vec<Vec<f16>> =
                (first..last).into_par_iter().map(|number| item(kind, number)).collect();
            let names: Vec<String> =
                (first..last).map(|number| format!("s3://made/{number:08}.jpg")).collect();
            let rows: Vec<NewRow<'_>> = items
                .iter()
                .zip(&names)
                .map(|(values, name)| NewRow {
                    asked: 0,
                    item: name,
                    frame_ms: None,
                    finished: 0,
                    status: Status::Ok,
                    caption: Some("a picture of a made archive"),
                    size: None,
                    embedding: Some(values),
                })
                .collect();
            let started = Instant::now();
            builder.add_part(PartStamp { key: format!("parts/made/{first}"), size: 0, etag: None }, &rows);
            building += started.elapsed().as_secs_f64();
            for (many, range) in [(0, 0..texts), (1, texts..queries.len())] {
                let started = Instant::now();
                let scored: Vec<Vec<f32>> = items
                    .par_iter()
                    .map(|item| {
                        let item = widened(item);
                        queries[range.clone()].iter().map(|query| exact(query, &item)).collect()
                    })
                    .collect();
                searching[many] += started.elapsed().as_secs_f64();
                for (place, scores) in scored.into_iter().enumerate() {
                    for (truth, score) in truth[range.clone()].iter_mut().zip(scores) {
                        truth.push((score, first + place));
                    }
                }
            }
            for truth in &mut truth {
                *truth = best(std::mem::take(truth), HITS);
            }
        }
        let started = Instant::now();
        let segment = builder.finish();
        bytes += segment.len();
        let segment = mapped(&folder.path().join(first.to_string()), segment);
        segments.push(Arc::new(Segment::open(segment).unwrap()));
        building += started.elapsed().as_secs_f64();
    }
    let started = Instant::now();
    let view = View::new(segments, |_| true);
    println!(
        "{count} items: built in {building:.1} s, {} bytes an item, seen as one in {:.2} s",
        bytes / count,
        started.elapsed().as_secs_f64()
    );
    for (name, range, alone) in [
        ("text", 0..texts, searching[0] / texts.max(1) as f64),
        ("picture", texts..queries.len(), searching[1] / pictures.max(1) as f64),
    ] {
        let (mut times, mut recalls, mut rough, mut read) = (Vec::new(), 0.0, 0.0, 0);
        for round in 0..3 {
            for (query, truth) in queries[range.clone()].iter().zip(&truth[range.clone()]) {
                let started = Instant::now();
                let probe = Probe::new(shape, query).unwrap();
                let found = view.nearest(&probe, &Filter::default(), HITS);
                times.push((round, started.elapsed().as_secs_f64()));
                let share = |hits: Vec<usize>| {
                    truth.iter().filter(|(_, number)| hits.contains(number)).count() as f64
                        / truth.len() as f64
                };
                let number = |found: &Found| {
                    let (segment, record) = view.row(found.place);
                    segment.item(&record)["s3://made/".len()..].trim_end_matches(".jpg").parse().unwrap()
                };
                if round == 0 {
                    rough += share(found.iter().take(HITS).map(number).collect());
                    let doubtful = doubtful(&found, HITS);
                    read += doubtful;
                    let scored = found[..doubtful]
                        .iter()
                        .map(|found| (exact(query, &widened(&item(kind, number(found)))), number(found)))
                        .collect();
                    recalls += share(best(scored, HITS).into_iter().map(|(_, number)| number).collect());
                }
            }
        }
        // The first round warms up.
        let mut times: Vec<f64> =
            times.into_iter().filter(|(round, _)| *round > 0).map(|(_, time)| time * 1e3).collect();
        if times.is_empty() {
            continue;
        }
        let queries = range.len() as f64;
        println!(
            "{name:<8} recall@{HITS} {:.4} ({:.4} before {:.0} items are compared exactly), p50 {:.1} ms, p99 {:.1} ms; \
             exhaustive, vectors in memory: {:.0} ms, {:.1} times as long",
            recalls / queries,
            rough / queries,
            read as f64 / queries,
            percentile(&mut times, 0.5),
            percentile(&mut times, 0.99),
            alone * 1e3,
            alone * 1e3 / percentile(&mut times, 0.5),
        );
    }
}
