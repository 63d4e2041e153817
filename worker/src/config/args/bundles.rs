//! `pack`, `repack`, `random-bundle` and `trace`: bundles made and compared with the reference.

use std::path::PathBuf;

use captionfleet_model::pack::WeightFormat;
use captionfleet_model::trace::Stage;
use clap::Args;

use super::common::StorageArgs;
use crate::app::DeviceChoice;

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

/// `worker repack`.
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  worker repack --vision-weights q8_0 --out ./demo.q8      the demo model with its vision tower in 8 bits
  worker evaluate --model ./demo.q8 --seed 5

Digits that a bundle's type has lost do not come back: pack the published files for the best of a type.")]
pub struct RepackArgs {
    /// A bundle (folder, .tar file or s3://…); the built-in demo model otherwise
    #[arg(long, value_name = "BUNDLE", env = "CAPTIONFLEET_MODEL")]
    pub model: Option<String>,

    /// Type of the language model's matrices: f32, f16, bf16, q8_0, q4_0 or q4_k; the bundle's own otherwise
    #[arg(long, value_name = "TYPE")]
    pub weights: Option<WeightFormat>,

    /// Type of the vision tower's matrices; the bundle's own otherwise
    #[arg(long, value_name = "TYPE")]
    pub vision_weights: Option<WeightFormat>,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub storage: StorageArgs,

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
  worker trace ./golden --stage s3 --vision-weights q8_0 --out s3.safetensors --expect ./golden/golden.safetensors

Token ids must always be the expected ones; how far other numbers may be off depends on weight types and device.

The folder holds config.json, checkpoint/, tokenizer/, images/ and the goldens' settings (golden_meta.json,
golden_itc_meta.json); files of expected tensors are never read.")]
pub struct TraceArgs {
    /// The folder of fixtures
    #[arg(value_name = "GOLDEN_DIR")]
    pub golden_dir: PathBuf,

    /// s1, s3, s4 or itc
    #[arg(long)]
    pub stage: Stage,

    /// Type of the language model's matrices, rounded as `pack` does: f32, f16, bf16, q8_0, q4_0 or q4_k
    #[arg(long, value_name = "TYPE", default_value = "f32")]
    pub weights: WeightFormat,

    /// Type of the vision tower's matrices
    #[arg(long, value_name = "TYPE", default_value = "f32")]
    pub vision_weights: WeightFormat,

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
