//! `scenes` and `evaluate`: the demo model's small world.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::common::ModelArgs;
use super::values::share;

/// Format of made pictures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum FileFormatArg {
    /// PNG only
    Png,
    /// JPEG only
    Jpeg,
    /// Both
    Mixed,
}

/// Which arrangements of objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum SplitArg {
    /// Those the demo model was trained on
    Train,
    /// Those it has never seen
    HeldOut,
}

/// `worker scenes`.
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  worker scenes --count 500 --seed 7 --out ./pictures

Writes the pictures, and a list of what is in them (captions, questions with answers, a search text) beside the
folder: ./pictures.jsonl.")]
pub struct ScenesArgs {
    /// How many pictures
    #[arg(long, value_name = "N", default_value_t = 40)]
    pub count: usize,

    /// Another seed makes other pictures
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,

    /// Which arrangements
    #[arg(long, value_enum, default_value = "held-out")]
    pub split: SplitArg,

    /// Format of the files
    #[arg(long, value_enum, default_value = "mixed")]
    pub format: FileFormatArg,

    /// Share of scenes with a colour or shape that the demo model has never seen, 0 to 1
    #[arg(long, value_name = "SHARE", default_value_t = 0.0, value_parser = share)]
    pub new_share: f32,

    /// Also write captions, and questions with answers, as a table that `worker finetune` takes
    #[arg(long, value_name = "FILE")]
    pub captions: Option<PathBuf>,

    /// How many questions of each scene that table has at most
    #[arg(long, value_name = "N", default_value_t = 2)]
    pub questions: usize,

    /// The folder to fill
    #[arg(long, value_name = "FOLDER")]
    pub out: PathBuf,
}

/// `worker evaluate`.
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  worker evaluate --seed 3

Draws held-out scenes, captions them, asks questions about them and searches them, and prints the shares that are
right: a caption counts if it states every object's shape, colour and relation or count correctly, a search if the
right picture among all is first.")]
pub struct EvaluateArgs {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub model: ModelArgs,

    /// How many scenes, each with a search text of its own
    #[arg(long, value_name = "N", default_value_t = 200)]
    pub count: usize,

    /// Another seed draws other scenes
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,

    /// Share of scenes with a colour or shape that the demo model has never seen, 0 to 1
    #[arg(long, value_name = "SHARE", default_value_t = 0.0, value_parser = share)]
    pub new_share: f32,

    /// An adapter to measure with: a folder as peft and `worker finetune` write it, or a .pth file
    #[arg(long, value_name = "PATH")]
    pub adapter: Option<PathBuf>,

    /// Also let the model judge the best N of each search again, and tell what that gains and costs
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(2..=200))]
    pub rerank: Option<u16>,

    /// Print one JSON document instead of text
    #[arg(long)]
    pub json: bool,
}
