//! Times exact search over a made archive: `cargo run --release -p captionfleet-dispatcher --example search_scale -- 100000`.
//!
//! Writes parts of 64 pictures with 32 vectors of length 256 (the published model's shape) into a temporary folder,
//! then searches them by one vector (a text) and by 32 (a picture), first and second time.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

use captionfleet_dispatcher::search::{Query, rank};
use captionfleet_proto::job::{JobId, RunId};
use captionfleet_proto::layout;
use captionfleet_proto::rows::{EmbeddingShape, Row, Status, write_part};
use captionfleet_proto::storage::{PutMode, StorageOptions, Stores};
use captionfleet_proto::uri::{ArchiveUri, ItemUri};
use half::f16;
use jiff::Timestamp;
use std::time::Instant;

const SHAPE: EmbeddingShape = EmbeddingShape { vectors: 32, dim: 256 };
const PER_PART: usize = 64;

/// Unit vectors from a small generator: the same at every run.
fn vectors(count: usize, seed: &mut u64) -> Vec<f32> {
    let mut values: Vec<f32> = (0..count * SHAPE.dim as usize)
        .map(|_| {
            *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            ((*seed >> 40) as f32) / 8_388_608.0 - 1.0
        })
        .collect();
    for vector in values.chunks_exact_mut(SHAPE.dim as usize) {
        let norm = vector.iter().map(|value| value * value).sum::<f32>().sqrt();
        for value in vector.iter_mut() {
            *value /= norm;
        }
    }
    values
}

fn row(number: usize, run: &RunId, job: &JobId, seed: &mut u64) -> Row {
    let embedding = vectors(SHAPE.vectors as usize, seed).into_iter().map(f16::from_f32).collect();
    Row {
        item: ItemUri::s3("pictures", &format!("{number:08}.jpg")),
        frame_ms: None,
        span_ms: None,
        frames: None,
        sha256: None,
        etag: None,
        width: Some(640),
        height: Some(480),
        status: Status::Ok,
        error_code: None,
        error_message: None,
        attempts: 1,
        caption: Some(format!("picture number {number} of a made archive")),
        answers: None,
        fields: None,
        tokens: Some(8),
        mean_logprob: Some(-0.1),
        stop_reason: Some("end_of_text".to_owned()),
        embedding: Some(embedding),
        embedding_space: Some("made/32x256".to_owned()),
        bundle: Some("made".to_owned()),
        adapter: None,
        prompt_hash: "0".repeat(16),
        duplicate_of: None,
        run: run.clone(),
        job: job.clone(),
        trace_id: run.to_string(),
        worker: None,
        device_seconds: None,
        device_joules: None,
        started_at: None,
        finished_at: Timestamp::UNIX_EPOCH,
    }
}

#[tokio::main]
async fn main() {
    let pictures: usize = std::env::args().nth(1).and_then(|text| text.parse().ok()).unwrap_or(20_000);
    let folder = tempfile::tempdir().unwrap();
    let uri = ArchiveUri::from_folder(folder.path()).unwrap();
    let archive = Stores::new(StorageOptions::default()).archive(&uri).await.unwrap();
    let run = RunId::new("made").unwrap();
    let mut seed = 7;
    let started = Instant::now();
    for (place, first) in (0..pictures).step_by(PER_PART).enumerate() {
        let job = JobId::new(format!("{place:08}")).unwrap();
        let last = (first + PER_PART).min(pictures);
        let rows: Vec<_> = (first..last).map(|number| row(number, &run, &job, &mut seed)).collect();
        let bytes = write_part(&rows, SHAPE).unwrap();
        archive.put(&layout::part(&run, &job), bytes, PutMode::Overwrite).await.unwrap();
    }
    println!("{pictures} pictures written in {:.1} s", started.elapsed().as_secs_f64());
    for (name, count) in [("text", 1), ("text again", 1), ("picture", SHAPE.vectors as usize)] {
        let values = vectors(count, &mut seed);
        let query =
            Query::new(values.chunks_exact(SHAPE.dim as usize).map(<[f32]>::to_vec).collect()).unwrap();
        let started = Instant::now();
        let (ranking, damaged) = rank(&*archive, query, "made/32x256").await.unwrap();
        let seconds = started.elapsed().as_secs_f64();
        assert_eq!((ranking.pictures(), damaged), (pictures, 0));
        println!("{name:<12} {seconds:.2} s, {:.0} pictures/s", pictures as f64 / seconds);
    }
}
