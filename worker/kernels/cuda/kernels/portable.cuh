// The part of CUDA C++ that the kernels are written in, so that the tests can run the same sources on a CPU
// (tests/host/host.h): no static shared memory, no warp functions but the shuffle, one-dimensional blocks of whole warps.
#pragma once

#include <stdint.h>

#ifdef __CUDACC__
#include <cuda_bf16.h>
#include <cuda_fp16.h>

typedef __half f16;
typedef __nv_bfloat16 bf16;

static __device__ __forceinline__ float widened(f16 x) { return __half2float(x); }
static __device__ __forceinline__ float widened(bf16 x) { return __bfloat162float(x); }
static __device__ __forceinline__ void put(f16 *place, float x) { *place = __float2half_rn(x); }
static __device__ __forceinline__ void put(bf16 *place, float x) { *place = __float2bfloat16_rn(x); }

// The block's shared memory, as much as the launch asks for.
#define SHARED_FLOATS(name) extern __shared__ float name[]
#else
#include "host.h"
#endif

static __device__ __forceinline__ float widened(float x) { return x; }
static __device__ __forceinline__ void put(float *place, float x) { *place = x; }

const uint32_t WARP = 32;
// The most warps of a block, and so the floats that a sum over a block needs.
const uint32_t SCRATCH = 32;

static __device__ __forceinline__ float warp_sum(float x) {
    for (int step = 16; step > 0; step /= 2) x += __shfl_xor_sync(0xffffffffu, x, step);
    return x;
}

static __device__ __forceinline__ float warp_most(float x) {
    for (int step = 16; step > 0; step /= 2) x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, step));
    return x;
}

// The sum over a block, in every thread of it, the same bits in all. What the block wrote to shared memory before can be read
// afterwards.
static __device__ __forceinline__ float block_sum(float x, float *scratch) {
    const uint32_t warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    x = warp_sum(x);
    __syncthreads();  // the scratch of the call before may still be read
    if (lane == 0) scratch[warp] = x;
    __syncthreads();
    return warp_sum(lane < blockDim.x / WARP ? scratch[lane] : 0.0f);
}

// The largest value of a block, likewise.
static __device__ __forceinline__ float block_most(float x, float *scratch) {
    const uint32_t warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    x = warp_most(x);
    __syncthreads();
    if (lane == 0) scratch[warp] = x;
    __syncthreads();
    return warp_most(lane < blockDim.x / WARP ? scratch[lane] : -INFINITY);
}
