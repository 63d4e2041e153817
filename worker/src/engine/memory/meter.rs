//! What is in use, and the most that was while something ran.

use candle_core::Device;

/// Measures one device's memory.
#[derive(Debug)]
pub struct Meter {
    source: Source,
}

#[derive(Debug)]
enum Source {
    /// This process, as the operating system counts it.
    #[cfg(target_os = "linux")]
    Process,
    #[cfg(feature = "cuda")]
    Cuda(super::cuda::Pool),
    Unknown,
}

impl Meter {
    /// A meter for the device.
    pub fn new(device: &Device) -> Self {
        Self { source: source(device) }
    }

    /// Bytes in use now; 0 where the system does not say.
    pub fn used(&self) -> u64 {
        match &self.source {
            #[cfg(target_os = "linux")]
            Source::Process => linux::resident(),
            #[cfg(feature = "cuda")]
            Source::Cuda(pool) => pool.used(),
            Source::Unknown => 0,
        }
    }

    /// Bytes that this process could use in all: what it uses and what is free. `None` where the system does not say.
    pub fn available(&self) -> Option<u64> {
        match &self.source {
            #[cfg(target_os = "linux")]
            Source::Process => linux::available(),
            #[cfg(feature = "cuda")]
            Source::Cuda(pool) => pool.available(),
            Source::Unknown => None,
        }
    }

    /// Runs something and says how much more was in use meanwhile than `held`, at the most.
    pub fn peak_beyond<T>(&self, held: u64, run: impl FnOnce() -> T) -> (T, u64) {
        self.restart();
        let result = run();
        (result, self.most().saturating_sub(held))
    }

    /// Forgets what was in use so far.
    pub fn restart(&self) {
        match &self.source {
            #[cfg(target_os = "linux")]
            Source::Process => linux::forget_peak(),
            #[cfg(feature = "cuda")]
            Source::Cuda(pool) => pool.forget_peak(),
            Source::Unknown => {}
        }
    }

    /// The most bytes in use since the last restart; 0 where the system does not say.
    pub fn most(&self) -> u64 {
        match &self.source {
            #[cfg(target_os = "linux")]
            Source::Process => linux::peak(),
            #[cfg(feature = "cuda")]
            Source::Cuda(pool) => pool.peak(),
            Source::Unknown => 0,
        }
    }
}

fn source(device: &Device) -> Source {
    match device {
        #[cfg(target_os = "linux")]
        Device::Cpu => Source::Process,
        #[cfg(feature = "cuda")]
        Device::Cuda(device) => Source::Cuda(super::cuda::Pool::of(device)),
        _ => Source::Unknown,
    }
}

#[cfg(target_os = "linux")]
mod linux {
    use std::path::Path;

    use procfs::process::{ClearRefs, Process, Status};
    use procfs::{Current, Meminfo};

    const KIB: u64 = 1024;

    fn status() -> Option<Status> {
        Process::myself().and_then(|process| process.status()).ok()
    }

    pub(super) fn resident() -> u64 {
        status().and_then(|status| status.vmrss).unwrap_or(0) * KIB
    }

    pub(super) fn peak() -> u64 {
        status().and_then(|status| status.vmhwm).unwrap_or(0) * KIB
    }

    /// Where this is not allowed the peak of the whole life stands in: too much rather than too little.
    pub(super) fn forget_peak() {
        let cleared = Process::myself().and_then(|process| process.clear_refs(ClearRefs::PeakRSS));
        if let Err(error) = cleared {
            tracing::debug!(%error, "the memory high-water mark cannot be reset");
        }
    }

    /// What this process uses and the machine has free, or its control group allows, whichever is less.
    pub(super) fn available() -> Option<u64> {
        let machine = Meminfo::current().ok()?;
        let free = resident() + machine.mem_available.unwrap_or(machine.mem_free);
        Some(group_limit().map_or(free, |limit| limit.min(free)))
    }

    fn group_limit() -> Option<u64> {
        let groups = std::fs::read_to_string("/proc/self/cgroup").ok()?;
        lowest_limit(&groups, Path::new("/sys/fs/cgroup"))
    }

    /// The lowest limit on the way up from a process' control groups, of either version: where it is killed, and where it is held
    /// up until it has given memory back.
    pub(super) fn lowest_limit(groups: &str, root: &Path) -> Option<u64> {
        let limits = groups.lines().filter_map(|line| {
            let (controllers, own) = line.split_once(':')?.1.split_once(":/")?;
            let (root, names) = match controllers {
                "" => (root.to_owned(), &["memory.max", "memory.high"][..]),
                _ if controllers.split(',').any(|controller| controller == "memory") => {
                    (root.join("memory"), &["memory.limit_in_bytes"][..])
                }
                _ => return None,
            };
            let own = root.join(own);
            let ways = own.ancestors().take_while(|folder| folder.starts_with(&root));
            let files = ways.flat_map(|folder| names.iter().map(move |name| folder.join(name)));
            files.filter_map(|file| std::fs::read_to_string(file).ok()?.trim().parse::<u64>().ok()).min()
        });
        limits.min()
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_lowest_limit_of_all_groups_counts() {
        let root = tempfile::tempdir().unwrap();
        let limit = |file: &str, text: &str| {
            let file = root.path().join(file);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(file, text).unwrap();
        };
        let lowest = |groups: &str| linux::lowest_limit(groups, root.path());
        assert_eq!(lowest("0::/pod/worker\n"), None);
        limit("pod/memory.max", "9000\n");
        limit("pod/worker/memory.max", "max\n");
        assert_eq!(lowest("0::/pod/worker\n"), Some(9000));
        limit("pod/worker/memory.high", "8000\n");
        assert_eq!(lowest("0::/pod/worker\n"), Some(8000));
        limit("memory/old/memory.limit_in_bytes", "7000\n");
        let both = "12:cpu,cpuacct:/old\n4:memory:/old/worker\n0::/\n";
        assert_eq!(lowest(both), Some(7000));
    }

    #[test]
    fn a_peak_is_seen_after_it_has_passed() {
        const SIZE: u64 = 256 << 20;
        let meter = Meter::new(&Device::Cpu);
        let touch = || std::hint::black_box(vec![1u8; SIZE as usize]).len();
        // Other tests of the process free memory meanwhile, or measure, too.
        let peaks: Vec<u64> = (0..20)
            .map(|_| meter.peak_beyond(meter.used(), touch).1)
            .take_while(|peak| *peak <= SIZE * 3 / 4)
            .collect();
        assert!(peaks.len() < 20, "{peaks:?}");
        let held = meter.used();
        assert!(meter.available().is_some_and(|available| available > held));
    }
}
