//! The choice of a token, run on a CPU, against f64.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used)]

#[path = "host/mod.rs"]
#[allow(dead_code, reason = "a kernel of one type needs not all of it")]
mod host;

use captionfleet_cuda_kernels::{Element, Likeliest};
use host::{Values, run};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// Token and logarithm of each row.
fn chosen(logits: &[f32], width: usize, valid: usize, backwards: bool) -> Vec<f32> {
    let rows = logits.len() / width;
    let mut out = Values::unwritten(Element::F32, 2 * rows);
    let likeliest = Likeliest { rows: rows as u32, width: width as u32, valid: valid as u32 };
    run(&likeliest.launch(logits.as_ptr() as u64, out.address_mut()).unwrap(), backwards);
    out.widened()
}

#[test]
fn the_first_of_the_largest_and_its_share() {
    let mut random = StdRng::seed_from_u64(1);
    for (width, valid) in [(1, 1), (5, 3), (256, 256), (300, 257), (2100, 2000)] {
        for scale in [0.0, 1.0, 80.0] {
            // Few different values: the largest is there more than once.
            let logits: Vec<f32> =
                (0..3 * width).map(|_| scale * (random.random_range(-9..9) as f32) / 9.0).collect();
            let found = chosen(&logits, width, valid, false);
            assert_eq!(found, chosen(&logits, width, valid, true), "threads do not wait where they must");
            for (row, found) in logits.chunks(width).zip(found.chunks(2)) {
                let row: Vec<f64> = row[..valid].iter().copied().map(f64::from).collect();
                let most = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let expected = row.iter().position(|x| *x == most).unwrap();
                let share = -row.iter().map(|x| (x - most).exp()).sum::<f64>().ln();
                assert_eq!(found[0], expected as f32, "{width} {valid} {scale}");
                assert!((f64::from(found[1]) - share).abs() < 1e-5, "{} instead of {share}", found[1]);
            }
        }
    }
}

#[test]
fn what_is_no_number_has_no_share() {
    for bad in [[0.0, f32::NAN, 1.0], [0.0, f32::INFINITY, 1.0], [f32::NEG_INFINITY; 3]] {
        assert!(!chosen(&bad, 3, 3, false)[1].is_finite(), "{bad:?}");
    }
    // Behind the tokens there may be anything.
    assert_eq!(chosen(&[1.0, 0.0, f32::NAN], 3, 2, false)[0], 0.0);
}

#[test]
fn more_tokens_than_logits_are_not_launched() {
    assert!(Likeliest { rows: 1, width: 4, valid: 5 }.launch(0, 0).is_none());
    assert!(Likeliest { rows: 1, width: u32::MAX, valid: u32::MAX }.launch(0, 0).is_none());
}
