//! The service and its pages: a browser, and a client made from the OpenAPI document, over a real broker and bucket.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use captionfleet_tests::fleet::{Fleet, http_get, python, python_with};
use captionfleet_tests::sandbox::Child;
use captionfleet_world::export::ExportedScene;

use crate::pictures;

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
        let mut caption =
            vec!["caption".to_owned(), fleet.s3_uri("pictures/first"), "--archive".into(), archive.clone()];
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
        let service = fleet.start_service(serve).unwrap();
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
        ["-m", "pytest", "-q", "-x", "--durations=5"].into_iter().chain(plugins).map(OsString::from);
    let ran = python_with(options.chain([tests]), served.environment()).await.unwrap();
    ran.success().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_api_is_as_its_document_says() {
    let served = Served::new("contract").await;
    let (status, _) = http_get(served.port, "/metrics").await.unwrap();
    assert!(status.contains(" 401 "), "{status}");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("python/contract.py");
    python_with([script], served.environment()).await.unwrap().success().unwrap();
}

/// Where screenshots are kept.
fn artefacts() -> PathBuf {
    let target = std::env::current_exe().unwrap().ancestors().nth(3).unwrap().join("screenshots");
    std::fs::create_dir_all(&target).unwrap();
    target
}

/// The port that the service says it listens at.
async fn port(service: &Child) -> u16 {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
    loop {
        let output = service.output();
        let port =
            output.split("http://127.0.0.1:").nth(1).and_then(|rest| rest.split(' ').next()?.parse().ok());
        if let Some(port) = port {
            return port;
        }
        assert!(tokio::time::Instant::now() < deadline, "never served:\n{output}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}
