//! Programs that are started before what they need is there, and stopped before they have begun.

use std::collections::BTreeMap;
use std::time::Duration;

use captionfleet_proto::broker::rabbitmq::{RabbitMq, RabbitMqOptions};
use captionfleet_proto::broker::{Broker as _, Message, Topology};
use captionfleet_proto::job::Lane;
use captionfleet_tests::fleet::{Endpoints, Fleet, http_get};
use captionfleet_tests::sandbox::{Child, RabbitMqNode, free_port};
use tokio::net::TcpListener;
use tokio::time::{Instant, sleep};

use crate::service::port;

const LIMIT: Duration = Duration::from_secs(120);

/// Waits until a program has said something.
async fn says(child: &Child, text: &str) {
    let deadline = Instant::now() + LIMIT;
    while !child.output().contains(text) {
        assert!(Instant::now() < deadline, "never said {text:?}:\n{}", child.output());
        sleep(Duration::from_millis(50)).await;
    }
}

/// Waits until a worker with this admin port takes jobs.
pub(crate) async fn until_ready(admin: u16, worker: &Child) {
    let deadline = Instant::now() + LIMIT;
    while !http_get(admin, "/readyz").await.is_some_and(|(status, _)| status.contains(" 200 ")) {
        assert!(Instant::now() < deadline, "never ready:\n{}", worker.output());
        sleep(Duration::from_millis(100)).await;
    }
}

/// As after a power cut, when every machine comes back at the same time.
#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_comes_later_is_waited_for() {
    let root = tempfile::tempdir().unwrap();
    let mut broker = RabbitMqNode::start(root.path(), "late").await.unwrap();
    broker.kill().await.unwrap();
    let endpoints = Endpoints { broker: broker.uri(), ..Endpoints::from_environment().unwrap() };
    let fleet = Fleet::at(endpoints.clone(), BTreeMap::new(), "late").unwrap();
    let admin = free_port().unwrap();
    let mut worker =
        fleet.start_worker_through(&endpoints, "worker", &format!("127.0.0.1:{admin}"), &[]).unwrap();
    let serve = ["--listen", "127.0.0.1:0", "--archive", &fleet.s3_uri("archive")].map(str::to_owned);
    let mut service =
        fleet.start_service("service", serve.into_iter().chain(fleet.service_options())).unwrap();
    let impatient = ["serve", "--listen", "127.0.0.1:0", "--archive", &fleet.s3_uri("archive")];
    let mut stopped = fleet
        .start_command("stopped", impatient.map(str::to_owned).into_iter().chain(fleet.service_options()))
        .unwrap();
    for waiting in [&worker, &service, &stopped] {
        says(waiting, "waiting for the broker").await;
    }
    stopped.signal("TERM");
    assert!(stopped.wait(LIMIT).await.unwrap().success(), "{}", stopped.output());

    broker.start_again().await.unwrap();
    let at = port(&service).await;
    assert!(http_get(at, "/readyz").await.is_some(), "{}", service.output());
    until_ready(admin, &worker).await;
    for child in [&mut worker, &mut service] {
        child.signal("TERM");
        assert!(child.wait(LIMIT).await.unwrap().success(), "{}", child.output());
    }
    broker.stop().await;
}

/// A virtual host that nobody has made yet, and a queue in it with other arguments: people mend both, and a worker that ended would be
/// started again every few seconds until they do.
#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_refuses_is_waited_for() {
    let root = tempfile::tempdir().unwrap();
    let broker = RabbitMqNode::start(root.path(), "refusing").await.unwrap();
    let at = |user: &str| broker.uri().replace("guest:guest", user).replace("%2f", "captions");
    let endpoints = Endpoints { broker: at("fleet:secret"), ..Endpoints::from_environment().unwrap() };
    let fleet = Fleet::at(endpoints.clone(), BTreeMap::new(), "refused").unwrap();
    let admin = free_port().unwrap();
    let mut worker =
        fleet.start_worker_through(&endpoints, "worker", &format!("127.0.0.1:{admin}"), &[]).unwrap();
    says(&worker, "refused").await;

    broker.ctl(&["add_vhost", "captions"]).await.unwrap();
    broker.ctl(&["set_permissions", "-p", "captions", "guest", ".*", ".*", ".*"]).await.unwrap();
    let topology = Topology::with_prefix(fleet.queue_prefix()).unwrap();
    let lane = topology.lane_queue(Lane::Bulk);
    let options = RabbitMqOptions::new([at("guest:guest")], topology.with_delivery_limit(77));
    let others = RabbitMq::connect(options).await.unwrap();
    others.declare().await.unwrap();
    broker.ctl(&["add_user", "fleet", "secret"]).await.unwrap();
    broker.ctl(&["set_permissions", "-p", "captions", "fleet", ".*", ".*", ".*"]).await.unwrap();
    says(&worker, "other arguments").await;
    let (status, told) = http_get(admin, "/readyz").await.unwrap();
    assert!(!status.contains(" 200 ") && told.contains(lane.as_str()), "{status}: {told}");

    others.close().await;
    let queues = broker.ctl(&["list_queues", "-p", "captions", "--no-table-headers", "name"]).await.unwrap();
    for queue in queues.split_whitespace() {
        broker.ctl(&["delete_queue", "-p", "captions", queue]).await.unwrap();
    }
    until_ready(admin, &worker).await;
    assert!(!worker.output().contains("secret"), "a password was shown: {}", worker.output());
    worker.signal("TERM");
    assert!(worker.wait(LIMIT).await.unwrap().success(), "{}", worker.output());
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_is_stopped_while_it_fetches_its_model_touches_no_job() {
    let fleet = Fleet::new("fetching").unwrap();
    let (broker, topology) = fleet.connect().await.unwrap();
    broker.declare().await.unwrap();
    let lane = topology.lane_queue(Lane::Bulk);
    broker.publish(&lane, Message::new("waits", "{}")).await.unwrap();
    // A store that takes the call and says nothing.
    let store = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoints =
        Endpoints { s3: format!("http://{}", store.local_addr().unwrap()), ..fleet.endpoints().clone() };
    let options = ["--model", "s3://models/a-model.tar"];
    let mut worker = fleet.start_worker_through(&endpoints, "worker", "off", &options).unwrap();
    let _call = tokio::time::timeout(LIMIT, store.accept()).await.expect("a call").unwrap();
    worker.signal("TERM");
    // The store would be waited for much longer.
    let status = worker.wait(Duration::from_secs(20)).await.unwrap();
    assert!(status.success(), "{status}:\n{}", worker.output());
    let mut consumer = broker.consume(&lane, 1).await.unwrap();
    let delivery = consumer.next().await.unwrap().unwrap();
    assert!(!delivery.redelivered, "as if a worker had died on it");
    delivery.ack().await.unwrap();
    broker.close().await;
}
