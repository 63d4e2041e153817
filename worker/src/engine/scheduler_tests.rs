//! Tests of the scheduler: fairness, slots, cancellations, over random arrivals.
#![allow(clippy::unwrap_used)]

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;

const LIMITS: Limits = Limits { slots: 4, reserved_slots: 0, vision_batch: 2, prefill_batch: 2 };

fn submit_captions(scheduler: &mut Scheduler, ids: std::ops::Range<u64>, priority: Priority) {
    for id in ids {
        scheduler.submit(RequestId(id), priority, Entrance::Caption);
    }
}

#[test]
fn slots_are_filled_before_the_first_decode_step() {
    let mut scheduler = Scheduler::new(LIMITS);
    submit_captions(&mut scheduler, 0..6, Priority::Bulk);
    let mut steps = 0;
    loop {
        match scheduler.next_batch().unwrap() {
            NextBatch::Decode { seats } => {
                assert_eq!(seats.len(), 4);
                break;
            }
            _ => steps += 1,
        }
        assert!(steps < 10, "the slots are never filled");
    }
}

#[test]
fn a_freed_slot_is_taken_before_the_next_decode_step() {
    let mut scheduler = Scheduler::new(LIMITS);
    submit_captions(&mut scheduler, 0..8, Priority::Bulk);
    while !matches!(scheduler.next_batch(), Some(NextBatch::Decode { .. })) {}
    assert_eq!(scheduler.running(), 4);
    scheduler.finish(RequestId(0)).unwrap();
    loop {
        match scheduler.next_batch().unwrap() {
            NextBatch::Decode { seats } => {
                assert_eq!(seats.len(), 4, "the free slot was not refilled");
                break;
            }
            NextBatch::Prefill { .. } | NextBatch::Vision { .. } | NextBatch::Text { .. } => {}
        }
    }
}

#[test]
fn an_interactive_caption_is_seated_at_the_first_free_slot() {
    let mut scheduler = Scheduler::new(LIMITS);
    submit_captions(&mut scheduler, 0..20, Priority::Bulk);
    while !matches!(scheduler.next_batch(), Some(NextBatch::Decode { .. })) {}
    submit_captions(&mut scheduler, 100..101, Priority::Interactive);
    scheduler.finish(RequestId(0)).unwrap();
    let seated = (0..6).any(|_| {
        matches!(scheduler.next_batch(), Some(NextBatch::Prefill { seats })
            if seats.iter().any(|seat| seat.request == RequestId(100)))
    });
    assert!(seated, "the interactive request waits behind bulk");
}

#[test]
fn a_person_s_picture_is_looked_at_before_prompts_of_bulk_are_read() {
    let mut scheduler = Scheduler::new(LIMITS);
    for id in 0..4 {
        scheduler.submit(RequestId(id), Priority::Bulk, Entrance::CaptionSeen);
    }
    submit_captions(&mut scheduler, 100..101, Priority::Interactive);
    let ids = [RequestId(100)];
    assert_eq!(scheduler.next_batch(), Some(NextBatch::Vision { requests: ids.to_vec() }));
    let Some(NextBatch::Prefill { seats }) = scheduler.next_batch() else { panic!("it is ready") };
    assert_eq!(seats[0].request, ids[0]);
}

/// Steps until the bulk caption is seated while `interactive` keeps coming: three for every slot, of two tokens each.
fn steps_until_bulk_is_seated(limits: Limits, interactive: Entrance) -> usize {
    const BULK: RequestId = RequestId(0);
    let mut scheduler = Scheduler::new(limits);
    submit_captions(&mut scheduler, 0..1, Priority::Bulk);
    let mut left = HashMap::new();
    let mut next = 1;
    for step in 1..10_000 {
        while scheduler.len() <= 3 * limits.all_slots() {
            scheduler.submit(RequestId(next), Priority::Interactive, interactive);
            left.insert(RequestId(next), 2);
            next += 1;
        }
        let (NextBatch::Prefill { seats } | NextBatch::Decode { seats }) = scheduler.next_batch().unwrap()
        else {
            continue;
        };
        if seats.iter().any(|seat| seat.request == BULK) {
            return step;
        }
        for id in spend(&seats, &mut left) {
            scheduler.finish(id);
        }
    }
    panic!("bulk is never seated beside {interactive:?}, {limits:?}");
}

#[test]
fn bulk_is_seen_and_seated_although_people_take_every_slot() {
    let wide = Limits { slots: 16, reserved_slots: 1, vision_batch: 4, prefill_batch: 4 };
    let narrow = Limits { vision_batch: 1, prefill_batch: 1, ..wide };
    for limits in [LIMITS, wide, narrow] {
        for interactive in [Entrance::CaptionSeen, Entrance::Caption] {
            let steps = steps_until_bulk_is_seated(limits, interactive);
            assert!(steps < 40 * limits.all_slots(), "{steps} beside {interactive:?}, {limits:?}");
        }
    }
}

#[test]
fn the_decode_batch_is_full_while_work_waits() {
    const WIDE: Limits = Limits { slots: 16, reserved_slots: 1, vision_batch: 4, prefill_batch: 4 };
    let mut scheduler = Scheduler::new(WIDE);
    submit_captions(&mut scheduler, 0..800, Priority::Bulk);
    // Lengths between 4 and 40 tokens, without order.
    let mut left: HashMap<RequestId, u64> = (0..800).map(|id| (RequestId(id), 4 + id * 7919 % 37)).collect();
    let (mut steps, mut rows) = (0, 0);
    while scheduler.vision.len() + scheduler.ready.len() > 0 {
        let seats = match scheduler.next_batch().unwrap() {
            NextBatch::Decode { seats } => {
                steps += 1;
                rows += seats.len();
                seats
            }
            NextBatch::Prefill { seats } => seats,
            _ => continue,
        };
        for seat in seats {
            let tokens = left.get_mut(&seat.request).unwrap();
            *tokens -= 1;
            if *tokens == 0 {
                scheduler.finish(seat.request);
            }
        }
    }
    let fill = rows as f64 / (steps * WIDE.slots) as f64;
    assert!(fill > 0.9, "{fill}");
}

#[derive(Debug, Clone)]
enum Event {
    Submit { interactive: bool, entrance: u8, length: u8 },
    Cancel(u8),
    Step,
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    prop::collection::vec(
        prop_oneof![
            3 => (any::<bool>(), 0..4_u8, 1..6_u8)
                .prop_map(|(interactive, entrance, length)| Event::Submit { interactive, entrance, length }),
            1 => any::<u8>().prop_map(Event::Cancel),
            5 => Just(Event::Step),
        ],
        0..200,
    )
}

/// Plays the device: carries out a batch and finishes whoever is done.
fn carry_out(
    scheduler: &mut Scheduler,
    left: &mut HashMap<RequestId, u8>,
    entrances: &HashMap<RequestId, Entrance>,
) {
    let Some(batch) = scheduler.next_batch() else {
        assert!(scheduler.is_empty(), "requests wait and nothing is scheduled");
        return;
    };
    let limits = scheduler.limits();
    let done: Vec<RequestId> = match batch {
        NextBatch::Text { requests } => requests,
        NextBatch::Vision { requests } => {
            assert!(!requests.is_empty() && requests.len() <= limits.vision_batch);
            requests.into_iter().filter(|id| matches!(entrances[id], Entrance::Picture)).collect()
        }
        NextBatch::Prefill { seats } => {
            assert!(!seats.is_empty() && seats.len() <= limits.prefill_batch);
            spend(&seats, left)
        }
        NextBatch::Decode { seats } => {
            assert!(!seats.is_empty() && seats.len() <= limits.all_slots());
            let slots: std::collections::HashSet<_> = seats.iter().map(|seat| seat.slot).collect();
            assert_eq!(slots.len(), seats.len(), "a slot has two sequences");
            spend(&seats, left)
        }
    };
    for id in done {
        scheduler.finish(id);
        left.remove(&id);
    }
}

/// Narrow and wide, as on a CPU and on a GPU.
fn limits() -> impl Strategy<Value = Limits> {
    (1..6_usize, 0..3_usize, 1..5_usize, 1..5_usize).prop_map(
        |(slots, reserved_slots, vision_batch, prefill_batch)| Limits {
            slots,
            reserved_slots,
            vision_batch,
            prefill_batch,
        },
    )
}

fn spend(seats: &[Seat], left: &mut HashMap<RequestId, u8>) -> Vec<RequestId> {
    seats
        .iter()
        .filter_map(|seat| {
            let tokens = left.get_mut(&seat.request).expect("only live requests are scheduled");
            *tokens -= 1;
            (*tokens == 0).then_some(seat.request)
        })
        .collect()
}

proptest! {
    #[test]
    fn every_request_ends_and_every_slot_comes_back(limits in limits(), events in events()) {
        let mut scheduler = Scheduler::new(limits);
        let mut left = HashMap::new();
        let mut entrances = HashMap::new();
        let mut next = 0_u64;
        for event in events {
            match event {
                Event::Submit { interactive, entrance, length } => {
                    let id = RequestId(next);
                    next += 1;
                    let priority = if interactive { Priority::Interactive } else { Priority::Bulk };
                    let entrance = match entrance {
                        0 => Entrance::Text,
                        1 => Entrance::Picture,
                        2 => Entrance::CaptionSeen,
                        _ => Entrance::Caption,
                    };
                    scheduler.submit(id, priority, entrance);
                    left.insert(id, length);
                    entrances.insert(id, entrance);
                }
                Event::Cancel(which) => {
                    let known: Vec<RequestId> = left.keys().copied().collect();
                    if !known.is_empty() {
                        let id = known[usize::from(which) % known.len()];
                        scheduler.finish(id);
                        left.remove(&id);
                    }
                }
                Event::Step => carry_out(&mut scheduler, &mut left, &entrances),
            }
        }
        let mut steps = 0;
        while !scheduler.is_empty() {
            carry_out(&mut scheduler, &mut left, &entrances);
            steps += 1;
            prop_assert!(steps < 20_000, "the scheduler starves somebody");
        }
        prop_assert!(left.is_empty());
        prop_assert_eq!(scheduler.running(), 0);
        // Every slot is free again: as many people as there are slots are seated after a few steps.
        let all = limits.all_slots();
        submit_captions(&mut scheduler, next..next + all as u64, Priority::Interactive);
        for _ in 0..6 * all {
            scheduler.next_batch();
        }
        prop_assert_eq!(scheduler.running(), all);
    }
}
