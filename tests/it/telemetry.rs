//! What a worker tells: metrics, health, readiness.

use std::time::Duration;

use captionfleet_tests::fleet::{Fleet, http_get};
use captionfleet_tests::sandbox::free_port;

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_becomes_ready_and_shows_its_metrics() {
    let fleet = Fleet::new("telemetry").unwrap();
    let port = free_port().unwrap();
    let address = format!("127.0.0.1:{port}");
    let worker = fleet.start_worker_at(&address, &["--price-per-hour", "0.2"]).unwrap();
    let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
    loop {
        if http_get(port, "/readyz").await.is_some_and(|(status, _)| status.contains(" 200 ")) {
            break;
        }
        assert!(tokio::time::Instant::now() < deadline, "never ready:\n{}", worker.output());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let (status, _) = http_get(port, "/healthz").await.unwrap();
    assert!(status.contains(" 200 "), "{status}");
    let relied_on = crate::deploy::metrics();
    assert!(relied_on.len() > 20, "{relied_on:?}");
    // The depth of the queues is known a little later than that the broker is there.
    loop {
        let (_, metrics) = http_get(port, "/metrics").await.unwrap();
        assert!(metrics.contains("process_resident_memory"), "{metrics}");
        let Some(missing) = relied_on.iter().find(|name| !metrics.contains(name.as_str())) else { break };
        assert!(
            tokio::time::Instant::now() < deadline,
            "deploy/ relies on {missing}, which is missing in:\n{metrics}"
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
