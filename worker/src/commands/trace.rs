//! `worker trace`.

use std::process::ExitCode;

use captionfleet_model::trace;

use super::say;
use crate::config::TraceArgs;

pub(super) async fn run(args: TraceArgs) -> anyhow::Result<ExitCode> {
    let out = args.out.clone();
    let report =
        tokio::task::spawn_blocking(move || trace::run(&args.golden_dir, args.stage, &args.out)).await??;
    for unknown in &report.unknown {
        tracing::warn!(tensor = unknown, "a checkpoint holds a tensor that nobody knows");
    }
    say(format_args!("{} tensors of {} pictures in {}", report.tensors, report.pictures, out.display()));
    Ok(ExitCode::SUCCESS)
}
