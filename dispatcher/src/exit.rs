//! How a command ends.

use crate::config::UsageError;
use std::process::ExitCode;

/// The end of a command that reached it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// All is well.
    Well,
    /// The command did what it could, but not all is well: the output says what.
    Incomplete,
}

/// The command line is wrong (`EX_USAGE` of sysexits).
pub const USAGE: u8 = 64;

/// The exit code for `outcome`.
pub fn code(outcome: &anyhow::Result<Ended>) -> ExitCode {
    match outcome {
        Ok(Ended::Well) => ExitCode::SUCCESS,
        Err(error) if error.is::<UsageError>() => ExitCode::from(USAGE),
        Ok(Ended::Incomplete) | Err(_) => ExitCode::FAILURE,
    }
}

/// What begins a line of a list in an error's text.
const LIST_ITEM: &str = "\n  ";

/// The whole chain of `error` on one line. Only a list, whose lines are indented, keeps its lines.
pub fn line(error: &anyhow::Error) -> String {
    let mut line = String::new();
    for cause in error.chain() {
        let text = cause.to_string();
        // Some libraries repeat their source's text: say nothing twice.
        if line.ends_with(&text) {
            continue;
        }
        if !line.is_empty() {
            line.push_str(": ");
        }
        line.push_str(&text);
    }
    line.split(LIST_ITEM).map(crate::output::plain).collect::<Vec<_>>().join(LIST_ITEM)
}

#[cfg(test)]
mod tests {
    use super::line;

    #[test]
    fn an_error_is_one_line_without_repetition() {
        let error =
            anyhow::anyhow!("refused\nby peer").context("open x: refused\nby peer").context("connect");
        assert_eq!(line(&error), "connect: open x: refused by peer");
    }

    #[test]
    fn a_list_keeps_its_lines() {
        let error = anyhow::anyhow!("2 files are missing; put\n  a to\x1b x\n  b to y");
        assert_eq!(line(&error), "2 files are missing; put\n  a to  x\n  b to y");
    }
}
