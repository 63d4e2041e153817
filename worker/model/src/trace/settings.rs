//! What the golden folder's settings files ask for.
use std::{collections::BTreeMap, path::Path};

use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;

use super::{TraceError, read};
use crate::CaptionTokenizer;

/// New tokens of a run whose settings do not say.
const EVALUATION_TOKENS: usize = 20;
/// New tokens of a demo turn whose settings do not say.
const DEMO_TOKENS: usize = 24;
/// New tokens of a beam search whose settings do not say.
const BEAM_TOKENS: usize = 12;
/// End of text of the reference's configuration class, which its evaluation leaves in place.
const DEFAULT_END: u32 = 2;
/// The text of the run without a picture; the settings do not repeat it.
const TEXT_ONLY: &str = "the red dog is near a blue tree";

/// `golden_meta.json`.
#[derive(Deserialize)]
pub(super) struct Settings {
    #[serde(default)]
    images: Vec<String>,
    #[serde(default)]
    special: Special,
    #[serde(flatten)]
    runs: BTreeMap<String, Value>,
}

#[derive(Default, Deserialize)]
struct Special {
    bos: Option<u32>,
}

/// `golden_itc_meta.json`.
#[derive(Deserialize)]
pub(super) struct RetrievalSettings {
    /// Texts in order.
    pub(super) texts: Vec<String>,
}

/// One caption stage's runs.
pub(super) struct CaptionSettings {
    /// Stands in front of generated ids and of scored prompts.
    pub(super) begin: u32,
    /// Ends a row where a run does not say otherwise.
    pub(super) end: u32,
    /// Prompt `i` goes with picture `i`.
    pub(super) single: Vec<String>,
    /// New tokens of the evaluation runs.
    pub(super) max_new_tokens: usize,
    /// Prompt `i` goes with picture `i`; none if there is no such run.
    pub(super) batch: Vec<String>,
    /// The id that ends and pads the second batch run.
    pub(super) batch_end: Option<BatchEnd>,
    /// A run that does not like to repeat itself.
    pub(super) repetition: Option<Repetition>,
    /// Turns of a conversation about picture 0.
    pub(super) demo: Vec<Demo>,
    /// Beam searches by name.
    pub(super) beams: Vec<(String, Beams)>,
    /// Answers to be scored for picture 0.
    pub(super) score: Option<Score>,
    /// The run without a picture.
    pub(super) text_only: String,
}

#[derive(Deserialize)]
struct Run {
    #[serde(default)]
    single: Vec<Single>,
    batch: Option<Batch>,
    batch_eos: Option<BatchEnd>,
    rep_penalty: Option<Repetition>,
    #[serde(default)]
    demo: Vec<Demo>,
    score: Option<Score>,
    text_only: Option<TextOnly>,
    max_new_tokens: Option<usize>,
    #[serde(flatten)]
    others: BTreeMap<String, Value>,
}

#[derive(Deserialize)]
struct Single {
    prompt: String,
}

#[derive(Deserialize)]
struct Batch {
    prompts: Vec<String>,
}

#[derive(Deserialize)]
struct TextOnly {
    text: String,
}

#[derive(Deserialize)]
pub(super) struct BatchEnd {
    #[serde(rename = "eos_token_id")]
    pub(super) end: u32,
    #[serde(rename = "pad_token_id_used")]
    pub(super) pad: Option<u32>,
}

#[derive(Deserialize)]
pub(super) struct Repetition {
    pub(super) prompt: String,
    #[serde(rename = "repetition_penalty")]
    pub(super) penalty: f32,
}

#[derive(Deserialize)]
pub(super) struct Demo {
    pub(super) prompt: String,
    #[serde(rename = "repetition_penalty")]
    pub(super) penalty: f32,
    /// The stop sequence's id if not given.
    #[serde(rename = "eos_token_id_for_###")]
    pub(super) end: Option<u32>,
    #[serde(default = "demo_tokens")]
    pub(super) max_new_tokens: usize,
}

#[derive(Deserialize)]
pub(super) struct Beams {
    pub(super) prompts: Vec<String>,
    #[serde(rename = "num_beams")]
    pub(super) width: usize,
    #[serde(default = "beam_tokens")]
    pub(super) max_new_tokens: usize,
    #[serde(default = "one")]
    pub(super) length_penalty: f32,
}

#[derive(Deserialize)]
pub(super) struct Score {
    pub(super) instruction: String,
    pub(super) candidates: Vec<String>,
    pub(super) end_sym: String,
}

fn demo_tokens() -> usize {
    DEMO_TOKENS
}

fn beam_tokens() -> usize {
    BEAM_TOKENS
}

fn one() -> f32 {
    1.0
}

impl Settings {
    pub(super) fn read(golden_dir: &Path) -> Result<Self, TraceError> {
        read_json(&golden_dir.join("golden_meta.json"))
    }

    /// Picture files in order: as listed, or else all of the folder by name.
    pub(super) fn images(&self, golden_dir: &Path) -> Result<Vec<String>, TraceError> {
        if !self.images.is_empty() {
            return Ok(self.images.clone());
        }
        let folder = golden_dir.join("images");
        let failed = |source| TraceError::File { path: folder.clone(), source };
        let mut names = std::fs::read_dir(&folder)
            .map_err(failed)?
            .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
            .collect::<Result<Vec<_>, _>>()
            .map_err(failed)?;
        names.sort();
        Ok(names)
    }
}

impl RetrievalSettings {
    pub(super) fn read(golden_dir: &Path) -> Result<Self, TraceError> {
        read_json(&golden_dir.join("golden_itc_meta.json"))
    }
}

impl CaptionSettings {
    /// The runs of one stage.
    pub(super) fn choose(
        settings: &Settings,
        stage: &str,
        golden_dir: &Path,
        tokenizer: &CaptionTokenizer,
    ) -> Result<Self, TraceError> {
        let path = golden_dir.join("golden_meta.json");
        let run = settings
            .runs
            .get(stage)
            .ok_or_else(|| TraceError::Inconsistent(format!("{} has no run {stage}", path.display())))?;
        let of_kind = |source| TraceError::Settings { path: path.clone(), source };
        let run = Run::deserialize(run).map_err(of_kind)?;
        let beams = run
            .others
            .into_iter()
            .filter(|(name, _)| name.starts_with("beam"))
            .map(|(name, value)| Ok((name, serde_json::from_value(value).map_err(of_kind)?)))
            .collect::<Result<_, TraceError>>()?;
        Ok(Self {
            begin: settings.special.bos.unwrap_or_else(|| tokenizer.end_of_text()),
            end: default_end(golden_dir),
            single: run.single.into_iter().map(|single| single.prompt).collect(),
            max_new_tokens: run.max_new_tokens.unwrap_or(EVALUATION_TOKENS),
            batch: run.batch.map_or_else(Vec::new, |batch| batch.prompts),
            batch_end: run.batch_eos,
            repetition: run.rep_penalty,
            demo: run.demo,
            beams,
            score: run.score,
            text_only: run.text_only.map_or_else(|| TEXT_ONLY.to_owned(), |run| run.text),
        })
    }
}

/// The language model's own end of text, which ends a run that names none.
fn default_end(golden_dir: &Path) -> u32 {
    let folder = golden_dir.join("checkpoint").join("phi-2");
    ["generation_config.json", "config.json"]
        .iter()
        .filter_map(|name| read_json::<Value>(&folder.join(name)).ok())
        .find_map(|config| {
            let end = &config["eos_token_id"];
            // newer configurations may list several, the text's own end first
            end.as_u64().or_else(|| end[0].as_u64())
        })
        .map_or(DEFAULT_END, |id| id as u32)
}

fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T, TraceError> {
    serde_json::from_slice(&read(path)?)
        .map_err(|source| TraceError::Settings { path: path.to_owned(), source })
}
