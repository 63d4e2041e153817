// Enough of CUDA C++ to run the kernels on a CPU, one block at a time.
//
// A thread of a block is a fibre, which runs until it has to wait for others: at a barrier of the block, or at a shuffle for the
// rest of its warp. In which order fibres run is the caller's choice; a kernel whose threads do not wait where they must
// gives other results in another order. Threads that wait in different places are reported, where a GPU would hang.
#pragma once

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define __device__
#define __global__
#define __forceinline__ inline

struct Place {
    uint32_t x, y, z;
};

extern Place threadIdx, blockIdx, blockDim, gridDim;

// The block's shared memory.
extern float *host_shared;
#define SHARED_FLOATS(name) float *name = host_shared

// Waits for every thread of the block that has not ended.
void __syncthreads();
// The value of lane `lane ^ distance` of the warp.
float __shfl_xor_sync(uint32_t lanes, float value, int distance);

static inline float normcdff(float x) { return 0.5f * erfcf(-x * 0.70710678f); }

struct f16 {
    uint16_t bits;
};
struct bf16 {
    uint16_t bits;
};

static inline uint32_t bits_of(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

static inline float float_of(uint32_t bits) {
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

static inline float widened(bf16 x) { return float_of((uint32_t)x.bits << 16); }

static inline void put(bf16 *place, float x) {
    const uint32_t bits = bits_of(x);
    // To nearest, ties to even; a NaN stays one.
    place->bits = x != x ? 0x7fff : (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}

static inline float widened(f16 x) {
    const uint32_t sign = (uint32_t)(x.bits & 0x8000) << 16, exponent = x.bits >> 10 & 31, fraction = x.bits & 1023;
    if (exponent == 31) return float_of(sign | 0x7f800000 | fraction << 13);
    const float size = exponent == 0 ? ldexpf((float)fraction, -24) : ldexpf((float)(1024 + fraction), (int)exponent - 25);
    return float_of(sign | bits_of(size));
}

static inline void put(f16 *place, float x) {
    const uint16_t sign = bits_of(x) >> 16 & 0x8000;
    const float size = fabsf(x);
    uint32_t bits;
    if (size != size) bits = 0x7fff;
    else if (size >= 65520.0f) bits = 0x7c00;
    // Subnormal numbers are multiples of 2^-24; rintf goes to the nearest, ties to even.
    else if (size < 6.103515625e-5f) bits = (uint32_t)rintf(ldexpf(size, 24));
    else bits = (bits_of(size) - (112u << 23) + 0xfff + (bits_of(size) >> 13 & 1)) >> 13;
    place->bits = sign | bits;
}
