//! What becomes of jobs whose worker or whose archive failed them: dead letters that are published again, and runs of a process that
//! died.

use crate::desk::{Desk, below};
use captionfleet_dispatcher::app::retry;
use captionfleet_dispatcher::config::FleetSettings;
use captionfleet_dispatcher::fleet::{Fleet, Model};
use captionfleet_dispatcher::publish::{self, Destination, Gate, Observer};
use captionfleet_dispatcher::{archive, history};
use captionfleet_proto::job::{JobId, RunId};
use captionfleet_proto::layout;
use captionfleet_proto::rows::{EmbeddingShape, Row, write_unfinished};
use captionfleet_proto::storage::{StorageOptions, Stores};
use captionfleet_proto::uri::ArchiveUri;
use captionfleet_worker::telemetry::Metrics;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use std::collections::HashSet;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(60);

struct Uncounted;

impl Observer for Uncounted {
    fn confirmed(&self, _: usize) {}
    fn returned(&self, _: &[JobId]) {}
}

fn write(path: &Path, bytes: impl AsRef<[u8]>) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, bytes).unwrap();
}

fn code(row: &Row) -> &str {
    row.error_code.as_deref().unwrap_or("ok")
}

/// A finished job of four pictures that is made a dead letter: its part is gone, its message lies with the dead.
struct DeadLetter {
    desk: Desk,
    rows: Vec<Row>,
    fleet: Fleet,
    settings: FleetSettings,
}

impl DeadLetter {
    async fn new(seed: u64) -> Self {
        let desk = Desk::new();
        Desk::draw(&desk.pictures(), 4, seed);
        desk.caption(&["--job-size", "4"]).json();
        let rows = desk.rows();
        std::fs::remove_file(desk.parts().remove(0)).unwrap();
        let settings = FleetSettings {
            broker: Vec::new(),
            queue_prefix: "retrying".to_owned(),
            storage: StorageOptions::default(),
            model: None,
        };
        let fleet =
            Fleet::embedded(&settings, Arc::new(Stores::new(StorageOptions::default()))).await.unwrap();
        let uri = ArchiveUri::from_folder(&desk.archive()).unwrap();
        let store = fleet.stores.archive(&uri).await.unwrap();
        let manifest = archive::manifest(&*store, &rows[0].run).await.unwrap();
        let jobs = history::unfinished_jobs(&*store, &manifest, &HashSet::new()).await.unwrap();
        assert_eq!(jobs.len(), 1);
        let queue = fleet.topology.dead_queue();
        let destination = Destination { broker: &*fleet.broker, queue, reply_to: None, archive: uri };
        publish::publish(&destination, &manifest, jobs, &Gate::open(), &Uncounted).await.unwrap();
        Self { desk, rows, fleet, settings }
    }

    fn forget(&self, rows: &[Row]) {
        for row in rows {
            let path = row.item.as_str().rsplit('/').next().unwrap();
            self.desk.run(["forget", &format!("pictures/{path}"), "--archive", "archive", "--json"]).json();
        }
    }

    /// The job that owes what was not forgotten.
    async fn owing(&self) -> JobId {
        let run = &self.rows[0].run;
        let uri = ArchiveUri::from_folder(&self.desk.archive()).unwrap();
        let store = self.fleet.stores.archive(&uri).await.unwrap();
        let manifest = archive::manifest(&*store, run).await.unwrap();
        let parts = archive::parts(&*store, Some(run)).await.unwrap();
        let done: HashSet<JobId> = parts.into_values().flatten().map(|(job, _)| job).collect();
        history::unfinished_jobs(&*store, &manifest, &done).await.unwrap().swap_remove(0).id
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_letter_that_is_published_again_remembers_what_is_known_of_its_job() {
    let mut letter = DeadLetter::new(41).await;
    letter.forget(&letter.rows[3..]);
    let (rows, job) = (&letter.rows, letter.owing().await);
    let place = |key: fn(&RunId, &JobId) -> String| letter.desk.archive().join(key(&rows[0].run, &job));
    // Of the first picture a row was kept, the second one has ended a process.
    let kept = Row { caption: Some("said before".to_owned()), job: job.clone(), ..rows[0].clone() };
    let shape = EmbeddingShape { vectors: 1, dim: kept.embedding.as_ref().unwrap().len() as u32 };
    let unfinished = place(layout::unfinished);
    write(&unfinished, write_unfinished(vec![(0, vec![kept])], shape).unwrap());
    let marker = place(layout::quarantine);
    let condemned = json!([{"index": 1, "item": rows[1].item.as_str()}]);
    write(&marker, json!({"life": "another", "condemned": condemned, "trying": null}).to_string());

    let part = place(layout::part);
    let retried = retry::sort_out(&letter.fleet, None, false).await.unwrap();
    assert!(retried.len() == 1 && retried[0].retried && !retried[0].answered, "{retried:?}");
    let model = Model::resolve(&letter.settings, &letter.fleet.stores).await.unwrap();
    letter.fleet.start_worker(model, Metrics::new());
    let since = Instant::now();
    while !part.exists() || marker.exists() || unfinished.exists() {
        assert!(since.elapsed() < PATIENCE, "{:?}", below(&letter.desk.archive()));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    letter.fleet.close().await.unwrap();
    let now = letter.desk.rows();
    assert_eq!(now.len(), 4);
    let of = |at: usize| now.iter().find(|row| row.item == letter.rows[at].item).unwrap();
    assert_eq!(of(0).caption.as_deref(), Some("said before"));
    assert_eq!([1, 2].map(|at| code(of(at))), ["worker_crash", "ok"]);
    assert!(of(3).is_forgotten());
    let verified = letter.desk.verify().json();
    assert_eq!(verified["whole"], true, "{verified}");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_letter_of_forgotten_pictures_nothing_is_published_that_is_not_left() {
    let letter = DeadLetter::new(42).await;
    letter.forget(&letter.rows[1..]);
    let listed = retry::sort_out(&letter.fleet, None, true).await.unwrap();
    assert!(!listed[0].retried && !listed[0].answered, "{listed:?}");
    let retried = retry::sort_out(&letter.fleet, None, false).await.unwrap();
    assert!(retried[0].retried, "{retried:?}");
    let lane = letter.fleet.topology.lane_queue(captionfleet_proto::job::Lane::Bulk);
    let mut consumer = letter.fleet.broker.consume(&lane, 1).await.unwrap();
    let delivery = consumer.next().await.unwrap().unwrap();
    let body: Value = serde_json::from_slice(&delivery.message.body).unwrap();
    let items: Vec<_> = body["items"].as_array().unwrap().iter().map(|item| item["uri"].clone()).collect();
    assert_eq!(items, [letter.rows[0].item.as_str()]);
    assert_eq!(body["id"], delivery.message.message_id.as_str());
    delivery.ack().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_letter_whose_pictures_were_all_forgotten_is_gone() {
    let letter = DeadLetter::new(44).await;
    letter.forget(&letter.rows);
    let retried = retry::sort_out(&letter.fleet, None, false).await.unwrap();
    assert!(retried.len() == 1 && retried[0].answered && !retried[0].retried, "{retried:?}");
    assert!(retry::sort_out(&letter.fleet, None, false).await.unwrap().is_empty());
}

/// The program with a queue of its own, at work on 48 pictures in one job.
struct Life {
    child: Child,
    port: u16,
}

impl Life {
    fn begin(desk: &Desk) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut command = Command::new(env!("CARGO_BIN_EXE_dispatcher"));
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("CAPTIONFLEET_")) {
            command.env_remove(name);
        }
        let admin = format!("127.0.0.1:{port}");
        let arguments =
            ["caption", "pictures", "--archive", "archive", "--job-size", "48", "--admin-addr", &admin];
        command.args(arguments).current_dir(desk.root()).stdout(Stdio::null()).stderr(Stdio::null());
        Self { child: command.spawn().unwrap(), port }
    }

    fn has_items_in_flight(&self) -> bool {
        let mut told = String::new();
        let asked = TcpStream::connect(("127.0.0.1", self.port)).and_then(|mut stream| {
            stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n")?;
            stream.read_to_string(&mut told)
        });
        let line = told.lines().find_map(|line| line.strip_prefix("captionfleet_worker_items_in_flight "));
        asked.is_ok() && line.is_some_and(|value| value.trim() != "0")
    }

    /// Ends it as its own fault would, once `holds` does.
    fn crash_when(mut self, mut holds: impl FnMut(&Self) -> bool) {
        let since = Instant::now();
        while !holds(&self) {
            assert!(self.child.try_wait().unwrap().is_none(), "it ended by itself");
            assert!(since.elapsed() < PATIENCE, "waited in vain");
            std::thread::sleep(Duration::from_millis(2));
        }
        // By a call and not by a program, whose start takes long enough on a busy machine for the work to be done first.
        kill_process(Pid::from_child(&self.child), Signal::ABORT).unwrap();
        assert!(!self.child.wait().unwrap().success());
    }
}

fn marker(desk: &Desk) -> Option<Value> {
    let path = below(&desk.archive().join("quarantine")).pop()?;
    serde_json::from_slice(&std::fs::read(path).ok()?).ok()
}

#[test]
fn a_picture_that_ends_the_process_again_and_again_is_got_past_without_a_broker() {
    let desk = Desk::new();
    Desk::draw(&desk.pictures(), 48, 43);
    // Which of the pictures it was cannot be told the first time. A signal from outside may find a thread that holds what the last
    // words need; such a death is one without a word.
    let left = (0..20).find_map(|_| {
        Life::begin(&desk).crash_when(Life::has_items_in_flight);
        marker(&desk)
    });
    let left = left.expect("last words");
    assert!(left["trying"].is_null() && left["condemned"].as_array().unwrap().is_empty(), "{left}");
    // Between two pictures a death condemns nobody, and the signal may come there.
    let condemned = (0..20).find_map(|_| {
        let before = marker(&desk).unwrap()["life"].clone();
        let is_trying = |marker: Value| marker["life"] != before && !marker["trying"].is_null();
        Life::begin(&desk).crash_when(|_| marker(&desk).is_some_and(is_trying));
        let left = marker(&desk).unwrap()["condemned"].as_array().unwrap().clone();
        (!left.is_empty()).then_some(left)
    });
    let condemned = condemned.expect("one of twenty deaths over a picture");
    let condemned: HashSet<&str> =
        condemned.iter().map(|suspect| suspect["item"].as_str().unwrap()).collect();

    let report = desk.caption(&["--job-size", "48"]).any_json();
    let ok = 48 - condemned.len();
    assert_eq!((&report["complete"], &report["ok"]), (&true.into(), &ok.into()), "{report}");
    let rows = desk.rows();
    let failed = rows.iter().filter(|row| code(row) == "worker_crash").map(|row| row.item.as_str());
    assert_eq!(failed.collect::<HashSet<_>>(), condemned);
    assert!(marker(&desk).is_none());
    assert_eq!(desk.verify().json()["whole"], true);
}
