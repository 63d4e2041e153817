//! Attention against f64, on every instruction set and for shapes that fit nothing.
#![allow(clippy::unwrap_used, missing_docs)]
mod support;

use captionfleet_kernels::{Attention, Backend, Heads, Past, ProductError, SingleQueries};
use half::bf16;
use rand::{Rng, SeedableRng, rngs::StdRng};
use support::{activations, backends, on_threads};

/// `(rows, heads, width)` side by side, as a projection leaves it.
fn heads<'a>(values: &'a [f32], attention: &Attention<'_>) -> Heads<'a> {
    let Attention { heads, width, .. } = *attention;
    assert!(values.len().is_multiple_of(heads * width));
    Heads { values, head_stride: width, row_stride: heads * width }
}

fn run(attention: &Attention<'_>, backend: Backend, operands: [&[f32]; 3]) -> Vec<f32> {
    let mut out = vec![f32::NAN; attention.queries * attention.heads * attention.width];
    attention.run(backend, operands.map(|values| heads(values, attention)), &mut out).unwrap();
    out
}

/// One value of the result from the definition.
fn exact(attention: &Attention<'_>, [q, k, v]: [&[f32]; 3], query: usize, head: usize, at: usize) -> f64 {
    let Attention { heads, width, keys, scale, mask, .. } = *attention;
    let row = |values: &[f32], row: usize| -> Vec<f64> {
        values[(row * heads + head) * width..][..width].iter().map(|&x| f64::from(x)).collect()
    };
    let masked = |key: usize| {
        mask.map_or(0.0, |mask| {
            f64::from(if mask.len() == keys { mask[key] } else { mask[query * keys + key] })
        })
    };
    let scores: Vec<f64> = (0..keys)
        .map(|key| {
            let dot: f64 = row(q, query).iter().zip(row(k, key)).map(|(q, k)| q * k).sum();
            dot * f64::from(scale) + masked(key)
        })
        .collect();
    let most = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let weights: Vec<f64> = scores.iter().map(|score| (score - most).exp()).collect();
    let sum: f64 = weights.iter().sum();
    weights.iter().enumerate().map(|(key, weight)| weight / sum * row(v, key)[at]).sum()
}

/// Operands as a back end rounds them, and how far from their results its own may be: tiles round the weights of the keys too.
struct Rounded<'a> {
    attention: Attention<'a>,
    operands: [Vec<f32>; 3],
    most: f64,
}

impl<'a> Rounded<'a> {
    fn of(attention: &Attention<'a>, backend: Backend, operands: [&[f32]; 3]) -> Self {
        if backend != Backend::Amx {
            return Self { attention: *attention, operands: operands.map(<[f32]>::to_vec), most: 2e-5 };
        }
        let [q, k, v] = operands;
        let all = |values: &[f32], scale: f32| values.iter().map(|value| rounded(value * scale)).collect();
        let largest = v.iter().fold(0f32, |most, value| most.max(value.abs()));
        Self {
            attention: Attention { scale: 1.0, ..*attention },
            operands: [all(q, attention.scale), all(k, 1.0), all(v, 1.0)],
            most: f64::from(largest) / 256.0,
        }
    }

    fn exact(&self, query: usize, head: usize, at: usize) -> f64 {
        let [q, k, v] = &self.operands;
        exact(&self.attention, [q, k, v], query, head, at)
    }
}

/// The nearest finite bf16.
fn rounded(value: f32) -> f32 {
    let rounded = bf16::from_f32(value);
    if rounded.is_infinite() && value.is_finite() {
        bf16::MAX.to_f32().copysign(value)
    } else {
        rounded.to_f32()
    }
}

#[test]
fn any_shape_agrees_with_f64() {
    let mut rng = StdRng::seed_from_u64(1);
    for case in 0..60 {
        let (heads, width) = (rng.random_range(1..5), rng.random_range(1..100));
        let (queries, keys) = (rng.random_range(1..70), rng.random_range(1..120));
        let mut mask = activations([keys, queries * keys][case % 2], 2.0, case as u64);
        for (at, value) in mask.iter_mut().enumerate() {
            // Every query sees at least the first key.
            if at % keys != 0 && at % 3 == 0 {
                *value = f32::NEG_INFINITY;
            }
        }
        let mask = (case % 3 != 0).then_some(mask.as_slice());
        let attention = Attention { heads, width, queries, keys, scale: 0.3, mask };
        let [q, k, v] =
            [queries, keys, keys].map(|rows| activations(rows * heads * width, 1.0, rng.random()));
        for backend in backends() {
            let rounded = Rounded::of(&attention, backend, [&q, &k, &v]);
            let out = run(&attention, backend, [&q, &k, &v]);
            for (at, found) in out.iter().enumerate() {
                let (query, head) = (at / (heads * width), at / width % heads);
                let expected = rounded.exact(query, head, at % width);
                assert!(
                    (f64::from(*found) - expected).abs() < rounded.most,
                    "{backend:?} {attention:?} {at}: {found} {expected}"
                );
            }
        }
    }
}

/// Operands whose scores, or the sums on the way to them, are beyond f32.
#[test]
fn scores_of_every_magnitude_agree_with_f64() {
    let (heads, width, queries, keys) = (2, 40, 9, 21);
    for case in 0..12 {
        let mask = activations(keys, 2.0, case);
        let mask = (case % 2 == 0).then_some(mask.as_slice());
        let attention = Attention { heads, width, queries, keys, scale: 0.2, mask };
        for size in [1e10, 1e18, 1e19, 3e19, 1e20, 1e38] {
            let [mut q, k] = [queries, keys].map(|rows| activations(rows * heads * width, size, case + 7));
            // Some queries are usual ones, of which nothing may change.
            q[heads * width..2 * heads * width].fill(1e-3 / size);
            let v = activations(keys * heads * width, 1.0, case + 8);
            for backend in backends() {
                let rounded = Rounded::of(&attention, backend, [&q, &k, &v]);
                let out = run(&attention, backend, [&q, &k, &v]);
                let single: Vec<f32> = single_queries(&attention, backend, [&q, &k, &v]);
                for (at, found) in out.iter().enumerate() {
                    let (query, head) = (at / (heads * width), at / width % heads);
                    let near = rounded.exact(query, head, at % width);
                    let expected = exact(&attention, [&q, &k, &v], query, head, at % width);
                    // Scores beyond f32 are made anew, of operands that are not rounded.
                    let distance = [near, expected]
                        .map(|x| (f64::from(*found) - x).abs())
                        .into_iter()
                        .fold(f64::MAX, f64::min);
                    assert!(distance < rounded.most, "{backend:?} {size} {at}: {found} {near} {expected}");
                    if mask.is_none() {
                        let distance = (f64::from(single[at]) - expected).abs();
                        assert!(distance < 2e-5, "{backend:?} {size} {at}: {} {expected}", single[at]);
                    }
                }
            }
        }
    }
}

/// The same as a decode step answers it: every query over all keys.
fn single_queries(attention: &Attention<'_>, backend: Backend, [q, k, v]: [&[f32]; 3]) -> Vec<f32> {
    let Attention { heads: count, width, queries, keys, scale, .. } = *attention;
    let past = Past { keys: heads(k, attention), values: heads(v, attention), length: keys };
    let pasts = vec![past; queries];
    let mut out = vec![f32::NAN; queries * count * width];
    let single = SingleQueries { heads: count, width, scale, pasts: &pasts };
    single.run(backend, heads(q, attention), &mut out).unwrap();
    out
}

#[test]
fn what_is_no_number_shows() {
    let attention = Attention { heads: 1, width: 40, queries: 2, keys: 5, scale: 0.2, mask: None };
    let [q, k, v] = [(2, 1), (5, 2), (5, 3)].map(|(rows, seed)| activations(rows * 40, 1.0, seed));
    for odd in [f32::NAN, f32::INFINITY] {
        let mut odd_query = q.clone();
        odd_query[7] = odd;
        for backend in backends() {
            let plain = run(&attention, backend, [&q, &k, &v]);
            for out in [
                run(&attention, backend, [&odd_query, &k, &v]),
                single_queries(&attention, backend, [&odd_query, &k, &v]),
            ] {
                assert!(out[..40].iter().all(|x| x.is_nan()), "{backend:?} {odd}");
                assert!(out[40..].iter().all(|x| x.is_finite()), "{backend:?} {odd}");
            }
            assert_eq!(plain[40..], run(&attention, backend, [&odd_query, &k, &v])[40..], "{backend:?}");
        }
    }
}

#[test]
fn a_query_is_answered_the_same_in_any_company_on_any_number_of_threads() {
    let (heads, width, keys) = (3, 40, 70);
    let [q, k, v] =
        [(50, 1), (keys, 2), (keys, 3)].map(|(rows, seed)| activations(rows * heads * width, 1.0, seed));
    for backend in backends() {
        let some = |first: usize, queries: usize| {
            let attention = Attention { heads, width, queries, keys, scale: 0.2, mask: None };
            let q = &q[first * heads * width..][..queries * heads * width];
            run(&attention, backend, [q, &k, &v])
        };
        let alone: Vec<f32> = on_threads(1, || (0..50).flat_map(|query| some(query, 1)).collect());
        for (threads, first, count) in [(1, 0, 50), (3, 0, 50), (3, 7, 12), (2, 3, 13), (1, 49, 1)] {
            let found = on_threads(threads, || some(first, count));
            assert_eq!(found, alone[first * heads * width..][..count * heads * width], "{backend:?} {count}");
        }
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let attention = Attention { heads: 2, width: 4, queries: 3, keys: 5, scale: 1.0, mask: None };
    let values = [0.0; 40];
    let whole = Heads { values: &values, head_stride: 4, row_stride: 8 };
    let short = Heads { values: &values[..39], ..whole };
    let far = Heads { row_stride: usize::MAX / 2, ..whole };
    let mut out = [0.0; 24];
    let mut run = |attention: &Attention<'_>, operands| attention.run(Backend::Portable, operands, &mut out);
    assert_eq!(run(&attention, [whole; 3]), Ok(()));
    let refused = ProductError::Heads { found: 39, heads: 2, rows: 5, width: 4 };
    assert_eq!(run(&attention, [whole, short, whole]), Err(refused));
    assert!(matches!(run(&attention, [whole, whole, far]), Err(ProductError::Heads { .. })));
    assert!(matches!(
        run(&Attention { mask: Some(&values[..6]), ..attention }, [whole; 3]),
        Err(ProductError::Inputs { .. })
    ));
    assert!(matches!(
        run(&Attention { queries: 2, ..attention }, [whole; 3]),
        Err(ProductError::Outputs { .. })
    ));
}

/// Sequences of random lengths, each with keys and values of its own.
struct Decode {
    heads: usize,
    width: usize,
    lengths: Vec<usize>,
    /// `(sequences, heads, width)`.
    queries: Vec<f32>,
    /// `(length, heads, width)` each.
    keys: Vec<Vec<f32>>,
    values: Vec<Vec<f32>>,
}

impl Decode {
    fn random(rng: &mut StdRng) -> Self {
        let (heads, width) = (rng.random_range(1..5), rng.random_range(1..100));
        let lengths: Vec<usize> = (0..rng.random_range(1..6)).map(|_| rng.random_range(1..200)).collect();
        let mut rows = |rows: usize| activations(rows * heads * width, 1.0, rng.random());
        Self {
            heads,
            width,
            queries: rows(lengths.len()),
            keys: lengths.iter().map(|&length| rows(length)).collect(),
            values: lengths.iter().map(|&length| rows(length)).collect(),
            lengths,
        }
    }

    fn side_by_side<'a>(&self, values: &'a [f32]) -> Heads<'a> {
        Heads { values, head_stride: self.width, row_stride: self.heads * self.width }
    }

    fn run(&self, backend: Backend, sequences: std::ops::Range<usize>) -> Vec<f32> {
        let past = |at: usize| Past {
            keys: self.side_by_side(&self.keys[at]),
            values: self.side_by_side(&self.values[at]),
            length: self.lengths[at],
        };
        let pasts: Vec<_> = sequences.clone().map(past).collect();
        let each = self.heads * self.width;
        let attention = SingleQueries { heads: self.heads, width: self.width, scale: 0.3, pasts: &pasts };
        let mut out = vec![f32::NAN; pasts.len() * each];
        attention.run(backend, self.side_by_side(&self.queries[sequences.start * each..]), &mut out).unwrap();
        out
    }
}

#[test]
fn single_queries_agree_with_f64_alone_and_together() {
    let mut rng = StdRng::seed_from_u64(2);
    for _ in 0..40 {
        let decode = Decode::random(&mut rng);
        let (heads, width, count) = (decode.heads, decode.width, decode.lengths.len());
        let each = heads * width;
        for backend in backends() {
            let together = on_threads(3, || decode.run(backend, 0..count));
            for (at, &keys) in decode.lengths.iter().enumerate() {
                let attention = Attention { heads, width, queries: 1, keys, scale: 0.3, mask: None };
                let query = &decode.queries[at * each..][..each];
                let operands = [query, &decode.keys[at], &decode.values[at]];
                let found = &together[at * each..][..each];
                for (column, &found) in found.iter().enumerate() {
                    let expected = exact(&attention, operands, 0, column / width, column % width);
                    assert!((f64::from(found) - expected).abs() < 2e-5, "{backend:?} {found} {expected}");
                }
                assert_eq!(on_threads(1, || decode.run(backend, at..at + 1)), found, "{backend:?}");
            }
        }
    }
}

#[test]
fn single_queries_that_do_not_fit_are_refused() {
    let values = [0.0; 40];
    let whole = Heads { values: &values, head_stride: 4, row_stride: 8 };
    let mut out = [0.0; 16];
    let mut run = |length: usize, count: usize| {
        let pasts = vec![Past { keys: whole, values: whole, length }; count];
        let attention = SingleQueries { heads: 2, width: 4, scale: 1.0, pasts: &pasts };
        attention.run(Backend::Portable, whole, &mut out)
    };
    assert_eq!(run(5, 2), Ok(()));
    assert!(matches!(run(6, 2), Err(ProductError::Heads { rows: 6, .. })));
    assert!(matches!(run(5, 1), Err(ProductError::Outputs { .. })));
    // A query without a past has nothing to say.
    assert_eq!(run(0, 2), Ok(()));
    assert!(out.iter().all(|value| value.is_nan()));
}
