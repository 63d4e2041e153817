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
use captionfleet_proto::storage::{PutMode, StorageOptions, Stores};
use captionfleet_proto::uri::{ArchiveUri, ItemUri};
use futures::FutureExt as _;
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
async fn jobs_whose_outcomes_were_lost_hold_nothing_back() {
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
        thumbnails: false,
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

    // No part tells of a job that was dropped because its run was cancelled, and its outcome may be lost, too.
    archive.put(&layout::run_cancelled(&run.run), Vec::new().into(), PutMode::Overwrite).await.unwrap();
    follower.look_for_parts().await;
    assert!(follower.book().is_closed());
    assert_eq!(follower.book().dead()[0].job.as_str(), "held-back");
    gate.pass().await;
    // Should it have been done after all, it has left its place already.
    let open = follower.book().open_jobs();
    let late = Tally { ok: 1, ..Tally::default() };
    assert!(follower.book.note_part(&run.run, &JobId::new("held-back").unwrap(), late).is_some());
    follower.tell_what_is_open(open);
    assert_eq!(gate.pass().now_or_never(), None);
}
