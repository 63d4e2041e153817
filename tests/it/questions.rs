//! What a service asks its workers: once, and no longer than someone waits for the answer.

use std::time::Duration;

use captionfleet_proto::broker::rabbitmq::{RabbitMq, RabbitMqOptions};
use captionfleet_proto::broker::{Broker as _, Topology};
use captionfleet_proto::job::Lane;
use captionfleet_tests::fleet::{Fleet, http_get};
use captionfleet_tests::sandbox::free_port;
use tokio::io::AsyncWriteExt as _;

const SEARCH: &str = "/api/v1/search?text=a+red+star";

/// Waits until a page of metrics has a line.
async fn until_metric(port: u16, line: &str) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
    loop {
        let metrics = http_get(port, "/metrics").await.map(|(_, metrics)| metrics).unwrap_or_default();
        if metrics.lines().any(|found| found == line) {
            return;
        }
        assert!(tokio::time::Instant::now() < deadline, "never {line} in\n{metrics}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_is_dropped_with_its_client_and_embedded_once() {
    let fleet = Fleet::new("questions").unwrap();
    let archive = fleet.s3_uri("archive");
    let mut serve = ["--listen", "127.0.0.1:0", "--archive", &archive].map(str::to_owned).to_vec();
    serve.extend(fleet.service_options());
    let service = fleet.start_service("service", serve).unwrap();
    let port = crate::service::port(&service).await;
    let topology = Topology::with_prefix(fleet.queue_prefix()).unwrap();
    let options = RabbitMqOptions::new([fleet.broker()], topology.clone());
    let broker = RabbitMq::connect(options).await.unwrap();
    let waiting = async || broker.depth(&topology.lane_queue(Lane::Interactive)).await.unwrap().messages;

    // Nobody is there to answer, and the client leaves.
    let mut client = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let request = format!("GET {SEARCH} HTTP/1.1\r\nHost: localhost\r\n\r\n");
    client.write_all(request.as_bytes()).await.unwrap();
    let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
    while waiting().await != 1 {
        assert!(tokio::time::Instant::now() < deadline, "the query never came to the queue");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    drop(client);
    let gone =
        "captionfleet_service_requests_total{method=\"GET\",route=\"/api/v1/search\",status=\"gone\"} 1";
    until_metric(port, gone).await;
    let admin = free_port().unwrap();
    let _worker = fleet.start_worker_at(&format!("127.0.0.1:{admin}"), &[]).unwrap();
    let of_searches = |outcome: &str, count: u32| {
        format!("captionfleet_worker_jobs_total{{kind=\"search\",outcome=\"{outcome}\"}} {count}")
    };
    until_metric(admin, &of_searches("cancelled", 1)).await;
    until_metric(admin, &of_searches("done", 0)).await;
    assert_eq!(waiting().await, 0);

    // Whoever waits is answered; who asks the same again costs no job.
    for _ in 0..3 {
        let (status, found) = http_get(port, SEARCH).await.unwrap();
        assert!(status.contains(" 200 "), "{status} {found}");
    }
    until_metric(admin, &of_searches("done", 1)).await;
    until_metric(port, "captionfleet_service_query_embeddings_total{cache=\"hit\"} 2").await;
    until_metric(port, "captionfleet_service_query_embeddings_total{cache=\"miss\"} 1").await;
    let (status, _) = http_get(port, "/api/v1/search?text=a+blue+star").await.unwrap();
    assert!(status.contains(" 200 "), "{status}");
    until_metric(admin, &of_searches("done", 2)).await;
    broker.close().await;
}
