//! Where the network runs.

use anyhow::Context;
use candle_core::Device;

/// Where the network runs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum DeviceChoice {
    /// The first GPU if there is one, else the CPU.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// This GPU.
    Cuda(usize),
}

impl std::str::FromStr for DeviceChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "cpu" => Ok(Self::Cpu),
            "cuda" => Ok(Self::Cuda(0)),
            _ => text
                .strip_prefix("cuda:")
                .and_then(|index| index.parse().ok())
                .map(Self::Cuda)
                .ok_or_else(|| format!("`{text}` is not a device: use auto, cpu, cuda or cuda:N")),
        }
    }
}

impl DeviceChoice {
    /// The number of the GPU that is meant, if one may be.
    pub fn gpu(self) -> Option<usize> {
        match self {
            Self::Auto => Some(0),
            Self::Cpu => None,
            Self::Cuda(index) => Some(index),
        }
    }

    /// Opens the device.
    ///
    /// # Errors
    /// When a GPU was asked for and there is none, or this program was built without CUDA.
    pub fn open(self) -> anyhow::Result<Device> {
        match self {
            Self::Auto if cfg!(feature = "cuda") => Ok(open_gpu(0).unwrap_or_else(|error| {
                tracing::info!(%error, "no GPU can be used: the network runs on the CPU");
                Device::Cpu
            })),
            Self::Cpu | Self::Auto => Ok(Device::Cpu),
            Self::Cuda(index) => open_gpu(index).with_context(|| {
                format!("GPU {index} cannot be used (this needs a build with --features cuda and an NVIDIA driver)")
            }),
        }
    }
}

/// A GPU with one stream for all threads. By default every thread has a stream of its own, and what one reads of another's tensors,
/// an adapter's, say, may not have been written yet.
fn open_gpu(index: usize) -> candle_core::Result<Device> {
    let device = Device::new_cuda_with_stream(index)?;
    #[cfg(feature = "cuda")]
    if let Device::Cuda(device) = &device {
        // SAFETY: events are needed between streams, and this process has one: work is done in the order in which it is queued.
        unsafe { device.disable_event_tracking() };
        crate::engine::memory::keep_freed(device);
    }
    Ok(device)
}
