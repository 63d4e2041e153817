//! What a person sees while a run goes on: a bar on a terminal, plain lines elsewhere, nothing with `--quiet`.

use crate::output;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

/// How often a plain line is printed.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// How progress is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Display {
    /// Not at all.
    Quiet,
    /// As lines, for logs and pipes.
    Lines,
    /// As a bar that is drawn again and again.
    Bar,
}

impl Display {
    /// The display that fits standard error.
    pub fn choose(quiet: bool) -> Self {
        if quiet {
            Self::Quiet
        } else if std::io::stderr().is_terminal() {
            Self::Bar
        } else {
            Self::Lines
        }
    }

    /// Says something beside the results, unless the display is quiet.
    pub fn remark(self, text: impl AsRef<str>) {
        if self != Self::Quiet {
            output::remark(text);
        }
    }

    /// Shows that something of unknown length goes on, until the result is dropped.
    pub fn busy(self, what: &str) -> Busy {
        let bar = (self == Self::Bar).then(|| {
            let bar = ProgressBar::new_spinner().with_message(what.to_owned());
            bar.enable_steady_tick(Duration::from_millis(120));
            bar
        });
        Busy { bar }
    }
}

/// Something of unknown length that goes on.
#[derive(Debug)]
pub struct Busy {
    bar: Option<ProgressBar>,
}

impl Busy {
    /// Says how far it is.
    pub fn tell(&self, text: String) {
        if let Some(bar) = &self.bar {
            bar.set_message(text);
        }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// Progress over a number of pictures and frames; of frames it is only known about how many they are.
#[derive(Debug)]
pub struct Progress {
    display: Display,
    bar: ProgressBar,
    total: u64,
    done: u64,
    failed: u64,
    started: Instant,
    last_line: Instant,
}

impl Progress {
    /// Begins at none of `total` pictures.
    pub fn new(display: Display, verb: &'static str, total: u64) -> Self {
        let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::hidden());
        if display == Display::Bar {
            let style = ProgressStyle::with_template(
                "{prefix} {wide_bar:.cyan/dim} {pos}/{len}  {per_sec:>9}  ETA {eta:>4}{msg}",
            );
            if let Ok(style) = style {
                bar.set_style(style.with_key(
                    "per_sec",
                    |state: &indicatif::ProgressState, out: &mut dyn std::fmt::Write| {
                        let _ = write!(out, "{:.1}/s", state.per_sec());
                    },
                ));
            }
            bar.set_draw_target(ProgressDrawTarget::stderr());
            bar.enable_steady_tick(Duration::from_millis(250));
        }
        bar.set_prefix(verb);
        let now = Instant::now();
        Self { display, bar, total, done: 0, failed: 0, started: now, last_line: now }
    }

    /// `rows` more pictures have their row, `failed` of them failed.
    pub fn advance(&mut self, rows: u64, failed: u64) {
        self.done += rows;
        self.failed += failed;
        if self.done > self.total {
            self.total = self.done;
            self.bar.set_length(self.total);
        }
        self.bar.inc(rows);
        if self.failed > 0 {
            self.bar.set_message(format!("  {} failed", self.failed));
        }
        self.tell();
    }

    /// Prints a plain line when it is time.
    pub fn tell(&mut self) {
        if self.display == Display::Lines && self.last_line.elapsed() >= LINE_EVERY {
            self.last_line = Instant::now();
            output::remark(self.line());
        }
    }

    /// Says something without disturbing the bar.
    pub fn remark(&self, text: &str) {
        match self.display {
            Display::Quiet => {}
            Display::Lines => output::remark(text),
            Display::Bar => self.bar.suspend(|| output::remark(text)),
        }
    }

    /// Takes the bar away.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }

    fn line(&self) -> String {
        let rate = self.done as f64 / self.started.elapsed().as_secs_f64().max(1e-9);
        let left = self.total.saturating_sub(self.done);
        let eta = if rate > 0.0 { duration(left as f64 / rate) } else { "unknown".to_owned() };
        format!("{}/{} done, {} failed, {rate:.1}/s, ETA {eta}", self.done, self.total, self.failed)
    }
}

/// Seconds in words: "12 s", "3 min 5 s", "2 h 7 min".
pub fn duration(seconds: f64) -> String {
    let whole = seconds.round().max(0.0) as u64;
    match (whole / 3600, whole / 60 % 60, whole % 60) {
        (0, 0, _) if seconds < 10.0 => format!("{seconds:.1} s"),
        (0, 0, seconds) => format!("{seconds} s"),
        (0, minutes, seconds) => format!("{minutes} min {seconds} s"),
        (hours, minutes, _) => format!("{hours} h {minutes} min"),
    }
}

/// A time in a film: "12:43.500", "1:02:03".
pub fn clock(ms: u64) -> String {
    let (hours, minutes, seconds) = (ms / 3_600_000, ms / 60_000 % 60, ms / 1000 % 60);
    let fraction = if ms.is_multiple_of(1000) { String::new() } else { format!(".{:03}", ms % 1000) };
    match hours {
        0 => format!("{minutes}:{seconds:02}{fraction}"),
        hours => format!("{hours}:{minutes:02}:{seconds:02}{fraction}"),
    }
}

#[cfg(test)]
mod tests {
    use super::{clock, duration};

    #[test]
    fn times_of_films_read_well() {
        assert_eq!([0, 763_500, 3_723_000].map(clock), ["0:00", "12:43.500", "1:02:03"]);
    }

    #[test]
    fn durations_read_well() {
        let told = [0.04, 9.96, 59.6, 3599.0, 7265.0].map(duration);
        assert_eq!(told, ["0.0 s", "10.0 s", "1 min 0 s", "59 min 59 s", "2 h 1 min"]);
    }
}
