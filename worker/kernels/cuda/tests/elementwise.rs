//! The kernels after products and the norms, run on a CPU, against the CPU's own versions and f64.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used)]

#[path = "host/mod.rs"]
mod host;

use captionfleet_cuda_kernels::{Element, Finish, LayerNorm, RmsNorm, Then};
use captionfleet_kernels::{Backend, gelu_erf, gelu_tanh};
use host::{Values, rounding, run};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// Narrower than a warp, than a block, than a tile; odd, and the network's own.
const WIDTHS: [usize; 8] = [1, 7, 31, 80, 257, 1023, 1025, 2560];

fn drawn(random: &mut StdRng, count: usize, scale: f32) -> Vec<f32> {
    (0..count).map(|_| scale * (random.random::<f32>() + random.random::<f32>() - 1.0)).collect()
}

/// `values` with what is hard to compute with in place of some.
fn spiced(random: &mut StdRng, mut values: Vec<f32>) -> Vec<f32> {
    const EXTREMES: [f32; 12] =
        [0.0, -0.0, 1e-30, -1e-8, 12.0, -12.0, 60_000.0, -60_000.0, 1e30, -1e30, f32::MAX, f32::MIN];
    for value in &mut values {
        if random.random_bool(0.05) {
            *value = EXTREMES[random.random_range(0..EXTREMES.len())];
        }
    }
    values
}

fn close(found: f32, expected: f64, bound: f64, what: impl std::fmt::Display) {
    // Where a type has no such number, it is infinite.
    let same = f64::from(found) == expected || (found.is_infinite() && expected.abs() > 65_504.0);
    assert!(same || (f64::from(found) - expected).abs() <= bound, "{what}: {found} instead of {expected}");
}

#[test]
fn what_follows_a_product_agrees_with_the_cpu() {
    let mut random = StdRng::seed_from_u64(1);
    for element in Element::ALL {
        for width in WIDTHS {
            for rows in [1usize, 3] {
                let even = drawn(&mut random, rows * width, 6.0);
                let product = Values::of(element, &spiced(&mut random, even));
                let bias = drawn(&mut random, width, 2.0);
                let residual = drawn(&mut random, rows * width, 50.0);
                for has_bias in [false, true] {
                    let sums: Vec<f32> = (product.widened().chunks(width))
                        .flat_map(|row| {
                            row.iter().zip(&bias).map(|(x, bias)| if has_bias { x + bias } else { *x })
                        })
                        .collect();
                    let activated = |of: fn(Backend, &[f32], &mut [f32])| {
                        let mut out = vec![0.0; sums.len()];
                        of(Backend::Portable, &sums, &mut out);
                        out
                    };
                    let added: Vec<f32> =
                        residual.iter().zip(&sums).map(|(residual, sum)| residual + sum).collect();
                    for (then, expected) in [
                        (Then::Nothing, sums.clone()),
                        (Then::GeluErf, activated(gelu_erf)),
                        (Then::GeluTanh, activated(gelu_tanh)),
                        (Then::Add { residual: residual.as_ptr() as u64 }, added),
                    ] {
                        let finish = Finish { element, rows: rows as u32, width: width as u32, then };
                        let mut out = Values::unwritten(finish.output(), rows * width);
                        let bias = has_bias.then_some(bias.as_ptr() as u64);
                        run(&finish.launch(product.address(), bias, out.address_mut()), false);
                        for ((found, expected), x) in out.widened().into_iter().zip(expected).zip(&sums) {
                            if !x.is_finite() {
                                assert!(!found.is_finite(), "{then:?} of {x}: {found}");
                                continue;
                            }
                            let bound = 4e-7 * (1.0 + f64::from(x.abs()))
                                + rounding(finish.output()) * f64::from(expected.abs());
                            close(
                                found,
                                f64::from(expected),
                                bound,
                                format_args!("{then:?} {element:?} of {x}"),
                            );
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn numbers_that_are_none_stay_none() {
    let product = Values::F32(vec![f32::NAN, f32::INFINITY]);
    for then in [Then::Nothing, Then::GeluErf, Then::GeluTanh] {
        let finish = Finish { element: Element::F32, rows: 1, width: 2, then };
        let mut out = Values::of(Element::F32, &[0.0; 2]);
        run(&finish.launch(product.address(), None, out.address_mut()), false);
        let out = out.widened();
        assert!(out[0].is_nan() && out[1] == f32::INFINITY, "{then:?}: {out:?}");
    }
}

/// One norm's operands, and rows with their sums as they must be.
struct Case {
    rows: usize,
    width: usize,
    product: Values,
    bias: Option<Vec<f32>>,
    residual: Option<Vec<f32>>,
    weight: Vec<f32>,
    shift: Vec<f32>,
}

impl Case {
    fn draw(random: &mut StdRng, element: Element, width: usize) -> Self {
        let rows = random.random_range(1..4);
        // The residual stream of a large tower is far from zero.
        let far = if random.random_bool(0.5) { 500.0 } else { 0.0 };
        let residual: Vec<f32> = drawn(random, rows * width, 3.0).iter().map(|x| x + far).collect();
        let bias = drawn(random, width, 1.0);
        Self {
            rows,
            width,
            product: Values::of(element, &drawn(random, rows * width, 3.0)),
            bias: random.random_bool(0.7).then_some(bias),
            residual: random.random_bool(0.7).then_some(residual),
            weight: drawn(random, width, 2.0),
            shift: drawn(random, width, 2.0),
        }
    }

    /// `product + bias`, with the residual if `with_residual`, in f64.
    fn sums(&self, with_residual: bool) -> Vec<f64> {
        let value = |(i, product): (usize, f32)| {
            let bias = self.bias.as_ref().map_or(0.0, |bias| bias[i % self.width]);
            let residual = self.residual.as_ref().filter(|_| with_residual).map_or(0.0, |all| all[i]);
            f64::from(product) + f64::from(bias) + f64::from(residual)
        };
        self.product.widened().into_iter().enumerate().map(value).collect()
    }
}

fn address(values: Option<&Vec<f32>>) -> Option<u64> {
    values.map(|values| values.as_ptr() as u64)
}

#[test]
fn layer_norm_agrees_with_f64_and_hands_on_the_sum() {
    let mut random = StdRng::seed_from_u64(2);
    let types = Element::ALL.into_iter().flat_map(|element| Element::ALL.map(|output| (element, output)));
    for (element, output) in types {
        for width in WIDTHS {
            let case = Case::draw(&mut random, element, width);
            let norm = LayerNorm {
                element,
                output,
                rows: case.rows as u32,
                width: width as u32,
                eps: 1e-5,
                bias: address(case.bias.as_ref()),
                residual: address(case.residual.as_ref()),
                weight: case.weight.as_ptr() as u64,
                shift: case.shift.as_ptr() as u64,
            };
            let count = case.rows * width;
            let launched = |wants_sum: bool, backwards: bool| {
                let mut sum = Values::unwritten(Element::F32, count);
                let mut normed = Values::unwritten(output, count);
                let to = wants_sum.then(|| sum.address_mut());
                run(&norm.launch(case.product.address(), to, normed.address_mut()).unwrap(), backwards);
                (sum, normed)
            };
            let (sum, normed) = launched(true, false);
            let (_, without_sum) = launched(false, true);
            assert_eq!(normed.bits(), without_sum.bits(), "threads do not wait where they must");
            let sums = case.sums(true);
            for (row, expected) in sums.chunks(width).enumerate() {
                let mean = expected.iter().sum::<f64>() / width as f64;
                let variance = expected.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / width as f64;
                for (i, x) in expected.iter().enumerate() {
                    let place = row * width + i;
                    close(sum.widened()[place], *x, 1e-6 * x.abs() + 1e-6, "sum");
                    let scale = 1.0 / (variance + 1e-5).sqrt();
                    let y = (x - mean) * scale * f64::from(case.weight[i]) + f64::from(case.shift[i]);
                    // A value's last place, made larger by the norm.
                    let bound =
                        2e-6 * (1.0 + y.abs()) + 2e-7 * mean.abs() * scale + rounding(output) * y.abs();
                    let what = format_args!("{element:?} as {output:?}, {width} wide");
                    close(normed.widened()[place], y, bound, what);
                }
            }
        }
    }
}

#[test]
fn rms_norm_agrees_with_f64() {
    let mut random = StdRng::seed_from_u64(3);
    for element in Element::ALL {
        for width in WIDTHS {
            let case = Case::draw(&mut random, element, width);
            let norm = RmsNorm {
                element,
                rows: case.rows as u32,
                width: width as u32,
                eps: 1e-6,
                bias: address(case.bias.as_ref()),
                weight: case.weight.as_ptr() as u64,
                residual: address(case.residual.as_ref()),
            };
            let launched = |backwards: bool| {
                let mut out = Values::unwritten(Element::F32, case.rows * width);
                run(&norm.launch(case.product.address(), out.address_mut()).unwrap(), backwards);
                out
            };
            let out = launched(false);
            assert_eq!(out.bits(), launched(true).bits(), "threads do not wait where they must");
            for (row, xs) in case.sums(false).chunks(width).enumerate() {
                let scale = 1.0 / (xs.iter().map(|x| x * x).sum::<f64>() / width as f64 + 1e-6).sqrt();
                for (i, x) in xs.iter().enumerate() {
                    let place = row * width + i;
                    let residual = case.residual.as_ref().map_or(0.0, |all| f64::from(all[place]));
                    let y = x * scale * f64::from(case.weight[i]) + residual;
                    close(
                        out.widened()[place],
                        y,
                        2e-6 * (1.0 + y.abs()),
                        format_args!("{element:?}, {width} wide"),
                    );
                }
            }
        }
    }
}

#[test]
fn rows_that_do_not_fit_are_not_launched() {
    let norm = |width| RmsNorm {
        element: Element::F16,
        rows: 1,
        width,
        eps: 0.0,
        bias: None,
        weight: 0,
        residual: None,
    };
    assert!(norm(12_256).launch(0, 0).is_some());
    assert!(norm(12_257).launch(0, 0).is_none());
    assert!(norm(u32::MAX).launch(0, 0).is_none());
}
