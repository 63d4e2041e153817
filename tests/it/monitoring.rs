//! A real Prometheus, as `deploy/` configures it, over a fleet at work.

use std::path::Path;
use std::time::Duration;

use captionfleet_tests::fleet::{Fleet, http_with};
use captionfleet_tests::sandbox::{Prometheus, free_port};
use serde_json::{Value, json};

use crate::service::port;
use crate::signal::put_pictures;

/// Scrapes are five seconds apart, and the machine may be busy.
const LIMIT: Duration = Duration::from_secs(180);

/// The first query of a panel of the dashboard of the fleet, over the last two minutes.
fn panel(title: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/grafana/dashboards/fleet.json");
    let board: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let panel = board["panels"].as_array().unwrap().iter().find(|panel| panel["title"] == title).unwrap();
    panel["targets"][0]["expr"].as_str().unwrap().replace("$__rate_interval", "2m")
}

/// The token that the shipped configuration shows to the dispatcher.
fn token() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/prometheus/prometheus.yml");
    let config = std::fs::read_to_string(path).unwrap();
    config.split("credentials: ").nth(1).unwrap().split('}').next().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn prometheus_sees_a_run_and_alerts() {
    let fleet = Fleet::new("monitoring").unwrap();
    let (archive, pictures) = (fleet.s3_uri("archive"), put_pictures(&fleet, 300, 52));
    let file = fleet.folder().join("token");
    std::fs::write(&file, token()).unwrap();
    let file = file.display().to_string();
    let serve =
        ["--listen", "127.0.0.1:0", "--archive", &archive, "--sources", &pictures, "--token-file", &file];
    let serve = serve.map(str::to_owned).into_iter().chain(fleet.service_options());
    let service = fleet.start_service("service", serve).unwrap();
    let (at, worker_port) = (port(&service).await, free_port().unwrap());
    let jobs = [("captionfleet-worker", worker_port), ("captionfleet-dispatcher", at)];
    let prometheus = Prometheus::start(&fleet.folder().join("prometheus"), &jobs).await.unwrap();
    let until = async |expression: &str, is_right: fn(f64) -> bool| {
        prometheus.until(expression, LIMIT, is_right).await.unwrap()
    };

    // Work, and nobody who does it.
    let order = json!({"sources": [pictures], "job_size": 5}).to_string();
    let token = format!("Authorization: Bearer {}\r\n", token());
    let answer = http_with(at, "POST", "/api/v1/submissions", &token, &order).await;
    let (status, submitted) = answer.unwrap();
    assert!(status.contains(" 202 "), "{status} {submitted}");
    // Until something was measured a picture is worth a quarter of a second.
    until(&panel("GPU work waiting"), |seconds| seconds == 75.0).await;
    until("up{job=\"captionfleet-worker\"}", |up| up == 0.0).await;
    until("ALERTS{alertname=\"CaptionfleetNoWorkers\", alertstate=\"pending\"}", |there| there == 1.0).await;
    until("max(captionfleet_wanted_workers)", |wanted| wanted == 1.0).await;

    // Somebody who does it, slowly enough to be scraped meanwhile.
    let slowly =
        ["--engine", "null", "--load-test", "--null-seconds-per-item", "0.1", "--price-per-hour", "0.2"];
    let _worker = fleet.start_worker_at(&format!("127.0.0.1:{worker_port}"), &slowly).unwrap();
    until(&panel("Pictures per second"), |rate| rate > 0.0).await;
    let ratio = until(&panel("Starvation ratio"), |ratio| !ratio.is_nan()).await;
    assert!((0.0..=1.0).contains(&ratio), "{ratio}");
    until(&panel("Cost per 1,000 captions"), |cost| cost > 0.0 && cost.is_finite()).await;
    until("count(ALERTS{alertname=\"CaptionfleetNoWorkers\"}) or vector(0)", |alerts| alerts == 0.0).await;

    // Then there is nothing left.
    until("sum(captionfleet_worker_items_total{status=\"ok\"})", |items| items == 300.0).await;
    until(&panel("GPU work waiting"), |seconds| seconds == 0.0).await;
    until("max(captionfleet_wanted_workers)", |wanted| wanted == 0.0).await;
}
