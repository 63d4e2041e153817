//! Which machine and which process this is, by names that differ within a fleet.

use std::os::unix::fs::MetadataExt as _;

/// The number of the process namespace outside of containers (`PROC_PID_INIT_INO` of the Linux kernel).
const OUTSIDE: u64 = 0xEFFF_FFFC;

/// The name of the machine or container; empty where the system tells none.
pub fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    name.trim().to_owned()
}

/// What this process is called where those of all machines meet.
pub fn process_name() -> String {
    let namespace = std::fs::metadata("/proc/self/ns/pid").ok().map(|namespace| namespace.ino());
    named(&host_name(), std::process::id(), namespace)
}

/// Containers count their processes from 1, and may have the name of their machine: there the namespace tells them apart.
fn named(host: &str, process: u32, namespace: Option<u64>) -> String {
    let host = if host.is_empty() { "worker" } else { host };
    match namespace.filter(|namespace| *namespace != OUTSIDE) {
        Some(namespace) => format!("{host}-{process}-{namespace}"),
        None => format!("{host}-{process}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processes_of_several_machines_and_containers_have_names_of_their_own() {
        assert_eq!(named("gpu-7", 4711, Some(OUTSIDE)), "gpu-7-4711");
        assert_eq!(named("gpu-7", 1, Some(4_026_532_178)), "gpu-7-1-4026532178");
        assert_ne!(named("gpu-7", 1, Some(4_026_532_178)), named("gpu-7", 1, Some(4_026_532_360)));
        assert_ne!(named("gpu-7", 1, None), named("gpu-8", 1, None));
        assert_eq!(named("", 12, None), "worker-12");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_process_is_named_after_its_machine() {
        let host = host_name();
        assert!(!host.is_empty());
        assert!(process_name().starts_with(&format!("{host}-{}", std::process::id())), "{}", process_name());
    }
}
