//! Sizes, streaming and refusals.
#![allow(clippy::unwrap_used, missing_docs)]
mod support;

use captionfleet_kernels::{Backend, Epilogue, Format, PackError, PackedMatrix, Packer, ProductError, Rows};
use support::{Stored, activations, whole};

#[test]
fn a_packed_matrix_takes_the_size_of_its_format() {
    for (format, bits) in [
        (Format::F32, 32.0),
        (Format::F16, 16.0),
        (Format::Bf16, 16.0),
        (Format::Q8_0, 8.5),
        (Format::Q4_0, 4.5),
        (Format::Q4K, 4.625),
    ] {
        let (outputs, inputs) = (96, 2560);
        let matrix = Stored::random(format, outputs, inputs, 1.0, 1).pack();
        assert_eq!(matrix.bytes() as f64 * 8.0, bits * (outputs * inputs) as f64, "{format}");
        assert_eq!((matrix.format(), matrix.outputs(), matrix.inputs()), (format, outputs, inputs));
    }
}

#[test]
fn rows_may_come_in_pieces() {
    for format in Format::ALL {
        let stored = Stored::random(format, 100, whole(format, 900), 1.0, 2);
        let mut packer = Packer::new(format, stored.outputs, stored.inputs).unwrap();
        let mut rest = stored.bytes.as_slice();
        for count in (1..).take_while(|count| count * (count - 1) / 2 < 100) {
            assert!(packer.missing() > 0);
            let (now, later) = rest.split_at(rest.len().min(count * packer.row_bytes()));
            packer.push(now).unwrap();
            rest = later;
        }
        let (pieces, whole) = (packer.finish().unwrap(), stored.pack());
        let xs = activations(3 * stored.inputs, 1.0, 3);
        let product = |matrix: &PackedMatrix| matrix.product(Rows::Few, &xs, None, Epilogue::None).unwrap();
        assert_eq!(product(&pieces), product(&whole), "{format}");
    }
}

#[test]
fn what_is_no_matrix_is_refused() {
    let refused = |format, bytes: usize, outputs, inputs| {
        PackedMatrix::pack(format, &vec![0; bytes], outputs, inputs).unwrap_err()
    };
    assert_eq!(refused(Format::F32, 0, 0, 4), PackError::Shape { outputs: 0, inputs: 4 });
    assert_eq!(refused(Format::F16, 0, 4, 0), PackError::Shape { outputs: 4, inputs: 0 });
    assert_eq!(
        refused(Format::Q4K, 0, 1, 1408),
        PackError::Block { format: Format::Q4K, inputs: 1408, block: 256 }
    );
    assert_eq!(refused(Format::Q8_0, 67, 2, 32), PackError::Bytes { found: 67, row: 34, missing: 2 });
    assert_eq!(refused(Format::Q8_0, 102, 2, 32), PackError::Bytes { found: 102, row: 34, missing: 2 });
    assert_eq!(refused(Format::Q8_0, 34, 2, 32), PackError::Incomplete { missing: 1 });
    let huge = Packer::new(Format::F32, usize::MAX / 2, 8).unwrap_err();
    assert_eq!(huge, PackError::Shape { outputs: usize::MAX / 2, inputs: 8 });
}

#[test]
fn operands_that_do_not_fit_are_refused() {
    let matrix = Stored::random(Format::F32, 3, 4, 1.0, 4).pack();
    let mut out = [0.0; 6];
    let product = |xs: &[f32], bias: Option<&[f32]>, out: &mut [f32]| {
        matrix.multiply_on(Backend::Portable, xs, bias, Epilogue::None, out)
    };
    assert_eq!(product(&[0.0; 7], None, &mut out), Err(ProductError::Inputs { found: 7, inputs: 4 }));
    assert_eq!(product(&[0.0; 4], None, &mut out), Err(ProductError::Outputs { found: 6, expected: 3 }));
    assert_eq!(
        product(&[0.0; 8], Some(&[0.0; 2]), &mut out),
        Err(ProductError::Bias { found: 2, outputs: 3 })
    );
    assert_eq!(product(&[], None, &mut []), Ok(()));
    assert_eq!(
        matrix.product(Rows::Few, &[0.0; 8], None, Epilogue::Add(&[0.0; 5])),
        Err(ProductError::Outputs { found: 5, expected: 6 })
    );
    assert_eq!(matrix.row(3, &mut [0.0; 4]), Err(ProductError::Row { row: 3, outputs: 3 }));
    assert_eq!(matrix.row(0, &mut [0.0; 3]), Err(ProductError::Outputs { found: 3, expected: 4 }));
}
