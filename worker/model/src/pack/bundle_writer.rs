//! Writing a bundle: complete, or not there at all.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use candle_core::Device;
use sha2::{Digest, Sha256};

use super::source::WeightSource;
use super::weights::{WeightTypes, read_weights, write_weights};
use super::{PackError, PackReport};
use crate::bundle::{self, Bundle, BundleManifest, FileBytes, GoldenAnswer, Pieces, greedy_tokens};
use crate::checkpoint::Accounting;
use crate::{CaptionTokenizer, ModelConfig, PromptTemplates, TinyGptV};

/// Tokens of the golden answer that are recorded.
const GOLDEN_TOKENS: usize = 12;

/// Everything about a bundle but its numbers.
pub(super) struct Recipe {
    pub(super) name: String,
    pub(super) licence: String,
    pub(super) intended_use: String,
    pub(super) stage: u8,
    pub(super) prompts: PromptTemplates,
    pub(super) tokenizer: Vec<u8>,
    pub(super) text_tokenizer: Option<Vec<u8>>,
    pub(super) types: WeightTypes,
    /// Hashes of what the numbers come from, by part.
    pub(super) sources: BTreeMap<String, String>,
    /// A picture file for the self-test; a drawn one if not given.
    pub(super) golden_picture: Option<Vec<u8>>,
    pub(super) out: PathBuf,
}

/// Stores the numbers of `source`, lets the packed model say its golden answer, and puts the bundle in its place.
pub(super) fn write_bundle(
    source: &dyn WeightSource,
    recipe: Recipe,
    accounting: Accounting,
) -> Result<PackReport, PackError> {
    if recipe.out.exists() {
        return Err(PackError::Exists(recipe.out));
    }
    recipe.prompts.validate()?;
    let parent =
        recipe.out.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::create_dir_all(parent).map_err(io("create", parent))?;
    let workshop =
        tempfile::Builder::new().prefix(".packing-").tempdir_in(parent).map_err(io("write into", parent))?;
    let folder = workshop.path();

    write_file(&folder.join(bundle::TOKENIZER), &recipe.tokenizer)?;
    if source.config().retrieval.is_some() {
        let tokenizer = recipe.text_tokenizer.as_ref().ok_or(PackError::NoTextTokenizer)?;
        write_file(&folder.join(bundle::TEXT_TOKENIZER), tokenizer)?;
    }
    let picture = recipe.golden_picture.clone().map_or_else(drawn_picture, Ok)?;
    write_file(&folder.join(bundle::GOLDEN_PICTURE), &picture)?;
    let written = write_weights(source, recipe.types, &folder.join(bundle::WEIGHTS))?;

    let golden = golden_answer(source.config(), folder, &picture, &recipe.prompts)?;
    let mut manifest = BundleManifest {
        format: bundle::BUNDLE_FORMAT.to_owned(),
        name: recipe.name,
        licence: recipe.licence,
        intended_use: recipe.intended_use,
        stage: recipe.stage,
        weights: BTreeMap::from([
            ("language".to_owned(), recipe.types.language.to_string()),
            ("vision".to_owned(), recipe.types.vision.to_string()),
        ]),
        config: source.config().clone(),
        prompts: recipe.prompts,
        embedding_space: embedding_space(source.config(), &recipe.sources),
        sources: recipe.sources,
        golden,
        files: file_hashes(folder)?,
        weight_pieces: Some(weight_pieces(folder)?),
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
    publish(folder, &recipe.out)?;

    Ok(PackReport {
        bundle: manifest.digest,
        out: recipe.out,
        tensors: written.types.values().sum(),
        weight_bytes: written.bytes,
        types: written.types,
        fallbacks: written.fallbacks,
        accounting,
    })
}

/// The packed model's own answer, read back from the file that a worker will read.
fn golden_answer(
    config: &ModelConfig,
    folder: &Path,
    picture: &[u8],
    prompts: &PromptTemplates,
) -> Result<GoldenAnswer, PackError> {
    let weights = read_weights(&folder.join(bundle::WEIGHTS), &Device::Cpu)?;
    let model = TinyGptV::load(&weights, config)?;
    let path = folder.join(bundle::TOKENIZER);
    let tokenizer = CaptionTokenizer::from_bytes(&std::fs::read(&path).map_err(io("read", &path))?)
        .map_err(|error| PackError::Golden(Box::new(error)))?;
    let tokens = greedy_tokens(&model, &tokenizer, picture, &prompts.caption, GOLDEN_TOKENS)
        .map_err(PackError::Golden)?;
    Ok(GoldenAnswer { prompt: prompts.caption.clone(), tokens })
}

/// The space's name: dimensions and the weights that span it, not the type they are stored in.
fn embedding_space(config: &ModelConfig, sources: &BTreeMap<String, String>) -> Option<String> {
    let retrieval = config.retrieval.as_ref()?;
    let mut hash = Sha256::new();
    for (role, source) in sources {
        if role == "retrieval" || role == "random" || (role == "vision" && retrieval.shared_vision) {
            hash.update(source);
        }
    }
    let short = &hex::encode(hash.finalize())[..12];
    Some(format!("blip2-itc/{}x{}/{short}", retrieval.qformer.num_query_tokens, retrieval.embed_dim))
}

/// SHA-256 of files one behind the other.
pub(super) fn hash_files<'a>(paths: impl IntoIterator<Item = &'a Path>) -> Result<String, PackError> {
    let mut hash = Sha256::new();
    for path in paths {
        let mut file = File::open(path).map_err(io("read", path))?;
        std::io::copy(&mut file, &mut hash).map_err(io("read", path))?;
    }
    Ok(hex::encode(hash.finalize()))
}

fn file_hashes(folder: &Path) -> Result<BTreeMap<String, String>, PackError> {
    [bundle::WEIGHTS, bundle::TOKENIZER, bundle::TEXT_TOKENIZER, bundle::GOLDEN_PICTURE]
        .into_iter()
        .filter(|name| folder.join(name).exists())
        .map(|name| Ok((name.to_owned(), hash_files([folder.join(name).as_path()])?)))
        .collect()
}

fn weight_pieces(folder: &Path) -> Result<Pieces, PackError> {
    let path = folder.join(bundle::WEIGHTS);
    Ok(Pieces::of(&FileBytes::map(&path).map_err(io("read", &path))?))
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

fn write_file(path: &Path, bytes: &[u8]) -> Result<(), PackError> {
    std::fs::write(path, bytes).map_err(io("write", path))
}

pub(super) fn io(operation: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> PackError {
    let path: PathBuf = path.to_owned();
    move |source| PackError::Io { operation, path, source }
}
