//! What a service asks its workers: once, and no longer than someone waits for the answer.

use std::time::Duration;

use captionfleet_proto::broker::Broker as _;
use captionfleet_proto::job::Lane;
use captionfleet_tests::fleet::{Fleet, http_get, worker};
use captionfleet_tests::sandbox::free_port;
use serde_json::Value;
use tokio::io::AsyncWriteExt as _;

use crate::service::until_metrics;

const SEARCH: &str = "/api/v1/search?text=a+red+star";

/// Waits until a page of metrics has a line.
async fn until_metric(port: u16, line: &str) {
    until_metrics(port, line, str::is_empty).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_is_dropped_with_its_client_and_embedded_once() {
    let fleet = Fleet::new("questions").unwrap();
    let archive = fleet.s3_uri("archive");
    let mut serve = ["--listen", "127.0.0.1:0", "--archive", &archive].map(str::to_owned).to_vec();
    serve.extend(fleet.service_options());
    let service = fleet.start_service("service", serve).unwrap();
    let port = crate::service::port(&service).await;
    let (broker, topology) = fleet.connect().await.unwrap();
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

/// While a fleet's model is changed its workers answer in turn, each in the embedding space of its own model.
#[tokio::test(flavor = "multi_thread")]
async fn queries_go_to_the_model_that_embedded_the_archive() {
    let fleet = Fleet::new("two-spaces").unwrap();
    let bundle = fleet.folder().join("bundle").display().to_string();
    worker(["random-bundle", "--small", "--out", &bundle]).await.unwrap().success().unwrap();
    let archive = fleet.s3_uri("archive");
    let caption = async |folder: &str, count: usize| {
        let source = fleet.folder().join(folder);
        crate::pictures::scenes(&source, count, 51);
        let mut caption = vec!["caption".to_owned(), source.display().to_string()];
        caption.extend(["--archive".to_owned(), archive.clone()]);
        caption.extend(fleet.service_options());
        fleet.dispatcher(caption).await.unwrap().success().unwrap();
    };
    let (broker, topology) = fleet.connect().await.unwrap();
    let until_consumers = async |count: u32| {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
        while broker.depth(&topology.lane_queue(Lane::Interactive)).await.unwrap().consumers != count {
            assert!(tokio::time::Instant::now() < deadline, "never {count} workers");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let mut old = fleet.start_worker("old", &[]).unwrap();
    caption("first", 6).await;
    let _new = fleet.start_worker("new", &["--model", &bundle]).unwrap();
    until_consumers(2).await;

    let mut serve = ["--listen", "127.0.0.1:0", "--archive", &archive].map(str::to_owned).to_vec();
    serve.extend(fleet.service_options());
    let start = |name| fleet.start_service(name, &serve).unwrap();
    let service = start("service");
    let port = crate::service::port(&service).await;
    let search = async |port: u16, text: &str| {
        let (status, found) = http_get(port, &format!("/api/v1/search?text={text}")).await.unwrap();
        (status, serde_json::from_str::<Value>(&found).unwrap())
    };
    // Whoever takes what comes first meets the new model in one of two searches.
    for text in ["red", "blue", "star", "circle", "square", "green", "white", "black"] {
        let (status, found) = search(port, text).await;
        assert!(status.contains(" 200 "), "{status} {found}");
        assert_eq!((found["hits"].as_array().unwrap().len(), &found["pictures"]), (6, &6.into()), "{found}");
        let mut arguments = vec!["search", text, "--archive", &archive, "--json"];
        let options = fleet.service_options();
        arguments.extend(options.iter().map(String::as_str));
        let found = fleet.dispatcher(arguments).await.unwrap().json().unwrap();
        assert_eq!(found["pictures"], 6, "{found}");
    }

    // The old model is gone: what answers is told apart from an archive where nothing is found.
    old.signal("TERM");
    assert!(old.wait(Duration::from_secs(60)).await.unwrap().success());
    until_consumers(1).await;
    let (status, told) = search(port, "triangle").await;
    assert!(status.contains(" 409 ") && told["code"] == "other_space", "{status} {told}");
    assert!(told["detail"].as_str().unwrap().contains("6 in "), "{told}");

    // With pictures of its own it finds those, and says how many it cannot compare.
    caption("second", 2).await;
    let service = start("another");
    let port = crate::service::port(&service).await;
    let (status, found) = search(port, "red").await;
    assert!(status.contains(" 200 "), "{status} {found}");
    let foreign: Vec<u64> =
        found["index"]["foreign"].as_object().unwrap().values().filter_map(Value::as_u64).collect();
    assert_eq!((&found["pictures"], foreign), (&2.into(), vec![6]), "{found}");
    broker.close().await;
}
