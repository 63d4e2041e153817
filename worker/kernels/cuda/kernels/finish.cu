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

// Values that are read and written in one go.
template <typename T> struct alignas(4 * sizeof(T)) Four { T of[4]; };

// Block (row, tile) takes `blockDim.x * 4` columns of a row, each thread four beside each other; `bias` may be null, `residual` is read by
// ADD alone. Rows of a multiple of four values, and all that is given for them, begin where four values may be read at once.
template <typename T, typename O, Then then>
static __device__ __forceinline__ void finish(const T *product, const float *bias, const float *residual, O *out, uint32_t width) {
    const uint32_t first = 4 * (blockIdx.y * blockDim.x + threadIdx.x);
    const uint64_t start = (uint64_t)blockIdx.x * width + first;
    if (width % 4 == 0) {
        if (first >= width) return;
        const Four<T> ys = *(const Four<T> *)&product[start];
        Four<float> biases = {{0.0f, 0.0f, 0.0f, 0.0f}}, residuals = {{0.0f, 0.0f, 0.0f, 0.0f}};
        if (bias != nullptr) biases = *(const Four<float> *)&bias[first];
        if (then == ADD) residuals = *(const Four<float> *)&residual[start];
        Four<O> outs;
#pragma unroll
        for (uint32_t i = 0; i < 4; i++) put(&outs.of[i], followed<then>(widened(ys.of[i]) + biases.of[i], residuals.of[i]));
        *(Four<O> *)&out[start] = outs;
        return;
    }
    for (uint32_t i = 0; i < 4 && first + i < width; i++) {
        float y = widened(product[start + i]);
        if (bias != nullptr) y += bias[first + i];
        put(&out[start + i], followed<then>(y, then == ADD ? residual[start + i] : 0.0f));
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
