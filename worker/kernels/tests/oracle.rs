//! Every back end and format against f64.
#![allow(clippy::unwrap_used, missing_docs)]
mod support;

use captionfleet_kernels::{Activation, Backend, Epilogue, Format, gelu_erf, gelu_tanh};
use rand::{Rng, SeedableRng, rngs::StdRng};
use support::{Stored, activations, backends, whole};

fn assert_near(stored: &Stored, xs: &[f32], bias: Option<&[f32]>, backend: Backend, what: &str) {
    let rows = xs.len() / stored.inputs;
    let mut out = vec![f32::NAN; rows * stored.outputs];
    stored.pack().multiply_on(backend, xs, bias, Epilogue::None, &mut out).unwrap();
    for (i, (found, (expected, bound))) in out.iter().zip(stored.product(xs, bias, backend)).enumerate() {
        let distance = (f64::from(*found) - expected).abs();
        assert!(
            distance <= bound,
            "{backend:?} {} {rows} x {} x {} {what}: value {i} is {found}, not {expected} within {bound}",
            stored.format,
            stored.inputs,
            stored.outputs,
        );
    }
}

#[test]
fn any_shape_agrees() {
    let mut rng = StdRng::seed_from_u64(1);
    for format in Format::ALL {
        for case in 0..60 {
            let rows = rng.random_range(1..30);
            let outputs = rng.random_range(1..150);
            let inputs = whole(format, rng.random_range(1..700));
            let stored = Stored::random(format, outputs, inputs, 0.3, case);
            let xs = activations(rows * inputs, 2.0, case + 1000);
            let bias = (case % 2 == 0).then(|| activations(outputs, 1.0, case));
            for backend in backends() {
                assert_near(&stored, &xs, bias.as_deref(), backend, "");
            }
        }
    }
}

#[test]
fn shapes_of_the_networks_agree() {
    for format in Format::ALL {
        for (outputs, inputs) in
            [(1, 1), (2, 64), (64, 588), (33, 1408), (40, 2560), (64, 10240), (1408, 256)]
        {
            let inputs = whole(format, inputs);
            let stored = Stored::random(format, outputs, inputs, 0.05, 5);
            for rows in [1, 13] {
                let xs = activations(rows * inputs, 3.0, 6);
                for backend in backends() {
                    assert_near(&stored, &xs, None, backend, "");
                }
            }
        }
    }
}

#[test]
fn large_small_and_uneven_values_agree() {
    let (rows, outputs) = (7, 37);
    for format in Format::ALL {
        let inputs = whole(format, 96);
        for (weights, size) in
            [(1e-3, 1e30), (1e-4, 1.5e38), (1.0, 1e-25), (3e4, 1e20), (1e-4, 1.0), (0.0, 1.0), (1.0, 0.0)]
        {
            let peak = if size > 1e34 { 1.0 } else { 1e4 };
            let stored = Stored::random(format, outputs, inputs, f32::max(weights, 1e-30), 7);
            let mut xs = activations(rows * inputs, f32::max(size, 1e-37), 8);
            for (i, x) in xs.iter_mut().enumerate() {
                // One value of a block far above the others, and blocks of zeros.
                *x *= if i % 50 == 0 { peak } else { 1.0 };
                *x *= if i / 32 % 3 == 1 { 0.0 } else { 1.0 };
            }
            for backend in backends() {
                assert_near(&stored, &xs, None, backend, &format!("weights {weights}, activations {size}"));
            }
        }
    }
}

#[test]
fn the_ends_of_the_integers_agree() {
    for format in [Format::Q8_0, Format::Q4_0, Format::Q4K] {
        for byte in [0x00, 0x7f, 0x80, 0x88, 0xff] {
            let (outputs, inputs) = (35, whole(format, 64));
            let mut bytes = vec![byte; outputs * format.row_bytes(inputs).unwrap()];
            for block in bytes.chunks_mut(format.block_bytes()) {
                block[..2].copy_from_slice(&half::f16::from_f32(0.01).to_le_bytes());
                if format == Format::Q4K {
                    block[2..4].copy_from_slice(&half::f16::from_f32(0.02).to_le_bytes());
                }
            }
            let stored = Stored::new(format, outputs, inputs, bytes);
            for sign in [1.0, -1.0] {
                for backend in backends() {
                    assert_near(&stored, &vec![sign; 3 * inputs], None, backend, &format!("bytes {byte:x}"));
                }
            }
        }
    }
}

/// Blocks whose integers cancel, under scales whose product no f32 can hold: where blocks are multiplied as integers.
#[test]
fn what_cancels_is_zero_under_any_scales() {
    for format in [Format::Q8_0, Format::Q4_0, Format::Q4K] {
        for byte in [0x00, 0x7f, 0x88, 0xff] {
            let (outputs, inputs) = (35, whole(format, 64));
            let mut bytes = vec![byte; outputs * format.row_bytes(inputs).unwrap()];
            for block in bytes.chunks_mut(format.block_bytes()) {
                block[..2].copy_from_slice(&half::f16::MAX.to_le_bytes());
                if format == Format::Q4K {
                    block[2..4].copy_from_slice(&half::f16::MAX.to_le_bytes());
                }
            }
            let matrix = Stored::new(format, outputs, inputs, bytes).pack();
            let xs: Vec<f32> =
                (0..3 * inputs).map(|i| if i % 2 == 0 { f32::MAX } else { f32::MIN }).collect();
            let mut out = vec![f32::NAN; 3 * outputs];
            for backend in backends().filter(|backend| *backend != Backend::Amx) {
                matrix.multiply_on(backend, &xs, None, Epilogue::None, &mut out).unwrap();
                assert!(out.iter().all(|x| *x == 0.0), "{backend:?} {format} {byte:x}: {out:?}");
            }
        }
    }
}

#[test]
fn what_is_not_finite_stays_in_its_row() {
    let (rows, outputs) = (9, 40);
    for format in Format::ALL {
        let inputs = whole(format, 300);
        let stored = Stored::random(format, outputs, inputs, 1.0, 9);
        let matrix = stored.pack();
        for odd in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut xs = activations(rows * inputs, 1.0, 10);
            let (mut clean, mut out) = (vec![0.0; rows * outputs], vec![0.0; rows * outputs]);
            for backend in backends() {
                xs[4 * inputs + 77] = 0.5;
                matrix.multiply_on(backend, &xs, None, Epilogue::None, &mut clean).unwrap();
                xs[4 * inputs + 77] = odd;
                matrix.multiply_on(backend, &xs, None, Epilogue::None, &mut out).unwrap();
                for (i, (found, clean)) in out.iter().zip(&clean).enumerate() {
                    if i / outputs == 4 {
                        assert!(!found.is_finite(), "{backend:?} {format} {odd}: {found}");
                        assert!(!odd.is_nan() || found.is_nan(), "{backend:?} {format} {odd}: {found}");
                    } else {
                        assert_eq!(found.to_bits(), clean.to_bits(), "{backend:?} {format} {odd}");
                    }
                }
            }
        }
    }
}

#[test]
fn a_row_has_the_values_of_the_matrix() {
    for format in Format::ALL {
        let stored = Stored::random(format, 70, whole(format, 77), 0.5, 11);
        let matrix = stored.pack();
        let mut out = vec![0.0; stored.inputs];
        for (i, expected) in stored.values.chunks(stored.inputs).enumerate() {
            matrix.row(i, &mut out).unwrap();
            for (found, expected) in out.iter().zip(expected) {
                assert!((f64::from(*found) - expected).abs() <= 1e-5 * expected.abs() + 1e-6, "{format} {i}");
            }
        }
    }
}

#[test]
fn an_epilogue_is_what_would_have_come_afterwards() {
    for format in Format::ALL {
        let stored = Stored::random(format, 75, whole(format, 130), 0.5, 7);
        let (matrix, rows) = (stored.pack(), 29);
        let xs = activations(rows * stored.inputs, 1.0, 8);
        let bias = activations(75, 1.0, 9);
        let added = activations(rows * 75, 3.0, 10);
        for backend in backends() {
            let product = |epilogue: Epilogue<'_>| {
                let mut out = vec![f32::NAN; rows * 75];
                matrix.multiply_on(backend, &xs, Some(&bias), epilogue, &mut out).unwrap();
                out
            };
            let plain = product(Epilogue::None);
            for (activation, function) in [
                (Activation::GeluErf, gelu_erf as fn(Backend, &[f32], &mut [f32])),
                (Activation::GeluTanh, gelu_tanh),
            ] {
                let mut expected = vec![0.0; plain.len()];
                function(backend, &plain, &mut expected);
                assert_eq!(product(Epilogue::Activate(activation)), expected, "{backend:?} {format}");
            }
            let sum: Vec<f32> = plain.iter().zip(&added).map(|(plain, added)| plain + added).collect();
            assert_eq!(product(Epilogue::Add(&added)), sum, "{backend:?} {format}");
        }
    }
}
