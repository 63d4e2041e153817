//! Compiles the kernels to PTX for `CUDA_COMPUTE_CAP`, which the driver compiles for its GPU.

#[cfg(feature = "nvcc")]
fn main() -> cudaforge::Result<()> {
    println!("cargo:rerun-if-env-changed=NVCC");
    let folder = std::path::PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    cudaforge::KernelBuilder::new()
        .source_dir("kernels")
        .watch(["kernels/portable.cuh"])
        .arg("-std=c++17")
        .arg("-O3")
        .build_ptx()?
        .write(folder.join("ptx.rs"))
}

#[cfg(not(feature = "nvcc"))]
fn main() {
    println!("cargo:rerun-if-changed=build.rs");
}
