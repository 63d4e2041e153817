//! What readiness says of stores that cannot be used, and when it takes it back.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use captionfleet_proto::broker::embedded::EmbeddedBroker;
use captionfleet_proto::storage::{LocalStorage, Storage, StorageError, StorageErrorKind};

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

fn archive(folder: &Path) -> Arc<dyn Storage> {
    Arc::new(LocalStorage::new(folder.to_owned()))
}

#[tokio::test]
async fn an_archive_is_back_when_it_answers_be_it_with_a_refusal() {
    let pipeline = idle();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("archive");
    std::fs::write(&path, "in the way of a folder").unwrap();
    let archive = archive(&path);
    assert!(archive.check().await.is_err());
    pipeline.archive_is_away(&archive, &error(StorageErrorKind::Unavailable));
    assert!(!pipeline.readiness.is_ready());
    pipeline.look_at_archives(Instant::now()).await;
    assert!(pipeline.readiness.is_ready(), "{}", pipeline.readiness.describe());
}

#[tokio::test]
async fn one_archive_is_not_back_because_another_is() {
    let pipeline = idle();
    let folder = tempfile::tempdir().unwrap();
    let (one, other) = (archive(&folder.path().join("one")), archive(&folder.path().join("other")));
    pipeline.archive_is_away(&one, &error(StorageErrorKind::NoSpace));
    pipeline.archive_is_away(&other, &error(StorageErrorKind::Unavailable));
    // Whether a full one has room is not seen by looking.
    pipeline.look_at_archives(Instant::now()).await;
    pipeline.archive_takes_parts(&*other);
    assert!(!pipeline.readiness.is_ready(), "the first one is full");
    pipeline.archive_takes_parts(&*archive(&folder.path().join("one")));
    assert!(pipeline.readiness.is_ready(), "{}", pipeline.readiness.describe());
}

#[tokio::test]
async fn an_archive_to_which_nobody_writes_any_more_is_not_full_for_ever() {
    let pipeline = idle();
    let folder = tempfile::tempdir().unwrap();
    let archive = archive(folder.path());
    pipeline.archive_is_away(&archive, &error(StorageErrorKind::NoSpace));
    pipeline.look_at_archives(Instant::now()).await;
    assert!(!pipeline.readiness.is_ready(), "a part may be held for it");
    pipeline.look_at_archives(Instant::now() + Duration::from_secs(60)).await;
    assert!(pipeline.readiness.is_ready(), "{}", pipeline.readiness.describe());
}
