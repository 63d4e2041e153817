//! Starts the services that the tests need, runs the given command with their addresses in its
//! environment, and stops them again.
//!
//! `with-services COMMAND [ARGUMENT…]`; the exit code is the command's.

use std::process::ExitCode;

use anyhow::Context;
use captionfleet_tests::sandbox::with_services;
use tokio::process::Command;

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

    let mut command = Command::new(program);
    command.args(words);
    Ok(match with_services(command).await? {
        Some(status) if status.success() => ExitCode::SUCCESS,
        Some(status) => ExitCode::from(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1)),
        None => ExitCode::from(130),
    })
}
