//! From tables of captioned pictures to examples that the trainer takes.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use anyhow::Context;
use bytes::Bytes;
use captionfleet_model::PromptTemplates;
use captionfleet_model::bundle::LoadedModel;
use captionfleet_model::preprocess::{DecodeLimits, decode, pixel_values, prepare};
use captionfleet_model::train::{Sample, Sight};
use captionfleet_proto::examples::{Example, Picture, read_examples};
use captionfleet_proto::storage::Stores;
use captionfleet_proto::uri::ItemUri;
use sha2::{Digest, Sha256};

/// Largest table.
const MOST_TABLE_BYTES: u64 = 8 << 30;
/// Largest picture file.
const MOST_PICTURE_BYTES: u64 = 64 << 20;
/// Pictures that the vision tower looks at together.
const LOOK: usize = 8;

/// Examples whose pictures are named or here.
#[derive(Debug, Clone)]
pub struct Captioned {
    pictures: Vec<Source>,
    /// Place in `pictures`, and what shall be said.
    examples: Vec<(usize, Example)>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Source {
    Item(ItemUri),
    Bytes(Bytes),
}

impl Source {
    fn name(&self) -> String {
        match self {
            Self::Item(uri) => uri.to_string(),
            Self::Bytes(bytes) => hex::encode(Sha256::digest(bytes)),
        }
    }
}

/// Examples ready to be trained on.
#[derive(Debug)]
pub struct Lessons {
    /// Those that are trained on.
    pub train: Vec<Sample>,
    /// Those of pictures that are not.
    pub held_out: Vec<Sample>,
    /// Names all of it.
    pub digest: String,
    /// Pictures that could not be read, with the reason.
    pub unreadable: Vec<String>,
}

impl Captioned {
    /// Pictures, each once.
    pub fn pictures(&self) -> usize {
        self.pictures.len()
    }

    /// Captions and answers.
    pub fn examples(&self) -> usize {
        self.examples.len()
    }
}

/// Reads tables.
///
/// # Errors
/// When one cannot be read, or none has an example.
pub async fn read_tables(stores: &Stores, tables: &[String]) -> anyhow::Result<Captioned> {
    let mut captioned = Captioned { pictures: Vec::new(), examples: Vec::new() };
    let mut known = HashMap::new();
    for table in tables {
        let named = || format!("--data {table}");
        let (uri, folder) = if table.starts_with("s3://") {
            (ItemUri::parse(table).with_context(named)?, None)
        } else {
            let path = Path::new(table).canonicalize().with_context(named)?;
            (ItemUri::from_path(&path).with_context(named)?, path.parent().map(Path::to_owned))
        };
        let object = stores.read_item(&uri, MOST_TABLE_BYTES).await.with_context(named)?;
        for example in read_examples(object.bytes).with_context(named)? {
            let source = source_of(&example.picture, folder.as_deref()).with_context(named)?;
            let pictures = &mut captioned.pictures;
            let at = *known.entry(source.clone()).or_insert_with(|| {
                pictures.push(source);
                pictures.len() - 1
            });
            captioned.examples.push((at, example));
        }
    }
    anyhow::ensure!(!captioned.examples.is_empty(), "--data has no row with a picture and a caption");
    Ok(captioned)
}

/// Paths are taken from the table's folder.
fn source_of(picture: &Picture, folder: Option<&Path>) -> anyhow::Result<Source> {
    let place = match picture {
        Picture::Bytes(bytes) => return Ok(Source::Bytes(bytes.clone())),
        Picture::At(place) => place,
    };
    if place.contains("://") {
        return Ok(Source::Item(ItemUri::parse(place)?));
    }
    let path = folder.map_or_else(|| PathBuf::from(place), |folder| folder.join(place));
    Ok(Source::Item(ItemUri::from_path(&path)?))
}

/// Looks at every picture once, as far as nothing learns, and makes examples; `held_out` of the readable pictures, chosen by
/// their names and `seed`, are kept apart. `tell` hears how many have been looked at.
///
/// # Errors
/// When no picture can be read, or an example does not fit the model.
pub async fn see(
    stores: &Stores,
    loaded: &LoadedModel,
    captioned: Captioned,
    sight: Sight,
    (held_out, seed): (f32, u64),
    mut tell: impl FnMut(usize),
) -> anyhow::Result<Lessons> {
    let mut seen = vec![None; captioned.pictures.len()];
    let mut unreadable = Vec::new();
    for (chunk, sources) in captioned.pictures.chunks(LOOK).enumerate() {
        let mut prepared = Vec::with_capacity(LOOK);
        for (at, source) in sources.iter().enumerate() {
            match read(stores, source).await.and_then(|bytes| Ok(decode(&bytes, &DecodeLimits::default())?)) {
                Ok(picture) => prepared.push((chunk * LOOK + at, prepare(&picture, loaded.model.config()))),
                Err(error) => unreadable.push(format!("{}: {error:#}", source.name())),
            }
        }
        let squares: Vec<_> = prepared.iter().map(|(_, picture)| &picture.caption).collect();
        if !squares.is_empty() {
            let pixels = pixel_values(&squares, loaded.model.device())?;
            let batch = sight.of(&loaded.model, &loaded.model.vision_features(&pixels)?)?;
            for (row, (at, _)) in prepared.iter().enumerate() {
                // A copy: a view would keep the whole batch alive.
                seen[*at] = Some(batch.get(row)?.force_contiguous()?);
            }
        }
        tell((chunk * LOOK + sources.len()).min(captioned.pictures.len()));
    }
    anyhow::ensure!(
        unreadable.len() < captioned.pictures.len(),
        "no picture can be read: {}",
        unreadable.join("; ")
    );
    let readable = (0..seen.len()).filter(|at| seen[*at].is_some()).collect();
    let apart = held_out_pictures(&captioned.pictures, readable, held_out, seed);
    let mut lessons = Lessons { train: Vec::new(), held_out: Vec::new(), digest: String::new(), unreadable };
    let mut digest = Sha256::new();
    digest.update(format!("{held_out} {seed}"));
    let most = loaded.model.config().lm.max_positions;
    let image_tokens = loaded.model.config().qformer.num_query_tokens;
    for (at, example) in &captioned.examples {
        let Some(picture) = &seen[*at] else { continue };
        let name = captioned.pictures[*at].name();
        let prompt = prompt_of(&loaded.prompts, example)?;
        let sample = Sample::new(&loaded.tokenizer, picture.clone(), &prompt, &example.caption)?;
        let tokens = sample.len_with(image_tokens);
        anyhow::ensure!(
            tokens <= most,
            "{name}: picture, prompt and caption have {tokens} tokens, the model takes {most}"
        );
        digest.update(format!("{name}\n{prompt}\n{}\n", example.caption));
        let list = if apart.contains(at) { &mut lessons.held_out } else { &mut lessons.train };
        list.push(sample);
    }
    lessons.digest = hex::encode(digest.finalize());
    Ok(lessons)
}

async fn read(stores: &Stores, source: &Source) -> anyhow::Result<Bytes> {
    match source {
        Source::Bytes(bytes) => Ok(bytes.clone()),
        Source::Item(uri) => Ok(stores.read_item(uri, MOST_PICTURE_BYTES).await?.bytes),
    }
}

fn prompt_of(prompts: &PromptTemplates, example: &Example) -> anyhow::Result<String> {
    match &example.question {
        Some(question) => Ok(prompts.ask(question)?),
        None => Ok(prompts.caption.clone()),
    }
}

/// The same pictures in every life of a training: those of the `readable` with the smallest hashes.
fn held_out_pictures(pictures: &[Source], mut readable: Vec<usize>, share: f32, seed: u64) -> HashSet<usize> {
    let count = (readable.len() as f32 * share).round() as usize;
    readable.sort_by_cached_key(|at| Sha256::digest(format!("{seed} {}", pictures[*at].name())));
    readable.into_iter().take(count).collect()
}
