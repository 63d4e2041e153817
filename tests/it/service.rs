//! The service and its pages: a browser, and a client made from the OpenAPI document, over a real broker and bucket.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use captionfleet_tests::fleet::{Fleet, http, http_get, python, python_with, service_port};
use captionfleet_tests::sandbox::Child;
use captionfleet_world::export::ExportedScene;
use captionfleet_world::film::ffmpeg;
use serde_json::Value;

use crate::{films, pictures};

const TOKEN: &str = "a token for tests, long enough";

/// A fleet with an archive and a service over it.
struct Served {
    fleet: Fleet,
    port: u16,
    scenes: Vec<ExportedScene>,
    _service: Child,
    _worker: Child,
}

impl Served {
    /// Pictures in the bucket, captioned by one worker; a hostile part; the service.
    async fn new(name: &str) -> Self {
        let fleet = Fleet::new(name).unwrap();
        let worker = fleet.start_worker("worker", &[]).unwrap();
        let bucket = PathBuf::from(std::env::var("CAPTIONFLEET_TEST_BUCKET").unwrap());
        let objects = bucket.join(fleet.queue_prefix());
        let scenes = pictures::scenes(&fleet.folder().join("first"), 60, 41);
        copy(&fleet.folder().join("first"), &objects.join("pictures/first"));
        pictures::scenes(&fleet.folder().join("many"), 800, 42);
        copy(&fleet.folder().join("many"), &objects.join("pictures/many"));
        std::fs::create_dir_all(objects.join("pictures/hostile")).unwrap();
        std::fs::write(objects.join("pictures/hostile/notes.txt"), b"root:x:0:0:").unwrap();
        let png = std::fs::read(fleet.folder().join("first").join(&scenes[0].file)).unwrap();
        std::fs::write(objects.join("pictures/hostile/cut.png"), &png[..png.len() / 2]).unwrap();
        std::fs::write(objects.join("pictures/secret.png"), &png).unwrap();
        let archive = fleet.s3_uri("archive");
        let options = fleet.service_options();
        short_film(fleet.folder(), &objects.join("pictures/film"));
        let mut caption =
            vec!["caption".to_owned(), fleet.s3_uri("pictures/first"), fleet.s3_uri("pictures/film")];
        caption.extend(["--thumbnails".to_owned(), "--archive".into(), archive.clone()]);
        caption.extend(options.clone());
        fleet.dispatcher(caption).await.unwrap().success().unwrap();
        python("hostile_part.py", [fleet.s3_endpoint(), &archive]).await.unwrap().success().unwrap();
        let token = fleet.folder().join("token");
        std::fs::write(&token, TOKEN).unwrap();
        let mut serve: Vec<String> = ["--listen", "127.0.0.1:0", "--rate", "100000", "--archive", &archive]
            .map(str::to_owned)
            .to_vec();
        serve.extend([
            "--sources".to_owned(),
            fleet.s3_uri("pictures"),
            "--token-file".into(),
            token.display().to_string(),
        ]);
        serve.extend(options);
        let service = fleet.start_service("service", serve).unwrap();
        let port = port(&service).await;
        Self { fleet, port, scenes, _service: service, _worker: worker }
    }

    /// What the Python side finds in its environment.
    fn environment(&self) -> BTreeMap<&'static str, OsString> {
        let scene = &self.scenes[7];
        BTreeMap::from([
            ("CAPTIONFLEET_TEST_SERVICE", format!("http://127.0.0.1:{}", self.port).into()),
            ("CAPTIONFLEET_TEST_TOKEN", TOKEN.into()),
            ("CAPTIONFLEET_TEST_SOURCE", self.fleet.s3_uri("pictures").into()),
            ("CAPTIONFLEET_TEST_PICTURES", self.fleet.folder().join("first").into()),
            ("CAPTIONFLEET_TEST_SCREENSHOTS", artefacts().into()),
            ("CAPTIONFLEET_TEST_NAME", scene.file.clone().into()),
            ("TMPDIR", self.fleet.temporary().into()),
        ])
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_work_in_a_browser() {
    let served = Served::new("pages").await;
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("python/pages").into_os_string();
    let plugins = ["-p", "no:cacheprovider", "-p", "no:schemathesis"];
    let options =
        ["-m", "pytest", "-q", "--maxfail=3", "--tb=short"].into_iter().chain(plugins).map(OsString::from);
    let ran = python_with(options.chain([tests]), served.environment()).await.unwrap();
    ran.success().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_api_is_as_its_document_says() {
    let served = Served::new("contract").await;
    for address in ["/metrics", "/api/v1/scale"] {
        let (status, _) = http_get(served.port, address).await.unwrap();
        assert!(status.contains(" 401 "), "{address}: {status}");
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("python/contract.py");
    python_with([script], served.environment()).await.unwrap().success().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_was_killed_goes_on_with_its_run() {
    let fleet = Fleet::new("killed-service").unwrap();
    let source = fleet.folder().join("in");
    pictures::scenes(&source, 600, 43);
    let archive = fleet.folder().join("archive").display().to_string();
    let serve = |name| fleet.start_service(name, ["--listen", "127.0.0.1:0", "--archive", &archive]).unwrap();
    let mut killed = serve("killed");
    let at = port(&killed).await;
    let order = serde_json::json!({"sources": [source], "job_size": 4}).to_string();
    let (status, submitted) = http(at, "POST", "/api/v1/submissions", &order).await.unwrap();
    assert!(status.contains(" 202 "), "{status} {submitted}");
    let submitted: Value = serde_json::from_str(&submitted).unwrap();
    let run = submitted["runs"][0].as_str().unwrap().to_owned();
    let before = until(at, &run, |run| run["jobs_done"].as_u64() > Some(3)).await;
    killed.signal("KILL");
    killed.wait(Duration::from_secs(10)).await.unwrap();
    assert!(before["jobs_done"].as_u64() < before["jobs"].as_u64(), "{before}");

    let mut again = serve("again");
    let at = port(&again).await;
    let load = until_at(at, "/api/v1/scale", |load| load["open_jobs"].as_u64() > Some(0)).await;
    assert!(load["backlog_gpu_seconds"].as_f64() > Some(0.0), "{load}");
    assert!(load["wanted_workers"].as_u64() > Some(0), "{load}");
    let after = until(at, &run, |run| run["state"] == "finished").await;
    assert_eq!((&after["ok"], &after["jobs_done"]), (&600.into(), &150.into()), "{after}");
    let load = until_at(at, "/api/v1/scale", |load| load["open_jobs"] == 0).await;
    assert_eq!((&load["backlog_gpu_seconds"], &load["wanted_workers"]), (&0.0.into(), &0.into()), "{load}");
    let (_, metrics) = http_get(at, "/metrics").await.unwrap();
    for line in ["captionfleet_wanted_workers 0", "captionfleet_ready 1", "captionfleet_index_lag_seconds "] {
        assert!(metrics.contains(line), "{line} is missing");
    }
    // What is asked of it now needs the worker in its process, the index that it keeps, and both together.
    let (status, found) = http_get(at, "/api/v1/search?text=a+red+star&limit=3").await.unwrap();
    assert!(status.contains(" 200 "), "{status} {found}");
    let found: Value = serde_json::from_str(&found).unwrap();
    assert_eq!(found["hits"].as_array().map(Vec::len), Some(3), "{found}");
    again.signal("TERM");
    assert!(again.wait(Duration::from_secs(30)).await.unwrap().success(), "{}", again.output());
    let verified = fleet.dispatcher(["verify", "--archive", &archive]).await.unwrap();
    verified.success().unwrap();
}

/// Who asks again for what is being done must neither take its outcomes nor have it done twice.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_asked_for_by_several_at_once_is_done_once() {
    let fleet = Fleet::new("asked-again").unwrap();
    let source = fleet.folder().join("in");
    pictures::scenes(&source, 300, 44);
    let archive = fleet.folder().join("archive").display().to_string();
    let service = fleet.start_service("service", ["--listen", "127.0.0.1:0", "--archive", &archive]).unwrap();
    let at = port(&service).await;
    let order = serde_json::json!({"sources": [source], "job_size": 4}).to_string();
    let asked = (0..4).map(|_| http(at, "POST", "/api/v1/submissions", &order));
    let mut runs = Vec::new();
    for answer in futures::future::join_all(asked).await {
        let (status, submitted) = answer.unwrap();
        assert!(status.contains(" 202 "), "{status} {submitted}");
        let submitted: Value = serde_json::from_str(&submitted).unwrap();
        let address = format!("/api/v1/submissions/{}", submitted["id"].as_str().unwrap());
        let planned =
            until_at(at, &address, |one| one["phase"] != "planning" && one["phase"] != "beginning").await;
        runs.extend(planned["runs"].as_array().unwrap().iter().map(|run| run.as_str().unwrap().to_owned()));
    }
    assert_eq!(runs.len(), 1, "{runs:?}");
    let done = until(at, &runs[0], |run| run["state"] == "finished").await;
    assert_eq!(done["ok"], 300, "{done}");
    let (_, metrics) = http_get(at, "/metrics").await.unwrap();
    assert!(metrics.contains("captionfleet_dispatcher_jobs_published_total 75"), "{metrics}");
    let pause = format!("/api/v1/runs/{}/pause", runs[0]);
    let (status, told) = http(at, "POST", &pause, "").await.unwrap();
    assert!(status.contains(" 409 ") && told.contains("is finished"), "{status} {told}");
    fleet.dispatcher(["verify", "--archive", &archive]).await.unwrap().success().unwrap();

    // Pictures that lie side by side in parts are forgotten all at once: none comes back with another's part.
    let (_, found) = http_get(at, "/api/v1/search?limit=40").await.unwrap();
    let found: Value = serde_json::from_str(&found).unwrap();
    let hits = found["hits"].as_array().unwrap().iter();
    let addresses: Vec<String> =
        hits.map(|hit| format!("/api/v1/items?item={}", hit["item"].as_str().unwrap())).collect();
    assert_eq!(addresses.len(), 40);
    let forgotten = addresses.iter().map(|address| http(at, "DELETE", address, ""));
    for answer in futures::future::join_all(forgotten).await {
        let (status, told) = answer.unwrap();
        assert!(status.contains(" 200 "), "{status} {told}");
    }
    for address in &addresses {
        let (status, told) = http_get(at, address).await.unwrap();
        assert!(status.contains(" 404 "), "{address}: {status} {told}");
    }
    fleet.dispatcher(["verify", "--archive", &archive]).await.unwrap().success().unwrap();

    // A picture that cannot be looked at is the asker's fault, and no reason to ask again.
    let (status, kept) = http(at, "POST", "/api/v1/uploads", "P2\n20 20\n255\n1 2 3").await.unwrap();
    assert!(status.contains(" 201 "), "{status} {kept}");
    let kept: Value = serde_json::from_str(&kept).unwrap();
    let search = format!("/api/v1/search?upload={}", kept["upload"].as_str().unwrap());
    let (status, told) = http_get(at, &search).await.unwrap();
    assert!(status.contains(" 422 ") && told.contains("truncated"), "{status} {told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_others_can_reach_needs_a_token() {
    let fleet = Fleet::new("open-service").unwrap();
    let archive = fleet.folder().join("archive").display().to_string();
    let refused = |arguments: &[&str]| {
        let arguments: Vec<String> =
            ["serve", "--archive", &archive].iter().chain(arguments).map(ToString::to_string).collect();
        let fleet = &fleet;
        async move {
            let ran = fleet.dispatcher(arguments).await.unwrap();
            assert_eq!(ran.code, 64, "{}", ran.stderr);
            ran.stderr
        }
    };
    let told = refused(&["--listen", "0.0.0.0:0"]).await;
    assert!(told.contains("--token-file"), "{told}");
    let short = fleet.folder().join("short");
    std::fs::write(&short, "guess me").unwrap();
    let told = refused(&["--token-file", short.to_str().unwrap()]).await;
    assert!(told.contains("fewer than 16"), "{told}");
    let told = refused(&["--broker", "amqp://localhost"]).await;
    assert!(told.contains("must be an s3:// location"), "{told}");
}

/// Waits until a run is as wanted.
pub(crate) async fn until(port: u16, run: &str, is_right: impl Fn(&Value) -> bool) -> Value {
    until_at(port, &format!("/api/v1/runs/{run}"), is_right).await
}

/// Waits until what is answered is as wanted.
pub(crate) async fn until_at(port: u16, address: &str, is_right: impl Fn(&Value) -> bool) -> Value {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(120);
    loop {
        let (_, text) = http_get(port, address).await.unwrap();
        let seen: Value = serde_json::from_str(&text).unwrap();
        if is_right(&seen) {
            return seen;
        }
        assert!(tokio::time::Instant::now() < deadline, "never as wanted: {seen}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A film that browsers play.
fn short_film(folder: &Path, into: &Path) {
    films::film(folder, "scenes.mp4", 4);
    std::fs::create_dir_all(into).unwrap();
    let scenes = folder.join("in/scenes.mp4").display().to_string();
    let encoder = ["-i", &scenes, "-c:v", "libx264", "-pix_fmt", "yuv420p", "-movflags", "+faststart"];
    ffmpeg(&encoder, &into.join("scenes.mp4")).unwrap();
}

/// Where screenshots are kept.
fn artefacts() -> PathBuf {
    let target = std::env::current_exe().unwrap().ancestors().nth(3).unwrap().join("screenshots");
    std::fs::create_dir_all(&target).unwrap();
    target
}

/// The port that the service says it listens at.
pub(crate) async fn port(service: &Child) -> u16 {
    service_port(service).await.unwrap()
}

/// Waits until a line of a page of metrics is there and right: the rest of one that begins so.
pub(crate) async fn until_metrics(port: u16, begins: &str, is_right: impl Fn(&str) -> bool) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
    loop {
        let metrics = http_get(port, "/metrics").await.map(|(_, metrics)| metrics).unwrap_or_default();
        let mut rests = metrics.lines().filter_map(|line| line.strip_prefix(begins));
        if rests.any(|rest| is_right(rest.trim())) {
            return;
        }
        assert!(tokio::time::Instant::now() < deadline, "never {begins} as wanted in:\n{metrics}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

pub(crate) fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}
