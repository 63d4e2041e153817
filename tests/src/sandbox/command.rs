//! A command with the services around it.

use std::process::ExitStatus;

use anyhow::Context;
use tokio::process::Command;
use tokio::signal::unix::{SignalKind, signal};

use super::Services;

/// Starts the services, runs `command` with their addresses in its environment, and stops them. `None` if a signal ended
/// it early.
///
/// # Errors
/// When a service or the command does not start.
pub async fn with_services(mut command: Command) -> anyhow::Result<Option<ExitStatus>> {
    let root = tempfile::Builder::new().prefix("captionfleet-services-").tempdir()?;
    let services = Services::start(root.path()).await?;
    let mut interrupted = signal(SignalKind::interrupt())?;
    let mut terminated = signal(SignalKind::terminate())?;
    let child = command.envs(services.environment()).kill_on_drop(true).spawn();
    let mut child = child.with_context(|| format!("start {}", command.as_std().get_program().display()))?;
    let ended = tokio::select! {
        status = child.wait() => Some(status?),
        _ = interrupted.recv() => None,
        _ = terminated.recv() => None,
    };
    drop(child);
    services.stop().await;
    Ok(ended)
}
