//! A row's numbers do not depend on its neighbours, nor on how its tokens are dealt into steps.
#![allow(clippy::unwrap_used)]

use std::path::Path;

use candle_core::{DType, Device, Tensor};
use captionfleet_model::{
    DecodeRow, FixedRows, KvCache, ModelError, PrefillRow, TinyGptV,
    checkpoint::{self, GoldenStage},
};

fn model() -> TinyGptV {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let assembly = checkpoint::golden_dir(&dir, GoldenStage::Caption(3)).unwrap();
    TinyGptV::load(&assembly.weights(&Device::Cpu).unwrap(), assembly.config()).unwrap()
}

fn bits(tensor: &Tensor) -> Vec<u32> {
    let values: Vec<f32> = tensor.flatten_all().unwrap().to_vec1().unwrap();
    assert!(values.iter().all(|value| value.is_finite()));
    values.into_iter().map(f32::to_bits).collect()
}

fn prompt(model: &TinyGptV, length: u32, seed: u32) -> Tensor {
    let ids: Vec<u32> = (0..length).map(|i| (i * 37 + seed * 101) % 470).collect();
    model.embed_tokens(&ids).unwrap()
}

fn cache(model: &TinyGptV, slots: usize) -> KvCache {
    KvCache::new(&model.config().lm, slots, 80, DType::F32, &Device::Cpu).unwrap()
}

#[test]
fn pictures_of_a_batch_equal_pictures_alone() {
    let model = model();
    let pixels = Tensor::randn(0f32, 1.0, (3, 3, 224, 224), &Device::Cpu).unwrap();
    let features = model.vision_features(&pixels).unwrap();
    let tokens = model.image_tokens(&features).unwrap();
    let vectors = model.retrieval().unwrap().image_embeddings(&features).unwrap();
    for picture in 0..3 {
        let alone = model.vision_features(&pixels.narrow(0, picture, 1).unwrap()).unwrap();
        assert_eq!(bits(&alone), bits(&features.narrow(0, picture, 1).unwrap()));
        let alone_tokens = model.image_tokens(&alone).unwrap();
        assert_eq!(bits(&alone_tokens), bits(&tokens.narrow(0, picture, 1).unwrap()));
        let alone_vectors = model.retrieval().unwrap().image_embeddings(&alone).unwrap();
        assert_eq!(bits(&alone_vectors), bits(&vectors.narrow(0, picture, 1).unwrap()));
    }
}

#[test]
fn sequences_of_a_batch_equal_sequences_alone() {
    let model = model();
    let lengths = [30, 1, 57, 24];
    let mut together = cache(&model, 6);
    // Slots in no order, one of them used before.
    let slots = [4, 0, 5, 2];
    let used = PrefillRow::plain(5, prompt(&model, 11, 9));
    model.prefill(&[used], &mut together).unwrap();
    together.free(5);
    let rows: Vec<PrefillRow> =
        (0..4).map(|row| PrefillRow::plain(slots[row], prompt(&model, lengths[row], row as u32))).collect();
    let mut logits = vec![model.prefill(&rows, &mut together).unwrap()];
    for step in 0..5 {
        let next: Vec<DecodeRow> = slots.iter().map(|&slot| DecodeRow { slot, token: 7 + step }).collect();
        logits.push(model.decode(&next, &mut together).unwrap());
    }
    for (row, together) in rows.iter().enumerate() {
        let mut alone = cache(&model, 1);
        let embeds = together.embeds.clone();
        let first = model.prefill(&[PrefillRow::plain(0, embeds)], &mut alone).unwrap();
        assert_eq!(bits(&first), bits(&logits[0].narrow(0, row, 1).unwrap()), "prefill of row {row}");
        for step in 0..5 {
            let next = model.decode(&[DecodeRow { slot: 0, token: 7 + step }], &mut alone).unwrap();
            let expected = logits[step as usize + 1].narrow(0, row, 1).unwrap();
            assert_eq!(bits(&next), bits(&expected), "step {step} of row {row}");
        }
    }
}

#[test]
fn steps_with_rows_that_belong_to_nobody_change_no_row() {
    let model = model();
    let (slots, lengths) = ([4, 0, 5, 2], [30, 1, 57, 24]);
    let rows = || -> Vec<PrefillRow> {
        (0..4).map(|row| PrefillRow::plain(slots[row], prompt(&model, lengths[row], row as u32))).collect()
    };
    let said = |cache: &mut KvCache| {
        let mut logits = bits(&model.prefill(&rows(), cache).unwrap());
        for step in 0..3 {
            let next: Vec<DecodeRow> =
                slots.iter().map(|&slot| DecodeRow { slot, token: 7 + step }).collect();
            logits.extend(bits(&model.decode(&next, cache).unwrap()));
        }
        (logits, slots.map(|slot| cache.len(slot)))
    };
    let mut filled = cache(&model, 6);
    filled.fix_rows(FixedRows { sequences: 7, tokens: 64 });
    assert_eq!(said(&mut filled), said(&mut cache(&model, 6)));
}

#[test]
fn a_prompt_in_pieces_equals_the_prompt_at_once() {
    let model = model();
    let embeds = prompt(&model, 40, 3);
    let mut cache = cache(&model, 2);
    let whole = model.prefill(&[PrefillRow::plain(0, embeds.clone())], &mut cache).unwrap();
    let piece = |start, length| vec![PrefillRow::plain(1, embeds.narrow(0, start, length).unwrap())];
    model.prefill(&piece(0, 17), &mut cache).unwrap();
    let pieces = model.prefill(&piece(17, 23), &mut cache).unwrap();
    let difference = (whole - pieces).unwrap().abs().unwrap().max(1).unwrap().to_vec1::<f32>().unwrap();
    assert!(difference[0] < 1e-4, "{difference:?}");
    assert_eq!((cache.len(0), cache.len(1)), (40, 40));
}

#[test]
fn a_half_precision_cache_stays_close() {
    let model = model();
    let rows = [PrefillRow::plain(0, prompt(&model, 40, 3))];
    let mut exact = cache(&model, 1);
    let mut half = KvCache::new(&model.config().lm, 1, 80, DType::F16, &Device::Cpu).unwrap();
    model.prefill(&rows, &mut exact).unwrap();
    model.prefill(&rows, &mut half).unwrap();
    let step = [DecodeRow { slot: 0, token: 5 }];
    let exact = model.decode(&step, &mut exact).unwrap();
    let half = model.decode(&step, &mut half).unwrap();
    let difference = (exact - half).unwrap().abs().unwrap().max(1).unwrap().to_vec1::<f32>().unwrap();
    assert!(difference[0] > 0.0 && difference[0] < 0.2, "{difference:?}");
}

#[test]
fn steps_that_cannot_be_taken_are_refused_and_change_nothing() {
    let model = model();
    let mut cache = KvCache::new(&model.config().lm, 1, 4, DType::F32, &Device::Cpu).unwrap();
    let step = [DecodeRow { slot: 0, token: 5 }];
    assert!(matches!(model.decode(&step, &mut cache), Err(ModelError::Slot { slot: 0, .. })));
    let long = [PrefillRow::plain(0, prompt(&model, 5, 0))];
    assert!(matches!(model.prefill(&long, &mut cache), Err(ModelError::SlotFull { wanted: 5, .. })));
    let fitting = [PrefillRow::plain(0, prompt(&model, 4, 0))];
    model.prefill(&fitting, &mut cache).unwrap();
    assert!(matches!(model.decode(&step, &mut cache), Err(ModelError::SlotFull { held: 4, .. })));
    cache.free(0);
    let short = [PrefillRow::plain(0, prompt(&model, 3, 0))];
    model.prefill(&short, &mut cache).unwrap();
    let unknown = [DecodeRow { slot: 0, token: 512 }];
    assert!(matches!(model.decode(&unknown, &mut cache), Err(ModelError::UnknownToken { id: 512, .. })));
    assert_eq!(cache.len(0), 3);
}
