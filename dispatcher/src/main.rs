//! The `dispatcher` program: parse, run, exit code.

use captionfleet_dispatcher::config::Cli;
use captionfleet_dispatcher::{app, exit, output};
use captionfleet_worker::telemetry::LogFormat;
use captionfleet_worker::telemetry::logging;
use clap::Parser as _;
use clap::error::ErrorKind;
use std::process::ExitCode;

/// Progress and results say what goes on, and errors of the broker's client reach the user as ours: the log speaks only
/// about what would go unnoticed otherwise.
const LOG_FILTER: &str = "warn,lapin=off,aws_config=error";

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            drop(error.print());
            let told = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
            return if told { ExitCode::SUCCESS } else { ExitCode::from(exit::USAGE) };
        }
    };
    // SAFETY: this is the only thread yet.
    if let Err(error) = unsafe { captionfleet_worker::threads::settle(None) } {
        output::remark(format!("error: the threads cannot be started: {error}"));
        return ExitCode::FAILURE;
    }
    let _telemetry = logging::init_with_default(LogFormat::Auto, LOG_FILTER, "captionfleet-dispatcher");
    let outcome = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(anyhow::Error::from)
        .and_then(|runtime| runtime.block_on(app::run(cli)));
    if let Err(error) = &outcome {
        output::remark(format!("error: {}", exit::line(error)));
    }
    exit::code(&outcome)
}
