//! The short form of the fault suite: one test for each case. The long form is the program `soak`.
#![allow(clippy::unwrap_used)]

use captionfleet_tests::faults::{Scale, all};

/// Runs a case by its name.
async fn run(name: &str) {
    let case = all().into_iter().find(|case| case.name == name).unwrap();
    let since = std::time::Instant::now();
    match case.run(Scale::short()).await {
        Ok(figures) => eprintln!("case {} {name}: {figures} ({} s)", case.number, since.elapsed().as_secs()),
        Err(error) => panic!("case {} {name}: {error:?}", case.number),
    }
}

macro_rules! cases {
    ($($test:ident = $name:literal),* $(,)?) => {
        $(
            #[tokio::test(flavor = "multi_thread")]
            async fn $test() {
                run($name).await;
            }
        )*

        #[test]
        fn every_short_case_is_a_test() {
            let tested = [$($name),*];
            let listed: Vec<&str> =
                all().iter().filter(|case| !case.long_only).map(|case| case.name).collect();
            assert_eq!(listed, tested);
        }
    };
}

cases! {
    workers_killed_at_random_lose_and_double_nothing = "kill-storm",
    a_worker_killed_before_its_ack_is_not_followed_by_a_second_inference = "killed-before-ack",
    an_item_that_kills_the_process_costs_one_row = "poison",
    a_job_in_quarantine_waits_for_its_archive = "quarantine-outage",
    an_item_that_hangs_costs_one_row = "hanging-item",
    a_job_of_hanging_items_outlasts_no_consumer_timeout = "hanging-job",
    a_store_that_hangs_fails_no_row = "hanging-store",
    sigterm_ends_a_worker_in_time = "sigterm",
    sigterm_ends_a_worker_that_reaches_nobody = "sigterm-cut-off",
    a_late_ack_harms_nothing = "sigstop",
    a_spot_notice_drains = "spot-notice",
    a_broker_that_restarts_loses_nothing = "broker-restart",
    a_bad_network_loses_nothing = "broker-network",
    a_memory_alarm_stops_the_dispatcher_which_says_so = "broker-alarm",
    a_returned_message_is_told_and_published_again = "unroutable",
    a_changed_password_is_told = "broker-password",
    a_publisher_killed_leaves_no_gap_and_no_double = "publisher-killed",
    hostile_messages_are_dead_letters = "hostile-messages",
    a_message_a_hundred_times_makes_one_part = "hundredfold",
    versions_live_side_by_side = "two-versions",
    a_model_is_changed_under_way = "two-bundles",
    storage_errors_fail_no_row = "storage-errors",
    an_archive_that_is_away_costs_no_attempt = "archive-away",
    broken_bodies_fail_no_row = "storage-bodies",
    a_forgotten_connection_costs_no_minute = "idle-connection",
    a_lost_reply_doubles_nothing = "lost-reply",
    a_full_disk_is_waited_for = "disk-full",
    a_damaged_bundle_is_refused = "damaged-bundle",
    everything_killed_twice_loses_and_doubles_nothing = "kill-everything-twice",
}
