//! `worker pack`.

use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;
use captionfleet_model::PromptTemplates;
use captionfleet_model::checkpoint::{CheckpointFiles, CheckpointFolder};
use captionfleet_model::pack::{PackReport, PackRequest, pack};
use serde::Deserialize;

use super::say;
use crate::config::{PackArgs, UsageError};

pub(super) async fn run(args: PackArgs) -> anyhow::Result<ExitCode> {
    let json = args.json;
    let request = request(args)?;
    let report = tokio::task::spawn_blocking(move || pack(&request)).await??;
    tell(&report, json)?;
    Ok(ExitCode::SUCCESS)
}

fn request(args: PackArgs) -> anyhow::Result<PackRequest> {
    let (files, tokenizer, text_tokenizer) = match &args.checkpoint {
        Some(root) => {
            let folder = CheckpointFolder::open(root)?;
            let mut files = folder.files(args.stage_number)?;
            files.config = args.config.clone().or(files.config);
            let text_tokenizer = files.retrieval.as_ref().map(|_| folder.text_tokenizer()).transpose()?;
            (files, folder.tokenizer()?, text_tokenizer)
        }
        None => named_files(&args)?,
    };
    let given =
        args.caption_prompt.zip(args.ask_prompt).map(|(caption, ask)| PromptTemplates { caption, ask });
    let golden_picture = args
        .golden_picture
        .map(|path| std::fs::read(&path).with_context(|| format!("read {}", path.display())))
        .transpose()?;
    Ok(PackRequest {
        prompts: given.or(files.config.as_deref().map(prompts_of).transpose()?.flatten()),
        files,
        tokenizer,
        text_tokenizer,
        weights: args.weights,
        vision_weights: args.vision_weights,
        name: args.name,
        licence: args.licence,
        intended_use: args.intended_use,
        golden_picture,
        out: args.out,
    })
}

type NamedFiles = (CheckpointFiles, std::path::PathBuf, Option<std::path::PathBuf>);

fn named_files(args: &PackArgs) -> anyhow::Result<NamedFiles> {
    let missing =
        || UsageError("--vit, --qformer, --phi and --stage are all needed, or --checkpoint".to_owned());
    let phi = args.phi.clone().ok_or_else(missing)?;
    let folder_of = |path: &Path| if path.is_dir() { path.to_owned() } else { path.with_file_name("") };
    let tokenizer = folder_of(&phi).join("tokenizer.json");
    let text_tokenizer = args.itc.as_deref().map(|itc| folder_of(itc).join("tokenizer.json"));
    let files = CheckpointFiles {
        vision: args.vit.clone().ok_or_else(missing)?,
        qformer: args.qformer.clone().ok_or_else(missing)?,
        language: phi,
        stage: args.stage.clone().ok_or_else(missing)?,
        stage_number: args.stage_number,
        retrieval: args.itc.clone(),
        config: args.config.clone(),
    };
    Ok((files, tokenizer, text_tokenizer))
}

/// The prompts that a checkpoint's own configuration names, if it does.
fn prompts_of(config: &Path) -> anyhow::Result<Option<PromptTemplates>> {
    #[derive(Deserialize)]
    struct WithPrompts {
        prompts: Option<PromptTemplates>,
    }
    let named = || format!("read {}", config.display());
    let bytes = std::fs::read(config).with_context(named)?;
    Ok(serde_json::from_slice::<WithPrompts>(&bytes).with_context(named)?.prompts)
}

/// Prints what was packed.
pub(super) fn tell(report: &PackReport, json: bool) -> anyhow::Result<()> {
    if json {
        say(serde_json::to_string_pretty(report)?);
        return Ok(());
    }
    say(format_args!("{}: {} tensors, {} bytes", report.out.display(), report.tensors, report.weight_bytes));
    say(format_args!("bundle {}", report.bundle));
    for (dtype, count) in &report.types {
        say(format_args!("  {count:5} tensors as {dtype}"));
    }
    for (tensor, got) in &report.fallbacks {
        tracing::info!(tensor, stored_as = got, "the rows do not fit the type asked for");
    }
    for file in &report.accounting.files {
        say(format_args!(
            "  {}: {} used, {} replaced by the stage, {} not needed, {} unknown",
            file.file,
            file.used,
            file.replaced.len(),
            file.ignored.len(),
            file.unknown.len()
        ));
    }
    for (file, tensor) in report.accounting.unknown() {
        say(format_args!("  unknown: {tensor} in {file}"));
    }
    Ok(())
}
