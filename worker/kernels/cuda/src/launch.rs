//! What the driver wants to know.

/// The type of the values that a kernel reads, or of the cache it fills.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Element {
    /// 32 bits.
    F32,
    /// IEEE half precision.
    F16,
    /// The upper half of an f32.
    Bf16,
}

impl Element {
    /// Every type.
    pub const ALL: [Self; 3] = [Self::F32, Self::F16, Self::Bf16];

    /// As the kernels' names end.
    pub(crate) fn suffix(self) -> &'static str {
        match self {
            Self::F32 => "float",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
        }
    }
}

/// A file of kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Module {
    /// Which token follows.
    Choice,
    /// What follows a product.
    Finish,
    /// Residual and norm.
    Norm,
    /// Attention of many tokens at once, between its products.
    Heads,
    /// Attention of new tokens in slots.
    Slots,
}

impl Module {
    /// Every file.
    pub const ALL: [Self; 5] = [Self::Choice, Self::Finish, Self::Norm, Self::Heads, Self::Slots];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Choice => "choice",
            Self::Finish => "finish",
            Self::Norm => "norm",
            Self::Heads => "heads",
            Self::Slots => "slots",
        }
    }

    /// Its code for the driver, made for the compute capability that the program was built for.
    #[cfg(feature = "nvcc")]
    pub fn ptx(self) -> &'static str {
        match self {
            Self::Choice => compiled::CHOICE,
            Self::Finish => compiled::FINISH,
            Self::Norm => compiled::NORM,
            Self::Heads => compiled::HEADS,
            Self::Slots => compiled::SLOTS,
        }
    }
}

#[cfg(feature = "nvcc")]
mod compiled {
    #![allow(missing_docs, unreachable_pub, reason = "written by the build script's library")]
    include!(concat!(env!("OUT_DIR"), "/ptx.rs"));
}

/// One argument of a kernel.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Argument {
    /// An address where the kernel runs; 0 is null.
    Pointer(u64),
    /// A count.
    U32(u32),
    /// A number.
    F32(f32),
}

/// A kernel on its operands. Blocks have one dimension.
#[derive(Clone, Debug, PartialEq)]
pub struct Launch {
    /// The file it is in.
    pub module: Module,
    /// Its name there.
    pub function: String,
    /// Blocks, by two dimensions.
    pub grid: (u32, u32),
    /// Threads of a block, in whole warps of 32.
    pub threads: u32,
    /// Shared memory of a block in bytes.
    pub shared_bytes: u32,
    /// In the order of the kernel's parameters.
    pub arguments: Vec<Argument>,
}

/// A pointer that may be null.
pub(crate) fn optional(pointer: Option<u64>) -> Argument {
    Argument::Pointer(pointer.unwrap_or(0))
}
