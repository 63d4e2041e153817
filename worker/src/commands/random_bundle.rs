//! `worker random-bundle`.

use std::process::ExitCode;

use captionfleet_model::pack::{RandomRequest, pack_random};
use captionfleet_model::{ModelConfig, RetrievalConfig};

use super::pack::tell;
use crate::config::RandomBundleArgs;
use crate::demo_model;

/// Side of the pictures that stage 4 sees; the earlier ones see 224 pixels.
const LARGE_PICTURE: usize = 448;

pub(super) async fn run(args: RandomBundleArgs) -> anyhow::Result<ExitCode> {
    let config = dimensions(&args)?;
    let (tokenizer, text_tokenizer) = demo_model::tokenizers();
    let request = RandomRequest {
        text_tokenizer: config.retrieval.is_some().then(|| text_tokenizer.to_vec()),
        tokenizer: tokenizer.to_vec(),
        config,
        stage: args.stage_number,
        weights: args.weights,
        vision_weights: args.vision_weights,
        seed: args.seed,
        out: args.out,
    };
    let report = tokio::task::spawn_blocking(move || pack_random(&request)).await??;
    tell(&report, args.json)?;
    Ok(ExitCode::SUCCESS)
}

fn dimensions(args: &RandomBundleArgs) -> anyhow::Result<ModelConfig> {
    let mut config = if args.small {
        demo_model::bundle()?.manifest().config.clone()
    } else {
        let size = if args.stage_number == 4 { LARGE_PICTURE } else { 224 };
        let retrieval = Some(RetrievalConfig::blip2_itm_vit_g());
        ModelConfig { retrieval, ..ModelConfig::tinygpt_v(size) }
    };
    if args.no_embed {
        config.retrieval = None;
    }
    Ok(config)
}
