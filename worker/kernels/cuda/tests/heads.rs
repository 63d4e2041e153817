//! What lies between the products of attention, run on a CPU, against f64.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used)]

#[path = "host/mod.rs"]
mod host;

use captionfleet_cuda_kernels::{Element, HeadShape, Softmax};
use host::{Values, rounding, run};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

fn drawn(random: &mut StdRng, count: usize, scale: f32) -> Vec<f32> {
    (0..count).map(|_| scale * (2.0 * random.random::<f32>() - 1.0)).collect()
}

/// Sequences, tokens, heads, width; the last ones are a block of ViT-g's and the demo model's.
const SIZES: [[u32; 4]; 6] =
    [[1, 1, 1, 1], [2, 3, 2, 5], [3, 4, 5, 7], [2, 8, 3, 9], [2, 3, 16, 88], [1, 65, 4, 32]];

fn shape(element: Element, [sequences, tokens, heads, width]: [u32; 4]) -> HeadShape {
    HeadShape { element, sequences, tokens, heads, width }
}

#[test]
fn every_value_finds_its_head_and_its_way_back() {
    let mut random = StdRng::seed_from_u64(1);
    for element in Element::ALL {
        for sizes in SIZES {
            for has_bias in [false, true] {
                let [sequences, tokens, heads, width] = sizes.map(|size| size as usize);
                let (shape, scale) = (shape(element, sizes), 0.125);
                let (columns, padded) = (3 * heads * width, shape.padded() as usize);
                assert!(padded % 8 == 0 && (tokens..tokens + 8).contains(&padded));
                let product = Values::of(element, &drawn(&mut random, sequences * tokens * columns, 3.0));
                let bias = drawn(&mut random, columns, 1.0);
                let mut out = Values::unwritten(element, sequences * padded * columns);
                let bias_at = has_bias.then_some(bias.as_ptr() as u64);
                run(&shape.split(product.address(), bias_at, scale, out.address_mut()).unwrap(), false);
                let given = product.widened();
                let expected = |part: usize, sequence: usize, head: usize, token: usize, i: usize| {
                    if token >= tokens {
                        return 0.0;
                    }
                    let column = (part * heads + head) * width + i;
                    let x = f64::from(given[(sequence * tokens + token) * columns + column]);
                    let sum = x + if has_bias { f64::from(bias[column]) } else { 0.0 };
                    if part == 0 { sum * f64::from(scale) } else { sum }
                };
                let split = out.widened();
                for (place, found) in split.iter().enumerate() {
                    let (i, rest) = (place % width, place / width);
                    let (token, rest) = (rest % padded, rest / padded);
                    let (head, rest) = (rest % heads, rest / heads);
                    let x = expected(rest / sequences, rest % sequences, head, token, i);
                    let bound = (rounding(element) + 1e-6) * (x.abs() + 1e-3);
                    assert!((f64::from(*found) - x).abs() <= bound, "{element:?}: {found} instead of {x}");
                }
                // The values, joined again.
                let values = Values::of(element, &split[2 * split.len() / 3..]);
                let mut joined = Values::unwritten(element, sequences * tokens * heads * width);
                run(&shape.join(values.address(), joined.address_mut()).unwrap(), false);
                let values = values.widened();
                for (place, found) in joined.widened().into_iter().enumerate() {
                    let (i, rest) = (place % width, place / width);
                    let (head, rest) = (rest % heads, rest / heads);
                    let (token, sequence) = (rest % tokens, rest / tokens);
                    let from = ((sequence * heads + head) * padded + token) * width + i;
                    assert_eq!(found.to_bits(), values[from].to_bits());
                }
            }
        }
    }
}

#[test]
fn more_tokens_than_a_launch_counts_are_not_launched() {
    let many = shape(Element::F16, [1 << 16, 1 << 15, 1, 1]);
    assert!(many.split(0, None, 1.0, 0).is_none() && many.join(0, 0).is_none());
    assert!(HeadShape { sequences: u32::MAX, tokens: 2, ..many }.split(0, None, 1.0, 0).is_none());
}

#[test]
fn softmax_agrees_with_f64() {
    let mut random = StdRng::seed_from_u64(2);
    for element in Element::ALL {
        for width in [1usize, 2, 31, 32, 33, 257, 1025] {
            for rows in [1usize, 7, 8, 9] {
                // Behind the scores of some rows there is something else.
                let valid = width - (width / 3).min(rows / 2);
                // All alike, and a few that take everything.
                let scale = [0.0, 1.0, 60.0][rows % 3];
                let scores = Values::of(element, &drawn(&mut random, rows * width, scale));
                let launched = |backwards: bool| {
                    let mut scores = scores.clone();
                    let softmax =
                        Softmax { element, rows: rows as u32, width: width as u32, valid: valid as u32 };
                    run(&softmax.launch(scores.address_mut()), backwards);
                    scores
                };
                let found = launched(false);
                assert_eq!(found.bits(), launched(true).bits(), "threads do not wait where they must");
                let found = found.widened();
                for (row, scores) in scores.widened().chunks(width).enumerate() {
                    let scores = &scores[..valid];
                    let most = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                    let shares: Vec<f64> =
                        scores.iter().map(|score| (f64::from(*score) - f64::from(most)).exp()).collect();
                    let total: f64 = shares.iter().sum();
                    assert!(found[row * width + valid..(row + 1) * width].iter().all(|x| *x == 0.0));
                    for (i, share) in shares.iter().enumerate() {
                        let (found, expected) = (f64::from(found[row * width + i]), share / total);
                        // The smallest numbers of f16 are 6e-8 apart.
                        let bound = (rounding(element) + 1e-6) * expected + 1e-7;
                        assert!(
                            (found - expected).abs() <= bound,
                            "{element:?}, {width} wide: {found} instead of {expected}"
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn rows_without_numbers_have_no_softmax() {
    let mut scores = Values::F32(vec![1.0, f32::NAN, 1.0, 2.0]);
    run(&Softmax { element: Element::F32, rows: 2, width: 2, valid: 2 }.launch(scores.address_mut()), false);
    let found = scores.widened();
    assert!(found[0].is_nan() && found[1].is_nan() && (found[2] + found[3] - 1.0).abs() < 1e-6, "{found:?}");
}
