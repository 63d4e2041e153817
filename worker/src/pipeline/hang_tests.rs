//! A picture over which the device hangs: one row, and its neighbours are done.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::time::Duration;

use captionfleet_model::preprocess::{DecodeLimits, PreparedPicture, decode, prepare};
use captionfleet_proto::broker::embedded::EmbeddedBroker;
use captionfleet_proto::broker::{Broker, Message};
use captionfleet_proto::job::{CaptionJob, Job, JobId, JobItem, Lane, RunId};
use captionfleet_proto::rows::{Projection, read_part};
use captionfleet_proto::storage::{StorageOptions, Stores};
use captionfleet_proto::uri::{ArchiveUri, ItemUri};
use captionfleet_proto::{codec, layout};
use captionfleet_world::{Scene, Split, render};
use tokio_util::sync::CancellationToken;

use super::{Pipeline, PipelineOptions, PipelineParts, PipelineReport};
use crate::engine::Engine;
use crate::engine::fault_tests::{engine_that_hangs_on, sound_engine};
use crate::telemetry::Metrics;
use crate::telemetry::admin::Readiness;

/// Runs a pipeline until `done`, or until its device is given up.
async fn work(engine: Engine, broker: &EmbeddedBroker, done: impl Future<Output = ()>) -> PipelineReport {
    let options = PipelineOptions {
        item_deadline: Duration::from_millis(1500),
        grace: Duration::from_millis(200),
        ..PipelineOptions::default()
    };
    let pipeline = Pipeline::new(PipelineParts {
        broker: Arc::new(broker.clone()),
        stores: Arc::new(Stores::new(StorageOptions::default())),
        engine: engine.handle(),
        metrics: Metrics::new(),
        readiness: Readiness::waiting_for(["broker"]),
        options,
    });
    let stop = CancellationToken::new();
    let running = tokio::spawn(pipeline.run(stop.clone()));
    let gone = engine.gone();
    tokio::select! { () = gone.cancelled() => {}, () = done => {} }
    stop.cancel();
    running.await.unwrap().unwrap()
}

fn prepared(engine: &Engine, bytes: &[u8]) -> PreparedPicture {
    let picture = decode(bytes, &DecodeLimits::default()).unwrap();
    prepare(&picture, &engine.handle().info().config)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_picture_over_which_the_device_hangs_is_one_row() {
    let folder = tempfile::tempdir().unwrap();
    let broker = EmbeddedBroker::new(PipelineOptions::default().topology);
    broker.declare().await.unwrap();
    let (mut items, mut pictures) = (Vec::new(), Vec::new());
    let sound = sound_engine();
    for seed in 0..3 {
        let path = folder.path().join(format!("{seed}.png"));
        render(&Scene::sample(seed, Split::HeldOut), 160, 120).save(&path).unwrap();
        pictures.push(prepared(&sound, &std::fs::read(&path).unwrap()));
        items.push(JobItem::new(ItemUri::from_path(&path).unwrap()));
    }
    let archive = folder.path().join("archive");
    let (id, run) = (JobId::new("job").unwrap(), RunId::new("run").unwrap());
    let uri = ArchiveUri::from_folder(&archive).unwrap();
    let job = Job::caption(id.clone(), run.clone(), uri, CaptionJob::new(items));
    let lane = PipelineOptions::default().topology.lane_queue(Lane::Bulk);
    broker.publish(&lane, Message::new("job", codec::encode_job(&job).unwrap())).await.unwrap();

    // The first life does not know which picture it was, the second knows, the third does the rest.
    let forever = std::future::pending();
    assert_eq!(work(engine_that_hangs_on(pictures[1].clone()), &broker, forever).await.jobs, 0);
    assert_eq!(broker.depth(&lane).await.unwrap().messages, 1);
    let forever = std::future::pending();
    assert_eq!(work(engine_that_hangs_on(pictures[1].clone()), &broker, forever).await.jobs, 0);
    let part = archive.join(layout::part(&run, &id));
    let written = async {
        while !part.exists() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    assert_eq!(work(engine_that_hangs_on(pictures[1].clone()), &broker, written).await.jobs, 1);
    let rows = read_part(std::fs::read(&part).unwrap().into(), Projection::All).unwrap();
    let codes: Vec<_> = rows.iter().map(|row| row.error_code.as_deref().unwrap_or("ok")).collect();
    assert_eq!(codes, ["ok", "deadline", "ok"]);
    assert_eq!(broker.depth(&lane).await.unwrap().messages, 0);
}
