//! What a run took and cost, and what a plan says it will.

use std::path::Path;

use captionfleet_proto::rows::{read_shaped_part, write_part};
use captionfleet_tests::fleet::{Fleet, dispatcher, http_get};
use captionfleet_tests::sandbox::free_port;
use serde_json::Value;

use crate::starting::until_ready;
use crate::{pictures, service};

async fn json(arguments: &[&str]) -> Value {
    dispatcher(arguments).await.unwrap().success().unwrap().json().unwrap()
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is no number"))
}

fn bytes_of(folder: &Path) -> u64 {
    folder.read_dir().unwrap().map(|entry| entry.unwrap().metadata().unwrap().len()).sum()
}

/// Gives every row of an archive the energy that its worker would have told on a device of 75 W.
fn as_if_measured(archive: &Path) {
    let runs = archive.join("parts").read_dir().unwrap().map(|run| run.unwrap().path());
    for part in runs.flat_map(|run| run.read_dir().unwrap()) {
        let part = part.unwrap().path();
        let (mut rows, shape) = read_shaped_part(std::fs::read(&part).unwrap().into()).unwrap();
        for row in &mut rows {
            row.device_joules = row.device_seconds.map(|seconds| 75.0 * seconds);
        }
        std::fs::write(&part, write_part(&rows, shape.unwrap()).unwrap()).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_finished_run_tells_its_bill_wherever_it_is_asked() {
    let folder = tempfile::tempdir().unwrap();
    let (source, archive) = (folder.path().join("in"), folder.path().join("out"));
    pictures::scenes(&source, 60, 61);
    let (from, to) = (source.to_str().unwrap(), archive.to_str().unwrap());
    let priced = ["--archive", to, "--json", "--price-per-hour", "3600"];
    let report = json(&[&["caption", from, "--job-size", "8"], &priced[..]].concat()).await;
    let bill = &report["bill"];
    assert_eq!((&bill["captions"], &bill["workers"]), (&60.into(), &1.into()), "{report}");
    // At this price an hour costs what it has seconds.
    let (device, worker) = (number(&bill["device_seconds"]), number(&bill["cost"]));
    assert!(device > 0.0 && device <= worker && worker <= number(&report["seconds"]), "{report}");
    let each = number(&bill["cost_per_1000_captions"]) * 60.0 / 1000.0;
    assert!((each - worker).abs() < 1e-6 * worker, "{report}");

    let run = report["runs"][0].as_str().unwrap();
    let status = json(&[&["status", run], &priced[..]].concat()).await;
    let told = &status[0]["bill"];
    assert!((number(&told["device_seconds"]) - device).abs() < 1e-3 * device, "{told} {bill}");
    // Rows know the worker's clock, the report when it heard of a job.
    assert!(number(&told["cost"]) > 0.0 && number(&told["cost"]) <= worker + 1.0, "{told} {bill}");
    let unpriced = json(&["status", run, "--archive", to, "--json"]).await;
    assert_eq!(unpriced[0]["bill"].get("cost"), None, "{unpriced}");
    assert_eq!(
        json(&["status", "--archive", to, "--json"]).await[0].get("bill"),
        None,
        "not read for a list"
    );

    assert_eq!(bill.get("energy"), None, "no processor tells its energy: {report}");
    as_if_measured(&archive);
    let status = json(&[&["status", run], &priced[..]].concat()).await;
    let told = &status[0]["bill"];
    let energy = &told["energy"];
    assert!((number(&energy["joules"]) - 75.0 * device).abs() < 1e-3 * 75.0 * device, "{told} {bill}");
    let each = number(&energy["joules"]) * 1000.0 / 60.0;
    assert!((number(&energy["joules_per_1000_captions"]) - each).abs() < 1e-6 * each, "{told}");
    let words = dispatcher(["status", run, "--archive", to]).await.unwrap().success().unwrap();
    assert!(words.stdout.contains("Wh per 1,000 captions"), "{}", words.stdout);

    let fleet = Fleet::new("billed").unwrap();
    let serve = ["--listen", "127.0.0.1:0", "--archive", to, "--price-per-hour", "3600"];
    let serving = fleet.start_service("service", serve).unwrap();
    let (_, seen) = http_get(service::port(&serving).await, &format!("/api/v1/runs/{run}")).await.unwrap();
    let seen: Value = serde_json::from_str(&seen).unwrap();
    for key in ["captions", "workers", "worker_hours", "cost", "energy"] {
        assert_eq!(seen["bill"][key], told[key], "{seen}");
    }
    assert!((number(&seen["bill"]["device_seconds"]) - device).abs() < 1e-3 * device, "{seen}");
}

/// Every container's first process is its process 1.
#[tokio::test(flavor = "multi_thread")]
async fn workers_in_containers_are_paid_one_by_one() {
    let fleet = Fleet::new("contained").unwrap();
    let mut workers = Vec::new();
    for name in ["one", "other"] {
        let admin = free_port().unwrap();
        workers.push(fleet.start_contained_worker(name, &format!("127.0.0.1:{admin}")).await.unwrap());
        until_ready(admin, &workers[workers.len() - 1]).await;
    }
    let source = fleet.folder().join("in");
    pictures::scenes(&source, 48, 64);
    let archive = fleet.s3_uri("archive");
    let caption = ["caption", source.to_str().unwrap(), "--archive", &archive, "--job-size", "4", "--json"];
    let caption = caption.map(str::to_owned).into_iter().chain(fleet.service_options());
    let report = fleet.dispatcher(caption).await.unwrap().success().unwrap().json().unwrap();
    assert_eq!((&report["ok"], &report["bill"]["workers"]), (&48.into(), &2.into()), "{report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_reckons_with_what_was_measured() {
    let folder = tempfile::tempdir().unwrap();
    let (first, second, archive) =
        (folder.path().join("first"), folder.path().join("second"), folder.path().join("out"));
    pictures::scenes(&first, 24, 62);
    pictures::scenes(&second, 96, 63);
    let (from, to) = (second.to_str().unwrap(), archive.to_str().unwrap());
    let plan = ["plan", from, "--archive", to, "--job-size", "8", "--json", "--price-per-hour", "3600"];
    let ahead = json(&plan).await;
    assert_eq!(ahead["bytes_to_do"], bytes_of(&second), "{ahead}");
    assert_eq!(ahead.get("estimate"), None, "nothing was measured yet: {ahead}");
    let given = json(&[&plan[..], &["--seconds-per-item", "0.5", "--workers", "1,5"]].concat()).await;
    let fleets = &given["estimate"]["fleets"];
    assert_eq!((number(&fleets[0]["seconds"]), number(&fleets[0]["cost"])), (48.0, 48.0), "{given}");
    // Twelve jobs among five: someone has three.
    assert_eq!((number(&fleets[1]["seconds"]), number(&fleets[1]["cost"])), (12.0, 48.0), "{given}");

    let caption = ["caption", first.to_str().unwrap(), "--archive", to, "--job-size", "8", "--json"];
    let report = json(&caption).await;
    let estimate = &json(&plan).await["estimate"];
    assert_eq!(estimate["measured_in"], report["runs"][0], "{estimate}");
    let run = report["runs"][0].as_str().unwrap();
    let status = json(&["status", run, "--archive", to, "--json"]).await;
    let bill = &status[0]["bill"];
    let (hours, device) = (number(&bill["worker_hours"]), number(&bill["device_seconds"]));
    let one = &estimate["fleets"][0];
    assert_eq!(estimate["fleets"].as_array().map(Vec::len), Some(3), "{estimate}");
    // Four times the pictures, by the rows' clock as in the status.
    assert!((number(&one["worker_hours"]) - 4.0 * hours).abs() < 0.01 * hours, "{estimate} {bill}");
    assert!((number(&estimate["device_seconds"]) - 4.0 * device).abs() < 1e-3 * device, "{estimate} {bill}");
}
