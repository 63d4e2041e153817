//! The command line, as typed.

use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;
use captionfleet_model::pack::WeightFormat;
use captionfleet_model::trace::Stage;
use clap::builder::TypedValueParser;
use clap::{Args, Parser, Subcommand, ValueEnum};
use jiff::SignedDuration;
use url::Url;

use crate::app::{DeviceChoice, EngineSettings};
use crate::spot::{METADATA_URL, SpotNotice};
use crate::telemetry::LogFormat;
use crate::telemetry::admin::AdminAddr;

/// Captions and embeds pictures for a fleet: one TinyGPT-V on one device.
#[derive(Debug, Parser)]
#[command(name = "worker", version, max_term_width = 110, after_help = EXAMPLES)]
pub struct Cli {
    /// How log lines look: auto (text on a terminal, else JSON), text or json; CAPTIONFLEET_LOG filters them
    #[arg(long, global = true, default_value = "auto", env = "CAPTIONFLEET_LOG_FORMAT")]
    pub log_format: LogFormat,

    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

const EXAMPLES: &str = "\
Examples:
  worker run --broker amqp://user:password@queue.internal --model s3://models/tinygpt-v.tar
  worker pack --checkpoint ./tinygpt-v-files --stage-number 3 --weights q8_0 --out ./tinygpt-v.q8
  worker doctor --broker amqp://queue.internal --model ./tinygpt-v.q8

Exit codes: 0 all is well, 1 the job could not be done, 12 the model does not fit the device's memory, 64 the command
line is wrong.";

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Take jobs from a broker until told to stop
    Run(Box<RunArgs>),
    /// Turn published checkpoints into one bundle
    Pack(Box<PackArgs>),
    /// Make a bundle of any weight type with random weights, for measurements and tests
    RandomBundle(RandomBundleArgs),
    /// Run a folder of reference fixtures through the model and write every tensor
    Trace(TraceArgs),
    /// Make pictures of the demo model's small world
    Scenes(ScenesArgs),
    /// Measure the demo model on newly made pictures
    Evaluate(EvaluateArgs),
    /// Measure a model on this machine
    Bench(BenchArgs),
    /// Teach a model new words: train a LoRA adapter on captioned pictures
    Finetune(Box<FinetuneArgs>),
    /// Check broker, archive, model and programs, one line each, with the remedy
    Doctor(DoctorArgs),
}

impl Command {
    /// How many threads the arithmetic shall take, where that can be chosen.
    pub fn threads(&self) -> Option<usize> {
        match self {
            Self::Run(args) => args.model.threads,
            Self::Evaluate(args) => args.model.threads,
            Self::Bench(args) => args.model.threads,
            Self::Finetune(args) => args.threads,
            Self::Pack(_) | Self::RandomBundle(_) | Self::Trace(_) | Self::Scenes(_) | Self::Doctor(_) => {
                None
            }
        }
    }
}

/// Where S3 is.
#[derive(Debug, Clone, Default, Args)]
pub struct StorageArgs {
    /// Endpoint of an S3 server other than AWS (MinIO, Garage, …); buckets are then addressed by path
    #[arg(long, value_name = "URL", env = "CAPTIONFLEET_S3_ENDPOINT")]
    pub s3_endpoint: Option<String>,
}

/// Where the queue is.
#[derive(Debug, Clone, Default, Args)]
pub struct BrokerArgs {
    /// RabbitMQ, as amqp://user:password@host:port/vhost, several separated by commas. Passwords are better kept in
    /// the environment variable or in a file
    #[arg(long, value_name = "URI", env = "CAPTIONFLEET_BROKER", hide_env_values = true)]
    pub broker: Option<String>,

    /// A file that holds the broker's URI, such as a mounted secret; goes before --broker
    #[arg(long, value_name = "FILE", env = "CAPTIONFLEET_BROKER_FILE")]
    pub broker_file: Option<PathBuf>,

    /// First part of all queue names, so that several fleets can share a broker
    #[arg(long, value_name = "NAME", default_value = "captionfleet", env = "CAPTIONFLEET_QUEUE_PREFIX")]
    pub queue_prefix: String,
}

/// The model, and where it runs.
#[derive(Debug, Clone, Default, Args)]
pub struct ModelArgs {
    /// A bundle (folder, .tar file or s3://…) or tinygpt-v; without it the built-in demo model serves
    #[arg(long, value_name = "BUNDLE", env = "CAPTIONFLEET_MODEL")]
    pub model: Option<String>,

    /// auto, cpu, cuda or cuda:N
    #[arg(long, default_value = "auto", env = "CAPTIONFLEET_DEVICE")]
    pub device: DeviceChoice,

    /// Pictures captioned at the same time; more use the device better and take memory
    #[arg(long, value_name = "N", env = "CAPTIONFLEET_SLOTS", value_parser = at_least_one())]
    pub slots: Option<usize>,

    /// Tokens of one slot: picture, prompt and caption; 320 otherwise. Fewer make room for more slots
    #[arg(long, value_name = "N", env = "CAPTIONFLEET_SLOT_TOKENS", value_parser = at_least_one())]
    pub slot_tokens: Option<usize>,

    /// The most memory to use on the device, such as 8GiB: slots and batches are fitted into it. What is free otherwise
    #[arg(long, value_name = "SIZE", env = "CAPTIONFLEET_MEMORY_BUDGET", value_parser = size)]
    pub memory_budget: Option<ByteSize>,

    /// Threads for arithmetic and picture decoding; all cores otherwise
    #[arg(long, value_name = "N", env = "CAPTIONFLEET_THREADS", value_parser = at_least_one())]
    pub threads: Option<usize>,
}

/// A number that cannot be zero.
fn at_least_one() -> impl TypedValueParser<Value = usize> {
    clap::value_parser!(u32).range(1..).map(|number| number as usize)
}

/// A time such as 90s or 1h30m.
fn duration(text: &str) -> Result<Duration, String> {
    let parsed = text.parse::<SignedDuration>().ok().and_then(|duration| duration.try_into().ok());
    parsed
        .filter(|duration: &Duration| !duration.is_zero())
        .ok_or_else(|| "not a time; write 90s, 30m or 1h30m, for example".to_owned())
}

/// A number from 0 to 1.
fn share(text: &str) -> Result<f32, String> {
    let share: f32 = text.parse().map_err(|_| "not a number".to_owned())?;
    (0.0..=1.0).contains(&share).then_some(share).ok_or_else(|| "must be 0 to 1".to_owned())
}

/// A number above 0.
fn positive(text: &str) -> Result<f64, String> {
    let number: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    (number > 0.0 && number <= 1e6)
        .then_some(number)
        .ok_or_else(|| "must be above 0, up to 1000000".to_owned())
}

/// A sum of money.
fn price(text: &str) -> Result<f64, String> {
    let price: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    (0.0..=1e6).contains(&price).then_some(price).ok_or_else(|| "must be 0 to 1000000".to_owned())
}

/// A number of bytes.
fn size(text: &str) -> Result<ByteSize, String> {
    text.parse().map_err(|_| "not a size; write 8GiB, 6.5GiB or 900MiB, for example".to_owned())
}

impl ModelArgs {
    /// What is said about the engine.
    pub fn engine(&self) -> EngineSettings {
        EngineSettings {
            device: self.device,
            slots: self.slots,
            slot_tokens: self.slot_tokens,
            memory_budget: self.memory_budget.map(|size| size.as_u64()),
        }
    }
}

/// `worker run`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  CAPTIONFLEET_BROKER=amqps://user:password@queue.internal/captions worker run --model s3://models/tinygpt-v.tar
  worker run --broker amqp://guest:guest@127.0.0.1 --s3-endpoint http://127.0.0.1:9000

S3 credentials come from the usual AWS_* variables or profiles. SIGTERM drains: running pictures are finished within
--grace, the rest goes back to the queue; a second signal ends the worker at once.")]
pub struct RunArgs {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub broker: BrokerArgs,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub model: ModelArgs,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub storage: StorageArgs,

    /// Bulk jobs taken ahead: enough that fetching never starves the device, few enough that others get some
    #[arg(long, value_name = "N", default_value_t = 2, env = "CAPTIONFLEET_PREFETCH",
          value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub prefetch: u16,

    /// Longest caption in tokens where the job does not say
    #[arg(long, value_name = "N", default_value_t = 64, env = "CAPTIONFLEET_MAX_TOKENS",
          value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub max_tokens: u32,

    /// Seconds one picture may take in all before it fails with `deadline`
    #[arg(long, value_name = "SECONDS", default_value_t = 120, env = "CAPTIONFLEET_ITEM_DEADLINE",
          value_parser = clap::value_parser!(u64).range(1..=1200))]
    pub item_deadline: u64,

    /// Largest picture file in MiB
    #[arg(long, value_name = "MIB", default_value_t = 64, env = "CAPTIONFLEET_MAX_ITEM_MIB",
          value_parser = clap::value_parser!(u64).range(1..=4096))]
    pub max_item_mib: u64,

    /// An existing folder for copies of the videos that are being decoded; the temporary folder otherwise
    #[arg(long, value_name = "FOLDER", env = "CAPTIONFLEET_SPOOL_DIR")]
    pub spool_dir: Option<PathBuf>,

    /// Most GiB of such copies; a larger video fails
    #[arg(long, value_name = "GIB", default_value_t = 20, env = "CAPTIONFLEET_SPOOL_GIB",
          value_parser = clap::value_parser!(u64).range(1..=100_000))]
    pub spool_gib: u64,

    /// Most memory of one video decoder, such as 4GiB
    #[arg(long, value_name = "SIZE", default_value = "4GiB", env = "CAPTIONFLEET_VIDEO_MEMORY", value_parser = size)]
    pub video_memory: ByteSize,

    /// Most memory of adapters that no job uses at the moment, such as 1GiB
    #[arg(long, value_name = "SIZE", default_value = "1GiB", env = "CAPTIONFLEET_ADAPTER_MEMORY", value_parser = size)]
    pub adapter_memory: ByteSize,

    /// Seconds to finish running pictures after SIGTERM
    #[arg(long, value_name = "SECONDS", default_value_t = 25, env = "CAPTIONFLEET_GRACE")]
    pub grace: u64,

    /// Whose spot notices drain this worker: aws, gcp, azure, off, or auto for the cloud that answers at the start
    #[arg(long, value_name = "CLOUD", default_value = "auto", env = "CAPTIONFLEET_SPOT_NOTICE")]
    pub spot_notice: SpotNotice,

    /// Where the cloud's metadata service is
    #[arg(long, value_name = "URL", default_value = METADATA_URL, env = "CAPTIONFLEET_METADATA_URL")]
    pub metadata_url: Url,

    /// What an hour of this machine costs, in any currency: /metrics then tell what was spent
    #[arg(long, value_name = "PRICE", env = "CAPTIONFLEET_PRICE_PER_HOUR", value_parser = price)]
    pub price_per_hour: Option<f64>,

    /// A folder whose pictures file:// items may name; none otherwise. May be given several times
    #[arg(long, value_name = "FOLDER", env = "CAPTIONFLEET_LOCAL_ROOT", value_delimiter = ':')]
    pub local_root: Vec<PathBuf>,

    /// Address for /metrics, /healthz and /readyz, or off; 127.0.0.1:9464 (a free port if taken) otherwise
    #[arg(long, value_name = "HOST:PORT", default_value = "default", env = "CAPTIONFLEET_ADMIN_ADDR")]
    pub admin_addr: AdminAddr,
}

/// `worker pack`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  worker pack --checkpoint ./tinygpt-v-files --stage-number 3 --out ./tinygpt-v.q8
  worker pack --vit eva_vit_g.pth --qformer blip2_pretrained_flant5xxl.pth --phi phi-2/ \\
      --stage TinyGPT-V_for_Stage4.pth --stage-number 4 --itc blip2-itm-vit-g/ --weights q4_0 --out tinygpt-v4.tar

Every tensor is accounted for: a missing or misshaped one is refused by name, an unknown one is reported.")]
pub struct PackArgs {
    /// A folder with all files under their published names (and config.json, for other dimensions)
    #[arg(long, value_name = "FOLDER", conflicts_with_all = ["vit", "qformer", "phi", "stage", "itc"])]
    pub checkpoint: Option<PathBuf>,

    /// eva_vit_g.pth
    #[arg(long, value_name = "FILE", required_unless_present = "checkpoint")]
    pub vit: Option<PathBuf>,

    /// blip2_pretrained_flant5xxl.pth
    #[arg(long, value_name = "FILE", required_unless_present = "checkpoint")]
    pub qformer: Option<PathBuf>,

    /// The phi-2 folder, in any of its three layouts
    #[arg(long, value_name = "FOLDER", required_unless_present = "checkpoint")]
    pub phi: Option<PathBuf>,

    /// TinyGPT-V_for_StageN.pth
    #[arg(long, value_name = "FILE", required_unless_present = "checkpoint")]
    pub stage: Option<PathBuf>,

    /// N
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=4))]
    pub stage_number: u8,

    /// The blip2-itm-vit-g folder; without it the bundle makes no embeddings
    #[arg(long, value_name = "FOLDER")]
    pub itc: Option<PathBuf>,

    /// Dimensions, if they are not the published ones
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Type of the language model's matrices: f32, f16, bf16, q8_0, q4_0 or q4_k
    #[arg(long, value_name = "TYPE", default_value = "q8_0")]
    pub weights: WeightFormat,

    /// Type of the vision tower's matrices
    #[arg(long, value_name = "TYPE", default_value = "f16")]
    pub vision_weights: WeightFormat,

    /// The prompt that asks for a caption, with the placeholder of the picture in it once
    #[arg(
        long,
        value_name = "TEMPLATE",
        requires = "ask_prompt",
        help = "The prompt that asks for a caption, with <ImageHere> once; the stage's own otherwise"
    )]
    pub caption_prompt: Option<String>,

    /// The prompt that asks a question, with the placeholders of picture and question in it once
    #[arg(
        long,
        value_name = "TEMPLATE",
        requires = "caption_prompt",
        help = "The prompt that asks a question, with <ImageHere> and {question} once"
    )]
    pub ask_prompt: Option<String>,

    /// What people call the bundle
    #[arg(long, value_name = "NAME", default_value = "tinygpt-v")]
    pub name: String,

    /// Licence of the weights, for the manifest
    #[arg(long, value_name = "TEXT", default_value = "see the publishers of the weights")]
    pub licence: String,

    /// What the bundle is for, for the manifest
    #[arg(
        long,
        value_name = "TEXT",
        default_value = "descriptions and search of pictures, reviewed by people"
    )]
    pub intended_use: String,

    /// A picture for the self-test; a drawn one otherwise
    #[arg(long, value_name = "FILE")]
    pub golden_picture: Option<PathBuf>,

    /// The bundle's folder, or its file if the name ends in .tar; must not exist
    #[arg(long, value_name = "PATH")]
    pub out: PathBuf,

    /// Print one JSON document instead of text
    #[arg(long)]
    pub json: bool,
}

/// `worker random-bundle`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  worker random-bundle --out ./full.q8                                 3.9 billion parameters, Q8_0 and f16
  worker random-bundle --stage-number 4 --weights q4_0 --vision-weights q8_0 --out ./full-448.q4

The published model's dimensions with drawn weights: as fast and as large as the real one, and it needs no download.
What it says means nothing.")]
pub struct RandomBundleArgs {
    /// The stage whose picture size and prompts it gets: 224 px for 1 to 3, 448 px for 4
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=4))]
    pub stage_number: u8,

    /// Type of the language model's matrices: f32, f16, bf16, q8_0, q4_0 or q4_k
    #[arg(long, value_name = "TYPE", default_value = "q8_0")]
    pub weights: WeightFormat,

    /// Type of the vision tower's matrices
    #[arg(long, value_name = "TYPE", default_value = "f16")]
    pub vision_weights: WeightFormat,

    /// Without the retrieval heads, so that it makes no embeddings
    #[arg(long)]
    pub no_embed: bool,

    /// The demo model's dimensions instead of the published ones
    #[arg(long)]
    pub small: bool,

    /// Another seed draws other weights
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,

    /// The bundle's folder, or its file if the name ends in .tar; must not exist
    #[arg(long, value_name = "PATH")]
    pub out: PathBuf,

    /// Print one JSON document instead of text
    #[arg(long)]
    pub json: bool,
}

/// `worker trace`.
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  worker trace ./golden --stage s3 --out s3.safetensors
  worker trace ./golden --stage s3 --device cuda --out s3.safetensors --expect ./golden/golden.safetensors

The folder holds config.json, checkpoint/, tokenizer/, images/ and the goldens' settings (golden_meta.json,
golden_itc_meta.json); files of expected tensors are never read.")]
pub struct TraceArgs {
    /// The folder of fixtures
    #[arg(value_name = "GOLDEN_DIR")]
    pub golden_dir: PathBuf,

    /// s1, s3, s4 or itc
    #[arg(long)]
    pub stage: Stage,

    /// auto, cpu, cuda or cuda:N
    #[arg(long, default_value = "cpu")]
    pub device: DeviceChoice,

    /// The file to write
    #[arg(long, value_name = "FILE.safetensors")]
    pub out: PathBuf,

    /// Expected tensors to compare with afterwards (those of this stage, by name)
    #[arg(long, value_name = "FILE.safetensors")]
    pub expect: Option<PathBuf>,
}

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

    /// Print one JSON document instead of text
    #[arg(long)]
    pub json: bool,
}

/// `worker bench`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  worker bench
  worker bench --model ./full.q8 --memory-budget 8GiB --batches 1,8 --slots-list 1,16
  worker bench --model ./full.q8 --memory-budget 8GiB --soak 30m

Prints load time, memory by part, seconds of each step by batch size with its share of what the device can do at best
(a large product and a large copy, measured in the same run), and pictures per second by number of slots. Pictures
come from memory, without queue or storage.")]
pub struct BenchArgs {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub model: ModelArgs,

    /// A folder of pictures to take instead of drawn ones
    #[arg(long, value_name = "FOLDER")]
    pub pictures: Option<PathBuf>,

    /// How many pictures per number of slots; 256, or 32 for a large model. A folder with fewer is gone through again
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub count: Option<u32>,

    /// Batch sizes at which each step is measured
    #[arg(long, value_name = "N,…", value_delimiter = ',', default_value = "1,4,8,16",
          value_parser = clap::value_parser!(u16).range(1..=512))]
    pub batches: Vec<u16>,

    /// Numbers of slots at which whole pictures are measured
    #[arg(long, value_name = "N,…", value_delimiter = ',', default_value = "1,4,8,16",
          value_parser = clap::value_parser!(u16).range(1..=512))]
    pub slots_list: Vec<u16>,

    /// Longest answer in tokens
    #[arg(long, value_name = "N", default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub max_tokens: u32,

    /// Measure decode steps also with adapters of this rank and random numbers: one for all rows, and four and none in turn
    #[arg(long, value_name = "R", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub adapter_rank: Option<u16>,

    /// Measure whole pictures only, no single steps
    #[arg(long)]
    pub items_only: bool,

    /// Instead, send requests of random lengths in random company for so long (30m, say), and watch memory
    #[arg(long, value_name = "TIME", value_parser = duration, conflicts_with_all = ["items_only", "batches"])]
    pub soak: Option<Duration>,

    /// Instead, caption pictures alone and in random company, and count how many captions are the same
    #[arg(long, conflicts_with_all = ["items_only", "batches", "soak"])]
    pub invariance: bool,

    /// Print one JSON document instead of text
    #[arg(long)]
    pub json: bool,
}

/// `worker finetune`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  worker finetune --bundle ./tinygpt-v.q8 --data captions.parquet --out ./boats
  worker finetune --bundle ./tinygpt-v.q8 --data captions.parquet --out ./boats --plan
  worker finetune --bundle ./tinygpt-v.q8 --data captions.parquet --out ./boats --resume

The table has a `caption` and an `item` (a path or URI) or a `picture` (the file's bytes), and may have a `question`; parts
of an archive are such tables. OUT gets an adapter as peft writes it, and in OUT/training the log, the loss as a picture and
the state to go on from.")]
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

    /// Layers that change: query_key_value or of it q_proj, k_proj, v_proj alone; dense, fc1, fc2
    #[arg(long, value_name = "LAYER,…", value_delimiter = ',', default_value = "query_key_value,dense")]
    pub targets: Vec<String>,

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
    #[arg(long, value_name = "SHARE", default_value_t = 0.1, value_parser = share)]
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

/// `worker doctor`.
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  worker doctor --broker amqp://queue.internal --archive s3://photos/captions --model ./tinygpt-v.q8

Checks what is given, one line each; exit code 0 only if all is well.")]
pub struct DoctorArgs {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub broker: BrokerArgs,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub model: ModelArgs,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub storage: StorageArgs,

    /// An archive to list, write, read and clean up
    #[arg(long, value_name = "URI", env = "CAPTIONFLEET_ARCHIVE")]
    pub archive: Option<String>,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::Cli;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }
}
