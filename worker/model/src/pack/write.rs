//! Writing the files of a bundle.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use candle_core::Device;
use candle_core::quantized::{GgmlDType, QTensor, gguf_file};
use sha2::{Digest, Sha256};

use super::{PackError, PackReport, PackRequest};
use crate::bundle::{self, Bundle, BundleManifest, GoldenAnswer, greedy_tokens};
use crate::checkpoint::{Assembly, CheckpointFiles};
use crate::{CaptionTokenizer, PromptTemplates, TensorKind, TinyGptV, Weights};

/// Tokens of the golden answer that are recorded.
const GOLDEN_TOKENS: usize = 12;

/// Packs a checkpoint into a bundle, which is complete or not there at all.
///
/// # Errors
/// Names the tensor, file or setting that stands in the way; nothing is left behind then.
pub fn pack(request: &PackRequest) -> Result<PackReport, PackError> {
    if request.out.exists() {
        return Err(PackError::Exists(request.out.clone()));
    }
    let prompts =
        request.prompts.clone().unwrap_or_else(|| PromptTemplates::of_stage(request.files.stage_number));
    prompts.validate()?;
    let assembly = Assembly::open(&request.files)?;
    let parent =
        request.out.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::create_dir_all(parent).map_err(io("create", parent))?;
    let workshop =
        tempfile::Builder::new().prefix(".packing-").tempdir_in(parent).map_err(io("write into", parent))?;
    let folder = workshop.path();

    let written = write_weights(&assembly, request, &folder.join(bundle::WEIGHTS))?;
    copy(&request.tokenizer, &folder.join(bundle::TOKENIZER))?;
    if assembly.config().retrieval.is_some() {
        let tokenizer = request.text_tokenizer.as_ref().ok_or(PackError::NoTextTokenizer)?;
        copy(tokenizer, &folder.join(bundle::TEXT_TOKENIZER))?;
    }
    let picture = request.golden_picture.clone().map_or_else(drawn_picture, Ok)?;
    write_file(&folder.join(bundle::GOLDEN_PICTURE), &picture)?;

    let golden = golden_answer(&assembly, folder, &picture, &prompts)?;
    let sources = source_hashes(&request.files)?;
    let mut manifest = BundleManifest {
        format: bundle::BUNDLE_FORMAT.to_owned(),
        name: request.name.clone(),
        licence: request.licence.clone(),
        intended_use: request.intended_use.clone(),
        stage: request.files.stage_number,
        weights: BTreeMap::from([
            ("language".to_owned(), request.weights.to_string()),
            ("vision".to_owned(), request.vision_weights.to_string()),
        ]),
        config: assembly.config().clone(),
        prompts,
        embedding_space: embedding_space(&assembly, &sources),
        sources,
        golden,
        files: file_hashes(folder)?,
        digest: String::new(),
    };
    let manifest_bytes = bundle::seal_manifest(&mut manifest).map_err(|error| PackError::Io {
        operation: "write",
        path: folder.join(bundle::MANIFEST),
        source: error.into(),
    })?;
    write_file(&folder.join(bundle::MANIFEST), &manifest_bytes)?;
    // What a worker will do first must work before anybody is told that the bundle is there.
    Bundle::open(folder)?.load(&Device::Cpu)?.self_test()?;
    publish(folder, &request.out)?;

    Ok(PackReport {
        bundle: manifest.digest,
        out: request.out.clone(),
        tensors: written.types.values().sum(),
        weight_bytes: written.bytes,
        types: written.types,
        fallbacks: written.fallbacks,
        accounting: assembly.accounting().clone(),
    })
}

struct Written {
    bytes: u64,
    types: BTreeMap<String, usize>,
    fallbacks: BTreeMap<String, String>,
}

fn write_weights(assembly: &Assembly, request: &PackRequest, path: &Path) -> Result<Written, PackError> {
    let (mut types, mut fallbacks) = (BTreeMap::new(), BTreeMap::new());
    let mut tensors = Vec::new();
    for (name, shape, kind) in assembly.tensors() {
        let dtype = match kind {
            TensorKind::Float => GgmlDType::F32,
            TensorKind::Matrix => {
                let wanted =
                    if name.contains("visual_encoder.") { request.vision_weights } else { request.weights };
                let fitting = wanted.fitting(shape);
                if fitting != wanted {
                    fallbacks.insert(name.to_owned(), fitting.to_string());
                }
                fitting.dtype()
            }
        };
        let stored = QTensor::quantize(&assembly.tensor(name)?, dtype).map_err(|source| {
            PackError::Convert { tensor: name.to_owned(), format: format!("{dtype:?}"), source }
        })?;
        *types.entry(format!("{dtype:?}").to_lowercase()).or_insert(0) += 1;
        tensors.push((name, stored));
    }
    let listed: Vec<(&str, &QTensor)> = tensors.iter().map(|(name, tensor)| (*name, tensor)).collect();
    let architecture = gguf_file::Value::String("tinygpt-v".to_owned());
    let mut file = BufWriter::new(File::create(path).map_err(io("create", path))?);
    gguf_file::write(&mut file, &[("general.architecture", &architecture)], &listed).map_err(|source| {
        PackError::Convert { tensor: bundle::WEIGHTS.to_owned(), format: "gguf".to_owned(), source }
    })?;
    file.flush().map_err(io("write", path))?;
    let bytes = path.metadata().map_err(io("read", path))?.len();
    Ok(Written { bytes, types, fallbacks })
}

/// The packed model's own answer, read back from the file that a worker will read.
fn golden_answer(
    assembly: &Assembly,
    folder: &Path,
    picture: &[u8],
    prompts: &PromptTemplates,
) -> Result<GoldenAnswer, PackError> {
    let path = folder.join(bundle::WEIGHTS);
    let mut file = File::open(&path).map_err(io("read", &path))?;
    let failed = |source: candle_core::Error| PackError::Golden(Box::new(source));
    let content = gguf_file::Content::read(&mut file).map_err(failed)?;
    let names: Vec<String> = content.tensor_infos.keys().cloned().collect();
    let tensors = names
        .into_iter()
        .map(|name| Ok((name.clone(), content.tensor(&mut file, &name, &Device::Cpu).map_err(failed)?)))
        .collect::<Result<Vec<_>, PackError>>()?;
    let model = TinyGptV::load(&Weights::from_qtensors(tensors, &Device::Cpu), assembly.config())?;
    let path = folder.join(bundle::TOKENIZER);
    let tokenizer = CaptionTokenizer::from_bytes(&std::fs::read(&path).map_err(io("read", &path))?)
        .map_err(|error| PackError::Golden(Box::new(error)))?;
    let tokens = greedy_tokens(&model, &tokenizer, picture, &prompts.caption, GOLDEN_TOKENS)
        .map_err(PackError::Golden)?;
    Ok(GoldenAnswer { prompt: prompts.caption.clone(), tokens })
}

/// The space's name: dimensions and the weights that span it, not the type they are stored in.
fn embedding_space(assembly: &Assembly, sources: &BTreeMap<String, String>) -> Option<String> {
    let retrieval = assembly.config().retrieval.as_ref()?;
    let mut hash = Sha256::new();
    for (role, source) in sources {
        if role == "retrieval" || (role == "vision" && retrieval.shared_vision) {
            hash.update(source);
        }
    }
    let short = &hex::encode(hash.finalize())[..12];
    Some(format!("blip2-itc/{}x{}/{short}", retrieval.qformer.num_query_tokens, retrieval.embed_dim))
}

/// SHA-256 of the published weights, by their part.
fn source_hashes(files: &CheckpointFiles) -> Result<BTreeMap<String, String>, PackError> {
    let parts = [
        ("vision", Some(&files.vision)),
        ("qformer", Some(&files.qformer)),
        ("language", Some(&files.language)),
        ("stage", Some(&files.stage)),
        ("retrieval", files.retrieval.as_ref()),
    ];
    let mut hashes = BTreeMap::new();
    for (part, path) in parts {
        let Some(path) = path else { continue };
        hashes.insert(part.to_owned(), hash_path(path)?);
    }
    Ok(hashes)
}

/// The hash of a file, or of a folder's weight files in the order of their names.
fn hash_path(path: &Path) -> Result<String, PackError> {
    let mut hash = Sha256::new();
    let mut weights = vec![path.to_owned()];
    if path.is_dir() {
        let entries = std::fs::read_dir(path).map_err(io("read", path))?;
        weights = entries.flatten().map(|entry| entry.path()).filter(|path| is_weights(path)).collect();
        weights.sort();
    }
    for path in weights {
        let mut file = File::open(&path).map_err(io("read", &path))?;
        std::io::copy(&mut file, &mut hash).map_err(io("read", &path))?;
    }
    Ok(hex::encode(hash.finalize()))
}

fn is_weights(path: &Path) -> bool {
    path.extension()
        .is_some_and(|extension| extension == "bin" || extension == "safetensors" || extension == "pth")
}

fn file_hashes(folder: &Path) -> Result<BTreeMap<String, String>, PackError> {
    [bundle::WEIGHTS, bundle::TOKENIZER, bundle::TEXT_TOKENIZER, bundle::GOLDEN_PICTURE]
        .into_iter()
        .filter(|name| folder.join(name).exists())
        .map(|name| Ok((name.to_owned(), hash_path(&folder.join(name))?)))
        .collect()
}

/// A picture with edges, colours and gradients, so that a broken network shows.
fn drawn_picture() -> Result<Vec<u8>, PackError> {
    let picture = image::RgbImage::from_fn(96, 72, |x, y| {
        let (dx, dy) = (x as f32 - 30.0, y as f32 - 36.0);
        if dx.hypot(dy) < 20.0 {
            image::Rgb([210, 40, 40])
        } else if x > 56 && (20..52).contains(&y) {
            image::Rgb([40, 70, 200])
        } else {
            image::Rgb([(x * 2) as u8, 160, (y * 3) as u8])
        }
    });
    let mut bytes = std::io::Cursor::new(Vec::new());
    picture
        .write_to(&mut bytes, image::ImageFormat::Png)
        .map_err(|error| PackError::Golden(Box::new(error)))?;
    Ok(bytes.into_inner())
}

/// Moves the finished bundle to its place in one step.
fn publish(folder: &Path, out: &Path) -> Result<(), PackError> {
    if out.extension().is_none_or(|extension| extension != "tar") {
        std::fs::create_dir_all(out).map_err(io("create", out))?;
        // A folder that has just been made and is empty is replaced by the rename.
        return std::fs::rename(folder, out).map_err(io("write", out));
    }
    let unfinished = folder.join("bundle.tar");
    let file = File::create(&unfinished).map_err(io("create", &unfinished))?;
    let mut archive = tar::Builder::new(BufWriter::new(file));
    for name in
        [bundle::MANIFEST, bundle::TOKENIZER, bundle::TEXT_TOKENIZER, bundle::GOLDEN_PICTURE, bundle::WEIGHTS]
    {
        let path = folder.join(name);
        if path.exists() {
            archive.append_path_with_name(&path, name).map_err(io("pack", &path))?;
        }
    }
    archive.into_inner().and_then(|mut file| file.flush()).map_err(io("write", &unfinished))?;
    std::fs::rename(&unfinished, out).map_err(io("write", out))
}

fn copy(from: &Path, to: &Path) -> Result<(), PackError> {
    let bytes = std::fs::read(from).map_err(io("read", from))?;
    write_file(to, &bytes)
}

fn write_file(path: &Path, bytes: &[u8]) -> Result<(), PackError> {
    std::fs::write(path, bytes).map_err(io("write", path))
}

fn io(operation: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> PackError {
    let path: PathBuf = path.to_owned();
    move |source| PackError::Io { operation, path, source }
}
