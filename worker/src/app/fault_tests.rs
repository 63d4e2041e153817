//! A worker whose device hangs ends all the same.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::time::Duration;

use captionfleet_proto::broker::Broker as _;
use captionfleet_proto::storage::{StorageOptions, Stores};
use tokio_util::sync::CancellationToken;

use super::{WorkerConfig, WorkerReport, serve};
use crate::engine::Stage;
use crate::engine::fault_tests::{engine_that_hangs_in, is_at_a_step};
use crate::pipeline::PipelineOptions;
use crate::pipeline::fault_tests::{lane, one_job};

/// Longer than any machine needs.
const PATIENCE: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
async fn one_that_is_told_to_stop_does_not_wait_for_a_step_without_end() {
    let folder = tempfile::tempdir().unwrap();
    let (broker, _, part) = one_job(folder.path()).await;
    // Nobody has noticed by the end of the test.
    let (item_deadline, grace) = (PATIENCE * 10, Duration::from_millis(100));
    let pipeline = PipelineOptions { item_deadline, grace, ..PipelineOptions::default() };
    let config = WorkerConfig { pipeline, ..WorkerConfig::default() };
    let engine = engine_that_hangs_in(Stage::Vision);
    let handle = engine.handle();
    let stores = Arc::new(Stores::new(StorageOptions::default()));
    let stop = CancellationToken::new();
    let working = tokio::spawn(serve(config, engine, Arc::new(broker.clone()), stores, stop.clone()));
    while !is_at_a_step(&handle) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    stop.cancel();
    let ended = tokio::time::timeout(PATIENCE, working).await.expect("it ends").unwrap();
    assert_eq!(ended.unwrap(), WorkerReport::default());
    assert_eq!(broker.depth(&lane()).await.unwrap().messages, 1, "the job is for another worker");
    assert!(!part.exists());
}
