//! Segments of made items in a folder, the truth beside them, and what peers need to be measured on the same items.

use super::made::{DIM, Kind, Query, VECTORS, item, normalise};
use super::truth::{Scored, best, score, widened};
use super::{HITS, Plan};
use captionfleet_index::codes::Shape;
use captionfleet_index::{NewRow, PartStamp, SegmentBuilder, Status, content_key};
use half::f16;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::Path;
use std::time::Instant;

const PER_SEGMENT: usize = 65_536;
/// Items whose vectors are in memory at a time.
const AT_ONCE: usize = 4096;
/// Up to so many items peers get every vector, 164 MB for 10,000.
const WHOLE: usize = 20_000;

/// What was found out while the segments were made.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Known {
    /// Items.
    pub items: usize,
    /// How many queries are texts; the others are pictures.
    pub texts: usize,
    /// The best items for each query.
    pub truth: Vec<Vec<Scored>>,
    /// Seconds that coding and writing took.
    pub building: f64,
    /// Seconds of exhaustive search for all texts, and for all pictures.
    pub exhaustive: [f64; 2],
    /// Bytes of all segments.
    pub bytes: u64,
}

/// Makes everything in `folder`, unless it is there.
pub(crate) fn made(folder: &Path, plan: &Plan, queries: &[Query]) -> std::io::Result<Known> {
    if let Ok(file) = File::open(folder.join("known.json")) {
        let known: Known = serde_json::from_reader(file)?;
        if known.items == plan.items && known.truth.len() == queries.len() && known.texts == plan.texts {
            return Ok(known);
        }
        return Err(std::io::Error::other("the folder holds another measurement; give it an empty one"));
    }
    let mut known = Known { items: plan.items, texts: plan.texts, ..Known::default() };
    known.truth = vec![Vec::new(); queries.len()];
    let mut peers = Peers::new(folder, plan.items <= WHOLE)?;
    peers.queries(queries)?;
    let shape = Shape::new(VECTORS, DIM).expect("such vectors have codes");
    for first in (0..plan.items).step_by(PER_SEGMENT) {
        let mut builder = SegmentBuilder::new("made", shape);
        let last = (first + PER_SEGMENT).min(plan.items);
        for first in (first..last).step_by(AT_ONCE) {
            let items = items(plan.kind, first, (first + AT_ONCE).min(last));
            known.building += add(&mut builder, first, &items);
            search(&mut known, queries, first, &items);
            peers.add(&items)?;
        }
        let started = Instant::now();
        let segment = builder.finish();
        known.bytes += segment.len() as u64;
        std::fs::write(folder.join(format!("{first:08}.segment")), segment)?;
        known.building += started.elapsed().as_secs_f64();
    }
    peers.finish()?;
    let tied = known.truth.iter().filter(|truth| truth.windows(2).any(|pair| pair[0].0 == pair[1].0)).count();
    if tied > queries.len() / 10 {
        let reason =
            format!("{tied} queries have several equally good items: made items must not share vectors");
        return Err(std::io::Error::other(reason));
    }
    serde_json::to_writer(File::create(folder.join("known.json"))?, &known)?;
    Ok(known)
}

fn items(kind: Kind, first: usize, last: usize) -> Vec<Vec<f16>> {
    (first..last).into_par_iter().map(|number| item(kind, number)).collect()
}

/// Also the seconds it took.
fn add(builder: &mut SegmentBuilder, first: usize, items: &[Vec<f16>]) -> f64 {
    let names: Vec<String> =
        (first..first + items.len()).map(|number| format!("s3://made/{number:08}.jpg")).collect();
    let rows: Vec<NewRow<'_>> = items
        .iter()
        .zip(&names)
        .map(|(values, name)| NewRow {
            asked: 0,
            content: content_key(name),
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
    started.elapsed().as_secs_f64()
}

fn search(known: &mut Known, queries: &[Query], first: usize, items: &[Vec<f16>]) {
    for (many, range) in [(0, 0..known.texts), (1, known.texts..queries.len())] {
        let started = Instant::now();
        let of_item = |item: &Vec<f16>| {
            let item = widened(item);
            queries[range.clone()].iter().map(|query| score(query, &item)).collect::<Vec<f32>>()
        };
        let scored: Vec<Vec<f32>> = items.par_iter().map(of_item).collect();
        known.exhaustive[many] += started.elapsed().as_secs_f64();
        for (query, truth) in known.truth[range].iter_mut().enumerate() {
            truth.extend(scored.iter().enumerate().map(|(place, scores)| (scores[query], first + place)));
            *truth = best(std::mem::take(truth), HITS);
        }
    }
}

/// Files for `peers.py`: 16-bit floats in a row.
struct Peers {
    pooled: BufWriter<File>,
    vectors: Option<BufWriter<File>>,
    queries: BufWriter<File>,
}

impl Peers {
    fn new(folder: &Path, whole: bool) -> std::io::Result<Self> {
        let file = |name: &str| File::create(folder.join(name)).map(BufWriter::new);
        Ok(Self {
            pooled: file("pooled.f16")?,
            vectors: whole.then(|| file("vectors.f16")).transpose()?,
            queries: file("queries.f16")?,
        })
    }

    /// Every query as `VECTORS` vectors: that of a text is repeated.
    fn queries(&mut self, queries: &[Query]) -> std::io::Result<()> {
        for query in queries {
            for vector in query.iter().cycle().take(VECTORS) {
                write(&mut self.queries, vector)?;
            }
        }
        Ok(())
    }

    fn add(&mut self, items: &[Vec<f16>]) -> std::io::Result<()> {
        let pool = |item: &Vec<f16>| {
            let mut mean = vec![0.0; DIM];
            for vector in widened(item).chunks_exact(DIM) {
                mean.iter_mut().zip(vector).for_each(|(sum, value)| *sum += value);
            }
            normalise(&mut mean);
            mean
        };
        for mean in items.par_iter().map(pool).collect::<Vec<_>>() {
            write(&mut self.pooled, &mean)?;
        }
        if let Some(vectors) = &mut self.vectors {
            for item in items {
                write(vectors, &widened(item))?;
            }
        }
        Ok(())
    }

    fn finish(self) -> std::io::Result<()> {
        for mut file in [Some(self.pooled), self.vectors, Some(self.queries)].into_iter().flatten() {
            file.flush()?;
        }
        Ok(())
    }
}

fn write(file: &mut impl std::io::Write, values: &[f32]) -> std::io::Result<()> {
    let bytes: Vec<u8> = values.iter().flat_map(|value| f16::from_f32(*value).to_le_bytes()).collect();
    file.write_all(&bytes)
}
