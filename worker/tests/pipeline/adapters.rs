//! Jobs with adapters: side by side with jobs without, named in their rows, and refused with a code.

use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use captionfleet_model::adapter::{AdapterConfig, save};
use captionfleet_proto::job::{Job, JobAdapter, JobItem, JobKind, Lane};
use captionfleet_proto::rows::{Row, Status};
use captionfleet_proto::uri::ItemUri;
use captionfleet_worker::demo_model;

use crate::bench::{Bench, verdicts};

/// Width and layers of the demo model.
const WIDTH: usize = 128;
const LAYERS: usize = 3;

/// An adapter whose changes are as large as `size` says, for layers of `width`.
fn adapter(bench: &Bench, name: &str, width: usize, size: f64) -> JobAdapter {
    let noise =
        |shape: (usize, usize)| (Tensor::randn(0f32, 1.0, shape, &Device::Cpu).unwrap() * size).unwrap();
    let mut tensors = Vec::new();
    for layer in 0..LAYERS {
        for (part, outputs) in [("query_key_value", 3 * width), ("dense", width)] {
            let module = format!("model.layers.{layer}.self_attn.{part}");
            tensors.push((format!("{module}.lora_A.weight"), noise((4, width))));
            tensors.push((format!("{module}.lora_B.weight"), noise((outputs, 4))));
        }
    }
    let folder = bench.folder.path().join(name);
    let config = AdapterConfig::new(4, 4.0, &["query_key_value", "dense"], false, "demo");
    save(&folder, &config, &tensors, &demo_model::bundle().unwrap().manifest().base_id()).unwrap();
    named(&folder)
}

fn named(folder: &Path) -> JobAdapter {
    let uri = ItemUri::from_path(folder).unwrap();
    let files: Vec<Vec<u8>> = JobAdapter::file_uris(&uri)
        .iter()
        .map(|file| std::fs::read(PathBuf::from(file.as_str().trim_start_matches("file://"))).unwrap())
        .collect();
    JobAdapter::of(uri, files.iter().map(Vec::as_slice))
}

fn job(bench: &Bench, id: &str, items: &[JobItem], adapter: Option<&JobAdapter>) -> Job {
    let mut job = bench.job(id, items.to_vec());
    let JobKind::Caption(caption) = &mut job.kind else { unreachable!("a caption job was made") };
    caption.adapter = adapter.cloned();
    job
}

/// What must not depend on neighbours.
fn said(rows: &[Row]) -> Vec<(Option<String>, Option<f32>)> {
    rows.iter().map(|row| (row.caption.clone(), row.mean_logprob)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn adapters_share_a_batch_and_change_only_their_own_rows() {
    let bench = Bench::new().await;
    let items = bench.scenes(3);
    let adapters = [
        None,
        Some(adapter(&bench, "small", WIDTH, 0.12)),
        Some(adapter(&bench, "other", WIDTH, 0.12)),
        Some(adapter(&bench, "third", WIDTH, 0.1)),
    ];
    let mut alone = Vec::new();
    for (number, adapter) in adapters.iter().enumerate() {
        let id = format!("alone-{number}");
        bench.publish(Lane::Bulk, &job(&bench, &id, &items, adapter.as_ref())).await;
        let worker = bench.start();
        bench.outcome().await;
        worker.stop().await;
        alone.push(said(&bench.rows(&id)));
    }
    for (number, adapter) in adapters.iter().enumerate() {
        bench
            .publish(Lane::Bulk, &job(&bench, &format!("together-{number}"), &items, adapter.as_ref()))
            .await;
    }
    let worker = bench.start();
    for _ in &adapters {
        bench.outcome().await;
    }
    worker.stop().await;
    for (number, adapter) in adapters.iter().enumerate() {
        let rows = bench.rows(&format!("together-{number}"));
        assert_eq!(said(&rows), alone[number], "adapter {number}");
        let digest = adapter.as_ref().map(|adapter| adapter.sha256.clone());
        assert!(rows.iter().all(|row| row.adapter == digest));
    }
    assert!(alone[1] != alone[0] && alone[2] != alone[0] && alone[1] != alone[2]);
    let hashes: Vec<String> =
        (0..4).map(|number| bench.rows(&format!("alone-{number}"))[0].prompt_hash.clone()).collect();
    assert!(hashes.iter().all(|hash| hashes.iter().filter(|other| *other == hash).count() == 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_adapter_that_does_not_fit_fails_its_rows_and_no_others() {
    let bench = Bench::new().await;
    let items = bench.scenes(2);
    let wide = adapter(&bench, "wide", 2 * WIDTH, 0.1);
    let mut changed = adapter(&bench, "changed", WIDTH, 0.1);
    changed.sha256 = "0".repeat(64);
    let nowhere = JobAdapter {
        uri: ItemUri::from_path(&bench.folder.path().join("nowhere")).unwrap(),
        sha256: "0".repeat(64),
    };
    for (id, adapter) in
        [("wide", Some(&wide)), ("changed", Some(&changed)), ("nowhere", Some(&nowhere)), ("plain", None)]
    {
        bench.publish(Lane::Bulk, &job(&bench, id, &items, adapter)).await;
    }
    let worker = bench.start();
    for _ in 0..4 {
        bench.outcome().await;
    }
    worker.stop().await;
    for (id, code, word) in [
        ("wide", "adapter_refused", "layers.0.self_attn.query_key_value.lora_A.weight"),
        ("changed", "adapter_refused", "digest"),
        ("nowhere", "not_found", "adapter_config.json"),
    ] {
        let rows = bench.rows(id);
        assert_eq!(verdicts(&rows), [code; 2], "{id}");
        assert!(rows[0].error_message.as_ref().unwrap().contains(word), "{:?}", rows[0].error_message);
    }
    assert!(bench.rows("plain").iter().all(|row| row.status == Status::Ok));
}
