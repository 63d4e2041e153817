// What follows a matrix product: its bias, and a GELU or a residual stream. One pass instead of a kernel for each.
#include "portable.cuh"

enum Then { NOTHING, GELU_ERF, GELU_TANH, ADD };

template <Then then> static __device__ __forceinline__ float followed(float y, float residual) {
    switch (then) {
        case GELU_ERF: return y * normcdff(y);
        // 0.5 (1 + tanh u) = 1 / (1 + e^-2u), u = sqrt(2 / pi) (y + 0.044715 y^3)
        case GELU_TANH: return y / (1.0f + expf(-2.0f * 0.7978845608f * (y + 0.044715f * y * y * y)));
        case ADD: return residual + y;
        default: return y;
    }
}

// Block (row, tile) takes `blockDim.x * 4` columns of a row; `bias` may be null, `residual` is read by ADD alone.
template <typename T, typename O, Then then>
static __device__ __forceinline__ void finish(const T *product, const float *bias, const float *residual, O *out, uint32_t width) {
    const uint64_t row = (uint64_t)blockIdx.x * width;
    const uint32_t first = blockIdx.y * blockDim.x * 4 + threadIdx.x;
#pragma unroll
    for (uint32_t i = 0; i < 4; i++) {
        const uint32_t column = first + i * blockDim.x;
        if (column < width) {
            float y = widened(product[row + column]);
            if (bias != nullptr) y += bias[column];
            put(&out[row + column], followed<then>(y, then == ADD ? residual[row + column] : 0.0f));
        }
    }
}

#define FINISH(name, T, O, then)                                                                                    \
    extern "C" __global__ void name(const T *product, const float *bias, const float *residual, O *out, uint32_t width) { \
        finish<T, O, then>(product, bias, residual, out, width);                                                    \
    }

// The output of an activation goes into the next product, in the type of this one.
#define FINISHES(T)                             \
    FINISH(finish_##T, T, float, NOTHING)       \
    FINISH(finish_add_##T, T, float, ADD)       \
    FINISH(finish_gelu_erf_##T, T, T, GELU_ERF) \
    FINISH(finish_gelu_tanh_##T, T, T, GELU_TANH)

FINISHES(float)
FINISHES(f16)
FINISHES(bf16)
