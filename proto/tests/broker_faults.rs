//! What RabbitMQ and the network do to us: refusals at the door, lost and silent connections.
//! `CAPTIONFLEET_TEST_AMQP` names the broker.
#![allow(clippy::unwrap_used, clippy::print_stdout, missing_docs)]

#[path = "broker/support.rs"]
#[allow(dead_code, unreachable_pub)]
mod support;

use std::collections::HashSet;
use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, Instant};

use captionfleet_proto::broker::rabbitmq::{RabbitMq, RabbitMqOptions};
use captionfleet_proto::broker::{
    Broker, BrokerError, BrokerErrorKind, BrokerState, Consumer, Message, QueueName, Topology,
};
use captionfleet_proto::job::Lane;
use support::{LATENCY, Proxy, Weather, broker_authority, broker_uri, connect, topology, uri_through};
use tokio::net::TcpListener;
use tokio::time::{sleep, timeout};

const PATIENCE: Duration = Duration::from_secs(30);

async fn refusal(uri: &str) -> (BrokerErrorKind, String) {
    refusal_within(uri, PATIENCE).await
}

async fn refusal_within(uri: &str, connect_timeout: Duration) -> (BrokerErrorKind, String) {
    let mut options = RabbitMqOptions::new([uri], Topology::default());
    options.connect_timeout = connect_timeout;
    let error = RabbitMq::connect(options).await.map(|_| ()).unwrap_err();
    (error.kind(), said(&error))
}

fn said(error: &BrokerError) -> String {
    let first: &dyn Error = error;
    let causes = std::iter::successors(Some(first), |&error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

async fn wait_for_state(broker: &Arc<dyn Broker>, wanted: impl Fn(&BrokerState) -> bool) {
    let since = Instant::now();
    while !wanted(&broker.state()) {
        assert!(since.elapsed() < PATIENCE, "the broker is {:?}", broker.state());
        sleep(Duration::from_millis(20)).await;
    }
}

fn is_connecting(state: &BrokerState) -> bool {
    matches!(state, BrokerState::Connecting { .. })
}

/// Open file descriptors and threads of this process.
fn resources() -> (usize, usize) {
    let count = |folder| std::fs::read_dir(folder).unwrap().count();
    (count("/proc/self/fd"), count("/proc/self/task"))
}

#[tokio::test]
async fn a_refused_login_says_so() {
    let uri = format!("amqp://guest:hunter2@{}/%2f", broker_authority());
    let (kind, said) = refusal(&uri).await;
    assert_eq!(kind, BrokerErrorKind::Refused, "{said}");
    assert!(said.contains(&broker_authority()) && said.contains("password"), "{said}");
    assert!(!said.contains("hunter2"), "{said}");
}

#[tokio::test]
async fn an_unknown_virtual_host_says_so() {
    let uri = broker_uri();
    let uri = format!("{}/no-such-vhost", &uri[..uri.rfind('/').unwrap()]);
    let (kind, said) = refusal(&uri).await;
    assert_eq!(kind, BrokerErrorKind::Refused, "{said}");
    assert!(said.contains("no%2Dsuch%2Dvhost") && said.contains("virtual host"), "{said}");
}

#[tokio::test]
async fn nobody_there_says_so() {
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let (kind, said) = refusal(&format!("amqp://{free}")).await;
    assert_eq!(kind, BrokerErrorKind::Unreachable, "{said}");
    let (kind, said) = refusal_within("amqp://no-such-host.invalid", Duration::from_secs(2)).await;
    assert_eq!(kind, BrokerErrorKind::Unreachable, "{said}");
}

#[tokio::test]
async fn a_port_that_is_not_amqp_says_so() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let silent = format!("amqp://{}", silent.local_addr().unwrap());
    let (kind, said) = refusal_within(&silent, Duration::from_secs(2)).await;
    assert_eq!(kind, BrokerErrorKind::Unreachable, "{said}");
    let (kind, said) = refusal(&format!("amqps://{}", broker_authority())).await;
    assert_eq!(kind, BrokerErrorKind::Unreachable, "{said}");
    assert!(said.contains("TLS"), "{said}");
    let (kind, said) = refusal(&format!("http://{}", broker_authority())).await;
    assert_eq!(kind, BrokerErrorKind::InvalidUri, "{said}");
}

#[tokio::test]
async fn attempts_at_a_silent_port_leave_nothing_behind() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let uri = format!("amqp://{}", silent.local_addr().unwrap());
    let attempt = || async {
        let mut options = RabbitMqOptions::new([&uri], Topology::default());
        options.connect_timeout = Duration::from_millis(100);
        assert!(RabbitMq::connect(options).await.is_err());
    };
    attempt().await;
    let before = io_loops();
    for _ in 0..10 {
        attempt().await;
    }
    let deadline = Instant::now() + PATIENCE;
    while io_loops() > before + 2 {
        assert!(Instant::now() < deadline, "{} I/O threads, {before} before", io_loops());
        sleep(Duration::from_millis(100)).await;
    }
}

/// Threads of the client library in this process, those of other tests included.
fn io_loops() -> usize {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let names = tasks.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("comm")).ok());
    names.filter(|name| name.starts_with("lapin")).count()
}

#[tokio::test]
async fn a_list_of_addresses_is_tried_in_turn() {
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let uris = [format!("amqp://{free}"), broker_uri()];
    let broker = RabbitMq::connect(RabbitMqOptions::new(uris, Topology::default())).await.unwrap();
    assert!(broker.describe().contains(&free.to_string()), "{}", broker.describe());
    assert!(!broker.describe().contains("guest"), "{}", broker.describe());
    broker.close().await;
}

#[tokio::test]
async fn a_queue_with_other_arguments_is_named_with_the_remedy() {
    let topology = topology("other-arguments");
    let broker = connect(broker_uri(), &topology, |_| {}).await;
    broker.declare().await.unwrap();
    let other = connect(broker_uri(), &topology.clone().with_delivery_limit(77), |_| {}).await;
    let error = other.declare().await.unwrap_err();
    assert_eq!(error.kind(), BrokerErrorKind::Declare);
    let said = said(&error);
    assert!(said.contains(topology.lane_queue(Lane::Bulk).as_str()), "{said}");
    assert!(said.contains("delete it") && said.contains("x-delivery-limit"), "{said}");
    // The refusal has cost a channel, not the connection.
    assert_eq!(other.state(), BrokerState::Connected);
}

/// Publishes `0..messages` from several tasks, consumes them, and returns how often something came twice.
async fn run_load(
    broker: Arc<dyn Broker>,
    lane: QueueName,
    messages: usize,
    started: Arc<tokio::sync::Notify>,
) -> usize {
    let publisher = tokio::spawn({
        let (broker, lane) = (Arc::clone(&broker), lane.clone());
        async move {
            let mut tasks = tokio::task::JoinSet::new();
            for task in 0..32 {
                let (broker, lane) = (Arc::clone(&broker), lane.clone());
                tasks.spawn(async move {
                    for number in (task..messages).step_by(32) {
                        broker.publish(&lane, Message::new(number.to_string(), vec![7; 2000])).await.unwrap();
                    }
                });
            }
            tasks.join_all().await;
        }
    });
    let mut consumer = broker.consume(&lane, 20).await.unwrap();
    let (mut seen, mut doubled) = (HashSet::new(), 0);
    while seen.len() < messages {
        let delivery = timeout(PATIENCE, consumer.next())
            .await
            .unwrap_or_else(|_| {
                panic!("only {} of {messages} arrived, state {:?}", seen.len(), broker.state())
            })
            .unwrap()
            .unwrap();
        if !seen.insert(delivery.message.message_id.clone()) {
            doubled += 1;
        }
        delivery.ack().await.unwrap();
        started.notify_one();
    }
    publisher.await.unwrap();
    doubled
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_when_connections_are_cut_under_load() {
    let proxy = Proxy::start().await;
    let topology = topology("cuts").with_delivery_limit(100);
    let broker = connect(uri_through(proxy.port), &topology, |_| {}).await;
    broker.declare().await.unwrap();
    let lane = topology.lane_queue(Lane::Bulk);
    let started = Arc::new(tokio::sync::Notify::new());
    let load = tokio::spawn(run_load(Arc::clone(&broker), lane.clone(), 20_000, Arc::clone(&started)));
    started.notified().await;
    let before = resources();
    let mut cuts = 0;
    while !load.is_finished() && cuts < 8 {
        sleep(Duration::from_millis(300)).await;
        proxy.cut().await;
        cuts += 1;
        wait_for_state(&broker, BrokerState::is_ready).await;
    }
    let doubled = load.await.unwrap();
    assert!(cuts >= 3, "the load was over after {cuts} cuts: nothing was tested");
    wait_for_state(&broker, BrokerState::is_ready).await;
    // What is still there was published twice and comes twice; none of it is new.
    let mut consumer = broker.consume(&lane, 100).await.unwrap();
    while let Ok(delivery) = timeout(Duration::from_secs(1), consumer.next()).await {
        delivery.unwrap().unwrap().ack().await.unwrap();
    }
    println!("{cuts} cuts, {doubled} of 20000 came twice");
    drop(consumer);
    let deadline = Instant::now() + PATIENCE;
    // Other tests of this process come and go; a leak would grow with every cut, twice per cut.
    while resources().1 > before.1 + cuts {
        assert!(Instant::now() < deadline, "descriptors and threads {:?}, {before:?} before", resources());
        sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_connection_is_found_out_by_its_heartbeats() {
    let proxy = Proxy::start().await;
    let topology = topology("half-open");
    let broker = connect(uri_through(proxy.port), &topology, |options| {
        options.heartbeat = Duration::from_secs(2);
        options.connect_timeout = Duration::from_secs(1);
    })
    .await;
    broker.declare().await.unwrap();
    let lane = topology.lane_queue(Lane::Bulk);
    let mut consumer = broker.consume(&lane, 1).await.unwrap();
    broker.publish(&lane, Message::new("a", "x")).await.unwrap();
    let held = consumer.next().await.unwrap().unwrap();
    proxy.set(Weather::HalfOpen);
    let publish = tokio::spawn({
        let (broker, lane) = (Arc::clone(&broker), lane.clone());
        async move { broker.publish(&lane, Message::new("b", "x")).await }
    });
    wait_for_state(&broker, is_connecting).await;
    let error = broker.depth(&lane).await.unwrap_err();
    assert_eq!(error.kind(), BrokerErrorKind::Unreachable);
    proxy.set(Weather::Fair);
    publish.await.unwrap().unwrap();
    held.ack().await.expect("an ack for a connection that is gone");
    let mut seen = HashSet::new();
    while seen.len() < 2 {
        let delivery = timeout(PATIENCE, consumer.next()).await.unwrap().unwrap().unwrap();
        seen.insert((delivery.message.message_id.clone(), delivery.redelivered));
        delivery.ack().await.unwrap();
    }
    assert!(seen.contains(&("a".to_owned(), true)), "the late ack settled the redelivery: {seen:?}");
}

/// A consumer that has just lost its broker.
struct CutOff {
    proxy: Proxy,
    topology: Topology,
    broker: Arc<dyn Broker>,
    lane: QueueName,
    consumer: Box<dyn Consumer>,
}

async fn cut_off(case: &str) -> CutOff {
    let proxy = Proxy::start().await;
    let topology = topology(case);
    let broker = connect(uri_through(proxy.port), &topology, |_| {}).await;
    broker.declare().await.unwrap();
    let lane = topology.lane_queue(Lane::Bulk);
    let consumer = broker.consume(&lane, 1).await.unwrap();
    proxy.set(Weather::Down);
    wait_for_state(&broker, is_connecting).await;
    CutOff { proxy, topology, broker, lane, consumer }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn subscribing_again_goes_on_when_next_is_dropped() {
    let CutOff { proxy, topology, broker: _broker, lane, mut consumer } = cut_off("dropped-next").await;
    proxy.set(Weather::Slow);
    let direct = connect(broker_uri(), &topology, |_| {}).await;
    direct.publish(&lane, Message::new("a", "x")).await.unwrap();
    let deadline = Instant::now() + PATIENCE;
    let delivery = loop {
        // Much shorter than a request takes.
        if let Ok(delivery) = timeout(LATENCY / 10, consumer.next()).await {
            break delivery.unwrap().unwrap();
        }
        assert!(Instant::now() < deadline, "never subscribed again");
    };
    delivery.ack().await.unwrap();
    assert_eq!(direct.depth(&lane).await.unwrap().consumers, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscription_that_was_given_up_takes_no_messages() {
    let proxy = Proxy::start().await;
    proxy.set(Weather::Slow);
    let topology = topology("given-up");
    let direct = connect(broker_uri(), &topology, |_| {}).await;
    direct.declare().await.unwrap();
    let lane = topology.lane_queue(Lane::Bulk);
    // Time to open a channel and to set its prefetch, and not for the answer to the third request.
    let broker =
        connect(uri_through(proxy.port), &topology, |options| options.operation_timeout = LATENCY * 5).await;
    let error = broker.consume(&lane, 1).await.map(|_| ()).unwrap_err();
    assert_eq!(error.kind(), BrokerErrorKind::Timeout, "{error}");
    sleep(LATENCY * 4).await;
    direct.publish(&lane, Message::new("a", "x")).await.unwrap();
    let mut consumer = direct.consume(&lane, 1).await.unwrap();
    let delivery =
        timeout(PATIENCE, consumer.next()).await.expect("nobody holds the message").unwrap().unwrap();
    delivery.ack().await.unwrap();
    assert_eq!(direct.depth(&lane).await.unwrap().consumers, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mailbox_that_expired_while_the_connection_was_away_is_opened_again() {
    let proxy = Proxy::start().await;
    let topology = topology("away").with_mailbox_expiry(Duration::from_secs(4));
    let broker = connect(uri_through(proxy.port), &topology, |_| {}).await;
    broker.declare().await.unwrap();
    let mailbox = broker.open_mailbox("run").await.unwrap();
    let mut consumer = broker.consume(&mailbox, 1).await.unwrap();
    proxy.set(Weather::Down);
    wait_for_state(&broker, is_connecting).await;
    let direct = connect(broker_uri(), &topology, |_| {}).await;
    while direct.depth(&mailbox).await.is_ok() {
        sleep(Duration::from_millis(200)).await;
    }
    proxy.set(Weather::Fair);
    let next = tokio::spawn(async move { consumer.next().await });
    loop {
        match direct.publish(&mailbox, Message::new("a", "outcome")).await {
            Ok(()) => break,
            Err(error) => assert_eq!(error.kind(), BrokerErrorKind::Unroutable),
        }
        sleep(Duration::from_millis(100)).await;
    }
    let delivery = timeout(PATIENCE, next).await.unwrap().unwrap().unwrap().unwrap();
    assert_eq!(delivery.message.message_id, "a");
    delivery.ack().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn closing_while_the_broker_is_away_ends_what_waits() {
    let CutOff { proxy: _proxy, broker, lane, mut consumer, .. } = cut_off("closing").await;
    let publish = tokio::spawn({
        let (broker, lane) = (Arc::clone(&broker), lane.clone());
        async move { broker.publish(&lane, Message::new("a", "x")).await }
    });
    let next = tokio::spawn(async move { consumer.next().await.map(|delivery| delivery.is_none()) });
    sleep(Duration::from_millis(200)).await;
    timeout(PATIENCE, broker.close()).await.expect("it waits for no broker");
    let error = publish.await.unwrap().unwrap_err();
    assert_eq!(error.kind(), BrokerErrorKind::Closed, "{error}");
    assert!(next.await.unwrap().unwrap());
}
