// Attention of many tokens at once: what lies between its matrix products, which are left to cuBLAS.
//
// Products whose rows do not begin at multiples of 16 bytes are several times as slow, and the 257 tokens of a picture make such rows:
// between split and join a sequence has `padded` tokens, of which those behind the real ones are zeros.
#include "portable.cuh"

// Fused projections `(sequences, tokens, 3, heads, width)` with their bias, queries times `scale`, as
// `(3, sequences, heads, padded, width)`: each head's values lie together, as products over heads want them. Block (row, part)
// takes the queries, keys or values of a token, padding included; `bias` may be null.
template <typename T>
static __device__ __forceinline__ void split_heads(const T *product, const float *bias, T *out, float scale, uint32_t tokens,
    uint32_t padded, uint32_t heads, uint32_t width) {
    const uint32_t part = blockIdx.y, columns = heads * width;
    const uint32_t sequence = blockIdx.x / padded, token = blockIdx.x % padded, sequences = gridDim.x / padded;
    const T *from = product + (((uint64_t)sequence * tokens + token) * 3 + part) * columns;
    const uint64_t first_head = ((uint64_t)part * sequences + sequence) * heads;
    for (uint32_t column = threadIdx.x; column < columns; column += blockDim.x) {
        float x = 0.0f;
        if (token < tokens) {
            x = widened(from[column]);
            if (bias != nullptr) x += bias[part * columns + column];
            if (part == 0) x *= scale;
        }
        const uint64_t head = first_head + column / width;
        put(&out[(head * padded + token) * width + column % width], x);
    }
}

// What all heads saw, `(sequences, heads, padded, width)`, as `(sequences, tokens, heads, width)`. Block (row) takes a token.
template <typename T>
static __device__ __forceinline__ void join_heads(
    const T *seen, T *out, uint32_t tokens, uint32_t padded, uint32_t heads, uint32_t width) {
    const uint32_t sequence = blockIdx.x / tokens, token = blockIdx.x % tokens, columns = heads * width;
    for (uint32_t column = threadIdx.x; column < columns; column += blockDim.x) {
        const uint64_t head = (uint64_t)sequence * heads + column / width;
        out[(uint64_t)blockIdx.x * columns + column] = seen[(head * padded + token) * width + column % width];
    }
}

// Softmax of the first `valid` columns of rows where they lie, zeros in the others; each warp has a row. A lane reads and writes its own
// columns only.
template <typename T>
static __device__ __forceinline__ void softmax(T *scores, uint32_t rows, uint32_t width, uint32_t valid) {
    const uint32_t row = blockIdx.x * (blockDim.x / WARP) + threadIdx.x / WARP, lane = threadIdx.x % WARP;
    if (row >= rows) return;
    T *xs = scores + (uint64_t)row * width;
    float most = -INFINITY;
    for (uint32_t column = lane; column < valid; column += WARP) most = fmaxf(most, widened(xs[column]));
    most = warp_most(most);
    float total = 0.0f;
    for (uint32_t column = lane; column < valid; column += WARP) total += expf(widened(xs[column]) - most);
    const float share = 1.0f / warp_sum(total);
    for (uint32_t column = lane; column < width; column += WARP) {
        put(&xs[column], column < valid ? expf(widened(xs[column]) - most) * share : 0.0f);
    }
}

#define HEADS(T)                                                                                                         \
    extern "C" __global__ void split_heads_##T(const T *product, const float *bias, T *out, float scale, uint32_t tokens, \
        uint32_t padded, uint32_t heads, uint32_t width) {                                                               \
        split_heads<T>(product, bias, out, scale, tokens, padded, heads, width);                                         \
    }                                                                                                                    \
    extern "C" __global__ void join_heads_##T(                                                                           \
        const T *seen, T *out, uint32_t tokens, uint32_t padded, uint32_t heads, uint32_t width) {                       \
        join_heads<T>(seen, out, tokens, padded, heads, width);                                                          \
    }                                                                                                                    \
    extern "C" __global__ void softmax_##T(T *scores, uint32_t rows, uint32_t width, uint32_t valid) {                   \
        softmax<T>(scores, rows, width, valid);                                                                          \
    }

HEADS(float)
HEADS(f16)
HEADS(bf16)
