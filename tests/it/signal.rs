//! What waits for workers, as the service tells those who scale a fleet.

use std::path::PathBuf;

use captionfleet_proto::broker::rabbitmq::RabbitMq;
use captionfleet_proto::broker::{Broker, Consumer, Delivery, Message, Topology};
use captionfleet_proto::job::Lane;
use captionfleet_tests::fleet::{Fleet, http, http_get};
use captionfleet_tests::sandbox::{Child, free_port};
use serde_json::json;

use crate::pictures;
use crate::service::{copy, port, until_at, until_metrics};

/// A service over the fleet's broker and bucket, which may be submitted to.
fn serve(fleet: &Fleet, name: &str, more: &[&str]) -> Child {
    let (archive, sources) = (fleet.s3_uri("archive"), fleet.s3_uri("pictures"));
    let fixed = ["--listen", "127.0.0.1:0", "--archive", &archive, "--sources", &sources];
    let arguments = fixed.iter().chain(more).map(ToString::to_string).chain(fleet.service_options());
    fleet.start_service(name, arguments).unwrap()
}

/// Pictures of scenes in the bucket, and where they are.
pub(crate) fn put_pictures(fleet: &Fleet, count: usize, seed: u64) -> String {
    let (made, name) = (fleet.folder().join("made"), format!("pictures/{seed}"));
    pictures::scenes(&made, count, seed);
    let bucket = PathBuf::from(std::env::var("CAPTIONFLEET_TEST_BUCKET").unwrap());
    copy(&made, &bucket.join(fleet.queue_prefix()).join(&name));
    std::fs::remove_dir_all(&made).unwrap();
    fleet.s3_uri(&name)
}

/// Publishes as another program would, and takes everything as a busy worker would, which gives it back when it is dropped.
async fn in_hand(
    broker: &RabbitMq,
    topology: &Topology,
    lane: Lane,
    count: u16,
) -> (Box<dyn Consumer>, Vec<Delivery>) {
    let queue = topology.lane_queue(lane);
    for number in 0..count {
        broker.publish(&queue, Message::new(number.to_string(), "{}")).await.unwrap();
    }
    let mut consumer = broker.consume(&queue, count).await.unwrap();
    let mut taken = Vec::new();
    for _ in 0..count {
        taken.push(consumer.next().await.unwrap().unwrap());
    }
    (consumer, taken)
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_of_others_count_while_workers_have_them_in_hand() {
    let fleet = Fleet::new("in-hand").unwrap();
    let management = std::env::var("CAPTIONFLEET_TEST_MANAGEMENT").unwrap();
    let (broker, topology) = fleet.connect().await.unwrap();
    broker.declare().await.unwrap();
    let (_worker, jobs) = in_hand(&broker, &topology, Lane::Bulk2, 3).await;
    let (_other, requests) = in_hand(&broker, &topology, Lane::Interactive, 2).await;
    let queues = [Lane::Bulk2, Lane::Interactive].map(|lane| topology.lane_queue(lane));
    for queue in &queues {
        assert_eq!(broker.depth(queue).await.unwrap().messages, 0, "over AMQP they are not seen");
    }

    let service = serve(&fleet, "service", &["--broker-management", &management]);
    let at = port(&service).await;
    let is = |jobs: u64, requests: u64| {
        move |load: &serde_json::Value| {
            (load["open_jobs"].as_u64(), load["interactive_waiting"].as_u64()) == (Some(jobs), Some(requests))
        }
    };
    let load = until_at(at, "/api/v1/scale", is(3, 2)).await;
    // Nothing was measured yet: 64 pictures a job, a quarter of a second each.
    assert_eq!(load["backlog_gpu_seconds"], 3.0 * 16.0 + 2.0 * 0.25, "{load}");
    assert_eq!(load["wanted_workers"], 1, "{load}");
    let (_, metrics) = http_get(at, "/metrics").await.unwrap();
    assert!(metrics.contains("captionfleet_broker_management_up 1\n"), "{metrics}");

    // Jobs of its own, which nobody takes, are added: two are handed out, the others wait for room.
    let order = json!({"sources": [put_pictures(&fleet, 60, 51)], "job_size": 3}).to_string();
    let (status, submitted) = http(at, "POST", "/api/v1/submissions", &order).await.unwrap();
    assert!(status.contains(" 202 "), "{status} {submitted}");
    let load = until_at(at, "/api/v1/scale", is(23, 2)).await;
    assert_eq!(load["backlog_gpu_seconds"], 3.0 * 16.0 + 60.0 * 0.25 + 2.0 * 0.25, "{load}");

    for delivery in jobs.into_iter().chain(requests) {
        delivery.ack().await.unwrap();
    }
    until_at(at, "/api/v1/scale", is(20, 0)).await;

    // What was given up counts without any worker to count it.
    broker.publish(&topology.dead_queue(), Message::new("dead", "{}")).await.unwrap();
    let line = format!("captionfleet_dead_letters{{queue=\"{}\"}}", topology.dead_queue());
    until_metrics(at, &line, |count| count == "1").await;
    broker.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_management_api_that_does_not_answer_is_told_and_does_no_harm() {
    let fleet = Fleet::new("no-management").unwrap();
    let management = std::env::var("CAPTIONFLEET_TEST_MANAGEMENT").unwrap();
    let (broker, topology) = fleet.connect().await.unwrap();
    broker.declare().await.unwrap();
    broker.publish(&topology.lane_queue(Lane::Bulk), Message::new("waits", "{}")).await.unwrap();

    let nobody = format!("http://127.0.0.1:{}", free_port().unwrap());
    let stranger = management.replace("http://", "http://guest:hunter2@");
    for (name, url, told) in
        [("nobody", nobody, "cannot be reached"), ("stranger", stranger, "set_user_tags guest management")]
    {
        let service = serve(&fleet, name, &["--broker-management", &url]);
        let at = port(&service).await;
        let says_so = |overview: &serde_json::Value| overview["remarks"].to_string().contains(told);
        let overview = until_at(at, "/api/v1/overview", says_so).await;
        assert!(!overview.to_string().contains("hunter2"), "{overview}");
        until_at(at, "/api/v1/scale", |load| load["open_jobs"] == 1).await;
        let (_, metrics) = http_get(at, "/metrics").await.unwrap();
        assert!(metrics.contains("captionfleet_broker_management_up 0\n"), "{metrics}");
        let log = service.output();
        assert_eq!(log.matches("what workers have in hand is not known").count(), 1, "{log}");
        assert!(!log.contains("hunter2"), "{log}");
    }
    let archive = fleet.folder().join("archive").display().to_string();
    let without_broker = ["serve", "--archive", &archive, "--broker-management", &management];
    let ran = fleet.dispatcher(without_broker).await.unwrap();
    assert_eq!(ran.code, 64, "{}", ran.stderr);
    assert!(ran.stderr.contains("--broker-management: there is no broker"), "{}", ran.stderr);
    broker.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn open_jobs_are_those_of_all_submissions() {
    const OPEN: &str = "captionfleet_dispatcher_jobs_in_flight ";
    let fleet = Fleet::new("side-by-side").unwrap();
    let service = serve(&fleet, "service", &[]);
    let at = port(&service).await;
    let mut submissions = Vec::new();
    // Nobody does them: four jobs, then five more.
    for (count, seed, job_size, open) in [(12, 56, 3, "4"), (20, 57, 4, "9")] {
        let order = json!({"sources": [put_pictures(&fleet, count, seed)], "job_size": job_size}).to_string();
        let (status, submitted) = http(at, "POST", "/api/v1/submissions", &order).await.unwrap();
        assert!(status.contains(" 202 "), "{status} {submitted}");
        let submitted: serde_json::Value = serde_json::from_str(&submitted).unwrap();
        submissions.push(submitted["id"].as_str().unwrap().to_owned());
        until_metrics(at, OPEN, |count| count == open).await;
    }
    let (_, topology) = fleet.connect().await.unwrap();
    for lane in Lane::BULK.map(|lane| topology.lane_queue(lane)) {
        let consumers = format!("captionfleet_dispatcher_queue_consumers{{queue=\"{lane}\"}}");
        until_metrics(at, &consumers, |count| count == "0").await;
    }
    for (submission, open) in submissions.iter().zip(["5", "0"]) {
        let cancelled = http(at, "DELETE", &format!("/api/v1/submissions/{submission}"), "").await.unwrap();
        assert!(cancelled.0.contains(" 20"), "{cancelled:?}");
        until_metrics(at, OPEN, |count| count == open).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn everyone_who_waits_for_an_answer_counts() {
    const ASKERS: usize = 100;
    let fleet = Fleet::new("askers").unwrap();
    let service = serve(&fleet, "service", &["--rate", "100000"]);
    let at = port(&service).await;
    let askers: Vec<_> = (0..ASKERS)
        .map(|asker| {
            tokio::spawn(async move { http_get(at, &format!("/api/v1/search?text=q{asker}")).await })
        })
        .collect();
    let load = until_at(at, "/api/v1/scale", |load| load["interactive_waiting"] == ASKERS).await;
    assert_eq!(load["wanted_workers"], 7, "one for 16 of them: {load}");
    for asker in askers {
        asker.abort();
    }
    // Whoever has left waits for nothing; what is in the queue already leaves it as workers drop it.
    let (broker, topology) = fleet.connect().await.unwrap();
    let mut lane = broker.consume(&topology.lane_queue(Lane::Interactive), 200).await.unwrap();
    let dropping = tokio::spawn(async move {
        while let Ok(Some(question)) = lane.next().await {
            question.ack().await.unwrap();
        }
    });
    until_at(at, "/api/v1/scale", |load| load["interactive_waiting"] == 0).await;
    dropping.abort();
    broker.close().await;
}

/// The outcomes of a run go to whoever published it; its parts are for all.
#[tokio::test(flavor = "multi_thread")]
async fn runs_of_others_tell_what_work_costs() {
    const PRICE: &str = "captionfleet_item_gpu_seconds{kind=\"pictures\"}";
    const ASSUMED: &str = "0.25";
    let fleet = Fleet::new("priced").unwrap();
    let source = fleet.folder().join("in");
    pictures::scenes(&source, 40, 55);
    let (source, archive) =
        (source.display().to_string(), fleet.folder().join("archive").display().to_string());
    let serve = |name| fleet.start_service(name, ["--listen", "127.0.0.1:0", "--archive", &archive]).unwrap();
    let beside = serve("beside");
    let at = port(&beside).await;
    until_metrics(at, PRICE, |price| price == ASSUMED).await;
    let caption = ["caption", &source, "--archive", &archive, "--no-index", "--job-size", "8"];
    fleet.dispatcher(caption).await.unwrap().success().unwrap();
    until_metrics(at, PRICE, |price| price != ASSUMED).await;
    let later = serve("later");
    until_metrics(port(&later).await, PRICE, |price| price != ASSUMED).await;
}
