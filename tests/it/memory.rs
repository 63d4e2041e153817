//! A whole worker's memory, as the operating system counts it.
#![cfg(target_os = "linux")]

use std::time::Duration;

use captionfleet_tests::fleet::{Fleet, dispatcher};
use image::{ImageFormat, RgbImage};

/// What the worker may use, and what is left of it beside weights, steps and slots is much less than the pictures take.
const BUDGET: (&str, u64) = ("450MiB", 450 << 20);
const PICTURES: u64 = 60;
/// Bytes of a file: what stands behind the picture in it is read, too.
const FILE: u64 = 6 << 20;

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_keeps_to_its_budget_whatever_pictures_come() {
    let fleet = Fleet::new("budget").unwrap();
    let source = fleet.folder().join("in");
    std::fs::create_dir(&source).unwrap();
    let camera = RgbImage::from_fn(5000, 4000, |x, y| image::Rgb([(x / 20) as u8, (y / 20) as u8, 99]));
    for number in 0..PICTURES {
        let path = source.join(format!("{number}.jpg"));
        if number == 0 {
            camera.save_with_format(&path, ImageFormat::Jpeg).unwrap();
        } else {
            std::fs::copy(source.join("0.jpg"), &path).unwrap();
        }
    }
    for number in 0..PICTURES {
        // No two files are the same.
        let file = std::fs::File::options().write(true).open(source.join(format!("{number}.jpg"))).unwrap();
        file.set_len(FILE + number).unwrap();
    }
    let root = fleet.folder().to_str().unwrap();
    let options = ["--local-root", root, "--memory-budget", BUDGET.0, "--slot-tokens", "2048"];
    let mut worker = fleet.start_worker("worker", &options).unwrap();
    let archive = fleet.s3_uri("archive");
    let mut arguments = vec!["caption".to_owned(), source.display().to_string()];
    arguments.extend(["--archive", &archive, "--job-size", "30", "--json"].map(str::to_owned));
    arguments.extend(fleet.service_options());
    let report = dispatcher(arguments).await.unwrap().success().unwrap().json().unwrap();
    assert_eq!(report["ok"], PICTURES, "{report}\n{}", worker.output());
    let most = most_resident(worker.pid());
    assert!(most <= BUDGET.1, "{} MiB\n{}", most >> 20, worker.output());
    worker.signal("TERM");
    assert!(worker.wait(Duration::from_secs(30)).await.unwrap().success(), "{}", worker.output());
}

/// The most bytes that a process had in memory since its weights were loaded: it forgets the time before.
fn most_resident(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let most = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    most.trim().trim_end_matches("kB").trim().parse::<u64>().unwrap() << 10
}
