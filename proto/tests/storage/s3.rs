//! A bucket passes the suite on real servers, and every refusal is one clear line.
//!
//! `CAPTIONFLEET_TEST_S3` is the URL of a server that checks credentials and checksums (s3s-fs),
//! `CAPTIONFLEET_TEST_S3_CONDITIONAL` of one whose conditional writes have one winner (moto); both accept the
//! credentials in `AWS_ACCESS_KEY_ID` and `AWS_SECRET_ACCESS_KEY`. The repository's test command starts them.

use std::error::Error;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use aws_sdk_s3::config::Credentials;
use bytes::Bytes;
use captionfleet_proto::storage::{
    PutMode, S3Checksums, S3Patience, Storage, StorageError, StorageErrorKind as Kind, StorageOptions, Stores,
};
use captionfleet_proto::uri::{ArchiveUri, ItemUri};
use futures::TryStreamExt;

use crate::conformance::{Conditional, storage_suite, takes_large_files};
use crate::front::{bare, error, front};

fn setting(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| {
        panic!("{name} is not set: run these tests through the repository's test command, which starts the S3 servers")
    })
}

fn options(endpoint: &str) -> StorageOptions {
    StorageOptions { s3_endpoint: Some(endpoint.to_owned()), ..StorageOptions::default() }
}

/// Makes a bucket of its own for a test.
async fn bucket(endpoint: &str, name: &str) -> String {
    let name = format!("{name}-{:x}", std::process::id());
    let (id, secret) = (setting("AWS_ACCESS_KEY_ID"), setting("AWS_SECRET_ACCESS_KEY"));
    let config = aws_sdk_s3::config::Builder::new()
        .behavior_version(aws_sdk_s3::config::BehaviorVersion::latest())
        .endpoint_url(endpoint)
        .force_path_style(true)
        .region(aws_sdk_s3::config::Region::new("us-east-1"))
        .credentials_provider(Credentials::new(id, secret, None, None, "test"))
        .build();
    aws_sdk_s3::Client::from_conf(config).create_bucket().bucket(&name).send().await.unwrap();
    name
}

async fn archive(endpoint: &str, uri: &str) -> Arc<dyn Storage> {
    Stores::new(options(endpoint)).archive(&ArchiveUri::parse(uri).unwrap()).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn passes_the_suite() {
    let endpoint = setting("CAPTIONFLEET_TEST_S3");
    let bucket = bucket(&endpoint, "suite").await;
    storage_suite(archive(&endpoint, &format!("s3://{bucket}")).await, Conditional::Settled).await;
    let nested = archive(&endpoint, &format!("s3://{bucket}/an archive/of ours/")).await;
    assert_eq!(nested.location(), format!("s3://{bucket}/an%20archive/of%20ours"));
    storage_suite(nested.clone(), Conditional::Settled).await;
    takes_large_files(nested).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn passes_the_suite_with_exact_conditions() {
    let endpoint = setting("CAPTIONFLEET_TEST_S3_CONDITIONAL");
    let bucket = bucket(&endpoint, "exact").await;
    storage_suite(archive(&endpoint, &format!("s3://{bucket}/a")).await, Conditional::Exact).await;
}

/// Whether a request writes an object unless it is there.
fn is_conditional(head: &str) -> bool {
    head.starts_with("PUT ") && head.to_ascii_lowercase().contains("\r\nif-none-match:")
}

#[tokio::test(flavor = "multi_thread")]
async fn passes_the_suite_on_servers_that_refuse_conditions() {
    let server = setting("CAPTIONFLEET_TEST_S3");
    let bucket = bucket(&server, "unconditional").await;
    for (status, code) in [
        ("501 Not Implemented", "NotImplemented"),
        ("400 Bad Request", "InvalidArgument"),
        ("405 Method Not Allowed", "MethodNotAllowed"),
    ] {
        let refused = Arc::new(AtomicU32::new(0));
        let count = Arc::clone(&refused);
        let endpoint = front(&server, move |head| {
            is_conditional(head).then(|| {
                count.fetch_add(1, Ordering::Relaxed);
                error(status, code)
            })
        })
        .await;
        storage_suite(archive(&endpoint, &format!("s3://{bucket}/{code}")).await, Conditional::Settled).await;
        let refused = refused.load(Ordering::Relaxed);
        assert!((1..=8).contains(&refused), "it is remembered: {refused} writes were refused with {code}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_is_refused_without_a_condition_too_tells_nothing_of_conditions() {
    let server = setting("CAPTIONFLEET_TEST_S3");
    let bucket = bucket(&server, "refused").await;
    let conditional = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&conditional);
    let mut refusals = 2;
    let endpoint = front(&server, move |head| {
        count.fetch_add(u32::from(is_conditional(head)), Ordering::Relaxed);
        let is_met = refusals > 0 && head.starts_with("PUT ");
        refusals -= i32::from(is_met);
        is_met.then(|| error("400 Bad Request", "InvalidRequest"))
    })
    .await;
    let store = archive(&endpoint, &format!("s3://{bucket}")).await;
    let refused = store.put("a", Bytes::from("x"), PutMode::IfAbsent).await.unwrap_err();
    line(&refused, &["writing", "the server refused the request (InvalidRequest): no"]);
    store.put("a", Bytes::from("x"), PutMode::IfAbsent).await.unwrap();
    assert_eq!(conditional.load(Ordering::Relaxed), 2, "the second write has its condition");
}

#[tokio::test(flavor = "multi_thread")]
async fn asks_on_where_nobody_comes_again() {
    let server = setting("CAPTIONFLEET_TEST_S3");
    let bucket = bucket(&server, "patient").await;
    for (s3_patience, succeeds) in [(S3Patience::Brief, false), (S3Patience::Long, true)] {
        let mut left = 6;
        let endpoint = front(&server, move |head| {
            let is_met = left > 0 && head.starts_with("PUT ");
            left -= i32::from(is_met);
            is_met.then(|| error("503 Slow Down", "SlowDown"))
        })
        .await;
        let options = StorageOptions { s3_patience, ..options(&endpoint) };
        let store = Stores::new(options).bucket(&bucket).await.unwrap();
        let written = store.put("a", Bytes::from("x"), PutMode::Overwrite).await;
        assert_eq!(written.is_ok(), succeeds, "{s3_patience:?}: {written:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn waits_for_a_server_that_sends_elsewhere_and_names_another_region() {
    let server = setting("CAPTIONFLEET_TEST_S3");
    let bucket = bucket(&server, "elsewhere").await;
    let mut left = 2;
    let endpoint = front(&server, move |head| {
        left -= i32::from(head.starts_with("GET "));
        (left >= 0 && head.starts_with("GET ")).then(|| error("307 Temporary Redirect", "TemporaryRedirect"))
    })
    .await;
    let store = archive(&endpoint, &format!("s3://{bucket}")).await;
    store.put("a", Bytes::from("x"), PutMode::Overwrite).await.unwrap();
    assert_eq!(store.get("a", 1).await.unwrap().bytes, "x");

    let endpoint = front(&server, |_| Some(error("307 Temporary Redirect", "TemporaryRedirect"))).await;
    let elsewhere = archive(&endpoint, "s3://bucket/a").await.get("a", 1).await.unwrap_err();
    assert_eq!(elsewhere.kind(), Kind::Unavailable);
    line(&elsewhere, &["the server sends elsewhere (TemporaryRedirect)"]);

    for (status, code) in
        [("301 Moved Permanently", "PermanentRedirect"), ("400 Bad Request", "AuthorizationHeaderMalformed")]
    {
        let endpoint = front(&server, move |head| {
            Some(if head.starts_with("HEAD ") { bare(status) } else { error(status, code) })
        })
        .await;
        let store = archive(&endpoint, "s3://bucket/a").await;
        let errors = [
            store.check().await.unwrap_err(),
            store.get("a", 1).await.unwrap_err(),
            // The answer to this one has no body, and so no reason.
            store.head("a").await.unwrap_err(),
        ];
        for error in errors {
            assert_eq!(error.kind(), Kind::WrongRegion, "{code}: {error}");
            line(&error, &["s3://bucket/a", "the bucket is in another region", "set AWS_REGION"]);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn comes_again_where_a_server_asks_for_it() {
    let server = setting("CAPTIONFLEET_TEST_S3");
    let bucket = bucket(&server, "busy").await;
    for answer in [
        bare("429 Too Many Requests"),
        error("429 Too Many Requests", "TooManyRequests"),
        bare("408 Request Timeout"),
    ] {
        for method in ["HEAD", "GET", "PUT"] {
            let (said, mut left) = (answer.clone(), 2);
            let endpoint = front(&server, move |head| {
                let is_met = left > 0 && head.starts_with(method);
                left -= i32::from(is_met);
                is_met.then(|| said.clone())
            })
            .await;
            let store = archive(&endpoint, &format!("s3://{bucket}")).await;
            let context = format!("{method}: {answer}");
            store.put("a", Bytes::from("x"), PutMode::Overwrite).await.expect(&context);
            assert_eq!(store.head("a").await.expect(&context).size, 1);
            assert_eq!(store.get("a", 1).await.expect(&context).bytes, "x");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tells_an_object_that_is_refused_from_a_store_that_refuses_all() {
    let server = setting("CAPTIONFLEET_TEST_S3");
    let bucket = bucket(&server, "refusing").await;
    for (refused, answers) in [("picture.png", true), ("", false)] {
        let said = || error("403 Forbidden", "SignatureDoesNotMatch");
        let endpoint = front(&server, move |head| head.contains(refused).then(said)).await;
        let stores = Stores::new(options(&endpoint));
        let item = ItemUri::s3(&bucket, "picture.png");
        assert_eq!(stores.read_item(&item, 1).await.unwrap_err().kind(), Kind::Unauthenticated);
        assert_eq!(stores.answers(&item, Duration::from_secs(20)).await, answers, "{refused}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn names_what_a_server_does_not_know() {
    let endpoint = front("http://127.0.0.1:1", |_| Some(bare("501 Not Implemented"))).await;
    let error = archive(&endpoint, "s3://bucket/a").await.check().await.unwrap_err();
    assert_eq!(error.kind(), Kind::Other);
    line(&error, &["opening s3://bucket/a", "does not know this kind of request (HTTP 501)", "endpoint"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn works_without_optional_checksums() {
    let endpoint = setting("CAPTIONFLEET_TEST_S3");
    let bucket = bucket(&endpoint, "plain").await;
    let options = StorageOptions { s3_checksums: S3Checksums::WhenRequired, ..options(&endpoint) };
    let store = Stores::new(options).bucket(&bucket).await.unwrap();
    store.put("a", Bytes::from("x"), PutMode::IfAbsent).await.unwrap();
    assert_eq!(store.get("a", 1).await.unwrap().bytes, "x");
}

#[tokio::test(flavor = "multi_thread")]
async fn large_files_need_no_optional_checksums_either() {
    let server = setting("CAPTIONFLEET_TEST_S3");
    let bucket = bucket(&server, "pieces").await;
    let endpoint = front(&server, |head| {
        let head = head.to_ascii_lowercase();
        let has_checksum =
            ["\r\nx-amz-checksum-", "\r\nx-amz-sdk-checksum-"].iter().any(|it| head.contains(it));
        has_checksum.then(|| error("400 Bad Request", "InvalidArgument"))
    })
    .await;
    let options = StorageOptions { s3_checksums: S3Checksums::WhenRequired, ..options(&endpoint) };
    takes_large_files(Stores::new(options).bucket(&bucket).await.unwrap()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keeps_archives_in_one_bucket_apart() {
    let endpoint = setting("CAPTIONFLEET_TEST_S3");
    let bucket = bucket(&endpoint, "apart").await;
    let one = archive(&endpoint, &format!("s3://{bucket}/one")).await;
    let other = archive(&endpoint, &format!("s3://{bucket}/one-more")).await;
    one.put("parts/x", Bytes::from("1"), PutMode::Overwrite).await.unwrap();
    other.put("parts/y", Bytes::from("2"), PutMode::Overwrite).await.unwrap();
    let keys = |listed: Vec<captionfleet_proto::storage::ObjectMeta>| {
        listed.into_iter().map(|object| object.key).collect::<Vec<_>>()
    };
    assert_eq!(keys(one.list("").try_collect().await.unwrap()), ["parts/x"]);
    assert_eq!(keys(other.list("parts/").try_collect().await.unwrap()), ["parts/y"]);
    let stores = Stores::new(options(&endpoint));
    let object = stores.read_item(&ItemUri::s3(&bucket, "one-more/parts/y"), 10).await.unwrap();
    assert_eq!(object.bytes, "2");
    assert_eq!(
        stores.read_item(&ItemUri::s3(&bucket, "one/parts/y"), 9).await.unwrap_err().kind(),
        Kind::NotFound
    );
}

/// The error as a program prints it: one line, with what every failure must name.
fn line(error: &StorageError, needles: &[&str]) -> String {
    let mut line = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        line = format!("{line}: {cause}");
        source = cause.source();
    }
    for needle in needles {
        assert!(line.contains(needle), "`{needle}` is missing in: {line}");
    }
    assert!(!line.contains('\n') && line.len() < 400, "not one short line: {line}");
    for secret in ["wrong-secret", "SdkError", "ServiceError {", "DispatchFailure", "Unhandled"] {
        assert!(!line.contains(secret), "`{secret}` is in: {line}");
    }
    println!("{line}");
    line
}

#[tokio::test(flavor = "multi_thread")]
async fn names_a_missing_bucket() {
    // s3s-fs would make the bucket with the first object.
    let endpoint = setting("CAPTIONFLEET_TEST_S3_CONDITIONAL");
    let store = archive(&endpoint, "s3://no-such-bucket/a").await;
    let listed: Result<Vec<_>, _> = store.list("runs/").try_collect().await;
    for error in [
        store.check().await.unwrap_err(),
        listed.unwrap_err(),
        store.get("a", 1).await.unwrap_err(),
        store.put("a", Bytes::new(), PutMode::IfAbsent).await.unwrap_err(),
    ] {
        assert_eq!(error.kind(), Kind::NoSuchBucket);
        line(&error, &["s3://no-such-bucket/a", "no such bucket (NoSuchBucket)", "create it"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn names_an_unreachable_server() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let endpoint = format!("http://127.0.0.1:{port}");
    let began = Instant::now();
    let error = archive(&endpoint, "s3://bucket/a").await.check().await.unwrap_err();
    assert!(began.elapsed() < Duration::from_secs(20), "a refused connection is not tried for long");
    assert_eq!(error.kind(), Kind::Unavailable);
    assert!(error.is_transient());
    line(&error, &["opening s3://bucket/a", "cannot reach", &endpoint, "onnection refused"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn names_what_is_no_endpoint() {
    for endpoint in [
        "localhost:9000",
        "ftp://host",
        "127.0.0.1:9000",
        "http://",
        "http://user:wrong-secret@host:1",
        "user:wrong-secret@host",
    ] {
        let error = Stores::new(options(endpoint)).bucket("b").await.unwrap_err();
        assert_eq!(error.kind(), Kind::InvalidUri, "{endpoint}");
        line(&error, &["endpoint"]);
    }
}

/// Environment variables belong to a whole process, so each of these runs this test binary again in one of its own.
fn child(test: &str, variables: &[(&str, Option<&str>)]) {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", &format!("s3::{test}"), "--ignored", "--nocapture"]);
    for name in
        ["AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_REGION", "AWS_ENDPOINT_URL", "AWS_WEB_IDENTITY_TOKEN_FILE"]
    {
        command.env_remove(name);
    }
    command.env("AWS_CONFIG_FILE", "/nonexistent").env("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent");
    for (name, value) in variables {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    let output = command.output().unwrap();
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}

const NO_KEYS: [(&str, Option<&str>); 2] = [("AWS_ACCESS_KEY_ID", None), ("AWS_SECRET_ACCESS_KEY", None)];

#[test]
fn names_refused_credentials() {
    child("in_child_names_refused_credentials", &[("AWS_SECRET_ACCESS_KEY", Some("wrong-secret"))]);
}

#[tokio::test]
#[ignore = "run by names_refused_credentials in a process of its own"]
async fn in_child_names_refused_credentials() {
    let store = archive(&setting("CAPTIONFLEET_TEST_S3"), "s3://bucket/a").await;
    let errors = [
        store.check().await.unwrap_err(),
        store.get("a", 1).await.unwrap_err(),
        // The answer to this one has no body, and so no reason.
        store.head("a").await.unwrap_err(),
    ];
    for error in errors {
        assert_eq!(error.kind(), Kind::Unauthenticated);
        line(
            &error,
            &["s3://bucket/a", "credentials are refused (SignatureDoesNotMatch)", "AWS_SECRET_ACCESS_KEY"],
        );
    }
}

#[test]
fn names_missing_credentials_at_once() {
    child("in_child_names_missing_credentials", &NO_KEYS);
}

#[tokio::test]
#[ignore = "run by names_missing_credentials_at_once in a process of its own"]
async fn in_child_names_missing_credentials() {
    for (options, needle) in [
        (options("http://127.0.0.1:1"), "opening http://127.0.0.1:1"),
        (StorageOptions::default(), "opening Amazon S3"),
    ] {
        let began = Instant::now();
        let error = Stores::new(options).bucket("b").await.unwrap_err();
        assert!(began.elapsed() < Duration::from_secs(5), "took {:?}", began.elapsed());
        assert_eq!(error.kind(), Kind::Unauthenticated);
        line(&error, &[needle, "no S3 credentials found", "AWS_ACCESS_KEY_ID", "AWS_PROFILE"]);
    }
}

#[test]
fn takes_endpoint_and_profile_from_the_environment() {
    let folder = tempfile::tempdir().unwrap();
    let profile = folder.path().join("credentials");
    let (id, secret) = (setting("AWS_ACCESS_KEY_ID"), setting("AWS_SECRET_ACCESS_KEY"));
    std::fs::write(
        &profile,
        format!("[fleet]\naws_access_key_id = {id}\naws_secret_access_key = {secret}\n"),
    )
    .unwrap();
    let endpoint = setting("CAPTIONFLEET_TEST_S3");
    let variables = [
        ("AWS_SHARED_CREDENTIALS_FILE", profile.to_str()),
        ("AWS_PROFILE", Some("fleet")),
        ("AWS_ENDPOINT_URL_S3", Some(endpoint.as_str())),
    ];
    child("in_child_uses_the_environment", &[&NO_KEYS[..], &variables[..]].concat());
}

#[tokio::test]
#[ignore = "run by takes_endpoint_and_profile_from_the_environment in a process of its own"]
async fn in_child_uses_the_environment() {
    let store = Stores::new(StorageOptions::default()).bucket("no-such-bucket").await.unwrap();
    assert_eq!(store.check().await.unwrap_err().kind(), Kind::NoSuchBucket);
}
