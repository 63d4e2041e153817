//! Other languages: a job published by a Python client, parts read by Python's readers.

use captionfleet_tests::fleet::{Fleet, dispatcher, python};

use crate::pictures;

#[tokio::test(flavor = "multi_thread")]
async fn a_python_client_publishes_a_job_and_reads_its_rows() {
    let fleet = Fleet::new("python").unwrap();
    let source = fleet.folder().join("in");
    pictures::scenes(&source, 6, 31);
    let _worker = fleet.start_worker("worker", &["--local-root", fleet.folder().to_str().unwrap()]).unwrap();
    let arguments = [
        fleet.broker().to_owned(),
        fleet.queue_prefix().to_owned(),
        fleet.s3_endpoint().to_owned(),
        fleet.s3_uri("archive"),
        source.display().to_string(),
    ];
    let ran = python("client.py", arguments).await.unwrap().success().unwrap();
    assert!(ran.stdout.contains("6 rows ok"), "{}", ran.stdout);
}

#[tokio::test(flavor = "multi_thread")]
async fn parts_open_in_duckdb_polars_and_pyarrow() {
    let folder = tempfile::tempdir().unwrap();
    let (source, archive) = (folder.path().join("in"), folder.path().join("out"));
    pictures::scenes(&source, 9, 32);
    std::fs::write(source.join("broken.jpg"), b"no picture").unwrap();
    let arguments = ["caption", source.to_str().unwrap(), "--archive", archive.to_str().unwrap()];
    dispatcher(arguments).await.unwrap().success().unwrap();
    let ran = python("readers.py", [archive.to_str().unwrap()]).await.unwrap().success().unwrap();
    assert_eq!(
        ran.stdout.lines().filter(|line| line.ends_with("9 ok, 1 failed")).count(),
        3,
        "{}",
        ran.stdout
    );
}
