//! Checkpoints resolved at full size by shapes alone, and with numbers from the goldens.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::{DType, Device};
use captionfleet_model::checkpoint::{
    Assembly, CheckpointError, CheckpointFolder, GoldenStage, LoraConfig, Problem, Sources, StageExpectation,
    TensorHeader, TensorSource, golden_dir, open_file,
};
use captionfleet_model::{ModelConfig, RetrievalConfig, tensor_inventory};

type Keys = BTreeMap<String, Vec<usize>>;

/// The published files as names and shapes, without their 8 GB of numbers.
fn full_size(file: &str) -> Keys {
    type Row = (String, Vec<usize>, Option<usize>, Option<usize>);
    let all: BTreeMap<String, Vec<serde_json::Value>> =
        serde_json::from_str(include_str!("full_size_keys.json")).unwrap();
    let mut keys = Keys::new();
    for row in &all[file] {
        let mut cells = row.as_array().unwrap().clone();
        cells.resize(4, serde_json::Value::Null);
        let (pattern, shape, count, step): Row = serde_json::from_value(cells.into()).unwrap();
        for number in 0..count.unwrap_or(1) {
            let number = number * step.unwrap_or(1);
            keys.insert(pattern.replacen(".*.", &format!(".{number}."), 1), shape.clone());
        }
    }
    keys
}

struct Shapes {
    label: String,
    headers: BTreeMap<String, TensorHeader>,
}

impl TensorSource for Shapes {
    fn label(&self) -> &str {
        &self.label
    }
    fn headers(&self) -> &BTreeMap<String, TensorHeader> {
        &self.headers
    }
    fn read(&self, key: &str) -> Result<Vec<f32>, CheckpointError> {
        Err(CheckpointError::NoSuchTensor(key.to_owned()))
    }
}

/// Files of one checkpoint, to be changed before they are resolved.
#[derive(Clone)]
struct Files {
    stage_number: u8,
    files: BTreeMap<&'static str, Keys>,
}

impl Files {
    fn new(stage: &str, language: &str) -> Self {
        let stage_number = stage["stage".len()..].chars().next().unwrap().to_digit(10).unwrap() as u8;
        let files = [
            ("eva_vit_g.pth", full_size("vision")),
            ("blip2.pth", full_size("qformer")),
            ("phi-2", full_size(language)),
            ("stage.pth", full_size(stage)),
            ("itm", full_size("retrieval")),
        ];
        Self { stage_number, files: files.into() }
    }

    fn resolve(&self, shared_vision: bool) -> Result<Assembly, CheckpointError> {
        let open = |label: &str| -> Arc<dyn TensorSource> {
            let header = |shape: &Vec<usize>| TensorHeader { shape: shape.clone(), dtype: DType::F32 };
            let headers = self.files[label].iter().map(|(key, shape)| (key.clone(), header(shape))).collect();
            Arc::new(Shapes { label: label.to_owned(), headers })
        };
        let sources = Sources {
            vision: open("eva_vit_g.pth"),
            qformer: open("blip2.pth"),
            language: open("phi-2"),
            stage: open("stage.pth"),
            retrieval: Some(open("itm")),
        };
        let mut config = ModelConfig::tinygpt_v(if self.stage_number == 4 { 448 } else { 224 });
        config.retrieval = Some(RetrievalConfig { shared_vision, ..RetrievalConfig::blip2_itm_vit_g() });
        let stage = StageExpectation { number: self.stage_number, lora: LoraConfig::default() };
        Assembly::from_shapes(sources, config, stage)
    }

    fn problems(&self) -> Vec<Problem> {
        match self.resolve(true) {
            Err(CheckpointError::Incomplete(problems)) => problems.0,
            Err(other) => panic!("{other}"),
            Ok(_) => Vec::new(),
        }
    }
}

const STAGES: [&str; 5] = ["stage1", "stage2", "stage3", "stage4_trained_qformer", "stage4_frozen_qformer"];

#[test]
fn every_full_size_variant_is_complete_and_accounted_for() {
    for stage in STAGES {
        for language in ["phi_fused", "phi_split"] {
            for shared in [true, false] {
                let files = Files::new(stage, language);
                let assembly = files.resolve(shared).unwrap();
                let inventory = tensor_inventory(assembly.config()).unwrap();
                assert_eq!(assembly.tensors().count(), inventory.len());
                for account in &assembly.accounting().files {
                    assert_eq!(account.unknown, Vec::<String>::new(), "{} of {stage}", account.file);
                    let total = account.used + account.replaced.len() + account.ignored.len();
                    assert_eq!(
                        total,
                        files.files[account.file.as_str()].len(),
                        "{} of {stage}",
                        account.file
                    );
                }
                let caption: usize = assembly
                    .tensors()
                    .filter(|(name, ..)| !name.starts_with("itc."))
                    .map(|(_, shape, _)| shape.iter().product::<usize>())
                    .sum();
                // 3,885,555,072 at 448 px; the position table keeps its 257 rows in a bundle
                assert_eq!(caption, 3_885_555_072 - (1025 - 257) * 1408, "{stage} over {language}");
            }
        }
    }
}

#[test]
fn original_phi_layout_is_complete() {
    let mut files = Files::new("stage3", "phi_fused");
    let original = |key: String| {
        key.replace("model.layers.", "transformer.h.")
            .replace("self_attn.query_key_value", "mixer.Wqkv")
            .replace("self_attn.dense", "mixer.out_proj")
            .replace("input_layernorm", "ln")
            .replace("model.embed_tokens", "transformer.embd.wte")
            .replace("lm_head", "lm_head.linear")
            .replace("model.final_layernorm", "lm_head.ln")
    };
    let phi = files.files.remove("phi-2").unwrap();
    files.files.insert("phi-2", phi.into_iter().map(|(key, shape)| (original(key), shape)).collect());
    assert_eq!(files.problems(), []);
}

#[test]
fn newer_lora_names_are_complete() {
    let mut files = Files::new("stage2", "phi_fused");
    let stage = files.files.remove("stage.pth").unwrap();
    let renamed = |key: String| {
        key.replace("lora_A.weight", "lora_A.default.weight")
            .replace("lora_B.weight", "lora_B.default.weight")
    };
    files.files.insert("stage.pth", stage.into_iter().map(|(key, shape)| (renamed(key), shape)).collect());
    assert_eq!(files.problems(), []);
}

/// Tensors without which the files are still complete.
fn is_dispensable(file: &str, key: &str) -> bool {
    key.ends_with("position_ids")
        || key.starts_with("t5_proj")
        // replaced by the stage file
        || file == "phi-2" && (key.ends_with("layernorm.weight"))
        // the vision tower of the heads is shared, so it is only compared
        || file == "itm" && key.starts_with("vision_model.") && !key.contains("post_layernorm")
}

#[test]
fn any_removed_or_misshaped_tensor_is_refused_by_name_and_file() {
    let mut checked = 0;
    for stage in ["stage1", "stage3", "stage4_trained_qformer"] {
        let complete = Files::new(stage, "phi_split");
        for (file, keys) in &complete.files {
            if stage == "stage4_trained_qformer" && *file == "blip2.pth" {
                continue;
            }
            // a prime step visits every kind of tensor in some layer
            for (key, shape) in keys.iter().step_by(17).filter(|(key, _)| !is_dispensable(file, key)) {
                let mut without = complete.clone();
                without.files.get_mut(file).unwrap().remove(key);
                let problems = without.problems();
                assert_eq!(problems.len(), 1, "{key} removed from {file}: {problems:?}");
                assert!(
                    matches!(&problems[0], Problem::Missing { expected, file: at, .. } if expected == key && at == file),
                    "{key} removed from {file}: {problems:?}"
                );

                let mut misshaped = complete.clone();
                let mut wrong = shape.clone();
                *wrong.last_mut().unwrap() += 1;
                misshaped.files.get_mut(file).unwrap().insert(key.clone(), wrong);
                let problems = misshaped.problems();
                assert!(
                    problems.iter().any(|problem| matches!(problem, Problem::Misshaped { key: at, file: in_file, .. } if at == key && in_file == file)),
                    "{key} misshaped in {file}: {problems:?}"
                );
                checked += 1;
            }
        }
    }
    assert!(checked > 100, "only {checked} tensors were tried");
}

#[test]
fn unknown_and_surplus_tensors_are_reported_not_refused() {
    let mut files = Files::new("stage3", "phi_fused");
    let add = |files: &mut Files, file, key: &str| {
        drop(files.files.get_mut(file).unwrap().insert(key.into(), vec![3]))
    };
    add(&mut files, "eva_vit_g.pth", "blocks.39.norm1.weight");
    add(&mut files, "eva_vit_g.pth", "head.weight");
    add(&mut files, "stage.pth", "surprise");
    let assembly = files.resolve(true).unwrap();
    assert_eq!(assembly.accounting().unknown().collect::<Vec<_>>(), [("stage.pth", "surprise")]);
    let vision = &assembly.accounting().files[0];
    assert_eq!(vision.ignored, ["blocks.39.norm1.weight", "head.weight"]);
}

#[test]
fn lora_that_cannot_be_applied_is_refused() {
    let mut files = Files::new("stage3", "phi_fused");
    let key = "llama_model.base_model.model.model.layers.0.self_attn.rotor.lora_A.weight";
    files.files.get_mut("stage.pth").unwrap().insert(key.into(), vec![64, 2560]);
    assert!(matches!(&files.problems()[..], [Problem::Unusable { key: at, .. }] if at == key));
    // a stage-1 file passed off as stage 3
    let mut files = Files::new("stage1", "phi_fused");
    files.stage_number = 3;
    assert_eq!(files.problems().len(), 2 * 64);
}

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

#[test]
fn every_golden_stage_resolves_and_shares_its_vision_tower() {
    for number in [1, 3, 4] {
        let assembly = golden_dir(&golden(), GoldenStage::Caption(number)).unwrap();
        assert!(assembly.config().retrieval.as_ref().unwrap().shared_vision);
        assert_eq!(assembly.accounting().unknown().count(), 0);
        let surplus = &assembly.accounting().files[0].ignored;
        assert!(surplus.iter().any(|key| key.starts_with("blocks.3.")), "{surplus:?}");
        for (name, shape, _) in assembly.tensors() {
            assert_eq!(assembly.tensor(name).unwrap().dims(), shape, "{name}");
        }
        assembly.weights(&Device::Cpu).unwrap();
    }
    assert!(golden_dir(&golden(), GoldenStage::Retrieval).is_ok());
    assert!(golden_dir(&golden(), GoldenStage::Caption(2)).is_err());
}

/// The LoRA change computed here by hand, element by element.
#[test]
fn lora_is_merged_with_its_scaling() {
    let assembly = golden_dir(&golden(), GoldenStage::Caption(3)).unwrap();
    let folder = CheckpointFolder::open(&golden()).unwrap();
    let stage = open_file(&folder.files(3).unwrap().stage).unwrap();
    let base = open_file(&golden().join("checkpoint/phi-2/pytorch_model.bin")).unwrap();
    let module = "model.layers.1.self_attn.query_key_value";
    let a = stage.read(&format!("llama_model.base_model.model.{module}.lora_A.weight")).unwrap();
    let b = stage.read(&format!("llama_model.base_model.model.{module}.lora_B.weight")).unwrap();
    let w = base.read(&format!("{module}.weight")).unwrap();
    let (outputs, inputs, rank) = (192, 64, 4);
    let merged = assembly.tensor(&format!("llama_model.{module}.weight")).unwrap();
    let merged = merged.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    for row in 0..outputs {
        for column in 0..inputs {
            let change: f32 = (0..rank).map(|r| b[row * rank + r] * a[r * inputs + column]).sum();
            let wanted = w[row * inputs + column] + 0.25 * change;
            assert!((merged[row * inputs + column] - wanted).abs() < 1e-6, "row {row}, column {column}");
        }
    }
}

/// The same language model in another published layout, as a folder with one safetensors file.
fn phi_in_layout(
    target: &Path,
    rename: impl Fn(&str, candle_core::Tensor) -> Vec<(String, candle_core::Tensor)>,
) {
    let fused = open_file(&golden().join("checkpoint/phi-2/pytorch_model.bin")).unwrap();
    let mut tensors = std::collections::HashMap::new();
    for (key, header) in fused.headers() {
        let tensor =
            candle_core::Tensor::from_vec(fused.read(key).unwrap(), header.shape.as_slice(), &Device::Cpu)
                .unwrap();
        tensors.extend(rename(key, tensor));
    }
    candle_core::safetensors::save(&tensors, target.join("model.safetensors")).unwrap();
}

/// q, k and v rows of a fused tensor with 4 heads.
fn thirds(fused: &candle_core::Tensor) -> [candle_core::Tensor; 3] {
    let rows = fused.dim(0).unwrap() / 12;
    [0, 1, 2].map(|third| {
        let heads: Vec<_> =
            (0..4).map(|head| fused.narrow(0, (3 * head + third) * rows, rows).unwrap()).collect();
        candle_core::Tensor::cat(&heads, 0).unwrap()
    })
}

#[test]
fn all_three_layouts_of_phi_2_give_the_same_tensors() {
    let fused = golden_dir(&golden(), GoldenStage::Caption(3)).unwrap();
    let mut files = CheckpointFolder::open(&golden()).unwrap().files(3).unwrap();
    let original = tempfile::tempdir().unwrap();
    phi_in_layout(original.path(), |key, tensor| {
        let name = key
            .replace("model.layers.", "transformer.h.")
            .replace("self_attn.query_key_value", "mixer.Wqkv")
            .replace("self_attn.dense", "mixer.out_proj")
            .replace("input_layernorm", "ln")
            .replace("model.embed_tokens", "transformer.embd.wte")
            .replace("lm_head", "lm_head.linear")
            .replace("model.final_layernorm", "lm_head.ln");
        let tensor = if name.contains("Wqkv") {
            candle_core::Tensor::cat(&thirds(&tensor), 0).unwrap()
        } else {
            tensor
        };
        vec![(name, tensor)]
    });
    let split = tempfile::tempdir().unwrap();
    phi_in_layout(split.path(), |key, tensor| {
        if !key.contains("query_key_value") {
            return vec![(key.to_owned(), tensor)];
        }
        let names = ["q_proj", "k_proj", "v_proj"].map(|part| key.replace("query_key_value", part));
        names.into_iter().zip(thirds(&tensor)).collect()
    });
    for folder in [original.path(), split.path()] {
        files.language = folder.to_owned();
        let other = Assembly::open(&files).unwrap();
        assert_eq!(other.accounting().unknown().count(), 0);
        for (name, ..) in fused.tensors() {
            let values = |assembly: &Assembly| {
                assembly.tensor(name).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap()
            };
            assert_eq!(values(&fused), values(&other), "{name}");
        }
    }
}

#[test]
fn damaged_files_are_refused_without_panic() {
    let whole = std::fs::read(golden().join("checkpoint/TinyGPT-V_for_Stage1.pth")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("damaged.pth");
    let read_all = |bytes: &[u8]| -> Result<(), CheckpointError> {
        std::fs::write(&path, bytes).unwrap();
        let source = open_file(&path)?;
        for (key, header) in source.headers() {
            if header.dtype == DType::F32 {
                source.read(key)?;
            }
        }
        Ok(())
    };
    read_all(&whole).unwrap();
    for cut in (0..whole.len()).step_by(9973) {
        assert!(read_all(&whole[..cut]).is_err(), "cut at {cut}");
    }
    // in numbers: always noticed, by checksum (torch aligns them to 64 bytes behind the entry's name)
    let name = whole.windows(6).position(|window| window == b"data/0").unwrap();
    let mut flipped = whole.clone();
    flipped[(name + 6 + 4).next_multiple_of(64) + 5] ^= 1;
    assert!(read_all(&flipped).unwrap_err().to_string().contains("checksum"));
    // anywhere: an error or the same tensors, never a panic
    for place in (0..whole.len()).step_by(499) {
        let mut flipped = whole.clone();
        flipped[place] ^= 0x41;
        let _ = read_all(&flipped);
    }
    let error = read_all(b"\x80\x02}q\x00.").unwrap_err().to_string();
    assert!(error.contains("damaged.pth") && error.contains("bare pickle"), "{error}");
    let error = read_all(b"not a checkpoint at all").unwrap_err().to_string();
    assert!(error.contains("neither a torch zip"), "{error}");
}

/// A zip with one stored entry, as torch writes it.
fn torch_zip(pickle: &[u8]) -> Vec<u8> {
    let name = b"archive/data.pkl";
    let crc = crc32fast::hash(pickle);
    let mut fields = Vec::new();
    for part in [&20u16.to_le_bytes()[..], &[0; 8], &crc.to_le_bytes()] {
        fields.extend_from_slice(part);
    }
    fields.extend_from_slice(&(pickle.len() as u32).to_le_bytes());
    fields.extend_from_slice(&(pickle.len() as u32).to_le_bytes());
    fields.extend_from_slice(&(name.len() as u16).to_le_bytes());
    fields.extend_from_slice(&0u16.to_le_bytes());
    let mut zip = b"PK\x03\x04".to_vec();
    zip.extend_from_slice(&fields);
    zip.extend_from_slice(name);
    zip.extend_from_slice(pickle);
    let directory = zip.len() as u32;
    zip.extend_from_slice(b"PK\x01\x02\x14\x00");
    zip.extend_from_slice(&fields);
    zip.extend_from_slice(&[0; 14]);
    zip.extend_from_slice(name);
    let size = zip.len() as u32 - directory;
    zip.extend_from_slice(b"PK\x05\x06\x00\x00\x00\x00\x01\x00\x01\x00");
    zip.extend_from_slice(&size.to_le_bytes());
    zip.extend_from_slice(&directory.to_le_bytes());
    zip.extend_from_slice(&[0; 2]);
    zip
}

#[test]
fn a_pickle_that_would_run_code_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("evil.pth");
    std::fs::write(&path, torch_zip(b"\x80\x02cposix\nsystem\nX\x04\x00\x00\x00echo\x85R.")).unwrap();
    let Err(error) = open_file(&path) else { panic!("it was read") };
    let text = format!("{error}: {}", std::error::Error::source(&error).unwrap());
    assert!(text.contains("evil.pth") && text.contains("posix.system"), "{text}");
}
