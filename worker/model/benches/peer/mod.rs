//! A program in Python beside which we are measured.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

/// Answers each line that it is asked with the seconds that the work took.
pub struct Peer {
    process: Child,
    ask: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Peer {
    /// Starts `program`; `None` if there is no such interpreter.
    pub fn start(python: &str, program: &str, arguments: &[&str]) -> Option<Self> {
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

    /// The seconds for `question`; `None` when Python has ended.
    pub fn seconds(&mut self, question: &str) -> Option<f64> {
        writeln!(self.ask, "{question}").ok()?;
        let mut line = String::new();
        self.answers.read_line(&mut line).ok()?;
        line.trim().parse().ok()
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        // Reaped; how it ended makes no difference.
        let _ = self.process.wait();
    }
}

/// The middle one.
pub fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}
