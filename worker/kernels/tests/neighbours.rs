//! Others in the same thread use the processor's registers as well.
#![allow(clippy::unwrap_used, missing_docs)]
mod support;

use std::borrow::Cow;

use candle_core::{
    Device, Module, Tensor,
    quantized::{GgmlDType, QMatMul, QStorage, QTensor},
};
use captionfleet_kernels::{Epilogue, Format, Rows};
use support::{Stored, activations, on_threads};

/// candle has products in tiles of its own, for which it gives the registers their shapes once in a thread.
#[test]
fn candle_multiplies_the_same_before_and_after_our_products() {
    let (outputs, inputs, rows) = (512, 1024, 64);
    let stored = Stored::random(Format::Q4K, outputs, inputs, 0.5, 1);
    let storage =
        QStorage::from_data(Cow::Owned(stored.bytes.clone()), &Device::Cpu, GgmlDType::Q4K).unwrap();
    let theirs = QMatMul::from_qtensor(QTensor::new(storage, (outputs, inputs)).unwrap()).unwrap();
    let ours = stored.pack();
    let xs = activations(rows * inputs, 1.0, 2);
    let tensor = Tensor::from_slice(&xs, (rows, inputs), &Device::Cpu).unwrap();
    // One thread, so that both multiply in the same.
    on_threads(1, || {
        let multiply = || theirs.forward(&tensor).unwrap().to_vec2::<f32>().unwrap();
        let before = multiply();
        ours.product(Rows::Many, &xs, None, Epilogue::None).unwrap();
        assert!(multiply() == before);
    });
}
