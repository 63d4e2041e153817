#![allow(clippy::unwrap_used)]

use super::*;
use crate::catalog::Unreadable;
use crate::plan::{NewRun, RefusedJob};
use crate::planned_job::PlannedJob;
use crate::progress::Display;
use crate::publish::{self, Gate};
use crate::submission::{self, About};
use crate::wish::Wish;
use captionfleet_proto::broker::embedded::EmbeddedBroker;
use captionfleet_proto::broker::{Message, Topology};
use captionfleet_proto::job::{JobItem, Lane, Prompt, Sampling};
use captionfleet_proto::rows::EmbeddingShape;
use captionfleet_proto::storage::{PutMode, StorageOptions, Stores};
use captionfleet_proto::uri::{ArchiveUri, ItemUri};
use futures::FutureExt as _;
use prometheus::Registry;
use std::collections::HashSet;

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

fn wish() -> Wish {
    Wish {
        prompt: Prompt::Caption,
        max_tokens: None,
        adapter: None,
        embed: true,
        bundle: None,
        sample: Sampling::default(),
        thumbnails: false,
    }
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
            begun: false,
        },
        reasons: vec![Unreadable { code: "not_found", message: "no such file".to_owned() }],
    };
    let run = NewRun { run: RunId::new("r").unwrap(), jobs: Vec::new(), refused: vec![refused] };
    let wish = wish();
    let manifest = submission::manifest(&run, &wish, &About::default());
    let shape = EmbeddingShape { vectors: 1, dim: 1 };
    submission::write_refused(&*archive, &manifest, &run.refused[0], shape).await.unwrap();

    let broker = EmbeddedBroker::new(Topology::default());
    broker.declare().await.unwrap();
    let queue = Topology::default().lane_queue(Lane::Bulk);
    let mut book = Book::default();
    for job in ["done", "held-back"] {
        book.expect(&run.run, &PlannedJob { id: JobId::new(job).unwrap(), items: Vec::new(), begun: false });
    }
    let gate = Arc::new(Gate::narrow(1));
    // The first job is out.
    gate.pass().await;
    let watched = Watched {
        broker: &broker,
        queue: &queue,
        rests: Vec::new(),
        archive: &*archive,
        runs: vec![run.run.clone()],
    };
    let observed = Observed {
        metrics: Metrics::new(Registry::new()).unwrap(),
        readiness: Readiness::waiting_for([]),
        watcher: Arc::new(Opens(gate.clone())),
    };
    let mut follower = Follower::new(watched, book, Progress::new(Display::Quiet, "captioning", 2), observed);
    follower.last_news = Instant::now().checked_sub(TIMES.quiet).unwrap();
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

/// For silence that a test need not wait for.
const SHORT: Times = Times {
    tick: Duration::from_millis(5),
    quiet: Duration::from_millis(10),
    lost: Duration::from_millis(50),
};

/// Nobody counts.
struct Uncounted;

impl publish::Observer for Uncounted {
    fn confirmed(&self, _: usize) {}
    fn returned(&self, _: &[JobId]) {}
}

#[tokio::test]
async fn jobs_that_are_nowhere_are_published_again() {
    let folder = tempfile::tempdir().unwrap();
    let uri = ArchiveUri::from_folder(folder.path()).unwrap();
    let archive = Stores::new(StorageOptions::default()).archive(&uri).await.unwrap();
    let job = |id: &str| PlannedJob {
        id: JobId::new(id).unwrap(),
        items: vec![JobItem::new(ItemUri::s3("pictures", id))],
        begun: false,
    };
    let run =
        NewRun { run: RunId::new("r").unwrap(), jobs: vec![job("told"), job("lost")], refused: Vec::new() };
    let manifest = submission::manifest(&run, &wish(), &About::default());
    submission::write(&*archive, &run, &manifest).await.unwrap();
    let topology = Topology::default();
    let broker = EmbeddedBroker::new(topology.clone());
    broker.declare().await.unwrap();
    let queue = topology.lane_queue(Lane::Bulk);
    let mailbox = broker.open_mailbox("r").await.unwrap();
    let destination = publish::Destination {
        broker: &broker,
        queue: queue.clone(),
        reply_to: Some(mailbox.clone()),
        archive: uri.clone(),
    };
    publish::publish(&destination, &manifest, run.jobs.clone(), &Gate::open(), &Uncounted).await.unwrap();
    let take = || async {
        let mut consumer = broker.consume(&queue, 1).await.unwrap();
        let delivery = consumer.next().await.unwrap().unwrap();
        let taken = codec::decode_job(&delivery.message.body).unwrap();
        let is_begun = delivery.message.turns > 0;
        delivery.ack().await.unwrap();
        (taken, is_begun)
    };
    let tell = |id: JobId| {
        let outcome = serde_json::json!({
            "version": "1.0", "job": id, "run": "r", "ok": 1, "failed": {}, "skipped": 0, "attempts": 1,
            "worker": "w", "seconds": 0.1
        });
        broker.publish(&mailbox, Message::new("o", outcome.to_string()))
    };

    let mut book = Book::default();
    run.jobs.iter().for_each(|job| book.expect(&run.run, job));
    let watched = Watched {
        broker: &broker,
        queue: &queue,
        rests: topology.rests_beside(&queue),
        archive: &*archive,
        runs: vec![run.run.clone()],
    };
    let observed = Observed {
        metrics: Metrics::new(Registry::new()).unwrap(),
        readiness: Readiness::waiting_for([]),
        watcher: Arc::new(Unwatched),
    };
    let mut follower = Follower::new(watched, book, Progress::new(Display::Quiet, "captioning", 2), observed);
    let (mut outcomes, stop) =
        (Follower::subscribe(&broker, &mailbox).await.unwrap(), CancellationToken::new());
    let worker = std::future::pending::<anyhow::Error>;
    let published = || std::future::ready(anyhow::Ok(()));

    // One is done; the other one is taken out by somebody who does nothing with it.
    let (told, _) = take().await;
    let (lost, is_begun) = take().await;
    assert!(!is_begun);
    tell(told.id).await.unwrap();
    follower.times = SHORT;
    while follower.book().open_jobs() > 1 {
        let followed = follower.follow(&mut *outcomes, published(), worker(), &stop).await.unwrap();
        assert_eq!(followed, Followed::Lost);
    }
    let open = follower.book().open_keys();
    assert_eq!(open, HashSet::from([(run.run.clone(), lost.id.clone())]));
    let manifests = [manifest];
    let again = publish::again(&destination, &*archive, &manifests, &open, &Uncounted);
    let answers = async {
        let (again, is_begun) = take().await;
        assert_eq!(again, lost, "as it was");
        assert!(is_begun, "who had it may have left something");
        tell(lost.id.clone()).await.unwrap();
    };
    follower.times = TIMES;
    let follows = follower.follow(&mut *outcomes, again, worker(), &stop);
    let (followed, ()) = tokio::join!(follows, answers);
    assert_eq!(followed.unwrap(), Followed::Closed);
    assert_eq!(follower.book().tally().ok, 2);
}

#[tokio::test]
async fn jobs_that_wait_are_not_lost() {
    let folder = tempfile::tempdir().unwrap();
    let uri = ArchiveUri::from_folder(folder.path()).unwrap();
    let archive = Stores::new(StorageOptions::default()).archive(&uri).await.unwrap();
    let topology = Topology::default();
    let broker = EmbeddedBroker::new(topology.clone());
    broker.declare().await.unwrap();
    let (queue, run) = (topology.lane_queue(Lane::Bulk), RunId::new("r").unwrap());
    let mailbox = broker.open_mailbox("r").await.unwrap();
    broker.publish(&queue, Message::new("waits", "")).await.unwrap();
    let mut book = Book::default();
    book.expect(&run, &PlannedJob { id: JobId::new("waits").unwrap(), items: Vec::new(), begun: false });
    let watched =
        Watched { broker: &broker, queue: &queue, rests: Vec::new(), archive: &*archive, runs: vec![run] };
    let observed = Observed {
        metrics: Metrics::new(Registry::new()).unwrap(),
        readiness: Readiness::waiting_for([]),
        watcher: Arc::new(Unwatched),
    };
    let mut follower = Follower::new(watched, book, Progress::new(Display::Quiet, "captioning", 1), observed);
    let (mut outcomes, stop) =
        (Follower::subscribe(&broker, &mailbox).await.unwrap(), CancellationToken::new());
    let published = std::future::ready(anyhow::Ok(()));
    follower.times = SHORT;
    let follows = follower.follow(&mut *outcomes, published, std::future::pending(), &stop);
    assert!(tokio::time::timeout(20 * SHORT.lost, follows).await.is_err(), "it goes on waiting");
}
