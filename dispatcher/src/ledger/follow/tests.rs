#![allow(clippy::unwrap_used)]

use super::*;
use crate::catalog::Unreadable;
use crate::plan::{NewRun, RefusedJob};
use crate::planned_job::PlannedJob;
use crate::progress::Display;
use crate::publish::Gate;
use crate::submission::{self, About};
use crate::wish::Wish;
use captionfleet_proto::broker::Topology;
use captionfleet_proto::broker::embedded::EmbeddedBroker;
use captionfleet_proto::job::{JobItem, Lane, Prompt, Sampling};
use captionfleet_proto::rows::EmbeddingShape;
use captionfleet_proto::storage::{StorageOptions, Stores};
use captionfleet_proto::uri::{ArchiveUri, ItemUri};
use prometheus::Registry;

/// Opens the gate for one more job whenever one has settled.
struct Opens(Arc<Gate>);

impl Watcher for Opens {
    fn told(&self, _: &JobOutcome) {}
    fn settled(&self, _: OpenWork) {
        self.0.settled();
    }
    fn consumers(&self, _: u32) {}
    fn remark(&self, _: &str) {}
}

#[tokio::test]
async fn a_job_whose_outcome_was_lost_does_not_hold_back_the_next_one() {
    let folder = tempfile::tempdir().unwrap();
    let uri = ArchiveUri::from_folder(folder.path()).unwrap();
    let archive = Stores::new(StorageOptions::default()).archive(&uri).await.unwrap();
    let refused = RefusedJob {
        job: PlannedJob {
            id: JobId::new("done").unwrap(),
            items: vec![JobItem::new(ItemUri::s3("pictures", "a.png"))],
        },
        reasons: vec![Unreadable { code: "not_found", message: "no such file".to_owned() }],
    };
    let run = NewRun { run: RunId::new("r").unwrap(), jobs: Vec::new(), refused: vec![refused] };
    let wish = Wish {
        prompt: Prompt::Caption,
        max_tokens: None,
        adapter: None,
        embed: true,
        bundle: None,
        sample: Sampling::default(),
    };
    let manifest = submission::manifest(&run, &wish, &About::default());
    let shape = EmbeddingShape { vectors: 1, dim: 1 };
    submission::write_refused(&*archive, &manifest, &run.refused[0], shape).await.unwrap();

    let broker = EmbeddedBroker::new(Topology::default());
    broker.declare().await.unwrap();
    let queue = Topology::default().lane_queue(Lane::Bulk);
    let mut book = Book::default();
    for job in ["done", "held-back"] {
        book.expect(&run.run, &PlannedJob { id: JobId::new(job).unwrap(), items: Vec::new() });
    }
    let gate = Arc::new(Gate::narrow(1));
    // The first job is out.
    gate.pass().await;
    let watched = Watched { broker: &broker, queue: &queue, archive: &*archive, runs: vec![run.run.clone()] };
    let observed = Observed {
        metrics: Metrics::new(Registry::new()).unwrap(),
        readiness: Readiness::waiting_for([]),
        watcher: Arc::new(Opens(gate.clone())),
    };
    let mut follower = Follower::new(watched, book, Progress::new(Display::Quiet, "captioning", 2), observed);
    follower.last_news = Instant::now().checked_sub(QUIET).unwrap();
    follower.look_around(false).await.unwrap();
    assert_eq!(follower.book().open_jobs(), 1);
    gate.pass().await;
}
