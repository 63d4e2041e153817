//! Checkpoints packed in every type, read back in every form, and every kind of damage noticed.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};

use candle_core::Device;
use captionfleet_model::bundle::{Bundle, BundleError, MANIFEST, WEIGHTS};
use captionfleet_model::checkpoint::CheckpointFolder;
use captionfleet_model::pack::{PackError, PackReport, PackRequest, WeightFormat, WeightTypes, pack, repack};

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

fn request(stage: u8, weights: WeightFormat, out: PathBuf) -> PackRequest {
    let folder = CheckpointFolder::open(&golden()).unwrap();
    PackRequest {
        files: folder.files(stage).unwrap(),
        tokenizer: folder.tokenizer().unwrap(),
        text_tokenizer: Some(folder.text_tokenizer().unwrap()),
        weights,
        vision_weights: weights,
        prompts: None,
        name: "golden".into(),
        licence: "none".into(),
        intended_use: "tests".into(),
        golden_picture: None,
        out,
    }
}

fn packed(stage: u8, weights: WeightFormat, out: PathBuf) -> PackReport {
    pack(&request(stage, weights, out)).unwrap()
}

/// The error of something that must not work, with its causes.
fn refusal<T>(result: Result<T, impl std::error::Error>) -> String {
    let Err(error) = result else { panic!("it was accepted") };
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

#[test]
fn every_type_packs_loads_and_repeats_its_golden_tokens() {
    let folder = tempfile::tempdir().unwrap();
    let mut sizes = Vec::new();
    for format in WeightFormat::ALL {
        let out = folder.path().join(format.as_str());
        let report = packed(3, format, out.clone());
        assert_eq!(report.types.values().sum::<usize>(), report.tensors);
        assert_eq!(report.accounting.unknown().count(), 0);
        let bundle = Bundle::open(&out).unwrap();
        assert_eq!(bundle.id(), report.bundle);
        let loaded = bundle.load(&Device::Cpu).unwrap();
        loaded.self_test().unwrap();
        assert!(loaded.text_tokenizer.is_some());
        assert!(!bundle.manifest().golden.tokens.is_empty());
        sizes.push((format, report.weight_bytes));
        // rows of 64 are no whole blocks of 256, rows of 279 no whole blocks of 32
        match format {
            WeightFormat::Q4K => assert!(report.fallbacks.values().any(|got| got == "q8_0")),
            WeightFormat::Q8_0 | WeightFormat::Q4_0 => {
                let fc2 = report.fallbacks.get("visual_encoder.blocks.0.mlp.fc2.weight");
                assert_eq!(fc2.map(String::as_str), Some("f16"));
            }
            _ => assert!(report.fallbacks.is_empty()),
        }
    }
    let size = |format| sizes.iter().find(|(of, _)| *of == format).unwrap().1;
    assert!(size(WeightFormat::F16) < size(WeightFormat::F32));
    assert_eq!(size(WeightFormat::F16), size(WeightFormat::BF16));
    assert!(size(WeightFormat::Q8_0) < size(WeightFormat::F16));
    assert!(size(WeightFormat::Q4_0) < size(WeightFormat::Q8_0));
}

#[test]
fn packing_is_repeatable_and_stages_differ() {
    let folder = tempfile::tempdir().unwrap();
    let first = packed(3, WeightFormat::F16, folder.path().join("a"));
    let again = packed(3, WeightFormat::F16, folder.path().join("b"));
    let other = packed(4, WeightFormat::F16, folder.path().join("c"));
    assert_eq!(first.bundle, again.bundle);
    assert_ne!(first.bundle, other.bundle);
    let space =
        |name: &str| Bundle::open(&folder.path().join(name)).unwrap().manifest().embedding_space.clone();
    assert!(space("a").unwrap().starts_with("blip2-itc/8x32/"));
    // the same heads over the same tower: vectors of both stages can be compared
    assert_eq!(space("a"), space("c"));
}

#[test]
fn a_bundle_packed_again_is_what_its_checkpoint_gives() {
    let folder = tempfile::tempdir().unwrap();
    packed(3, WeightFormat::F32, folder.path().join("whole"));
    let whole = Bundle::open(&folder.path().join("whole")).unwrap();
    let types = WeightTypes { language: WeightFormat::Q4_0, vision: WeightFormat::Q8_0 };
    let again = repack(&whole, types, folder.path().join("again.tar")).unwrap();
    let mut request = request(3, types.language, folder.path().join("direct"));
    request.vision_weights = types.vision;
    assert_eq!(again.bundle, pack(&request).unwrap().bundle);
    Bundle::open(&again.out).unwrap().load(&Device::Cpu).unwrap().self_test().unwrap();
    assert!(matches!(repack(&whole, types, again.out), Err(PackError::Exists(_))));

    let weights = folder.path().join("whole").join(WEIGHTS);
    let mut bytes = std::fs::read(&weights).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&weights, bytes).unwrap();
    let damaged = Bundle::open(&folder.path().join("whole")).unwrap();
    let text = refusal(repack(&damaged, types, folder.path().join("damaged")));
    assert!(text.contains("weights.gguf of the bundle"), "{text}");
}

#[test]
fn an_archive_is_the_same_bundle() {
    let folder = tempfile::tempdir().unwrap();
    let loose = packed(1, WeightFormat::F16, folder.path().join("loose"));
    let tar = folder.path().join("one.tar");
    let archived = packed(1, WeightFormat::F16, tar.clone());
    assert_eq!(loose.bundle, archived.bundle);
    Bundle::open(&tar).unwrap().load(&Device::Cpu).unwrap().self_test().unwrap();

    let whole = std::fs::read(&tar).unwrap();
    let cut = folder.path().join("cut.tar");
    for length in (0..whole.len()).step_by(whole.len() / 40) {
        std::fs::write(&cut, &whole[..length]).unwrap();
        assert!(Bundle::open(&cut).is_err(), "cut at {length}");
    }
}

#[test]
fn a_flipped_byte_in_any_file_is_found_and_the_file_named() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("bundle");
    packed(3, WeightFormat::F16, out.clone());
    for entry in std::fs::read_dir(&out).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        let whole = std::fs::read(&path).unwrap();
        if name == MANIFEST {
            continue;
        }
        for place in [0, whole.len() / 3, whole.len() / 2, whole.len() - 1] {
            let mut flipped = whole.clone();
            flipped[place] ^= 0x10;
            std::fs::write(&path, &flipped).unwrap();
            match Bundle::open(&out).and_then(|bundle| bundle.load(&Device::Cpu)) {
                Err(BundleError::Damaged { file, .. }) => assert_eq!(file, name),
                other => panic!("{name} flipped at {place}: {other:?}"),
            }
        }
        std::fs::write(&path, &whole).unwrap();
    }
    Bundle::open(&out).unwrap().load(&Device::Cpu).unwrap();
}

#[test]
fn no_byte_of_the_manifest_can_change() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("bundle");
    packed(3, WeightFormat::F16, out.clone());
    let whole = std::fs::read(out.join(MANIFEST)).unwrap();
    Bundle::read_manifest(&whole, "here").unwrap();
    for place in 0..whole.len() {
        for bit in [0x01, 0x20] {
            let mut flipped = whole.clone();
            flipped[place] ^= bit;
            assert!(Bundle::read_manifest(&flipped, "here").is_err(), "byte {place} ^ {bit}");
        }
    }
}

#[test]
fn what_is_not_a_bundle_is_said_in_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("picture.png");
    std::fs::write(&file, b"no bundle").unwrap();
    for place in [folder.path(), &file, &folder.path().join("missing")] {
        let text = refusal(Bundle::open(place));
        assert!(text.contains("is not a bundle") && !text.contains('\n'), "{text}");
        assert!(text.contains(place.file_name().unwrap().to_str().unwrap()), "{text}");
    }
    std::fs::write(folder.path().join(MANIFEST), b"{}").unwrap();
    let text = refusal(Bundle::open(folder.path()));
    assert!(!text.contains('\n'), "{text}");
}

#[test]
fn a_missing_weights_file_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("bundle");
    packed(3, WeightFormat::F16, out.clone());
    std::fs::remove_file(out.join(WEIGHTS)).unwrap();
    assert!(refusal(Bundle::open(&out)).contains(WEIGHTS));
}

#[test]
fn nothing_is_left_behind_when_packing_fails() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("bundle");
    let mut broken = request(3, WeightFormat::F16, out.clone());
    broken.files.stage_number = 1;
    broken.files.stage = golden().join("checkpoint/eva_vit_g.pth");
    let text = refusal(pack(&broken));
    assert!(text.contains("checkpoint/eva_vit_g.pth"), "{text}");

    let mut no_tokenizer = request(3, WeightFormat::F16, out.clone());
    no_tokenizer.text_tokenizer = None;
    assert!(matches!(pack(&no_tokenizer), Err(PackError::NoTextTokenizer)));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);

    packed(3, WeightFormat::F16, out.clone());
    assert!(matches!(pack(&request(3, WeightFormat::F16, out)), Err(PackError::Exists(_))));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}

/// Heads that were trained on another tower keep theirs, and the manifest says so.
#[test]
fn another_vision_tower_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let heads = folder.path().join("heads");
    std::fs::create_dir(&heads).unwrap();
    let original = golden().join("checkpoint/blip2-itm-vit-g");
    std::fs::copy(original.join("config.json"), heads.join("config.json")).unwrap();
    let mut tensors =
        candle_core::safetensors::load(original.join("model.safetensors"), &Device::Cpu).unwrap();
    let changed = "vision_model.encoder.layers.1.mlp.fc1.weight";
    let other = (tensors[changed].clone() * 1.5).unwrap();
    tensors.insert(changed.into(), other);
    candle_core::safetensors::save(&tensors, heads.join("model.safetensors")).unwrap();
    let mut own = request(3, WeightFormat::F16, folder.path().join("own"));
    own.files.retrieval = Some(heads);
    let report = pack(&own).unwrap();
    let shared = packed(3, WeightFormat::F16, folder.path().join("shared"));
    assert!(report.tensors > shared.tensors);
    let is_shared =
        |out: &Path| Bundle::open(out).unwrap().manifest().config.retrieval.as_ref().unwrap().shared_vision;
    assert!(!is_shared(&report.out) && is_shared(&shared.out));
}
