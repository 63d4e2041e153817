//! The functions between products, against f64 and on every instruction set.
#![allow(clippy::unwrap_used)]
use captionfleet_kernels::{Backend, gelu_erf, gelu_tanh, layer_norm, log_sum_exp, rms_norm, softmax};

fn backends() -> impl Iterator<Item = Backend> {
    Backend::ALL.into_iter().filter(|backend| backend.is_available())
}

/// Dense where the functions bend, then to both ends of f32.
fn arguments() -> Vec<f32> {
    let near = (-200_000..=200_000).map(|i| i as f32 / 10_000.0);
    let far = (0..60).flat_map(|i| [1.7f32.powi(i), -(1.7f32.powi(i)), 0.5f32.powi(i), -(0.5f32.powi(i))]);
    near.chain(far).chain([0.0, -0.0, f32::MAX, f32::MIN, f32::MIN_POSITIVE]).collect()
}

fn check(function: fn(Backend, &[f32], &mut [f32]), exact: impl Fn(f64) -> f64, bound: f64) {
    let xs = arguments();
    for backend in backends() {
        let mut out = vec![0f32; xs.len()];
        function(backend, &xs, &mut out);
        for (&x, out) in xs.iter().zip(out) {
            let expected = exact(f64::from(x));
            let distance = (f64::from(out) - expected).abs();
            assert!(distance <= bound * (1.0 + f64::from(x.abs())), "{backend:?} {x}: {out} {expected}");
        }
    }
}

/// Simpson's rule over the density, from the middle.
fn normal_distribution(x: f64) -> f64 {
    if x.abs() > 12.0 {
        return if x > 0.0 { 1.0 } else { 0.0 };
    }
    let steps = 600;
    let step = x / f64::from(steps);
    let density = |i: i32| (-0.5 * (f64::from(i) * step).powi(2)).exp();
    let inner: f64 = (1..steps).map(|i| density(i) * if i % 2 == 1 { 4.0 } else { 2.0 }).sum();
    0.5 + (density(0) + inner + density(steps)) * step / 3.0 / (2.0 * std::f64::consts::PI).sqrt()
}

#[test]
fn gelu_is_x_times_the_normal_distribution() {
    check(gelu_erf, |x| x * normal_distribution(x), 1e-7);
}

#[test]
fn its_approximation_is_the_formula() {
    let formula = |x: f64| {
        let y = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x.powi(3));
        0.5 * x * (1.0 + y.tanh())
    };
    check(gelu_tanh, formula, 2e-7);
}

#[test]
fn softmax_sums_to_one_and_agrees_with_f64() {
    for width in [1, 2, 15, 16, 17, 257, 1025] {
        for scale in [0.01f32, 1.0, 30.0, 1e4] {
            let row: Vec<f32> =
                (0..width).map(|i| scale * ((i * 7919 % 1000) as f32 / 500.0 - 1.0)).collect();
            let most = row.iter().copied().fold(f32::MIN, f32::max);
            let exact: Vec<f64> = row.iter().map(|&x| f64::from(x - most).exp()).collect();
            let sum: f64 = exact.iter().sum();
            for backend in backends() {
                let mut found = row.clone();
                softmax(backend, &mut found);
                for (found, exact) in found.iter().zip(&exact) {
                    assert!((f64::from(*found) - exact / sum).abs() < 1e-6, "{backend:?} {width} {scale}");
                }
            }
        }
    }
}

#[test]
fn the_logarithm_of_a_sum_agrees_with_f64_whatever_the_row() {
    for width in [1, 2, 17, 1024, 1025, 51_200] {
        for (scale, offset) in [(0.01f32, 0.0f32), (1.0, 50.0), (12.0, -30.0), (1e4, 0.0)] {
            let row: Vec<f32> =
                (0..width).map(|i| offset + scale * ((i * 7919 % 1009) as f32 / 500.0 - 1.0)).collect();
            let most = row.iter().copied().fold(f32::MIN, f32::max);
            let sum: f64 = row.iter().map(|&x| f64::from(x - most).exp()).sum();
            let expected = f64::from(most) + sum.ln();
            for backend in backends() {
                let found = log_sum_exp(backend, &row);
                assert!((found - expected).abs() < 2e-6, "{backend:?} {width} {scale}: {found} {expected}");
            }
        }
    }
    for backend in backends() {
        assert_eq!(log_sum_exp(backend, &[3.0, f32::NEG_INFINITY]), 3.0, "{backend:?}");
        for row in [&[0.0, f32::NAN][..], &[f32::INFINITY, 0.0], &[f32::NEG_INFINITY; 20], &[]] {
            assert!(!log_sum_exp(backend, row).is_finite(), "{backend:?} {row:?}");
        }
    }
}

#[test]
fn far_below_zero_nothing_is_left() {
    for backend in backends() {
        let mut out = [1.0; 3];
        for function in [gelu_erf, gelu_tanh] {
            function(backend, &[-100.0, -1e15, -1e38], &mut out);
            assert_eq!(out, [0.0; 3], "{backend:?}");
        }
    }
}

#[test]
fn what_is_no_number_shows() {
    for backend in backends() {
        let mut row = [0.5, f32::NEG_INFINITY, 0.5];
        softmax(backend, &mut row);
        assert_eq!(row, [0.5, 0.0, 0.5], "{backend:?}");
        for mut row in [
            vec![f32::NAN, 1.0],
            vec![1.0; 40].into_iter().chain([f32::NAN]).collect(),
            vec![f32::NEG_INFINITY; 3],
        ] {
            softmax(backend, &mut row);
            assert!(row.iter().all(|x| x.is_nan()), "{backend:?} {row:?}");
        }
        let (xs, mut out) = ([f32::NAN, f32::INFINITY, 1e30], [0.0; 3]);
        for function in [gelu_erf, gelu_tanh] {
            function(backend, &xs, &mut out);
            assert!(out[0].is_nan() && out[1] == f32::INFINITY && out[2] == 1e30, "{backend:?} {out:?}");
        }
    }
}

#[test]
fn every_processor_gives_the_same_bits() {
    let xs = arguments();
    for function in [gelu_erf, gelu_tanh] {
        let mut expected = vec![0f32; xs.len()];
        function(Backend::Portable, &xs, &mut expected);
        for backend in backends() {
            let mut out = vec![0f32; xs.len()];
            function(backend, &xs, &mut out);
            assert!(out.iter().zip(&expected).all(|(a, b)| a.to_bits() == b.to_bits()), "{backend:?}");
        }
    }
    let mut expected = xs[..4099].to_vec();
    softmax(Backend::Portable, &mut expected);
    for backend in backends() {
        let mut row = xs[..4099].to_vec();
        softmax(backend, &mut row);
        assert!(row.iter().zip(&expected).all(|(a, b)| a.to_bits() == b.to_bits()), "{backend:?}");
    }
}

#[test]
fn norms_agree_with_f64_far_from_zero_and_give_the_same_bits_everywhere() {
    for width in [1, 5, 16, 80, 1408] {
        for offset in [0.0f32, 100.0, 4096.0] {
            let row: Vec<f32> =
                (0..width).map(|i| offset + ((i * 7919 % 1000) as f32 / 500.0 - 1.0)).collect();
            let weight: Vec<f32> = (0..width).map(|i| 0.5 + i as f32 / width as f32).collect();
            let bias: Vec<f32> = (0..width).map(|i| (i % 7) as f32 - 3.0).collect();
            let exact: Vec<f64> = row.iter().map(|&x| f64::from(x)).collect();
            let mean = exact.iter().sum::<f64>() / width as f64;
            let variance = exact.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / width as f64;
            let mean_square = exact.iter().map(|x| x * x).sum::<f64>() / width as f64;
            let mut first: Option<[Vec<f32>; 2]> = None;
            for backend in backends() {
                let mut out = [vec![0f32; width], vec![0f32; width]];
                layer_norm(backend, &row, &weight, &bias, 1e-6, &mut out[0]);
                rms_norm(backend, &row, &weight, 1e-6, &mut out[1]);
                for at in 0..width {
                    let (x, w, b) = (exact[at], f64::from(weight[at]), f64::from(bias[at]));
                    let expected =
                        [(x - mean) / (variance + 1e-6).sqrt() * w + b, x / (mean_square + 1e-6).sqrt() * w];
                    for (out, expected) in out.iter().zip(expected) {
                        let distance = (f64::from(out[at]) - expected).abs();
                        // A mean of 4096 is known to half a thousandth.
                        assert!(
                            distance < 2e-5 + f64::from(offset) * 2e-6,
                            "{backend:?} {width} {offset}: {distance}"
                        );
                    }
                }
                let first = first.get_or_insert_with(|| out.clone());
                assert_eq!(*first, out, "{backend:?} {width} {offset}");
            }
        }
    }
}

#[test]
fn norms_agree_with_f64_for_every_magnitude() {
    for width in [1, 2, 5, 80, 1408] {
        for size in [1e-30f32, 1e-12, 1e15, 5e17, 1e20, 1e38, f32::MAX] {
            let signs = |i: usize| if i % 3 == 1 { 1.0 } else { -1.0 };
            let even: Vec<f32> = (0..width).map(|i| size * signs(i)).collect();
            let uneven: Vec<f32> =
                (0..width).map(|i| even[i] * ((i * 7919 % 1000) as f32 / 1000.0)).collect();
            for row in [even, uneven] {
                let exact: Vec<f64> = row.iter().map(|&x| f64::from(x)).collect();
                let mean = exact.iter().sum::<f64>() / width as f64;
                let variance = exact.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / width as f64;
                let mean_square = exact.iter().map(|x| x * x).sum::<f64>() / width as f64;
                let (weight, bias) = (vec![1.5; width], vec![0.25; width]);
                for backend in backends() {
                    let mut out = [vec![0f32; width], vec![0f32; width]];
                    layer_norm(backend, &row, &weight, &bias, 1e-12, &mut out[0]);
                    rms_norm(backend, &row, &weight, 1e-12, &mut out[1]);
                    for (at, x) in exact.iter().enumerate() {
                        let expected = [
                            (x - mean) / (variance + 1e-12).sqrt() * 1.5 + 0.25,
                            x / (mean_square + 1e-12).sqrt() * 1.5,
                        ];
                        for (out, expected) in out.iter().zip(expected) {
                            let distance = (f64::from(out[at]) - expected).abs();
                            assert!(
                                distance < 2e-5 * expected.abs().max(1.0),
                                "{backend:?} {width} {size}: {} {expected}",
                                out[at]
                            );
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn a_row_with_what_is_no_number_has_no_norm() {
    for backend in backends() {
        for odd in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut row = [1.0; 40];
            row[17] = odd;
            let mut out = [0.0; 40];
            layer_norm(backend, &row, &[1.0; 40], &[0.0; 40], 1e-6, &mut out);
            assert!(out.iter().all(|x| x.is_nan()), "{backend:?} {odd} {out:?}");
            rms_norm(backend, &row, &[1.0; 40], 1e-6, &mut out);
            assert!(out[17].is_nan(), "{backend:?} {odd} {out:?}");
        }
    }
}
