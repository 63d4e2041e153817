//! `worker trace`.

use std::process::ExitCode;

use captionfleet_model::pack::WeightTypes;
use captionfleet_model::trace::{self, Stage, Tolerance};

use super::say;
use crate::config::TraceArgs;

pub(super) async fn run(args: TraceArgs) -> anyhow::Result<ExitCode> {
    tokio::task::spawn_blocking(move || trace(&args)).await?
}

fn trace(args: &TraceArgs) -> anyhow::Result<ExitCode> {
    let device = args.device.open()?;
    let types = WeightTypes { language: args.weights, vision: args.vision_weights };
    let report = trace::run(&args.golden_dir, args.stage, types, &device, &args.out)?;
    for unknown in &report.unknown {
        tracing::warn!(tensor = unknown, "a checkpoint holds a tensor that nobody knows");
    }
    say(format_args!("{} tensors of {} pictures in {}", report.tensors, report.pictures, args.out.display()));
    let Some(expect) = &args.expect else { return Ok(ExitCode::SUCCESS) };
    let tolerance = Tolerance::of(types, &device);
    let run = format!("{}/", args.stage.as_str());
    let belongs = |name: &str| args.stage == Stage::Itc || name.starts_with(&run);
    let comparison = trace::compare(&args.out, expect, tolerance, belongs)?;
    anyhow::ensure!(
        comparison.compared > 0,
        "{} holds nothing of stage {}: is it the file of another stage?",
        expect.display(),
        args.stage.as_str()
    );
    for failure in &comparison.failures {
        say(failure);
    }
    let (failed, compared) = (comparison.failures.len(), comparison.compared);
    match comparison.worst {
        Some((name, worst)) => {
            say(format_args!(
                "{compared} compared, {failed} not as expected; largest distance {worst:.1e} ({name})"
            ));
        }
        None => say(format_args!("{compared} compared, {failed} not as expected")),
    }
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
