//! Films over RabbitMQ and S3.

use std::path::Path;
use std::time::Duration;

use captionfleet_tests::fleet::{Fleet, dispatcher};
use captionfleet_world::film::{ffmpeg, of_scenes};
use captionfleet_world::{Scene, Split};
use serde_json::Value;

/// A film of `scenes` scenes of three seconds each.
pub(crate) fn film(folder: &Path, name: &str, scenes: u64) {
    std::fs::create_dir_all(folder.join("in")).unwrap();
    let scenes = (0..scenes).map(|number| Scene::sample(number, Split::HeldOut));
    of_scenes(scenes, 3, &folder.join("frames"), &folder.join("in").join(name)).unwrap();
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

    let (bucket, store) = (fleet.s3_uri("in"), fleet.objects("in").await.unwrap());
    let film = fleet.folder().join("in/a long film.mp4");
    store.put_file("a long film.mp4", &film).await.unwrap();

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

/// Of what lies in a bucket only ranges are read: the index of some containers leads to their middle.
#[tokio::test(flavor = "multi_thread")]
async fn a_plan_looks_into_films_of_a_bucket() {
    let fleet = Fleet::new("plans").unwrap();
    let folder = fleet.folder().join("in");
    std::fs::create_dir_all(&folder).unwrap();
    let (bucket, store) = (fleet.s3_uri("in"), fleet.objects("in").await.unwrap());
    // Still but noisy, so that it is large and nearly every frame like the one before.
    let source = "smptebars=size=320x240:rate=2:duration=600,noise=alls=30:allf=t";
    for name in ["a.mp4", "b.mkv", "c.ts"] {
        let encoder = ["-c:v", "libx264", "-preset", "ultrafast", "-crf", "20", "-g", "20"];
        ffmpeg(&[&["-f", "lavfi", "-i", source][..], &encoder].concat(), &folder.join(name)).unwrap();
        let film = folder.join(name);
        assert!(std::fs::metadata(&film).unwrap().len() > 8 << 20, "ranges are less than the whole");
        store.put_file(name, &film).await.unwrap();
        let here = fleet.folder().join("archive").display().to_string();
        let source = format!("{bucket}/{name}");
        let plan = ["plan", &source, "--archive", &here, "--s3-endpoint", fleet.s3_endpoint(), "--json"];
        let options = ["--seconds-per-item", "0.5", "--workers", "1"];
        let plan =
            dispatcher([&plan[..], &options].concat()).await.unwrap().success().unwrap().json().unwrap();
        assert_eq!(
            (&plan["videos"]["frames"], &plan["videos"]["frames_kept"]),
            (&600.into(), &10.into()),
            "{name}: {plan}"
        );
        // The model's time goes into the frames that are left, that of decoding into all.
        let hours = plan["estimate"]["fleets"][0]["worker_hours"].as_f64().unwrap();
        let decoding = plan["videos"]["decoding_seconds"].as_f64().unwrap();
        assert!(decoding > 0.0 && (hours * 3600.0 - decoding - 5.0).abs() < 0.01, "{name}: {plan}");
    }
}

/// Whoever asked for a run may leave before it is complete: players hear of its films from the next service.
#[tokio::test(flavor = "multi_thread")]
async fn a_service_tells_players_of_films_that_nobody_told_them_of() {
    let fleet = Fleet::new("untold").unwrap();
    film(fleet.folder(), "film.mp4", 2);
    let source = fleet.folder().join("in").display().to_string();
    let archive = fleet.folder().join("archive");
    let place = archive.display().to_string();
    let caption = ["caption", &source, "--archive", &place, "--json", "--admin-addr", "off"];
    let report = dispatcher(caption).await.unwrap().success().unwrap().json().unwrap();
    let run = report["runs"][0].as_str().unwrap();
    let tracks = archive.join("videos").join(run);
    let written = || std::fs::read_dir(&tracks).map_or(0, Iterator::count);
    assert_eq!(written(), 3, "captions, chapters and the table: {report}");
    std::fs::remove_dir_all(&tracks).unwrap();
    let _service = fleet.start_service("service", ["--listen", "127.0.0.1:0", "--archive", &place]).unwrap();
    let told = async {
        while written() < 3 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(120), told)
        .await
        .expect("the service writes them when it starts");
}
