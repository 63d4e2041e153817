//! Benchmarks whose questions differ from picture to picture: over a fleet, after a kill, and tried again by a service.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use captionfleet_proto::rows::{Projection, Row, Status, read_part};
use captionfleet_tests::faults::{Fault, Rule, S3Front};
use captionfleet_tests::fleet::{Endpoints, Fleet, dispatcher, http};
use captionfleet_world::export::ExportedScene;
use hyper::Method;
use serde_json::{Value, json};

use crate::service::{port, until_at};
use crate::{fleet, pictures};

const BACKDROP: &str = "What color is the background?";
const COUNT: &str = "How many objects are there?";

/// A small GQA as it is published: `count` pictures with three questions each. Both rules must score 1 and 0 for the sorts
/// `verify` and `choose` of the reference's rule, whatever is answered: the gold answer of the one is in every answer, that
/// of the other in none.
fn gqa(folder: &Path, count: usize) -> Vec<ExportedScene> {
    let scenes = pictures::scenes(&folder.join("images"), count, 51);
    let mut questions = serde_json::Map::new();
    for (at, scene) in scenes.iter().enumerate() {
        let (image, extension) = scene.file.rsplit_once('.').unwrap();
        let backdrop = scene.questions.iter().find(|asked| asked.question.contains("background")).unwrap();
        let mut ask = |number: u32, question: &str, answer: &str, kind: &str| {
            let case = json!({"imageId": image, "question": question, "answer": answer,
                "types": {"structural": kind, "semantic": "attr"}});
            questions.insert(format!("{at}{number}"), case);
        };
        ask(0, BACKDROP, &backdrop.answers[0], "query");
        ask(1, COUNT, "", "verify");
        ask(2, BACKDROP, "zebra", "choose");
        // The published set has .jpg; what is there counts.
        let picture = folder.join("images").join(&scene.file);
        assert!(picture.exists() && !extension.is_empty());
        std::fs::rename(&picture, picture.with_extension("jpg")).unwrap();
    }
    std::fs::write(folder.join("testdev_balanced_questions.json"), Value::Object(questions).to_string())
        .unwrap();
    scenes
}

fn eval(data: &Path, archive: &str, more: &[String]) -> Vec<String> {
    let data = data.to_str().unwrap();
    let mut arguments: Vec<String> =
        ["eval", "gqa", "--data", data, "--archive", archive, "--own-prompt", "--job-size", "4", "--json"]
            .map(str::to_owned)
            .to_vec();
    arguments.extend_from_slice(more);
    arguments
}

/// The parts in `folder` with what is in them.
fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let Ok(entries) = folder.read_dir() else { return BTreeMap::new() };
    let paths = entries
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|kind| kind == "parquet"));
    paths.map(|path| (path.clone(), std::fs::read(path).unwrap())).collect()
}

fn rows(parts: &Path) -> Vec<Row> {
    files(parts).into_values().flat_map(|bytes| read_part(bytes.into(), Projection::All).unwrap()).collect()
}

fn scores(report: &Value) -> (Value, Value) {
    (report["all"].clone(), report["sorts"].clone())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_benchmark_over_a_fleet_scores_as_on_one_machine_and_goes_on_after_a_kill() {
    let fleet = Fleet::new("benchmark").unwrap();
    let data = fleet.folder().join("gqa");
    gqa(&data, 200);
    let alone = fleet.folder().join("alone").display().to_string();
    let expected = dispatcher(eval(&data, &alone, &[])).await.unwrap().success().unwrap().json().unwrap();
    let kind = |name: &str, rule: &str| expected["sorts"][name][rule]["mean"].as_f64().unwrap();
    assert_eq!((kind("verify", "reference"), kind("choose", "reference")), (1.0, 0.0), "{expected}");
    assert!(kind("query", "own") >= 0.85, "{expected}");

    let archive = fleet.s3_uri("archive");
    // Some parts are not written before the dispatcher is gone, however fast the workers are.
    let front = S3Front::start(fleet.s3_endpoint(), 7).await.unwrap();
    front.set([Rule::always(Fault::Hold).method(Method::PUT).path("/parts/").chance(0.3)]);
    let services = Endpoints { s3: front.endpoint(), ..fleet.endpoints().clone() };
    let _workers = ["one", "two"]
        .map(|name| fleet.start_worker_through(&services, name, "off", &["--slots", "2"]).unwrap());
    let arguments = eval(&data, &archive, &fleet.service_options());
    let mut doomed = fleet.start_command("doomed", &arguments).unwrap();
    fleet::wait_for_part(&fleet, &archive).await;
    doomed.signal("KILL");
    doomed.wait(Duration::from_secs(10)).await.unwrap();
    let objects =
        PathBuf::from(std::env::var("CAPTIONFLEET_TEST_BUCKET").unwrap()).join(fleet.queue_prefix());
    let parts = objects.join("archive/parts");
    let run = parts.read_dir().unwrap().next().unwrap().unwrap().path();
    let before = files(&run);
    assert!(!before.is_empty() && before.len() < 50, "{} of 50 parts", before.len());
    front.set([]);

    let report = dispatcher(&arguments).await.unwrap().success().unwrap().json().unwrap();
    assert_eq!(scores(&report), scores(&expected), "{report}");
    assert_eq!((&report["pictures"], &report["unanswered"]), (&200.into(), &0.into()), "{report}");
    assert_eq!(parts.read_dir().unwrap().count(), 1, "it is one run");
    let after = files(&run);
    assert_eq!(after.len(), 50);
    assert!(before.iter().all(|(path, bytes)| after[path] == *bytes), "what was done is not done again");
    let verify = ["verify", "--archive", &archive, "--s3-endpoint", fleet.s3_endpoint(), "--json"];
    dispatcher(verify).await.unwrap().success().unwrap();
    let name = report["run"].as_str().unwrap();
    for file in ["report.md", "report.json", "plot.svg"] {
        assert!(objects.join("archive/evaluations").join(name).join(file).is_file(), "{file}");
    }
    // Asked a third time it has nothing to do, and judges again what is there.
    let again = dispatcher(&arguments).await.unwrap().success().unwrap().json().unwrap();
    assert_eq!(again, report);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_failed_in_a_benchmark_is_asked_the_same_again_by_a_service() {
    let fleet = Fleet::new("benchmark-retry").unwrap();
    let data = fleet.folder().join("gqa");
    let scenes = gqa(&data, 10);
    let image = data.join("images").join(&scenes[6].file).with_extension("jpg");
    let whole = std::fs::read(&image).unwrap();
    std::fs::write(&image, &whole[..whole.len() / 2]).unwrap();
    let archive = fleet.folder().join("archive");
    let place = archive.display().to_string();
    let report = dispatcher(eval(&data, &place, &[])).await.unwrap().success().unwrap().json().unwrap();
    assert_eq!((&report["pictures"], &report["unanswered"]), (&10.into(), &3.into()), "{report}");
    std::fs::write(&image, whole).unwrap();

    let service = fleet.start_service("service", ["--listen", "127.0.0.1:0", "--archive", &place]).unwrap();
    let at = port(&service).await;
    let retry = format!("/api/v1/runs/{}/retry", report["run"].as_str().unwrap());
    let (status, told) = http(at, "POST", &retry, "").await.unwrap();
    assert!(status.contains(" 204 "), "{status} {told}");
    let is_over =
        |seen: &Value| !["planning", "beginning", "working"].contains(&seen[0]["phase"].as_str().unwrap());
    let ended = until_at(at, "/api/v1/submissions", is_over).await;
    assert_eq!((&ended[0]["phase"], &ended[0]["jobs"]), (&"ended".into(), &1.into()), "{ended}");
    let parts = archive.join("parts").join(ended[0]["runs"][0].as_str().unwrap());
    let [row] = &rows(&parts)[..] else { panic!("one picture had failed") };
    assert_eq!(row.status, Status::Ok, "{row:?}");
    // One of them twice, as the set has it: answers stand in the order of its cases.
    let asked: Vec<&str> = row.answers.iter().flatten().map(|answer| &*answer.question).collect();
    assert_eq!(asked, [BACKDROP, COUNT, BACKDROP]);
    // Judged again, the picture counts once, with the answers that it has now.
    let again = dispatcher(eval(&data, &place, &[])).await.unwrap().success().unwrap().json().unwrap();
    assert_eq!((&again["run"], &again["unanswered"]), (&report["run"], &0.into()), "{again}");
    assert_eq!((&again["pictures"], &again["all"]["questions"]), (&10.into(), &30.into()), "{again}");
    let right = |report: &Value| {
        let verify = &report["sorts"]["verify"];
        (verify["reference"]["mean"].as_f64().unwrap() * verify["questions"].as_f64().unwrap()).round()
    };
    assert_eq!((right(&report), right(&again)), (9.0, 10.0), "{again}");
    assert_eq!(archive.join("parts").read_dir().unwrap().count(), 2, "nothing is asked a third time");
}
