//! The GPU and its driver.

use std::path::Path;

use super::Finding;
use crate::app::DeviceChoice;

const WHAT: &str = "GPU";
/// There while the driver of NVIDIA is loaded; its first line names the version.
const DRIVER: &str = "/proc/driver/nvidia/version";

/// Which GPU there is and what drives it, as far as `device` may be one.
pub fn gpu(device: DeviceChoice) -> Finding {
    let wanted = match device {
        DeviceChoice::Cpu => return Finding::ok(WHAT, "not asked for (--device cpu)"),
        DeviceChoice::Auto => None,
        DeviceChoice::Cuda(index) => Some(index),
    };
    match look(wanted.unwrap_or(0)) {
        Ok(text) => Finding::ok(WHAT, text),
        Err(reason) if wanted.is_some() => Finding::fail(WHAT, reason),
        // A machine without one is a machine without one.
        Err(reason) if driver().is_none() => {
            Finding::ok(WHAT, format!("none, the network runs on the CPU ({reason})"))
        }
        Err(reason) => Finding::warn(WHAT, format!("{reason}; the network runs on the CPU")),
    }
}

/// The version of the driver that is loaded, in its own words.
fn driver() -> Option<String> {
    let text = std::fs::read_to_string(Path::new(DRIVER)).ok()?;
    let line = text.lines().next()?.trim_start_matches("NVRM version:").trim();
    Some(line.split_whitespace().collect::<Vec<_>>().join(" "))
}

#[cfg(feature = "nvml")]
fn look(index: usize) -> Result<String, String> {
    use bytesize::ByteSize;

    let remedy = || match driver() {
        Some(driver) => format!(
            "the driver's library does not fit the driver that is loaded ({driver}): restart the machine"
        ),
        None => format!(
            "no driver of NVIDIA is loaded ({DRIVER} is missing): install one, in a container its runtime"
        ),
    };
    let nvml = nvml_wrapper::Nvml::init().map_err(|error| format!("{error}; {}", remedy()))?;
    let looked = || {
        let device = nvml.device_by_index(u32::try_from(index).unwrap_or(u32::MAX))?;
        let (memory, compute) = (device.memory_info()?, device.cuda_compute_capability()?);
        let cuda = nvml.sys_cuda_driver_version()?;
        Ok(format!(
            "{}, compute {}.{}, {} of {} free; driver {}, CUDA {}.{}",
            device.name()?,
            compute.major,
            compute.minor,
            ByteSize(memory.free),
            ByteSize(memory.total),
            nvml.sys_driver_version()?,
            cuda / 1000,
            cuda % 1000 / 10,
        ))
    };
    looked().map_err(|error: nvml_wrapper::error::NvmlError| {
        let there = nvml.device_count().unwrap_or(0);
        format!(
            "GPU {index} cannot be used: {error}; there are {there}, counted from 0 (nvidia-smi lists them)"
        )
    })
}

#[cfg(not(feature = "nvml"))]
fn look(_: usize) -> Result<String, String> {
    let built = "this program is built without CUDA: build it with --features cuda";
    Err(driver().map_or_else(|| built.to_owned(), |driver| format!("driver {driver} is loaded, but {built}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_asks_for_none_is_not_told_of_any() {
        assert_eq!(gpu(DeviceChoice::Cpu).to_string(), "ok    GPU: not asked for (--device cpu)");
    }

    #[cfg(not(feature = "nvml"))]
    #[test]
    fn who_asks_for_one_of_a_program_without_cuda_is_told_the_remedy() {
        let told = gpu(DeviceChoice::Cuda(0));
        assert!(told.is_failure() && told.to_string().contains("--features cuda"), "{told}");
    }
}
