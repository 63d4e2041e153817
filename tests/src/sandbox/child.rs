//! A child process with its own process group and log file, ended with its owner.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::Context;
use tokio::process::Command;

/// A running program. Dropping it kills its whole process group.
#[derive(Debug)]
pub struct Child {
    name: String,
    log: PathBuf,
    inner: tokio::process::Child,
    group: u32,
}

impl Child {
    /// Starts `command` as the leader of a new process group, its output appended to `log`.
    ///
    /// # Errors
    /// When the log cannot be made or the program cannot be started.
    pub fn spawn(name: &str, mut command: Command, log: &Path) -> anyhow::Result<Self> {
        let output =
            File::options().create(true).append(true).open(log).with_context(|| log.display().to_string())?;
        let inner = command
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("start {name}"))?;
        let group = inner.id().context("the child ended before it was known")?;
        Ok(Self { name: name.to_owned(), log: log.to_owned(), inner, group })
    }

    /// The process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.group
    }

    /// Everything the program has written so far.
    #[must_use]
    pub fn output(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Sends a signal (`TERM`, `KILL`, `STOP`, `CONT`, …) to the program itself.
    pub fn signal(&self, signal: &str) {
        kill(signal, &self.group.to_string());
    }

    /// Sends a signal to the program and every process that it has started in its group.
    pub fn signal_group(&self, signal: &str) {
        kill(signal, &format!("-{}", self.group));
    }

    /// Whether the program is still running.
    pub fn is_running(&mut self) -> bool {
        matches!(self.inner.try_wait(), Ok(None))
    }

    /// Waits for the program to end.
    ///
    /// # Errors
    /// When it has not ended within `limit`; the message holds its output.
    pub async fn wait(&mut self, limit: Duration) -> anyhow::Result<ExitStatus> {
        match tokio::time::timeout(limit, self.inner.wait()).await {
            Ok(status) => Ok(status?),
            Err(_) => anyhow::bail!("{} still runs after {limit:?}:\n{}", self.name, self.output()),
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.signal_group("KILL");
    }
}

/// `kill(1)` instead of the system call: the sandbox needs no `unsafe` for the few signals it sends.
fn kill(signal: &str, target: &str) {
    let outcome = std::process::Command::new("kill")
        .args([&format!("-{signal}"), "--", target])
        .stderr(Stdio::null())
        .status();
    if let Err(error) = outcome {
        tracing::warn!(%error, target, "kill(1) could not be run");
    }
}
