//! The kernels on a CPU: their sources compiled as C++ (`host.cpp`), launched as the driver would launch them.

use std::ffi::{CString, c_void};
use std::path::Path;
use std::process::Command;
use std::sync::{Mutex, OnceLock, PoisonError};

use captionfleet_cuda_kernels::{Argument, Element, Launch};
use half::{bf16, f16};
use libloading::{Library, Symbol};

type HostLaunch =
    unsafe extern "C" fn(*const i8, u32, u32, u32, u32, *const *const c_void, usize, i32) -> i32;

/// Runs a launch, its blocks' threads from first to last or the other way.
pub(crate) fn run(launch: &Launch, backwards: bool) {
    // The library runs one block at a time.
    static HOST: OnceLock<Mutex<Library>> = OnceLock::new();
    let host = HOST.get_or_init(|| Mutex::new(build())).lock().unwrap_or_else(PoisonError::into_inner);
    let cells: Vec<u64> = launch
        .arguments
        .iter()
        .map(|argument| match *argument {
            Argument::Pointer(address) => address,
            Argument::U32(count) => u64::from(count),
            Argument::F32(number) => u64::from(number.to_bits()),
        })
        .collect();
    let addresses: Vec<*const c_void> = cells.iter().map(|cell| std::ptr::from_ref(cell).cast()).collect();
    let name = CString::new(launch.function.as_str()).unwrap();
    // SAFETY: the function has this signature in `host.cpp`; each address is that of a cell of 8 bytes, of which the kernel reads
    // as many as its parameter has, on a little-endian machine; what pointers point to is alive and as long as the tests' operands.
    let code = unsafe {
        let host_launch: Symbol<'_, HostLaunch> = host.get(b"host_launch").unwrap();
        host_launch(
            name.as_ptr().cast(),
            launch.grid.0,
            launch.grid.1,
            launch.threads,
            launch.shared_bytes,
            addresses.as_ptr(),
            addresses.len(),
            i32::from(backwards),
        )
    };
    let complaint = match code {
        0 => return,
        1 => "there is no such kernel",
        2 => "it has another number of parameters",
        3 => "its threads wait for each other in vain",
        4 => "it writes behind its shared memory",
        _ => "it failed",
    };
    panic!("{}: {complaint}", launch.function);
}

fn build() -> Library {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/host");
    let folder = tempfile::tempdir().unwrap();
    let library = folder.path().join("kernels.so");
    let compiler = std::env::var_os("CXX").unwrap_or_else(|| "c++".into());
    let status = Command::new(&compiler)
        .args([
            "-std=c++17",
            "-O2",
            "-fPIC",
            "-shared",
            "-ffp-contract=off",
            "-U_FORTIFY_SOURCE",
            "-Wall",
            "-Wno-unknown-pragmas",
            "-Werror",
            "-I",
        ])
        .arg(&sources)
        .arg("-o")
        .arg(&library)
        .arg(sources.join("host.cpp"))
        .status()
        .unwrap_or_else(|error| {
            panic!(
                "{}: {error}; these tests need a C++ compiler (Debian: build-essential), or its name in CXX",
                compiler.display()
            )
        });
    assert!(status.success(), "the kernels do not compile as C++");
    // SAFETY: the library was compiled above and does nothing when it is loaded.
    unsafe { Library::new(&library).unwrap() }
}

/// Values in memory as a kernel reads or writes them.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Values {
    F32(Vec<f32>),
    F16(Vec<f16>),
    Bf16(Vec<bf16>),
}

impl Values {
    pub(crate) fn of(element: Element, values: &[f32]) -> Self {
        match element {
            Element::F32 => Self::F32(values.to_vec()),
            Element::F16 => Self::F16(values.iter().copied().map(f16::from_f32).collect()),
            Element::Bf16 => Self::Bf16(values.iter().copied().map(bf16::from_f32).collect()),
        }
    }

    /// NaN everywhere: what a kernel does not write is seen.
    pub(crate) fn unwritten(element: Element, count: usize) -> Self {
        Self::of(element, &vec![f32::NAN; count])
    }

    pub(crate) fn widened(&self) -> Vec<f32> {
        match self {
            Self::F32(values) => values.clone(),
            Self::F16(values) => values.iter().map(|value| value.to_f32()).collect(),
            Self::Bf16(values) => values.iter().map(|value| value.to_f32()).collect(),
        }
    }

    pub(crate) fn address(&self) -> u64 {
        match self {
            Self::F32(values) => values.as_ptr() as u64,
            Self::F16(values) => values.as_ptr() as u64,
            Self::Bf16(values) => values.as_ptr() as u64,
        }
    }

    pub(crate) fn address_mut(&mut self) -> u64 {
        match self {
            Self::F32(values) => values.as_mut_ptr() as u64,
            Self::F16(values) => values.as_mut_ptr() as u64,
            Self::Bf16(values) => values.as_mut_ptr() as u64,
        }
    }

    pub(crate) fn bits(&self) -> Vec<u32> {
        match self {
            Self::F32(values) => values.iter().map(|value| value.to_bits()).collect(),
            Self::F16(values) => values.iter().map(|value| value.to_bits().into()).collect(),
            Self::Bf16(values) => values.iter().map(|value| value.to_bits().into()).collect(),
        }
    }
}

/// Half a unit in the last place of a type, relatively.
pub(crate) fn rounding(element: Element) -> f64 {
    match element {
        Element::F32 => 2f64.powi(-24),
        Element::F16 => 2f64.powi(-11),
        Element::Bf16 => 2f64.powi(-8),
    }
}
