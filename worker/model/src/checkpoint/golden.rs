//! A folder that holds a whole checkpoint under the published file names, as the goldens do.

use std::path::{Path, PathBuf};

use super::assembly::{Assembly, CheckpointFiles, tokenizer_in};
use super::{CheckpointError, source::label_of};

/// Which run of a checkpoint folder to load.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GoldenStage {
    /// one of the caption stages, 1 to 4
    Caption(u8),
    /// the retrieval heads, with whichever caption stage the folder has
    Retrieval,
}

impl std::str::FromStr for GoldenStage {
    type Err = String;

    /// `s1` … `s4` or `itc`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "s1" => Ok(Self::Caption(1)),
            "s2" => Ok(Self::Caption(2)),
            "s3" => Ok(Self::Caption(3)),
            "s4" => Ok(Self::Caption(4)),
            "itc" => Ok(Self::Retrieval),
            other => Err(format!("`{other}` is not a stage; one of s1, s2, s3, s4, itc is")),
        }
    }
}

/// A checkpoint folder: `config.json`, `checkpoint/` and `tokenizer/`, or all of it in one place.
#[derive(Debug, Clone)]
pub struct CheckpointFolder {
    root: PathBuf,
    weights: PathBuf,
}

impl CheckpointFolder {
    /// Look at the folder's layout.
    pub fn open(root: &Path) -> Result<Self, CheckpointError> {
        if !root.is_dir() {
            return Err(CheckpointError::MissingFiles(format!("{} is not a folder", root.display())));
        }
        let nested = root.join("checkpoint");
        let weights = if nested.is_dir() { nested } else { root.to_owned() };
        Ok(Self { root: root.to_owned(), weights })
    }

    /// The stages whose files are there, smallest number first.
    pub fn stages(&self) -> Vec<u8> {
        (1..=4).filter(|number| self.stage_file(*number).is_file()).collect()
    }

    /// The files of one stage, with the retrieval heads if they are there.
    pub fn files(&self, stage_number: u8) -> Result<CheckpointFiles, CheckpointError> {
        let stage = self.stage_file(stage_number);
        if !stage.is_file() {
            return Err(CheckpointError::MissingFiles(format!(
                "{} is missing; this folder has stages {:?}",
                label_of(&stage),
                self.stages()
            )));
        }
        let retrieval = self.weights.join("blip2-itm-vit-g");
        let config = self.root.join("config.json");
        Ok(CheckpointFiles {
            vision: self.weights.join("eva_vit_g.pth"),
            qformer: self.weights.join("blip2_pretrained_flant5xxl.pth"),
            language: self.weights.join("phi-2"),
            stage,
            stage_number,
            retrieval: retrieval.is_dir().then_some(retrieval),
            config: config.is_file().then_some(config),
        })
    }

    /// The caption model's `tokenizer.json`.
    pub fn tokenizer(&self) -> Result<PathBuf, CheckpointError> {
        tokenizer_in(&[&self.root.join("tokenizer"), &self.weights.join("phi-2")])
    }

    /// The text encoder's `tokenizer.json`.
    pub fn text_tokenizer(&self) -> Result<PathBuf, CheckpointError> {
        tokenizer_in(&[&self.weights.join("blip2-itm-vit-g")])
    }

    fn stage_file(&self, number: u8) -> PathBuf {
        self.weights.join(format!("TinyGPT-V_for_Stage{number}.pth"))
    }
}

/// Open a folder laid out like the goldens for one of its runs.
pub fn golden_dir(root: &Path, stage: GoldenStage) -> Result<Assembly, CheckpointError> {
    let folder = CheckpointFolder::open(root)?;
    let number = match stage {
        GoldenStage::Caption(number) => number,
        // every stage serves: the heads read nothing of it but the vision tower
        GoldenStage::Retrieval => folder.stages().first().copied().unwrap_or(3),
    };
    let files = folder.files(number)?;
    if stage == GoldenStage::Retrieval && files.retrieval.is_none() {
        return Err(CheckpointError::MissingFiles(format!(
            "{} has no blip2-itm-vit-g folder with the retrieval heads",
            root.display()
        )));
    }
    Assembly::open(&files)
}
