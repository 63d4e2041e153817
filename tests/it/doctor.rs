//! Both doctors, over services that are well and services that are not.

use captionfleet_tests::fleet::Fleet;

#[tokio::test(flavor = "multi_thread")]
async fn a_well_fleet_is_told_line_by_line() {
    let fleet = Fleet::new("doctor").unwrap();
    let mut options = vec!["doctor".to_owned(), "--archive".to_owned(), fleet.s3_uri("archive")];
    options.extend(fleet.service_options());
    for told in [fleet.worker(&options).await.unwrap(), fleet.dispatcher(&options).await.unwrap()] {
        let told = told.success().unwrap().stdout;
        assert!(told.contains("ok    ffmpeg: ffmpeg "), "{told}");
        assert!(told.contains("has our queues; 0 jobs and 0 requests wait, 0 workers consume"), "{told}");
        assert!(told.contains("listed, written, read and removed, conditional writes work"), "{told}");
        assert!(told.contains("ok    clock: within 5 s of that of s3://"), "{told}");
        assert!(!told.contains("fail  "), "{told}");
    }
    let told = fleet.worker(&options).await.unwrap().stdout;
    assert!(told.contains("says its golden tokens on cpu; "), "{told}");
    assert!(told.contains(" GPU: "), "{told}");
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
