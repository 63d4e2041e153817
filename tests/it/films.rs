//! Films over RabbitMQ and S3.

use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use captionfleet_proto::storage::{StorageOptions, Stores};
use captionfleet_tests::fleet::{Fleet, dispatcher};
use captionfleet_world::{Scene, Split, render};
use serde_json::Value;

/// A film of `scenes` scenes of three seconds each.
pub(crate) fn film(folder: &Path, name: &str, scenes: usize) {
    let frames = folder.join("frames");
    std::fs::create_dir(&frames).unwrap();
    let mut list = String::new();
    // The last duration counts only if something follows.
    for number in (0..scenes).chain([0]) {
        let path = frames.join(format!("{number}.png"));
        render(&Scene::sample(number as u64, Split::HeldOut), 160, 120).save(&path).unwrap();
        writeln!(list, "file '{}'\nduration 3", path.display()).unwrap();
    }
    let names = folder.join("list.txt");
    std::fs::write(&names, list).unwrap();
    std::fs::create_dir_all(folder.join("in")).unwrap();
    let made = Command::new("ffmpeg")
        .args(["-v", "error", "-nostdin", "-y", "-f", "concat", "-safe", "0", "-i"])
        .arg(names)
        .args([
            "-vf",
            "scale=160:120,fps=5",
            "-c:v",
            "libx264",
            "-crf",
            "6",
            "-pix_fmt",
            "yuv444p",
            "-g",
            "23",
        ])
        .args(["-t", &(3 * scenes).to_string()])
        .arg(folder.join("in").join(name))
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
}

async fn rows(archive: &str, s3: &str) -> Value {
    let all = ["search", "a circle", "--archive", archive, "--s3-endpoint", s3, "-k", "100000", "--json"];
    let found = dispatcher(all).await.unwrap().success().unwrap().json().unwrap();
    let mut hits: Vec<(u64, String)> = found["hits"]
        .as_array()
        .unwrap()
        .iter()
        .map(|hit| (hit["frame_ms"].as_u64().unwrap(), hit["caption"].as_str().unwrap().to_owned()))
        .collect();
    hits.sort();
    serde_json::to_value(hits).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn three_workers_share_a_film_and_one_may_die() {
    let fleet = Fleet::new("films").unwrap();
    film(fleet.folder(), "a long film.mp4", 220);
    let (source, archive) = (fleet.folder().join("in").display().to_string(), fleet.s3_uri("archive"));
    let alone = fleet.folder().join("alone").display().to_string();
    let options = ["--job-size", "50", "--json", "--admin-addr", "off"];
    let expected = dispatcher([&["caption", &source, "--archive", &alone][..], &options].concat()).await;
    let expected = expected.unwrap().success().unwrap().json().unwrap();

    let stores = Stores::new(StorageOptions {
        s3_endpoint: Some(fleet.s3_endpoint().to_owned()),
        ..StorageOptions::default()
    });
    let bucket = fleet.s3_uri("in");
    let (name, prefix) = bucket.strip_prefix("s3://").unwrap().split_once('/').unwrap();
    let store = stores.bucket(name).await.unwrap();
    let film = fleet.folder().join("in/a long film.mp4");
    store.put_file(&format!("{prefix}/a long film.mp4"), &film).await.unwrap();

    let mut workers = Vec::new();
    for name in ["doomed", "one", "other"] {
        workers.push(fleet.start_worker(name, &["--slots", "2", "--prefetch", "1"]).unwrap());
    }
    let mut arguments: Vec<String> = ["caption", &bucket, "--archive", &archive].map(str::to_owned).to_vec();
    arguments.extend(options.map(str::to_owned));
    arguments.extend(fleet.service_options());
    let run = tokio::spawn(dispatcher(arguments));
    crate::fleet::wait_for_part(&fleet, &archive).await;
    workers[0].signal("KILL");
    let report = run.await.unwrap().unwrap().success().unwrap().json().unwrap();
    assert_eq!((&report["complete"], &report["frames"]), (&true.into(), &expected["frames"]), "{report}");
    assert_eq!(report["ok"], expected["ok"], "{report}");
    let verify = ["verify", "--archive", &archive, "--s3-endpoint", fleet.s3_endpoint(), "--json"];
    dispatcher(verify).await.unwrap().success().unwrap();
    assert_eq!(rows(&archive, fleet.s3_endpoint()).await, rows(&alone, fleet.s3_endpoint()).await);

    // A film of this machine is copied into the archive once, for all of its segments.
    let staged = fleet.s3_uri("staged");
    let mut arguments: Vec<String> = ["caption", &source, "--archive", &staged].map(str::to_owned).to_vec();
    arguments.extend(options.map(str::to_owned));
    arguments.extend(fleet.service_options());
    let report = dispatcher(arguments).await.unwrap().success().unwrap().json().unwrap();
    assert_eq!((&report["complete"], &report["ok"]), (&true.into(), &expected["ok"]), "{report}");
    for worker in &mut workers[1..] {
        worker.signal("TERM");
        assert!(worker.wait(Duration::from_secs(30)).await.unwrap().success(), "{}", worker.output());
    }
}
