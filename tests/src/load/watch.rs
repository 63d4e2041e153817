//! What processes take: memory over time, processor time.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use procfs::process::Process;
use procfs::{CurrentSI as _, KernelStats};
use tokio::task::JoinHandle;

/// How often memory is looked at.
const EVERY: Duration = Duration::from_millis(250);

/// Seconds of processor time that a process has taken in its life.
pub(super) fn processor_seconds(pid: u32) -> anyhow::Result<f64> {
    let stat = Process::new(pid as i32)?.stat()?;
    Ok((stat.utime + stat.stime) as f64 / procfs::ticks_per_second() as f64)
}

/// Busy and all seconds of the machine's processors since it was started.
pub(super) fn machine_seconds() -> anyhow::Result<(f64, f64)> {
    let cpu = KernelStats::current()?.total;
    let idle = cpu.idle + cpu.iowait.unwrap_or(0);
    let busy = cpu.user + cpu.nice + cpu.system + cpu.irq.unwrap_or(0) + cpu.softirq.unwrap_or(0);
    let seconds = |ticks: u64| ticks as f64 / procfs::ticks_per_second() as f64;
    Ok((seconds(busy), seconds(busy + idle)))
}

/// Resident memory of one process, looked at again and again.
pub(super) struct Resident {
    pid: u32,
    samples: Arc<Mutex<Vec<(Instant, u64)>>>,
    task: JoinHandle<()>,
}

impl Resident {
    /// Watches until the process ends.
    pub(super) fn of(pid: u32) -> Self {
        let samples: Arc<Mutex<Vec<(Instant, u64)>>> = Arc::default();
        let seen = Arc::clone(&samples);
        let task = tokio::spawn(async move {
            while let Some(bytes) = resident(pid) {
                seen.lock().unwrap_or_else(PoisonError::into_inner).push((Instant::now(), bytes));
                tokio::time::sleep(EVERY).await;
            }
        });
        Self { pid, samples, task }
    }

    /// The time at which one phase ends and the next one begins. It is looked at there too: a phase may be shorter than the time
    /// between two looks.
    pub(super) fn border(&self) -> Instant {
        let at = Instant::now();
        if let Some(bytes) = resident(self.pid) {
            self.samples.lock().unwrap_or_else(PoisonError::into_inner).push((at, bytes));
        }
        at
    }

    /// What was seen from one border to another, both included.
    pub(super) fn between(&self, from: Instant, to: Instant) -> Span {
        let samples = self.samples.lock().unwrap_or_else(PoisonError::into_inner);
        let within = samples.iter().filter(|(at, _)| (from..=to).contains(at));
        Span(within.map(|(at, bytes)| ((*at - from).as_secs_f64(), *bytes as f64)).collect())
    }
}

impl Drop for Resident {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Resident bytes; none when the process has ended.
fn resident(pid: u32) -> Option<u64> {
    let pages = Process::new(pid as i32).ok()?.statm().ok()?.resident;
    (pages > 0).then(|| pages * procfs::page_size())
}

/// Seconds and bytes.
pub(super) struct Span(Vec<(f64, f64)>);

const MIB: f64 = 1024.0 * 1024.0;

impl Span {
    /// The most, in MiB.
    pub(super) fn peak_mib(&self) -> f64 {
        self.0.iter().map(|(_, bytes)| bytes / MIB).fold(0.0, f64::max)
    }

    /// The first and the last, in MiB.
    pub(super) fn ends_mib(&self) -> (f64, f64) {
        let mib = |sample: Option<&(f64, f64)>| sample.map_or(0.0, |(_, bytes)| bytes / MIB);
        (mib(self.0.first()), mib(self.0.last()))
    }

    /// Growth of the second half in MiB a minute, by least squares; what is only taken into use is in the first one.
    pub(super) fn slope_mib_per_minute(&self) -> f64 {
        let half = &self.0[self.0.len() / 2..];
        let count = half.len().max(1) as f64;
        let mean = |value: fn(&(f64, f64)) -> f64| half.iter().map(value).sum::<f64>() / count;
        let (time, bytes) = (mean(|sample| sample.0), mean(|sample| sample.1));
        let (mut up, mut along) = (0.0, 0.0);
        for (at, seen) in half {
            up += (at - time) * (seen - bytes);
            along += (at - time) * (at - time);
        }
        if along > 0.0 { up / along * 60.0 / MIB } else { 0.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::{MIB, Span};

    #[test]
    fn the_slope_is_that_of_the_second_half() {
        let grows = |at: u32| if at < 50 { 100.0 * MIB } else { f64::from(at) * MIB };
        let span = Span((0..100).map(|at| (f64::from(at), grows(at))).collect());
        assert!((span.slope_mib_per_minute() - 60.0).abs() < 1e-6);
        assert_eq!((span.peak_mib(), span.ends_mib()), (100.0, (100.0, 99.0)));
        assert_eq!(Span(Vec::new()).slope_mib_per_minute(), 0.0);
    }
}
