//! What readiness says of stores that cannot be used, and when it takes it back; what a bucket that is missing costs.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use captionfleet_proto::broker::Message;
use captionfleet_proto::broker::embedded::EmbeddedBroker;
use captionfleet_proto::job::{CaptionJob, Job, JobId, JobItem, Lane, RunId};
use captionfleet_proto::storage::{
    LocalStorage, Object, ObjectMeta, PutMode, PutOutcome, Storage, StorageError, StorageErrorKind,
};
use captionfleet_proto::uri::{ArchiveUri, ItemUri};
use futures::stream::BoxStream;
use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use super::drain::Drain;
use super::fault_tests::pipeline;
use super::task::{HandOver, Received, Suspicion};
use super::turn::Turn;
use super::{Failure, Pipeline, PipelineOptions};
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

/// A bucket that is missing, seen by someone who asks for one object.
#[derive(Debug)]
struct Missing;

#[async_trait]
impl Storage for Missing {
    async fn get(&self, _: &str, _: u64) -> Result<Object, StorageError> {
        Err(error(StorageErrorKind::NotFound))
    }

    async fn get_range(&self, _: &str, _: u64, _: u64) -> Result<Object, StorageError> {
        Err(error(StorageErrorKind::NotFound))
    }

    async fn head(&self, _: &str) -> Result<ObjectMeta, StorageError> {
        Err(error(StorageErrorKind::NotFound))
    }

    async fn put(&self, key: &str, _: Bytes, _: PutMode) -> Result<PutOutcome, StorageError> {
        panic!("everything was inferred for {key}");
    }

    async fn put_file(&self, key: &str, _: &Path) -> Result<(), StorageError> {
        panic!("no file is made for {key}");
    }

    async fn delete(&self, _: &str) -> Result<(), StorageError> {
        Ok(())
    }

    fn list<'a>(&'a self, _: &'a str) -> BoxStream<'a, Result<ObjectMeta, StorageError>> {
        Box::pin(futures::stream::empty())
    }

    async fn check(&self) -> Result<(), StorageError> {
        Err(error(StorageErrorKind::NoSuchBucket))
    }

    fn location(&self) -> String {
        "s3://missing".to_owned()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_inferred_again_for_a_bucket_that_is_missing() {
    let pipeline = idle();
    let (id, run) = (JobId::new("job").unwrap(), RunId::new("run").unwrap());
    let caption = CaptionJob::new(vec![JobItem::new(ItemUri::parse("file:///nowhere.png").unwrap())]);
    let job = Job::caption(id, run, ArchiveUri::parse("s3://missing").unwrap(), caption.clone());
    let hand_over = HandOver {
        message: Message::new("job", "").retried(Timestamp::now()),
        lane: Lane::Bulk,
        suspicion: Suspicion::Begun,
        delivery_count: 0,
        started: Instant::now(),
        started_at: Timestamp::now(),
    };
    let task = Received::new(&job, caption, Arc::new(Missing), &hand_over, 5);
    let turn = Turn::new(hand_over.started, Duration::from_secs(60));
    let drain = Drain::new(CancellationToken::new());
    let Err(Failure::Archive(error)) = pipeline.caption_task(task, &hand_over, turn, &drain).await else {
        panic!("there is no archive");
    };
    assert_eq!(error.kind(), StorageErrorKind::NoSuchBucket);
}
