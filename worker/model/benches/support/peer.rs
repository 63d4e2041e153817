//! A program in Python beside which we are measured.
#![allow(unreachable_pub)]

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

/// Answers each line that it is asked with a line of the seconds that the work took.
pub struct Peer {
    process: Child,
    ask: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Peer {
    /// Starts `program`; `None` if there is no such interpreter.
    pub fn start(python: &str, program: &str, arguments: &[&OsStr]) -> Option<Self> {
        let mut process = Command::new(python)
            .args(["-c", program])
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .ok()?;
        let (ask, answers) = (process.stdin.take()?, BufReader::new(process.stdout.take()?));
        Some(Self { process, ask, answers })
    }

    /// As many times as are expected for `question`, in seconds; `None` when Python has ended.
    pub fn seconds<const N: usize>(&mut self, question: &str) -> Option<[f64; N]> {
        writeln!(self.ask, "{question}").ok()?;
        let mut line = String::new();
        self.answers.read_line(&mut line).ok()?;
        let times: Vec<f64> = line.split_whitespace().map(|time| time.parse().ok()).collect::<Option<_>>()?;
        times.try_into().ok()
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        // Reaped; how it ended makes no difference.
        let _ = self.process.wait();
    }
}
