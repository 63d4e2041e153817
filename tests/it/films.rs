//! Films over RabbitMQ and S3.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use captionfleet_tests::fleet::{Fleet, dispatcher};
use captionfleet_world::{ExportOptions, FileFormat, Split, export};
use serde_json::Value;

/// A film of `scenes` scenes of three seconds each.
fn film(folder: &Path, name: &str, scenes: usize) {
    let frames = folder.join("frames");
    let options = ExportOptions {
        count: scenes,
        seed: 5,
        split: Split::HeldOut,
        format: FileFormat::Png,
        distinct: true,
    };
    let drawn = export(&options, &frames).unwrap();
    let line = |file: &str| format!("file '{}'\n", frames.join(file).display());
    let mut list: String = drawn.iter().map(|scene| line(&scene.file) + "duration 3\n").collect();
    // The last duration counts only if something follows.
    list += &line(&drawn[0].file);
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

    let mut workers = Vec::new();
    for name in ["doomed", "one", "other"] {
        workers.push(fleet.start_worker(name, &["--slots", "2", "--prefetch", "1"]).unwrap());
    }
    let mut arguments: Vec<String> = ["caption", &source, "--archive", &archive].map(str::to_owned).to_vec();
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
    for worker in &mut workers[1..] {
        worker.signal("TERM");
        assert!(worker.wait(Duration::from_secs(30)).await.unwrap().success(), "{}", worker.output());
    }
}
