//! What our own operations on the CPU read.
use candle_core::{CpuStorage, Layout, Result, bail};

/// The values of a tensor in f32 whose rows lie one behind the other; `name` is the operation's.
pub(crate) fn contiguous<'a>(storage: &'a CpuStorage, layout: &Layout, name: &str) -> Result<&'a [f32]> {
    match (storage, layout.contiguous_offsets()) {
        (CpuStorage::F32(values), Some((start, end))) => Ok(&values[start..end]),
        _ => bail!("{name} takes contiguous f32"),
    }
}
