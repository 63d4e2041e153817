// Residual, sum and norm of a row in one pass over memory; two over the row, which waits in shared memory: a single one,
// mean(x^2) - mean(x)^2, loses most digits where the mean is far from zero. All arithmetic in f32.
#include "portable.cuh"

// `product + bias + residual` of the block's row, into shared memory and, if it is wanted, to `sum`; each thread has its columns.
// Returns the thread's part of the row's sum. All but `product` may be null.
template <typename T>
static __device__ __forceinline__ float gather(
    const T *product, const float *bias, const float *residual, float *sum, float *row, uint32_t width) {
    const uint64_t start = (uint64_t)blockIdx.x * width;
    float total = 0.0f;
    for (uint32_t column = threadIdx.x; column < width; column += blockDim.x) {
        float x = widened(product[start + column]);
        if (bias != nullptr) x += bias[column];
        if (residual != nullptr) x += residual[start + column];
        if (sum != nullptr) sum[start + column] = x;
        row[column] = x;
        total += x;
    }
    return total;
}

// LayerNorm (Ba et al. 2016) of `sum = product + bias + residual`, in the type of the product that reads it. Shared: SCRATCH + width floats.
template <typename T, typename O>
static __device__ __forceinline__ void layer_norm(const T *product, const float *bias, const float *residual, const float *weight,
    const float *shift, float *sum, O *normed, float eps, uint32_t width) {
    SHARED_FLOATS(scratch);
    float *row = scratch + SCRATCH;
    const float mean = block_sum(gather(product, bias, residual, sum, row, width), scratch) / width;
    float squares = 0.0f;
    for (uint32_t column = threadIdx.x; column < width; column += blockDim.x) {
        const float distance = row[column] - mean;
        squares += distance * distance;
    }
    const float scale = 1.0f / sqrtf(block_sum(squares, scratch) / width + eps);
    O *out = normed + (uint64_t)blockIdx.x * width;
    for (uint32_t column = threadIdx.x; column < width; column += blockDim.x) {
        put(&out[column], (row[column] - mean) * scale * weight[column] + shift[column]);
    }
}

// `residual + RMSNorm(product + bias)` (Zhang & Sennrich 2019). Shared: SCRATCH + width floats.
template <typename T>
static __device__ __forceinline__ void rms_norm(const T *product, const float *bias, const float *weight, const float *residual,
    float *out, float eps, uint32_t width) {
    SHARED_FLOATS(scratch);
    float *row = scratch + SCRATCH;
    gather(product, bias, nullptr, nullptr, row, width);
    float squares = 0.0f;
    for (uint32_t column = threadIdx.x; column < width; column += blockDim.x) squares += row[column] * row[column];
    const float scale = 1.0f / sqrtf(block_sum(squares, scratch) / width + eps);
    const uint64_t start = (uint64_t)blockIdx.x * width;
    for (uint32_t column = threadIdx.x; column < width; column += blockDim.x) {
        const float y = row[column] * scale * weight[column];
        out[start + column] = residual == nullptr ? y : residual[start + column] + y;
    }
}

#define LAYER_NORM(T, O)                                                                                                 \
    extern "C" __global__ void layer_norm_##T##_##O(const T *product, const float *bias, const float *residual,          \
        const float *weight, const float *shift, float *sum, O *normed, float eps, uint32_t width) {                     \
        layer_norm<T, O>(product, bias, residual, weight, shift, sum, normed, eps, width);                               \
    }

#define NORMS(T)                                                                                                         \
    LAYER_NORM(T, float)                                                                                                 \
    LAYER_NORM(T, f16)                                                                                                   \
    LAYER_NORM(T, bf16)                                                                                                  \
    extern "C" __global__ void rms_norm_##T(const T *product, const float *bias, const float *weight, const float *residual, \
        float *out, float eps, uint32_t width) {                                                                         \
        rms_norm<T>(product, bias, weight, residual, out, eps, width);                                                   \
    }

NORMS(float)
NORMS(f16)
NORMS(bf16)
