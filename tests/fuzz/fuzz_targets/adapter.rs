//! Adapters: peft's settings with the weights behind them, and a file of weights alone. An adapter fits the model or is refused by
//! name. The input is both files, one behind the other: the settings end where their JSON does.
#![no_main]

use std::path::Path;
use std::sync::LazyLock;

use candle_core::Device;
use captionfleet_model::adapter::{ADAPTER_CONFIG, ADAPTER_WEIGHTS};
use captionfleet_model::checkpoint::{GoldenStage, golden_dir};
use captionfleet_model::{Adapter, TinyGptV};
use libfuzzer_sys::fuzz_target;
use serde::de::IgnoredAny;

static MODEL: LazyLock<TinyGptV> = LazyLock::new(|| {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../worker/model/tests/golden");
    let assembly = golden_dir(&golden, GoldenStage::Caption(3)).expect("the golden model");
    let weights = assembly.weights(&Device::Cpu).expect("its weights");
    TinyGptV::load(&weights, assembly.config()).expect("its network")
});

fuzz_target!(|bytes: &[u8]| {
    let mut values = serde_json::Deserializer::from_slice(bytes).into_iter::<IgnoredAny>();
    let end = match values.next() {
        Some(Ok(_)) => values.byte_offset(),
        _ => 0,
    };
    let (config, weights) = bytes.split_at(end);
    let folder = tempfile::tempdir_in("/dev/shm").expect("a temporary folder");
    let file = folder.path().join(ADAPTER_WEIGHTS);
    std::fs::write(folder.path().join(ADAPTER_CONFIG), config).expect("room for it");
    std::fs::write(&file, weights).expect("room for it");
    for path in [folder.path(), &file] {
        if let Ok(adapter) = Adapter::open(path, &MODEL, "any base") {
            assert!(adapter.bytes() > 0);
        }
    }
});
