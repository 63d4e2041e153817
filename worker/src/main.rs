//! `worker`: see `worker --help`.

use std::process::ExitCode;

fn main() -> ExitCode {
    captionfleet_worker::commands::main()
}
