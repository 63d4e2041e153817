//! A row's bits do not depend on its company or on the number of threads.
#![allow(clippy::unwrap_used, missing_docs)]
mod support;

use captionfleet_kernels::{Epilogue, Format, Rows};
use support::{Stored, activations, backends, on_threads, whole};

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

#[test]
fn a_row_is_the_same_in_any_company_on_any_number_of_threads() {
    for format in Format::ALL {
        for (outputs, inputs) in [(5, 64), (70, 190), (300, 512)] {
            let inputs = whole(format, inputs);
            let stored = Stored::random(format, outputs, inputs, 0.5, 1);
            let (matrix, rows) = (stored.pack(), 300);
            let xs = activations(rows * inputs, 1.0, 2);
            let bias = activations(outputs, 1.0, 3);
            for backend in backends() {
                let product = |first: usize, count: usize| {
                    let mut out = vec![f32::NAN; count * outputs];
                    let xs = &xs[first * inputs..][..count * inputs];
                    matrix.multiply_on(backend, xs, Some(&bias), Epilogue::None, &mut out).unwrap();
                    bits(&out)
                };
                let alone: Vec<u32> = on_threads(1, || (0..rows).flat_map(|row| product(row, 1)).collect());
                for threads in [1, 3] {
                    on_threads(threads, || {
                        for count in (1..=33).chain([64, 257, 300]) {
                            let first = (rows - count) / 2;
                            assert!(
                                product(first, count) == alone[first * outputs..][..count * outputs],
                                "{backend:?} {format} {outputs} x {inputs}: {count} rows, {threads} threads",
                            );
                        }
                    });
                }
            }
        }
    }
}

#[test]
fn products_inside_of_products_do_not_disturb_each_other() {
    use rayon::prelude::*;
    let stored = Stored::random(Format::Q8_0, 512, 512, 0.5, 1);
    let matrix = stored.pack();
    let xs = activations(32 * 512, 1.0, 2);
    let product = || bits(&matrix.product(Rows::Many, &xs, None, Epilogue::None).unwrap());
    let expected = product();
    on_threads(4, || (0..64).into_par_iter().for_each(|_| assert!(product() == expected)));
}
