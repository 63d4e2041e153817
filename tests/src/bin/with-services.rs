//! Starts the services that the tests need, runs the given command with their addresses in its
//! environment, and stops them again.
//!
//! `with-services COMMAND [ARGUMENT…]`; the exit code is the command's.

use std::process::ExitCode;

use anyhow::Context;
use captionfleet_tests::sandbox::Services;
use tokio::process::Command;
use tokio::signal::unix::{SignalKind, signal};

#[tokio::main]
async fn main() -> ExitCode {
    match run().await {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> anyhow::Result<ExitCode> {
    let mut words = std::env::args_os().skip(1);
    let program = words.next().context("usage: with-services COMMAND [ARGUMENT…]")?;

    let root = tempfile::Builder::new().prefix("captionfleet-services-").tempdir()?;
    let services = Services::start(root.path()).await?;

    let mut interrupted = signal(SignalKind::interrupt())?;
    let mut terminated = signal(SignalKind::terminate())?;
    let mut child = Command::new(&program)
        .args(words)
        .envs(services.environment())
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("start {}", program.display()))?;
    let ended = tokio::select! {
        status = child.wait() => Some(status?),
        _ = interrupted.recv() => None,
        _ = terminated.recv() => None,
    };
    drop(child);
    services.stop().await;
    Ok(match ended {
        Some(status) if status.success() => ExitCode::SUCCESS,
        Some(status) => ExitCode::from(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1)),
        None => ExitCode::from(130),
    })
}
