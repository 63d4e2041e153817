#!/usr/bin/env bash
# Builds both programs for NVIDIA GPUs, on any x86-64 Linux machine; no GPU is needed.
#
#   deploy/cuda/build.sh        for compute 8.0 and later: RTX 30, 40 and 50, A10, L4, A100, H100 …
#   deploy/cuda/build.sh 75     for Turing: RTX 20, T4 (f16 and quantised weights, no bf16)
#
# The programs end up, stripped, in target/cuda-80/ or target/cuda-75/. They need a driver of the 580 series or newer and the CUDA 13
# libraries libcublas, libcublasLt and libcurand when they use a GPU, and nothing of it when they do not.
set -euo pipefail
cd "$(dirname "$0")/../.."

capability=${1:-80}
case $capability in
  75 | 80) ;;
  *) printf 'error: %s: build for 75 (Turing) or 80 (everything newer)\n' "$capability" >&2; exit 64 ;;
esac
target=${CARGO_TARGET_DIR:-target}
cargo fetch --locked
variables=$(deploy/cuda/toolkit.sh "$target/cuda-toolkit")
eval "$variables"
export CUDA_COMPUTE_CAP=$capability
# The build script of the kernels would use half of the cores.
export CUDAFORGE_THREADS=${CUDAFORGE_THREADS:-$(nproc)}
cargo build --release --locked --target-dir "$target/cuda-build-$capability" \
  --package captionfleet-worker --package captionfleet-dispatcher \
  --features captionfleet-worker/cuda,captionfleet-dispatcher/cuda
mkdir -p "$target/cuda-$capability"
for program in worker dispatcher; do
  strip -o "$target/cuda-$capability/$program" "$target/cuda-build-$capability/release/$program"
done
ls -l "$target/cuda-$capability"
