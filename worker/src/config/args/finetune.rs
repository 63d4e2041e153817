//! `finetune`.

use std::path::PathBuf;

use captionfleet_model::adapter::TARGETS;
use clap::Args;
use clap::builder::PossibleValuesParser;

use super::common::StorageArgs;
use super::values::{at_least_one, part, positive, share};
use crate::app::DeviceChoice;

/// What may learn between the vision tower and the language model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum SightPart {
    /// `llama_proj` and `llama_proj2`.
    Projections,
    /// The linear layers of the Q-Former.
    Qformer,
}

/// `worker finetune`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  worker finetune --bundle ./tinygpt-v.q8 --data captions.parquet --out ./boats
  worker finetune --bundle ./tinygpt-v.q8 --data captions.parquet --out ./boats --plan
  worker finetune --bundle ./tinygpt-v.q8 --data captions.parquet --out ./boats --resume
  worker finetune --bundle ./tinygpt-v.q8 --data captions.parquet --out ./boats --sight projections,qformer

The table has a `caption` and an `item` (a path or URI) or a `picture` (the file's bytes), and may have a `question`; parts
of an archive are such tables. OUT gets an adapter as peft writes it, and in OUT/training the log, the loss as a picture and
the state to go on from.")]
#[allow(clippy::struct_excessive_bools, reason = "each is a switch of the command line")]
pub struct FinetuneArgs {
    /// The model: a bundle (folder, .tar file or s3://…) or tinygpt-v; without it the built-in demo model
    #[arg(long, value_name = "BUNDLE", env = "CAPTIONFLEET_MODEL")]
    pub bundle: Option<String>,

    /// Parquet tables of captioned pictures, local or s3://…; may be given several times
    #[arg(long, value_name = "FILE", required = true)]
    pub data: Vec<String>,

    /// The adapter's folder
    #[arg(long, value_name = "FOLDER")]
    pub out: PathBuf,

    /// Go on where an earlier training into this folder stopped
    #[arg(long)]
    pub resume: bool,

    /// Only say what it would take: memory, and time at this machine's speed
    #[arg(long)]
    pub plan: bool,

    /// Width of the changes
    #[arg(long, value_name = "R", default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub rank: u16,

    /// The changes count ALPHA / R; twice R otherwise
    #[arg(long, value_name = "ALPHA", value_parser = positive)]
    pub alpha: Option<f64>,

    /// Layers that change: query_key_value, or q_proj, k_proj and v_proj as parts of it; dense, fc1, fc2
    #[arg(long, value_name = "LAYER,…", value_delimiter = ',', default_value = "query_key_value,dense",
          value_parser = PossibleValuesParser::new(TARGETS), hide_possible_values = true)]
    pub targets: Vec<String>,

    /// What learns between the vision tower and the language model, too: projections (as a whole, as in the paper's stages) and
    /// qformer (by changes). Needed where pictures show what the model cannot tell apart; the adapter becomes larger
    #[arg(long, value_name = "PART,…", value_delimiter = ',')]
    pub sight: Vec<SightPart>,

    /// Size of their largest step; an eighth of --rate otherwise
    #[arg(long, value_name = "RATE", value_parser = positive, requires = "sight")]
    pub sight_rate: Option<f64>,

    /// Leave the norms as they are
    #[arg(long)]
    pub no_norms: bool,

    /// Times that every example is seen
    #[arg(long, value_name = "N", default_value_t = 3.0, value_parser = positive)]
    pub epochs: f64,

    /// Size of the largest step
    #[arg(long, value_name = "RATE", default_value_t = 5e-4, value_parser = positive)]
    pub rate: f64,

    /// Share of all steps in which it rises to that; then it falls as half a cosine
    #[arg(long, value_name = "SHARE", default_value_t = 0.05, value_parser = share)]
    pub warm_up: f32,

    /// Share of the changes' weights that is taken away each step, times the step's size
    #[arg(long, value_name = "SHARE", default_value_t = 0.01, value_parser = share)]
    pub weight_decay: f32,

    /// Longest gradient
    #[arg(long, value_name = "LENGTH", default_value_t = 1.0, value_parser = positive)]
    pub clip: f64,

    /// Examples of a step
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = at_least_one())]
    pub batch: usize,

    /// Examples at a time; their gradients are added up to those of a step. Fewer take less memory
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = at_least_one())]
    pub micro_batch: usize,

    /// Share of the pictures that are never trained on: by them it is judged when to stop
    #[arg(long, value_name = "SHARE", default_value_t = 0.1, value_parser = part)]
    pub held_out: f32,

    /// Steps between two looks at the held-out pictures, and between two saved states
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = at_least_one())]
    pub look_every: usize,

    /// Looks without anything better after which it stops
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = at_least_one())]
    pub patience: usize,

    /// Another seed begins with other numbers and takes the examples in another order
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,

    /// auto, cpu, cuda or cuda:N
    #[arg(long, default_value = "auto", env = "CAPTIONFLEET_DEVICE")]
    pub device: DeviceChoice,

    /// Threads for arithmetic; all cores otherwise
    #[arg(long, value_name = "N", env = "CAPTIONFLEET_THREADS", value_parser = at_least_one())]
    pub threads: Option<usize>,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub storage: StorageArgs,

    /// Print one JSON document at the end instead of progress
    #[arg(long)]
    pub json: bool,
}
