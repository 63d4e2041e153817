//! Decode steps that the driver remembers: recorded once for each number of rows as a CUDA graph, and then queued in one call instead of
//! one for each kernel and each tensor between them.
use std::collections::HashMap;

use candle_core::{
    CudaDevice, DType, Device, Result, Tensor, bail,
    cuda::{
        WrapErr,
        cudarc::driver::{
            CudaGraph,
            sys::{CUgraphInstantiate_flags, CUstreamCaptureMode},
        },
    },
};

/// Up to so many rows, recorded steps have a power of two of them; beyond, a multiple of it.
const FEW: usize = 8;

/// The steps recorded so far. Each writes to the cache that it was recorded with, which it therefore belongs to.
#[derive(Default)]
pub(crate) struct Recordings {
    steps: HashMap<usize, Recording>,
    /// Recording did not work once, and is not tried again.
    failed: bool,
}

struct Recording {
    graph: Graph,
    /// What the step reads, and where it leaves its logits: at fixed addresses.
    inputs: Tensor,
    logits: Tensor,
}

struct Graph(CudaGraph);

// SAFETY: a graph may be used by any thread, but by one at a time; it is launched through `&mut Recordings` alone, and cudarc makes its
// context the thread's own before each call.
unsafe impl Send for Graph {}
// SAFETY: as above: nothing can be done with a shared reference.
unsafe impl Sync for Graph {}

impl std::fmt::Debug for Recordings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Recordings").field("rows", &self.steps.keys()).field("failed", &self.failed).finish()
    }
}

impl Recordings {
    /// Logits `(rows, vocab)` of `step`, which makes them of its inputs `(3, rows)`: token, slot and place of each row, as u32. `None` where
    /// recording does not work. Further rows, for which `filling` stands, make the number round. The step may do nothing but queue
    /// kernels, and must do the same for the same number of rows.
    pub(crate) fn run(
        &mut self,
        device: &Device,
        rows: &[[u32; 3]],
        filling: [u32; 3],
        step: impl Fn(&Tensor) -> Result<Tensor>,
    ) -> Result<Option<Tensor>> {
        let Device::Cuda(device) = device else { return Ok(None) };
        if self.failed {
            return Ok(None);
        }
        let count = round(rows.len());
        let part = |part: usize| {
            let filled = std::iter::repeat_n(filling, count - rows.len());
            rows.iter().copied().chain(filled).map(move |row| row[part])
        };
        let values: Vec<u32> = (0..3).flat_map(part).collect();
        let inputs = Tensor::from_vec(values, (3, count), &Device::Cuda(device.clone()))?;
        let wanted = |logits: &Tensor| logits.narrow(0, 0, rows.len())?.force_contiguous();
        if let Some(recording) = self.steps.get_mut(&count) {
            recording.inputs.slice_set(&inputs, 0, 0)?;
            recording.graph.0.launch().w()?;
            return wanted(&recording.logits).map(Some);
        }
        let logits = {
            // What candle uploads for its kernels stays where it is for the recording.
            let _kept = device.enable_cuda_graph_htod_cache();
            step(&inputs)?
        };
        let logits = wanted(&logits)?;
        match Recording::of(device, inputs, &logits, step) {
            Ok(recording) => {
                self.steps.insert(count, recording);
            }
            Err(error) => {
                tracing::warn!(%error, rows = count, "decode steps cannot be recorded on this GPU, and are queued kernel by kernel");
                self.failed = true;
            }
        }
        Ok(Some(logits))
    }
}

impl Recording {
    /// Records a step whose first rows have just come to `expected`, and repeats it to see that the recording comes to the same bits.
    /// What rows come to that belong to nobody is not written anywhere, and never the same.
    fn of(
        device: &CudaDevice,
        inputs: Tensor,
        expected: &Tensor,
        step: impl Fn(&Tensor) -> Result<Tensor>,
    ) -> Result<Self> {
        let shape = (inputs.dim(1)?, expected.dim(1)?);
        let logits = Tensor::zeros(shape, DType::F32, &Device::Cuda(device.clone()))?;
        let graph = {
            let _kept = device.enable_cuda_graph_htod_cache();
            let capture = Capture::begin(device)?;
            // Memory of the step itself is the graph's own: it must be free again when the recording ends.
            step(&inputs).and_then(|found| logits.slice_set(&found, 0, 0))?;
            capture.end()?
        };
        graph.launch().w()?;
        let bits = |tensor: &Tensor| -> Result<Vec<u32>> {
            Ok(tensor.flatten_all()?.to_vec1::<f32>()?.into_iter().map(f32::to_bits).collect())
        };
        if bits(&logits.narrow(0, 0, expected.dim(0)?)?)? != bits(expected)? {
            bail!("a recorded step does not repeat what was recorded")
        }
        Ok(Self { graph: Graph(graph), inputs, logits })
    }
}

/// A stream that records what is queued, until the end of this value at the latest.
struct Capture<'a> {
    device: &'a CudaDevice,
    ended: bool,
}

const FLAGS: CUgraphInstantiate_flags = CUgraphInstantiate_flags(0);

impl<'a> Capture<'a> {
    fn begin(device: &'a CudaDevice) -> Result<Self> {
        let stream = device.cuda_stream();
        stream.synchronize().w()?;
        stream.begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).w()?;
        Ok(Self { device, ended: false })
    }

    fn end(mut self) -> Result<CudaGraph> {
        self.ended = true;
        match self.device.cuda_stream().end_capture(FLAGS).w()? {
            Some(graph) => Ok(graph),
            None => bail!("nothing was recorded"),
        }
    }
}

impl Drop for Capture<'_> {
    fn drop(&mut self) {
        if !self.ended
            && let Err(error) = self.device.cuda_stream().end_capture(FLAGS)
        {
            tracing::debug!(%error, "a recording that failed was thrown away");
        }
    }
}

/// The number of rows that is recorded for so many: few recordings serve all numbers.
fn round(rows: usize) -> usize {
    if rows <= FEW { rows.next_power_of_two() } else { rows.next_multiple_of(FEW) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_recordings_serve_all_numbers_of_rows() {
        let rounded: Vec<usize> = [1, 2, 3, 5, 8, 9, 16, 17, 33].into_iter().map(round).collect();
        assert_eq!(rounded, [1, 2, 4, 8, 8, 16, 16, 24, 40]);
    }
}
