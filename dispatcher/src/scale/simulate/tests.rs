#![allow(clippy::unwrap_used)]

use super::arrivals::{Arrival, Shape};
use super::{Fleet, Hopeless, World, play};
use crate::scale::rule::Rule;

fn world() -> World {
    World {
        seconds_per_item: 0.25,
        job_size: 64,
        provision: 90,
        load: 30,
        interruptions_per_hour: 0.0,
        interrupt_at: Vec::new(),
        notice: 30,
        grace: 25,
        price_per_hour: 0.36,
    }
}

fn fixed(workers: u32) -> Fleet {
    Fleet::Fixed { workers, cold: false }
}

fn scaled(target_seconds: f64) -> Fleet {
    Fleet::Scaled(Rule { target_seconds, most: 20 })
}

#[test]
fn fixed_workers_share_the_work_evenly() {
    // 120 jobs of 16 s over 3 workers: 40 each.
    let outcome = play(&world(), fixed(3), &Shape::Burst.arrivals(120 * 64), 1).unwrap();
    assert_eq!(outcome.seconds, 640);
    assert!((outcome.gpu_hours - 3.0 * 640.0 / 3600.0).abs() < 1e-9);
    assert!((outcome.cost - outcome.gpu_hours * 0.36).abs() < 1e-9);
    assert!(outcome.useful > 0.999, "{outcome:?}");
    assert_eq!((outcome.most_workers, outcome.interruptions), (3, 0));
}

#[test]
fn jobs_shorter_than_a_second_lose_no_time() {
    let world = World { seconds_per_item: 0.01, job_size: 10, ..world() };
    let outcome = play(&world, fixed(2), &Shape::Burst.arrivals(20_000), 1).unwrap();
    assert!((100..=103).contains(&outcome.seconds), "{outcome:?}");
}

#[test]
fn a_lone_item_waits_for_its_machine() {
    let outcome = play(&world(), scaled(300.0), &Shape::Burst.arrivals(1), 1).unwrap();
    assert!((120..=125).contains(&outcome.seconds), "{outcome:?}");
    assert_eq!(outcome.most_workers, 1);
    // Paid from its arrival until the cooldown is over.
    assert!((500.0..=700.0).contains(&(outcome.gpu_hours * 3600.0)), "{outcome:?}");
}

#[test]
fn an_interrupted_fleet_does_everything_all_the_same() {
    let arrivals = Shape::Bursts.arrivals(100_000);
    let calm = play(&world(), scaled(300.0), &arrivals, 1).unwrap();
    let rough = World { interruptions_per_hour: 4.0, notice: 0, ..world() };
    let rough = play(&rough, scaled(300.0), &arrivals, 1).unwrap();
    assert_eq!(calm.wasted_seconds, 0.0);
    assert!(rough.interruptions > 10 && rough.wasted_seconds > 0.0, "{rough:?}");
    let work = 100_000.0 * 0.25;
    for outcome in [calm, rough] {
        let useful = outcome.useful * outcome.gpu_hours * 3600.0;
        assert!((useful - work).abs() < 1.0, "{useful} of {work} device seconds made rows");
    }
}

#[test]
fn a_cold_fleet_begins_late_and_a_lost_worker_is_replaced() {
    let arrivals = Shape::Burst.arrivals(120 * 64);
    let cold = play(&world(), Fleet::Fixed { workers: 3, cold: true }, &arrivals, 1).unwrap();
    // 40 jobs of 16 s each, 120 s late, for a quarter of which nobody pays yet.
    assert!((760..=763).contains(&cold.seconds), "{cold:?}");
    assert_eq!((cold.interruptions, cold.wasted_seconds), (0, 0.0));

    // In the middle of its thirteenth job; until another is there two do the work of three.
    let rough = World { interrupt_at: vec![200], ..world() };
    let rough = play(&rough, fixed(3), &arrivals, 1).unwrap();
    assert_eq!((rough.interruptions, rough.most_workers), (1, 3));
    assert_eq!(rough.wasted_seconds, 200.0 % 16.0);
    assert!((640 + 40..=640 + 60).contains(&rough.seconds), "{rough:?}");
}

#[test]
fn a_longer_target_costs_less_and_waits_longer() {
    let arrivals = Shape::Burst.arrivals(100_000);
    let short = play(&world(), scaled(60.0), &arrivals, 1).unwrap();
    let long = play(&world(), scaled(5000.0), &arrivals, 1).unwrap();
    assert!(short.cost > long.cost && short.wait_p95 < long.wait_p95, "{short:?} {long:?}");
}

#[test]
fn the_same_seed_plays_the_same_game() {
    let world = World { interruptions_per_hour: 2.0, ..world() };
    let arrivals = Shape::Daily.arrivals(50_000);
    let once = play(&world, scaled(300.0), &arrivals, 7).unwrap();
    assert_eq!(once, play(&world, scaled(300.0), &arrivals, 7).unwrap());
    assert_ne!(once, play(&world, scaled(300.0), &arrivals, 8).unwrap());
}

#[test]
fn work_that_cannot_be_done_is_told() {
    assert_eq!(play(&world(), fixed(0), &[Arrival { at: 0, items: 1 }], 1), Err(Hopeless));
    let nothing = play(&world(), scaled(300.0), &[], 1).unwrap();
    assert_eq!((nothing.seconds, nothing.gpu_hours), (1, 0.0));
}
