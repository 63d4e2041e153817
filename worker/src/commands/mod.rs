//! One file for each command; here the way from arguments to an exit code.

mod bench;
mod doctor;
mod evaluate;
mod finetune;
mod pack;
mod random_bundle;
mod repack;
mod run;
mod scenes;
mod stopping;
mod trace;

use captionfleet_proto::chain;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;

use crate::config::{Cli, Command, UsageError};
use crate::engine::memory::BudgetError;
use crate::engine::{EngineError, SlotTokensError};
use crate::telemetry::logging;
use crate::threads;

/// Any other failure, as [`ExitCode::FAILURE`] has it.
const EXIT_FAILURE: u8 = 1;

/// Bad configuration, as in sysexits.h.
const EXIT_USAGE: u8 = 64;

/// Nothing fits the device's memory, named after ENOMEM: a supervisor should not try again with the same settings.
const EXIT_OUT_OF_MEMORY: u8 = 12;

/// What a command that has ended may still have on other threads.
const LAST_MOMENT: Duration = Duration::from_secs(1);

/// Parses the command line, runs the command, tells what went wrong in one line.
///
/// Not `async`: the library then compiles every command once, and not again in each binary.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Whoever asked for help gets it; a broken pipe while printing it is no concern of ours.
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(EXIT_USAGE) } else { ExitCode::SUCCESS };
        }
    };
    // SAFETY: this is the only thread yet.
    if let Err(error) = unsafe { threads::settle(cli.command.threads()) } {
        eprintln!("error: the threads cannot be started, choose fewer with --threads: {error}");
        return ExitCode::from(EXIT_USAGE);
    }
    let _telemetry = logging::init(cli.log_format, "captionfleet-worker");
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: the runtime cannot be started: {error}");
            return ExitCode::FAILURE;
        }
    };
    let outcome = runtime.block_on(run_command(cli.command));
    // A model that is still being fetched or loaded is not waited for.
    runtime.shutdown_timeout(LAST_MOMENT);
    match outcome {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {}", chain(error.as_ref()));
            ExitCode::from(exit_code(&error))
        }
    }
}

fn exit_code(error: &anyhow::Error) -> u8 {
    let ran_out = matches!(error.downcast_ref::<EngineError>(), Some(EngineError::OutOfMemory(_)));
    if error.is::<UsageError>() || error.is::<SlotTokensError>() {
        EXIT_USAGE
    } else if ran_out || error.is::<BudgetError>() {
        EXIT_OUT_OF_MEMORY
    } else {
        EXIT_FAILURE
    }
}

async fn run_command(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Run(args) => run::run(&args).await,
        Command::Pack(args) => pack::run(*args).await,
        Command::Repack(args) => repack::run(args).await,
        Command::RandomBundle(args) => random_bundle::run(args).await,
        Command::Trace(args) => trace::run(args).await,
        Command::Scenes(args) => scenes::run(&args),
        Command::Evaluate(args) => evaluate::run(args).await,
        Command::Bench(args) => bench::run(args).await,
        Command::Finetune(args) => finetune::run(*args).await,
        Command::Doctor(args) => doctor::run(args).await,
    }
}

/// Prints a result; results are all that goes to standard output.
#[allow(clippy::print_stdout)]
fn say(text: impl std::fmt::Display) {
    println!("{text}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_device_has_an_exit_code_of_its_own() {
        let full = EngineError::OutOfMemory("loading the weights".to_owned());
        assert_eq!(exit_code(&full.into()), EXIT_OUT_OF_MEMORY);
        assert_eq!(exit_code(&EngineError::Model("no".to_owned()).into()), EXIT_FAILURE);
        assert_eq!(exit_code(&UsageError("no".to_owned()).into()), EXIT_USAGE);
    }
}
