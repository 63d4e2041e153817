//! The load tests in small: that they work, not how fast.

use captionfleet_proto::rows::{Projection, Status, read_part};
use captionfleet_tests::fleet::worker;
use captionfleet_tests::load::{Burst, Devices, Ground, Load, Trouble, fairness, run, scaling, simulation};

#[tokio::test(flavor = "multi_thread")]
async fn a_load_test_runs_to_its_end_and_its_rows_say_what_they_are() {
    let root = tempfile::tempdir().unwrap();
    let ground = Ground::start(root.path()).await.unwrap();
    let load = Load { items: 2000, workers: 2, job_size: 64, embed: true, perf_test: None };
    let ran = run(&ground, &load).await.unwrap();
    assert_eq!((ran.items, ran.jobs), (2000, 32));
    // 64 names, each with its version.
    assert!((5_000..50_000).contains(&ran.message_bytes), "{}", ran.message_bytes);
    assert!(ran.published_per_second > 0.0 && ran.client_per_second > 0.0 && ran.worker_ms_per_item > 0.0);
    assert!(ran.planning.peak_mib > 1.0 && ran.working.peak_mib > 1.0, "{:?}", ran.working);

    let mut rows = 0;
    for entry in walk(ground.bucket_folder()) {
        for row in read_part(std::fs::read(entry).unwrap().into(), Projection::WithoutEmbedding).unwrap() {
            rows += 1;
            assert_eq!((row.status, row.bundle.as_deref()), (Status::Ok, Some("null")));
            assert_eq!(row.embedding_space.as_deref(), Some("null"));
            assert!(row.caption.unwrap().starts_with("not a caption"));
        }
    }
    assert_eq!(rows, 2000);

    let scaled = scaling(&ground, &[1, 3], 0.02, 2.0).await.unwrap();
    assert_eq!(scaled.steps.iter().map(|step| step.items).collect::<Vec<_>>(), [100, 300]);
    let fair = fairness(&ground, (20, 40_000), 2, 0.01).await.unwrap();
    // In one queue it would have been the whole of the huge run: minutes.
    assert!(fair.beside_seconds.iter().all(|seconds| *seconds < fair.behind_seconds / 2.0), "{fair:?}");
    let bursts = [Burst { at: 0, items: 200 }, Burst { at: 3, items: 100 }];
    let devices = Devices { workers: 2, seconds_per_item: 0.05, job_size: 10 };
    let both = simulation(&ground, &bursts, devices, None).await.unwrap();
    assert_eq!(both.jobs, 30);
    // A device sleeps for as long as it is told at least, and the simulator rounds up to whole seconds: on no machine is the real
    // fleet faster, and what is simulated is the work at least.
    assert!(both.simulated.seconds >= 7.0 && both.simulated.wait_p50 >= 2.0, "{both:?}");
    assert!(both.real.seconds >= both.simulated.seconds - 2.0, "{both:?}");
    assert!(both.real.wait_p95 >= both.simulated.wait_p95 - 2.0, "{both:?}");
    assert!(both.real.wasted_seconds.abs() < 1e-6 && both.simulated.wasted_seconds == 0.0, "{both:?}");
    // The same with workers that come late and the loss of one: seconds are rounded thrice.
    let trouble = Trouble { provision: 2, kill_at: 5 };
    let rough = simulation(&ground, &bursts, devices, Some(trouble)).await.unwrap();
    assert_eq!(rough.jobs, 30);
    assert!(rough.simulated.seconds >= both.simulated.seconds + 2.0, "{rough:?}");
    assert!(rough.real.seconds >= rough.simulated.seconds - 5.0, "{rough:?}");
    ground.stop().await;
}

/// Parts below a folder.
fn walk(folder: &std::path::Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(walk(&path));
        } else if path.to_string_lossy().contains("/parts/")
            && path.extension().is_some_and(|end| end == "parquet")
        {
            found.push(path);
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn the_null_engine_must_be_asked_for_twice() {
    let ran = worker(["run", "--broker", "amqp://127.0.0.1:1", "--engine", "null"]).await.unwrap();
    assert_eq!(ran.code, 64, "{}", ran.stderr);
    assert!(ran.stderr.contains("--load-test"), "{}", ran.stderr);
}
