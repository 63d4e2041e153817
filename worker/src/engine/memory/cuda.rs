//! A GPU's memory, as its driver counts it.

use std::ffi::c_void;

use candle_core::CudaDevice;
use candle_core::cuda_backend::cudarc::driver::{result, sys};

use sys::CUmemPool_attribute_enum::{
    CU_MEMPOOL_ATTR_RELEASE_THRESHOLD, CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT,
    CU_MEMPOOL_ATTR_USED_MEM_CURRENT, CU_MEMPOOL_ATTR_USED_MEM_HIGH,
};

/// More than a context and the libraries' workspaces take; beyond it, other processes use the GPU.
const MOST_OVERHEAD: u64 = 1 << 30;

/// The stream-ordered pool from which every tensor comes, and what this process takes besides.
#[derive(Debug)]
pub(super) struct Pool {
    device: CudaDevice,
    /// The context and the libraries' workspaces: in use, but not by tensors.
    overhead: u64,
}

/// What tensors leave stays with the pool for the next ones. By default it goes back to the driver whenever the device is waited
/// for, after every step, and the next step maps its memory anew.
pub fn keep_freed(device: &CudaDevice) {
    let pool = Pool { device: device.clone(), overhead: 0 };
    if pool.write(CU_MEMPOOL_ATTR_RELEASE_THRESHOLD, u64::MAX).is_none() {
        tracing::debug!(
            "the GPU's memory is given back after every step: its driver does not let us keep it"
        );
    }
}

impl Pool {
    pub(super) fn of(device: &CudaDevice) -> Self {
        let mut pool = Self { device: device.clone(), overhead: 0 };
        let others = pool.free_and_total().map_or(0, |(free, total)| total.saturating_sub(free));
        pool.overhead = others.saturating_sub(pool.kept()).min(MOST_OVERHEAD);
        pool
    }

    /// Bytes in use now.
    pub(super) fn used(&self) -> u64 {
        self.overhead + self.read(CU_MEMPOOL_ATTR_USED_MEM_CURRENT).unwrap_or(0)
    }

    /// The most bytes in use since [`Self::forget_peak`].
    pub(super) fn peak(&self) -> u64 {
        self.overhead + self.read(CU_MEMPOOL_ATTR_USED_MEM_HIGH).unwrap_or(0)
    }

    /// Bytes that this process could use in all. Blocks that the pool keeps for later are not free to the device, but
    /// they are to us.
    pub(super) fn available(&self) -> Option<u64> {
        let (free, _) = self.free_and_total()?;
        Some(free + self.kept() + self.overhead)
    }

    fn kept(&self) -> u64 {
        self.read(CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT).unwrap_or(0)
    }

    fn free_and_total(&self) -> Option<(u64, u64)> {
        self.device.cuda_stream().context().bind_to_thread().ok()?;
        let (free, total) = result::mem_get_info().ok()?;
        Some((free as u64, total as u64))
    }

    pub(super) fn forget_peak(&self) {
        if self.write(CU_MEMPOOL_ATTR_USED_MEM_HIGH, 0).is_none() {
            tracing::debug!("the memory high-water mark of the GPU cannot be reset");
        }
    }

    /// `attribute` is one that may be set: the high-water mark to 0 alone.
    fn write(&self, attribute: sys::CUmemPool_attribute, mut value: u64) -> Option<()> {
        self.with_pool(|pool| {
            // SAFETY: the pool is the device's current one, and the attributes named here are 64-bit numbers.
            unsafe {
                result::mem_pool::set_attribute(
                    pool,
                    attribute,
                    std::ptr::from_mut(&mut value).cast::<c_void>(),
                )
            }
        })
    }

    fn read(&self, attribute: sys::CUmemPool_attribute) -> Option<u64> {
        self.with_pool(|pool| {
            let mut value = 0u64;
            // SAFETY: the pool is the device's current one, and the attributes named here are 64-bit numbers.
            unsafe {
                result::mem_pool::get_attribute(
                    pool,
                    attribute,
                    std::ptr::from_mut(&mut value).cast::<c_void>(),
                )
            }?;
            Ok(value)
        })
    }

    /// Work in flight is waited for, so that the numbers are those of this moment.
    fn with_pool<T>(
        &self,
        ask: impl FnOnce(sys::CUmemoryPool) -> Result<T, result::DriverError>,
    ) -> Option<T> {
        let stream = self.device.cuda_stream();
        stream.synchronize().ok()?;
        stream.context().bind_to_thread().ok()?;
        // SAFETY: the device of a live context.
        let pool = unsafe { result::device::get_mem_pool(stream.context().cu_device()) }.ok()?;
        ask(pool).ok()
    }
}
