//! Workers that are started and stopped by what the service says is wanted.

use std::time::Duration;

use captionfleet_tests::fleet::{Fleet, http, http_get};
use captionfleet_tests::sandbox::Child;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::service::{port, until_at};
use crate::signal::put_pictures;

/// For a machine that does much else.
const LIMIT: Duration = Duration::from_secs(400);
/// The service says something new every two seconds.
const PAUSE: Duration = Duration::from_secs(1);
/// Less must have been wanted so often on end before a worker is stopped: a stabilisation window.
const CALM: u32 = 4;

/// Does what an autoscaler does: grows at once, and shrinks when less was right for a while, by a drain.
struct Scaler<'a> {
    fleet: &'a Fleet,
    service: u16,
    workers: Vec<Child>,
    started: usize,
    calm: u32,
}

impl Scaler<'_> {
    /// Looks once; how many are wanted.
    async fn step(&mut self) -> usize {
        let (_, load) = http_get(self.service, "/api/v1/scale").await.unwrap();
        let load: Value = serde_json::from_str(&load).unwrap();
        let wanted = load["wanted_workers"].as_u64().unwrap_or_else(|| panic!("{load}")) as usize;
        while self.workers.len() < wanted {
            let name = format!("worker-{}", self.started);
            self.workers.push(self.fleet.start_worker(&name, &["--grace", "60"]).unwrap());
            self.started += 1;
        }
        self.calm = if wanted < self.workers.len() { self.calm + 1 } else { 0 };
        if self.calm >= CALM {
            for mut leaving in self.workers.split_off(wanted) {
                leaving.signal("TERM");
                let status = leaving.wait(LIMIT).await.unwrap();
                assert!(status.success(), "a drain ended with {status}:\n{}", leaving.output());
            }
        }
        wanted
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fleet_follows_its_queue_and_goes() {
    let fleet = Fleet::new("follows").unwrap();
    let management = std::env::var("CAPTIONFLEET_TEST_MANAGEMENT").unwrap();
    let archive = fleet.s3_uri("archive");
    let (own, foreign) = (put_pictures(&fleet, 240, 53), put_pictures(&fleet, 200, 54));
    let serve = ["--listen", "127.0.0.1:0", "--archive", &archive, "--sources", &own];
    let signal = ["--broker-management", &management, "--scale-target", "1", "--max-workers", "3"];
    let serve = serve.into_iter().chain(signal).map(str::to_owned).chain(fleet.service_options());
    let service = fleet.start_service("service", serve).unwrap();
    let at = port(&service).await;
    until_at(at, "/api/v1/scale", |load| load["wanted_workers"] == 0).await;

    // A burst through the service. A minute of work, as long as nothing was measured: all three are wanted.
    let order = json!({"sources": [own], "job_size": 8}).to_string();
    let (status, submitted) = http(at, "POST", "/api/v1/submissions", &order).await.unwrap();
    assert!(status.contains(" 202 "), "{status} {submitted}");
    until_at(at, "/api/v1/scale", |load| load["wanted_workers"] == 3).await;
    let mut scaler = Scaler { fleet: &fleet, service: at, workers: Vec::new(), started: 0, calm: 0 };
    let deadline = Instant::now() + LIMIT;
    assert_eq!(scaler.step().await, 3);
    // Down to none, and nothing is left.
    while scaler.step().await > 0 || !scaler.workers.is_empty() {
        assert!(Instant::now() < deadline, "never at rest:\n{}", service.output());
        tokio::time::sleep(PAUSE).await;
    }
    let started = scaler.started;
    assert!(started >= 3, "{started}");

    // Another one that the service knows of by the queues alone.
    let mut caption: Vec<String> =
        ["caption", &foreign, "--archive", &archive, "--job-size", "8"].map(str::to_owned).to_vec();
    caption.extend(fleet.service_options());
    let mut publisher = fleet.start_dispatcher("publisher", caption).unwrap();
    while publisher.is_running() || scaler.step().await > 0 || !scaler.workers.is_empty() {
        assert!(Instant::now() < deadline, "never at rest:\n{}\n{}", service.output(), publisher.output());
        scaler.step().await;
        tokio::time::sleep(PAUSE).await;
    }
    assert!(scaler.started > started, "somebody came for it");
    assert!(publisher.wait(PAUSE).await.unwrap().success(), "{}", publisher.output());

    let verify = ["verify", "--archive", &archive, "--json", "--s3-endpoint", fleet.s3_endpoint()];
    let verified = fleet.dispatcher(verify).await.unwrap().success().unwrap().json().unwrap();
    let ok: Vec<_> =
        verified["runs"].as_array().unwrap().iter().map(|run| run["rows"]["ok"].clone()).collect();
    assert_eq!((&verified["whole"], ok.len()), (&true.into(), 2), "{verified}");
    assert_eq!(ok.iter().filter_map(Value::as_u64).sum::<u64>(), 440, "{verified}");
}
