//! What readiness says of stores that cannot be used, and when it takes it back.
#![allow(clippy::unwrap_used)]

use captionfleet_proto::broker::embedded::EmbeddedBroker;
use captionfleet_proto::storage::{StorageError, StorageErrorKind};

use super::fault_tests::pipeline;
use super::{Pipeline, PipelineOptions};
use crate::engine::fault_tests::sound_engine;

fn idle() -> Pipeline {
    let pipeline = pipeline(&sound_engine(), &EmbeddedBroker::new(PipelineOptions::default().topology));
    pipeline.readiness.ready("broker");
    pipeline
}

fn error(kind: StorageErrorKind) -> StorageError {
    StorageError::new(kind, "writing", "file:///somewhere", "no")
}

#[tokio::test]
async fn a_worker_without_films_sees_that_there_is_room_for_copies_again() {
    let pipeline = idle();
    pipeline.spool.lacks(u64::MAX);
    pipeline.spool_is_full(&error(StorageErrorKind::NoSpace));
    pipeline.look_at_spool().await;
    assert!(!pipeline.readiness.is_ready(), "no disk has so much");
    pipeline.spool.lacks(1);
    pipeline.look_at_spool().await;
    assert!(pipeline.readiness.is_ready(), "{}", pipeline.readiness.describe());
}
