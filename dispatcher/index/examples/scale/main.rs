//! Recall and time of the cascade beside exhaustive search, at any number of items:
//! `cargo run --release -p captionfleet-index --example scale -- ITEMS random|clustered [TEXTS PICTURES [FOLDER]]`.
//!
//! Items have 32 vectors of 256 values, `random` or `clustered` (1,000 centres; items and queries lie around them). The
//! 16-bit vectors are made anew whenever they are needed, so that a million items need only the 6.4 GB of their codes and
//! half a gigabyte for peers, in FOLDER or else below the system's temporary folder, mapped into memory. A FOLDER is
//! kept: a second call measures only the lookups, and `peers.py FOLDER` measures others on the same items.
//! The truth is exhaustive max-sim over all items.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod archive;
mod made;
mod truth;

use captionfleet_index::codes::Shape;
use captionfleet_index::{Filter, Found, Probe, Segment, View, doubtful};
use made::{DIM, Kind, Query, VECTORS};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

/// Hits that are asked for.
const HITS: usize = 10;
/// How often every query is asked; the first time warms up.
const ROUNDS: usize = 4;

/// What is measured.
struct Plan {
    items: usize,
    kind: Kind,
    texts: usize,
    pictures: usize,
}

fn percentile(times: &mut [f64], share: f64) -> f64 {
    times.sort_unstable_by(f64::total_cmp);
    times[((times.len() - 1) as f64 * share).round() as usize]
}

fn segments(folder: &Path) -> Vec<Arc<Segment>> {
    let mut paths: Vec<PathBuf> =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|end| end == "segment"));
    paths.sort();
    let open = |path: PathBuf| {
        let file = std::fs::File::open(path).unwrap();
        // SAFETY: nobody writes to the file any more.
        let mapped = unsafe { memmap2::Mmap::map(&file) }.unwrap();
        Arc::new(Segment::open(bytes::Bytes::from_owner(mapped)).unwrap())
    };
    paths.into_iter().map(open).collect()
}

fn number(view: &View, found: &Found) -> usize {
    let (segment, record) = view.row(found.place);
    segment.item(&record)["s3://made/".len()..].trim_end_matches(".jpg").parse().unwrap()
}

/// What the lookups of some queries came to.
#[derive(Default)]
struct Measured {
    times: Vec<f64>,
    recall: f64,
    before: f64,
    compared: usize,
}

fn measure(view: &View, kind: Kind, queries: &[Query], truths: &[Vec<truth::Scored>]) -> Measured {
    let shape = Shape::new(VECTORS, DIM).unwrap();
    let mut measured = Measured::default();
    for round in 0..ROUNDS {
        for (query, truth) in queries.iter().zip(truths) {
            let started = Instant::now();
            let probe = Probe::new(shape, query).unwrap();
            let found = view.nearest(&probe, &Filter::default(), HITS);
            if round > 0 {
                measured.times.push(started.elapsed().as_secs_f64() * 1e3);
                continue;
            }
            let share = |hits: Vec<usize>| {
                truth.iter().filter(|(_, number)| hits.contains(number)).count() as f64 / truth.len() as f64
            };
            measured.before += share(found.iter().take(HITS).map(|found| number(view, found)).collect());
            let doubtful = doubtful(&found, HITS);
            measured.compared += doubtful;
            let exactly = |found: &Found| {
                let number = number(view, found);
                (truth::score(query, &truth::widened(&made::item(kind, number))), number)
            };
            let exact = truth::best(found[..doubtful].iter().map(exactly).collect(), HITS);
            measured.recall += share(exact.into_iter().map(|(_, number)| number).collect());
        }
    }
    measured
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let given = |place: usize, usual: usize| arguments.get(place).map_or(usual, |text| text.parse().unwrap());
    let kind = match arguments.get(1).map(String::as_str) {
        Some("clustered") => Kind::Clustered,
        _ => Kind::Random,
    };
    let plan = Plan { items: given(0, 10_000), kind, texts: given(2, 40), pictures: given(3, 4) };
    let queries: Vec<Query> = (0..plan.texts as u64)
        .map(|number| vec![made::vectors(kind, 2, number).swap_remove(number as usize % VECTORS)])
        .chain((0..plan.pictures as u64).map(|number| made::vectors(kind, 2, 1_000_000 + number)))
        .collect();
    let temporary = tempfile::tempdir().unwrap();
    let folder = arguments.get(4).map_or_else(|| temporary.path().to_owned(), PathBuf::from);
    std::fs::create_dir_all(&folder).unwrap();
    let known = archive::made(&folder, &plan, &queries).unwrap();
    let started = Instant::now();
    let view = View::new(segments(&folder), |_| true);
    println!(
        "{} items: built in {:.1} s, {} bytes an item, seen as one in {:.2} s",
        plan.items,
        known.building,
        known.bytes / plan.items as u64,
        started.elapsed().as_secs_f64()
    );
    for (name, range, exhaustive) in [
        ("text", 0..plan.texts, known.exhaustive[0]),
        ("picture", plan.texts..queries.len(), known.exhaustive[1]),
    ] {
        if range.is_empty() {
            continue;
        }
        let count = range.len() as f64;
        let mut measured = measure(&view, kind, &queries[range.clone()], &known.truth[range]);
        let (alone, p50) = (exhaustive / count * 1e3, percentile(&mut measured.times, 0.5));
        println!(
            "{name:<8} recall@{HITS} {:.4} ({:.4} before {:.0} items are compared exactly), p50 {p50:.1} ms, p99 {:.1} ms; \
             exhaustive, vectors in memory: {alone:.0} ms, {:.1} times as long",
            measured.recall / count,
            measured.before / count,
            measured.compared as f64 / count,
            percentile(&mut measured.times, 0.99),
            alone / p50,
        );
    }
}
