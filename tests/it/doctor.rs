//! Both doctors, over services that are well and services that are not.

use std::time::Duration;

use captionfleet_tests::fleet::Fleet;
use captionfleet_tests::sandbox::RabbitMqNode;
use serde_json::Value;
use tokio::time::Instant;

#[tokio::test(flavor = "multi_thread")]
async fn a_well_fleet_is_told_line_by_line() {
    let fleet = Fleet::new("doctor").unwrap();
    let mut options = vec!["doctor".to_owned(), "--archive".to_owned(), fleet.s3_uri("archive")];
    options.extend(fleet.service_options());
    options
        .extend(["--broker-management".to_owned(), std::env::var("CAPTIONFLEET_TEST_MANAGEMENT").unwrap()]);
    for told in [fleet.worker(&options).await.unwrap(), fleet.dispatcher(&options).await.unwrap()] {
        let told = told.success().unwrap().stdout;
        assert!(told.contains("ok    ffmpeg: ffmpeg "), "{told}");
        assert!(told.contains("has our queues; 0 jobs and 0 requests wait, 0 workers consume"), "{told}");
        assert!(told.contains("listed, written, read and removed, conditional writes work"), "{told}");
        assert!(told.contains("ok    clock: within 5 s of that of s3://"), "{told}");
        assert!(told.contains("ok    broker's version: RabbitMQ "), "{told}");
        assert!(told.contains("ok    broker's policies: none limits our queues"), "{told}");
        assert!(!told.contains("fail  "), "{told}");
    }
    let told = fleet.worker(&options).await.unwrap().stdout;
    assert!(told.contains("says its golden tokens on cpu; "), "{told}");
    assert!(told.contains(" GPU: "), "{told}");
}

/// The level of one thing in the JSON document of a doctor, and what is said of it.
fn found<'a>(told: &'a Value, what: &str) -> (&'a str, &'a str) {
    let of = |finding: &&Value| finding["what"] == what;
    let finding = told.as_array().unwrap().iter().find(of).unwrap_or_else(|| panic!("no {what}: {told}"));
    (finding["level"].as_str().unwrap(), finding["text"].as_str().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn policies_that_lose_jobs_and_a_user_who_may_not_ask_are_told() {
    let root = tempfile::tempdir().unwrap();
    let node = RabbitMqNode::start_with_management(root.path(), "governed").await.unwrap();
    for command in [
        &["add_user", "unasked", "hunter2"][..],
        &["set_permissions", "unasked", ".*", ".*", ".*"],
        &["set_policy", "thrift", "\\.bulk$", r#"{"message-ttl": 3600000, "max-length": 100}"#],
    ] {
        node.ctl(command).await.unwrap();
    }
    let fleet = Fleet::new("governed").unwrap();
    let (guest, management) = (node.uri(), node.management());
    let unasked = guest.replace("guest:guest", "unasked:hunter2");
    let ask = async |broker: &str| {
        let options = [
            "doctor",
            "--json",
            "--broker",
            broker,
            "--broker-management",
            &management,
            "--queue-prefix",
            "p",
        ];
        let (worker, dispatcher) = (fleet.worker(options).await, fleet.dispatcher(options).await);
        [worker, dispatcher].map(|ran| ran.unwrap().success().unwrap().json().unwrap())
    };
    // A policy takes a moment to reach queues that were just declared.
    let deadline = Instant::now() + Duration::from_secs(300);
    loop {
        let told = ask(&guest).await;
        let policies = told.each_ref().map(|told| found(told, "broker's policies"));
        if policies.iter().all(|(level, _)| *level == "warn") {
            for (_, text) in policies {
                assert!(text.contains("thrift sets message-ttl 3600000 for p.bulk"), "{text}");
                assert!(text.contains("thrift sets max-length 100 for p.bulk"), "{text}");
                assert!(!text.contains("p.interactive"), "{text}");
            }
            break;
        }
        assert!(Instant::now() < deadline, "{told:?}");
    }
    for told in ask(&unasked).await {
        assert_eq!(found(&told, "broker").0, "ok", "{told}");
        let (level, text) = found(&told, "broker's policies");
        assert_eq!(level, "warn", "{text}");
        assert!(text.contains("rabbitmqctl set_user_tags unasked management"), "{text}");
        assert!(!told.to_string().contains("hunter2"), "{told}");
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_is_not_named_is_told() {
    let told = Fleet::new("unnamed").unwrap().worker(["doctor"]).await.unwrap().success().unwrap().stdout;
    assert!(told.contains("warn  broker: not checked, none is given"), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_amiss_is_named_and_ends_with_1() {
    let fleet = Fleet::new("ill").unwrap();
    let broker = ["--broker", "amqp://127.0.0.1:1"];
    let archive = ["--archive", "s3://captionfleet-no-such-bucket/x", "--s3-endpoint", &fleet.endpoints().s3];
    let options = ["doctor"].into_iter().chain(broker).chain(archive);
    for told in [fleet.worker(options.clone()).await.unwrap(), fleet.dispatcher(options).await.unwrap()] {
        assert_eq!(told.code, 1, "{}", told.stdout);
        assert!(
            told.stdout.contains("fail  broker: cannot connect to amqp://127.0.0.1:1"),
            "{}",
            told.stdout
        );
        assert!(told.stdout.contains("fail  archive: "), "{}", told.stdout);
        assert!(told.stdout.contains("captionfleet-no-such-bucket"), "{}", told.stdout);
    }
}
