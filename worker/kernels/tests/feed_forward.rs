//! Two layers in a row beside each of them alone.
#![allow(clippy::unwrap_used, missing_docs)]
mod support;

use captionfleet_kernels::{Activation, Epilogue, FeedForward, Format, Layer, PackedMatrix, ProductError};
use support::{Stored, activations, backends, on_threads, whole};

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

fn matrix(format: Format, outputs: usize, inputs: usize) -> PackedMatrix {
    Stored::random(format, outputs, inputs, 0.2, 3).pack()
}

#[test]
fn every_bit_is_that_of_the_two_products() {
    for (first, second) in Format::ALL.into_iter().flat_map(|first| Format::ALL.map(|second| (first, second)))
    {
        for (inputs, width, outputs, rows) in
            [(1, 1, 1, 1), (70, 190, 33, 3), (600, 256, 100, 70), (130, 1100, 300, 33)]
        {
            // Inputs of the second that end within a block, where its format lets them.
            let (inputs, width) = (whole(first, inputs), whole(second, width));
            let (up, down) = (matrix(first, width, inputs), matrix(second, outputs, width));
            let xs = activations(rows * inputs, 1.0, 4);
            let biases = [activations(width, 1.0, 5), activations(outputs, 1.0, 6)];
            let added = activations(rows * outputs, 1.0, 7);
            for (activation, with_bias) in [(Activation::GeluErf, true), (Activation::GeluTanh, false)] {
                let [up_bias, down_bias] = biases.each_ref().map(|bias| with_bias.then_some(bias.as_slice()));
                for backend in backends() {
                    let mut hidden = vec![0.0; rows * width];
                    let mut expected = vec![0.0; rows * outputs];
                    up.multiply_on(backend, &xs, up_bias, Epilogue::Activate(activation), &mut hidden)
                        .unwrap();
                    down.multiply_on(backend, &hidden, down_bias, Epilogue::Add(&added), &mut expected)
                        .unwrap();
                    let layers = FeedForward {
                        up: Layer { matrix: &up, bias: up_bias },
                        activation,
                        down: Layer { matrix: &down, bias: down_bias },
                    };
                    for threads in [1, 3] {
                        let found = on_threads(threads, || {
                            layers.run_on(backend, &xs, Epilogue::Add(&added)).unwrap()
                        });
                        assert_eq!(
                            bits(&found),
                            bits(&expected),
                            "{backend:?} {first} {second} {inputs} x {width} x {outputs}, {rows} rows",
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn what_is_not_finite_stays_in_its_row() {
    let (inputs, width, outputs, rows) = (64, 96, 40, 50);
    for format in [Format::Bf16, Format::Q8_0, Format::Q4_0] {
        let (up, down) = (matrix(format, width, inputs), matrix(format, outputs, width));
        let layers = FeedForward {
            up: Layer { matrix: &up, bias: None },
            activation: Activation::GeluErf,
            down: Layer { matrix: &down, bias: None },
        };
        for backend in backends() {
            let mut xs = activations(rows * inputs, 1.0, 4);
            let clean = layers.run_on(backend, &xs, Epilogue::None).unwrap();
            xs[41 * inputs + 7] = f32::NAN;
            let found = layers.run_on(backend, &xs, Epilogue::None).unwrap();
            for (row, (found, clean)) in found.chunks(outputs).zip(clean.chunks(outputs)).enumerate() {
                if row == 41 {
                    assert!(found.iter().all(|value| value.is_nan()), "{backend:?} {format}");
                } else {
                    assert_eq!(bits(found), bits(clean), "{backend:?} {format}");
                }
            }
        }
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let (up, down) = (matrix(Format::Q8_0, 64, 32), matrix(Format::Q8_0, 20, 64));
    let fits = |up, down| FeedForward { up, activation: Activation::GeluErf, down };
    let layer = |matrix| Layer { matrix, bias: None };
    let xs = [0.0; 96];
    for backend in backends() {
        let run = |layers: FeedForward<'_>, xs: &[f32], epilogue: Epilogue<'_>| {
            layers.run_on(backend, xs, epilogue).unwrap_err()
        };
        let layers = fits(layer(&up), layer(&down));
        assert_eq!(layers.run_on(backend, &[], Epilogue::None).unwrap(), Vec::<f32>::new());
        assert!(matches!(
            run(layers, &xs[..33], Epilogue::None),
            ProductError::Inputs { found: 33, inputs: 32 }
        ));
        let error = run(fits(layer(&up), layer(&up)), &xs, Epilogue::None);
        assert!(matches!(error, ProductError::Inputs { found: 64, inputs: 32 }), "{error}");
        let error = run(layers, &xs, Epilogue::Add(&[0.0; 61]));
        assert!(matches!(error, ProductError::Outputs { found: 61, expected: 60 }), "{error}");
        let short = Layer { matrix: &up, bias: Some(&[0.0; 63]) };
        let error = run(fits(short, layer(&down)), &xs, Epilogue::None);
        assert!(matches!(error, ProductError::Bias { found: 63, outputs: 64 }), "{error}");
        let short = Layer { matrix: &down, bias: Some(&[0.0; 19]) };
        let error = run(fits(layer(&up), short), &xs, Epilogue::None);
        assert!(matches!(error, ProductError::Bias { found: 19, outputs: 20 }), "{error}");
    }
}
