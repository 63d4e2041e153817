//! Where the network runs.

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
    /// Opens the device.
    ///
    /// # Errors
    /// When a GPU was asked for and there is none, or this program was built without CUDA.
    pub fn open(self) -> anyhow::Result<Device> {
        match self {
            Self::Cpu => Ok(Device::Cpu),
            Self::Auto if cfg!(feature = "cuda") => Ok(gpu(0).unwrap_or_else(|reason| {
                tracing::info!(reason, "no GPU can be used: the network runs on the CPU");
                Device::Cpu
            })),
            Self::Auto => Ok(Device::Cpu),
            Self::Cuda(_) if !cfg!(feature = "cuda") => anyhow::bail!(
                "this program was built without CUDA: build it with deploy/cuda/build.sh, or use --device cpu"
            ),
            Self::Cuda(index) => gpu(index).map_err(|reason| {
                anyhow::anyhow!(
                    "GPU {index} cannot be used: {reason}; `nvidia-smi` shows which GPUs the driver sees, --device cpu \
                     goes without"
                )
            }),
        }
    }
}

fn gpu(index: usize) -> Result<Device, String> {
    // Behind the first line may come a trace of the backend's own calls, which says nothing more.
    Device::new_cuda(index)
        .map_err(|error| error.to_string().lines().next().unwrap_or("no reason is known").to_owned())
}
