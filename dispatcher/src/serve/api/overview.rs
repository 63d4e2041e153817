//! How everything is: archive, index, queue, workers.

use super::search::Index;
use crate::serve::Service;
use crate::serve::http::operation::Operation;
use crate::serve::http::problem::Problem;
use crate::serve::keeper::Look;
use crate::serve::members::Seen;
use axum::Json;
use axum::extract::State;
use axum::http::Method;
use axum::routing::get;
use captionfleet_proto::broker::BrokerState;
use captionfleet_proto::broker::lanes::runs_waiting;
use captionfleet_proto::job::Lane;
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::Serialize;
use std::sync::Arc;

/// How everything is.
#[derive(Debug, Serialize, JsonSchema)]
struct Overview {
    /// When this was seen.
    at: String,
    /// The version of the service.
    version: &'static str,
    /// The archive.
    archive: Archive,
    /// How much of it the index has; absent while it cannot be said.
    index: Option<Index>,
    /// How the index was kept last.
    kept: Look,
    /// The queue.
    queue: Queue,
    /// Workers that settled jobs for this service since it was started, the latest first.
    workers: Vec<Seen>,
    /// Submissions that are being worked on.
    submissions: usize,
    /// Whether the small demo model answers, which knows only coloured shapes.
    demo_model: bool,
    /// What people should know.
    remarks: Vec<String>,
}

/// The archive.
#[derive(Debug, Serialize, JsonSchema)]
struct Archive {
    /// Its name.
    uri: String,
    /// Different pictures and frames with a row.
    items: Option<usize>,
    /// Those that can be found by meaning.
    pictures: Option<usize>,
    /// Bytes of its parts.
    bytes: Option<u64>,
}

/// The queue.
#[derive(Debug, Serialize, JsonSchema)]
struct Queue {
    /// Where the broker is; "in this process" without one.
    broker: String,
    /// Whether it is there.
    connected: bool,
    /// Bulk jobs that wait.
    waiting: Option<u64>,
    /// Consumers of bulk jobs: workers, about.
    consumers: Option<u32>,
    /// Questions that wait.
    questions: Option<u64>,
    /// Jobs that were given up.
    dead: Option<u64>,
}

pub(super) fn operations() -> Vec<Operation> {
    let summary = "How archive, index, queue and workers are";
    let overview = Operation::new(Method::GET, "/overview", "getOverview", summary, get(overview));
    vec![overview.answers::<Overview>(200, "How everything is.")]
}

async fn overview(State(service): State<Arc<Service>>) -> Result<Json<Overview>, Problem> {
    let ground = &service.ground;
    let (ready, queue) = tokio::join!(service.lookup.ready(ground, None), queue(&service));
    let mut remarks = Vec::new();
    let ready = match ready {
        Ok(ready) => Some(ready),
        Err(problem) => {
            remarks.push(problem.to_string());
            None
        }
    };
    if queue.consumers == Some(0) {
        remarks.push("no worker is connected: runs and questions wait until one is".to_owned());
    }
    if let Some(reason) = service.waiting.lanes().trouble() {
        remarks.push(format!("jobs of others count only while they wait: {reason}"));
    }
    Ok(Json(Overview {
        at: Timestamp::now().to_string(),
        version: env!("CARGO_PKG_VERSION"),
        archive: Archive {
            uri: ground.uri.to_string(),
            items: ready.as_ref().map(|ready| ready.items()),
            pictures: ready.as_ref().map(|ready| ready.pictures()),
            bytes: ready.as_ref().map(|ready| ready.bytes()),
        },
        index: ready.as_ref().map(|ready| Index::from(ready.freshness())),
        kept: service.index.last(),
        queue,
        workers: service.desk.members().list(),
        submissions: service.desk.list().iter().filter(|one| one.stage().phase.is_open()).count(),
        demo_model: ground.is_demo,
        remarks,
    }))
}

async fn queue(service: &Service) -> Queue {
    let (broker, topology) = (&service.ground.fleet.broker, &service.ground.fleet.topology);
    let (questions, dead) = (topology.lane_queue(Lane::Interactive), topology.dead_queue());
    let (runs, questions, dead) =
        tokio::join!(runs_waiting(&**broker, topology), broker.depth(&questions), broker.depth(&dead));
    Queue {
        broker: if broker.is_local() { "in this process".to_owned() } else { broker.describe() },
        connected: matches!(broker.state(), BrokerState::Connected),
        waiting: runs.as_ref().ok().map(|depth| depth.messages),
        consumers: runs.as_ref().ok().map(|depth| depth.consumers),
        questions: questions.ok().map(|depth| depth.messages),
        dead: dead.ok().map(|depth| depth.messages),
    }
}
