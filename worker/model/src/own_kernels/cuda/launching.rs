//! From tensors to addresses, and from launches to the driver. The one place that is unsafe.
use candle_core::{
    CudaStorage, DType, Layout, Result, Shape, Storage, StorageRef, Tensor,
    backend::BackendStorage,
    bail,
    cuda::{
        CudaDevice, CudaStorageSlice, WrapErr,
        cudarc::driver::{CudaStream, DevicePtr, DevicePtrMut, LaunchConfig, PushKernelArg, SyncOnDrop},
    },
    op::BackpropOp,
};
use captionfleet_cuda_kernels::{Argument, Element, Launch};

/// A tensor that a kernel reads: on a GPU, its values one behind the other.
pub(super) struct Operand<'a> {
    storage: StorageRef<'a>,
    layout: &'a Layout,
}

impl<'a> Operand<'a> {
    pub(super) fn of(tensor: &'a Tensor) -> Result<Self> {
        let (storage, layout) = tensor.storage_and_layout();
        if !layout.is_contiguous() {
            bail!("a kernel was given a tensor {layout:?} whose values do not lie one behind the other")
        }
        Ok(Self { storage, layout })
    }

    /// A residual of a product of that shape, in f32.
    pub(super) fn like(tensor: &'a Tensor, shape: &Shape) -> Result<Self> {
        let operand = Self::of(tensor)?;
        operand.expect(DType::F32, shape.elem_count())?;
        Ok(operand)
    }

    pub(super) fn shape(&self) -> &Shape {
        self.layout.shape()
    }

    /// Rows and their width.
    pub(super) fn rows(&self) -> Result<(u32, u32)> {
        rows_of(self.shape())
    }

    pub(super) fn expect(&self, dtype: DType, count: usize) -> Result<()> {
        let (found, has) = (self.cuda()?.dtype(), self.shape().elem_count());
        if (found, has) != (dtype, count) {
            bail!("a kernel was given {has} values in {found:?} instead of {count} in {dtype:?}")
        }
        Ok(())
    }

    pub(super) fn device(&self) -> Result<&CudaDevice> {
        Ok(&self.cuda()?.device)
    }

    pub(super) fn element(&self) -> Result<Element> {
        element(self.cuda()?.dtype())
    }

    pub(super) fn address(&self) -> Result<u64> {
        let storage = self.cuda()?;
        let start = self.layout.start_offset() * storage.dtype().size_in_bytes();
        Ok(reading(storage, &storage.device.cuda_stream())?.0 + start as u64)
    }

    /// The address of a vector of `width` values in f32.
    pub(super) fn vector(&self, width: u32) -> Result<u64> {
        self.expect(DType::F32, width as usize)?;
        self.address()
    }

    fn cuda(&self) -> Result<&CudaStorage> {
        match &*self.storage {
            Storage::Cuda(storage) => Ok(storage),
            _ => bail!("a kernel of the GPU was given a tensor that lies elsewhere"),
        }
    }
}

/// Rows of a tensor, and their width.
pub(super) fn rows_of(shape: &Shape) -> Result<(u32, u32)> {
    let width = shape.dims().last().copied().unwrap_or(1);
    let rows = shape.elem_count() / width.max(1);
    match (i32::try_from(rows), u32::try_from(width)) {
        (Ok(rows), Ok(width)) => Ok((rows as u32, width)),
        _ => bail!("{rows} rows of {width} values are more than a kernel counts"),
    }
}

/// A tensor that a kernel fills.
pub(super) struct Output {
    storage: CudaStorage,
    shape: Shape,
}

impl Output {
    pub(super) fn new(device: &CudaDevice, element: Element, shape: &Shape) -> Result<Self> {
        let count = shape.elem_count();
        // SAFETY: nobody reads the memory before the kernel that fills it, which comes behind the allocation and before
        // all later use on the device's stream.
        let storage = unsafe {
            match element {
                Element::F32 => CudaStorage::wrap_cuda_slice(device.alloc::<f32>(count)?, device.clone()),
                Element::F16 => {
                    CudaStorage::wrap_cuda_slice(device.alloc::<half::f16>(count)?, device.clone())
                }
                Element::Bf16 => {
                    CudaStorage::wrap_cuda_slice(device.alloc::<half::bf16>(count)?, device.clone())
                }
            }
        };
        Ok(Self { storage, shape: shape.clone() })
    }

    pub(super) fn address(&self) -> Result<u64> {
        Ok(reading(&self.storage, &self.storage.device.cuda_stream())?.0)
    }

    pub(super) fn storage(&mut self) -> &mut CudaStorage {
        &mut self.storage
    }

    pub(super) fn tensor(self) -> Tensor {
        Tensor::from_storage(Storage::Cuda(self.storage), self.shape, BackpropOp::none(), false)
    }
}

pub(super) fn element(dtype: DType) -> Result<Element> {
    match dtype {
        DType::F32 => Ok(Element::F32),
        DType::F16 => Ok(Element::F16),
        DType::BF16 => Ok(Element::Bf16),
        other => bail!("the kernels take f32, f16 and bf16, not {other:?}"),
    }
}

/// The address of what a kernel changes in place.
pub(super) fn address_in_place(storage: &mut CudaStorage, layout: &Layout) -> Result<u64> {
    if !layout.is_contiguous() {
        bail!("a kernel cannot change a tensor {layout:?} whose values do not lie one behind the other")
    }
    let start = layout.start_offset() * storage.dtype().size_in_bytes();
    let stream = storage.device.cuda_stream();
    Ok(reading(storage, &stream)?.0 + start as u64)
}

/// Queues a kernel on the device's stream.
///
/// # Safety
/// Every pointer among the arguments belongs to one of `reads` or `writes` and has as many values of the kernel's type behind
/// it as the launch's sizes say, and what the kernel writes to is among `writes`.
pub(super) unsafe fn launch(
    device: &CudaDevice,
    launch: &Launch,
    reads: &[&Operand<'_>],
    writes: &mut [&mut CudaStorage],
) -> Result<()> {
    if launch.grid.0 == 0 || launch.grid.1 == 0 {
        return Ok(());
    }
    let stream = device.cuda_stream();
    let module = launch.module;
    let function = device.get_or_load_custom_func(&launch.function, module.name(), module.ptx())?;
    // Where several streams are in use, these wait for what was queued on others, and let others wait for the kernel.
    let uses: Vec<_> =
        reads.iter().map(|operand| reading(operand.cuda()?, &stream)).collect::<Result<_>>()?;
    let changes: Vec<_> =
        writes.iter_mut().map(|storage| writing(storage, &stream)).collect::<Result<_>>()?;
    let mut builder = function.builder();
    for argument in &launch.arguments {
        match argument {
            Argument::Pointer(address) => builder.arg(address),
            Argument::U32(count) => builder.arg(count),
            Argument::F32(number) => builder.arg(number),
        };
    }
    let config = LaunchConfig {
        grid_dim: (launch.grid.0, launch.grid.1, 1),
        block_dim: (launch.threads, 1, 1),
        shared_mem_bytes: launch.shared_bytes,
    };
    // SAFETY: the arguments are those of the kernel, in its order, as the tests of the kernels' crate make sure of; what they
    // point to is the caller's word.
    unsafe { builder.launch(config) }.w()?;
    drop((uses, changes));
    Ok(())
}

fn reading<'a>(storage: &'a CudaStorage, stream: &'a CudaStream) -> Result<(u64, SyncOnDrop<'a>)> {
    match &storage.slice {
        CudaStorageSlice::F32(slice) => Ok(slice.device_ptr(stream)),
        CudaStorageSlice::F16(slice) => Ok(slice.device_ptr(stream)),
        CudaStorageSlice::BF16(slice) => Ok(slice.device_ptr(stream)),
        CudaStorageSlice::U32(slice) => Ok(slice.device_ptr(stream)),
        _ => bail!("the kernels take f32, f16, bf16 and u32"),
    }
}

fn writing<'a>(storage: &'a mut CudaStorage, stream: &'a CudaStream) -> Result<(u64, SyncOnDrop<'a>)> {
    match &mut storage.slice {
        CudaStorageSlice::F32(slice) => Ok(slice.device_ptr_mut(stream)),
        CudaStorageSlice::F16(slice) => Ok(slice.device_ptr_mut(stream)),
        CudaStorageSlice::BF16(slice) => Ok(slice.device_ptr_mut(stream)),
        _ => bail!("the kernels write f32, f16 and bf16"),
    }
}
