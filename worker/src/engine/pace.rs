//! How far ahead of itself a device is given work between the pauses of a long step.
//!
//! A GPU's queue takes a whole step at once, and whoever asks in a pause would wait for all of it. Waiting for every layer
//! instead leaves the GPU without work while the next one is queued. So it is kept a few milliseconds ahead.

use candle_core::Device;

#[cfg(feature = "cuda")]
pub(super) use self::cuda::Pace;

/// A device that does what it is given at once.
#[cfg(not(feature = "cuda"))]
pub(super) struct Pace;

#[cfg(not(feature = "cuda"))]
impl Pace {
    pub(super) fn of(_: &Device) -> Self {
        Self
    }

    /// Waits until the device has little left to do.
    #[allow(clippy::unused_self, reason = "as with CUDA")]
    pub(super) fn keep(&mut self) {}
}

#[cfg(feature = "cuda")]
mod cuda {
    use std::collections::VecDeque;
    use std::time::{Duration, Instant};

    use candle_core::CudaDevice;
    use candle_core::cuda_backend::cudarc::driver::{CudaEvent, DriverError};

    use super::Device;

    /// What a query waits for at the most, about.
    const AHEAD: Duration = Duration::from_millis(5);
    /// The most layers ahead, however short they are.
    const MOST_LAYERS: usize = 16;

    /// A GPU's layers under way.
    pub(crate) struct Pace {
        device: Option<CudaDevice>,
        queued: VecDeque<CudaEvent>,
        ended: Option<Instant>,
        /// What a layer has taken, of late.
        layer: Duration,
    }

    impl Pace {
        pub(crate) fn of(device: &Device) -> Self {
            let device = match device {
                Device::Cuda(device) => Some(device.clone()),
                _ => None,
            };
            Self { device, queued: VecDeque::new(), ended: None, layer: AHEAD }
        }

        /// Waits until the device has little left to do.
        pub(crate) fn keep(&mut self) {
            // A device that fails here fails at the next layer, too, and is told there.
            if self.try_keep().is_err() {
                self.queued.clear();
            }
        }

        fn try_keep(&mut self) -> Result<(), DriverError> {
            let Some(device) = &self.device else { return Ok(()) };
            self.queued.push_back(device.cuda_stream().record_event(None)?);
            while self.queued.len() > layers_in(AHEAD, self.layer) {
                let Some(event) = self.queued.pop_front() else { break };
                event.synchronize()?;
                let now = Instant::now();
                if let Some(before) = self.ended.replace(now) {
                    self.layer = (self.layer + now.duration_since(before)) / 2;
                }
            }
            Ok(())
        }
    }

    /// How many layers fit into a time; at least one, so that the device has work while the next one is queued.
    fn layers_in(time: Duration, layer: Duration) -> usize {
        let count = time.as_nanos() / layer.as_nanos().max(1);
        usize::try_from(count).unwrap_or(MOST_LAYERS).clamp(1, MOST_LAYERS)
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn at_least_one_layer_is_ahead_and_not_too_many() {
            let layers = |micros| layers_in(AHEAD, Duration::from_micros(micros));
            assert_eq!([0, 100, 1000, 4000, 90_000].map(layers), [16, 16, 5, 1, 1]);
        }
    }
}
