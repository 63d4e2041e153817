// Attention of new tokens in the slots of a cache. A row is one token, a decode step's or a prompt's, and knows its slot and its
// place there; a block has one head of one row. It knows nothing of the others, so that a row's numbers do not depend on its
// neighbours.
#include "portable.cuh"

// The most columns of a head that a lane adds up: heads are at most 128 wide.
const uint32_t LANE_COLUMNS = 4;

// Where a sequence's token is, and how its head is made.
struct Token {
    uint32_t row;       // of the step
    uint32_t head;
    uint32_t heads;
    uint32_t width;     // of a head
    uint32_t turned;    // half the leading dimensions that are rotated
    float eps;
};

// LayerNorm of one head of the fused rows `(row, head, 3, width)`, part 0 (query) or 1 (key), and the rotation of its leading
// dimensions, into shared memory.
static __device__ __forceinline__ void normed_and_turned(const float *fused, uint32_t part, const float *weight, const float *shift,
    const float *cosines, const float *sines, Token token, float *values, float *scratch) {
    const float *from = fused + (((uint64_t)token.row * token.heads + token.head) * 3 + part) * token.width;
    float total = 0.0f;
    for (uint32_t column = threadIdx.x; column < token.width; column += blockDim.x) {
        values[column] = from[column];
        total += from[column];
    }
    const float mean = block_sum(total, scratch) / token.width;
    float squares = 0.0f;
    for (uint32_t column = threadIdx.x; column < token.width; column += blockDim.x) {
        const float distance = values[column] - mean;
        squares += distance * distance;
    }
    const float scale = 1.0f / sqrtf(block_sum(squares, scratch) / token.width + token.eps);
    for (uint32_t column = threadIdx.x; column < token.width; column += blockDim.x) {
        values[column] = (values[column] - mean) * scale * weight[column] + shift[column];
    }
    __syncthreads();
    const uint64_t angles = (uint64_t)token.row * token.turned;
    for (uint32_t i = threadIdx.x; i < token.turned; i += blockDim.x) {
        const float one = values[i], other = values[i + token.turned];
        const float cosine = cosines[angles + i], sine = sines[angles + i];
        values[i] = one * cosine - other * sine;
        values[i + token.turned] = other * cosine + one * sine;
    }
    __syncthreads();
}

// Writes the token's key, normed and rotated, and its value to its place. `cache` is
// `(2, slots, heads, capacity, width)`, keys before values. Block (head, row); shared: SCRATCH + width floats.
template <typename T>
static __device__ __forceinline__ void slot_append(const float *fused, const float *weight, const float *shift, const float *cosines,
    const float *sines, const uint32_t *slots, const uint32_t *places, T *cache, float eps, uint32_t width, uint32_t turned,
    uint32_t capacity, uint32_t all_slots) {
    SHARED_FLOATS(scratch);
    float *values = scratch + SCRATCH;
    const Token token = {blockIdx.y, blockIdx.x, gridDim.x, width, turned, eps};
    const uint32_t slot = slots[token.row], place = places[token.row];
    // The caller has made sure of it; a kernel that writes elsewhere would be found by nobody.
    if (slot >= all_slots || place >= capacity) return;
    normed_and_turned(fused, 1, weight, shift, cosines, sines, token, values, scratch);
    const float *value = fused + (((uint64_t)token.row * token.heads + token.head) * 3 + 2) * width;
    T *to = cache + (((uint64_t)slot * token.heads + token.head) * capacity + place) * width;
    const uint64_t half = (uint64_t)all_slots * token.heads * capacity * width;
    for (uint32_t column = threadIdx.x; column < width; column += blockDim.x) {
        put(&to[column], values[column]);
        put(&to[half + column], value[column]);
    }
}

// Each row's query against all that its slot holds up to its own place, for which all rows' keys and values are there by now; `(row, heads * width)` in f32. Block (head, row);
// shared: SCRATCH + width + the longest context + width for each warp.
template <typename T>
static __device__ __forceinline__ void slot_attention(const float *fused, const float *weight, const float *shift, const float *cosines,
    const float *sines, const uint32_t *slots, const uint32_t *places, const T *cache, float *out, float eps, float scale,
    uint32_t width, uint32_t turned, uint32_t capacity, uint32_t all_slots, uint32_t longest) {
    SHARED_FLOATS(scratch);
    float *query = scratch + SCRATCH;
    float *weights = query + width;
    float *parts = weights + longest;
    const Token token = {blockIdx.y, blockIdx.x, gridDim.x, width, turned, eps};
    const uint32_t slot = slots[token.row], context = places[token.row] + 1;
    if (slot >= all_slots || context > longest || context > capacity) return;
    normed_and_turned(fused, 0, weight, shift, cosines, sines, token, query, scratch);

    const uint32_t warp = threadIdx.x / WARP, lane = threadIdx.x % WARP, warps = blockDim.x / WARP;
    const T *keys = cache + ((uint64_t)slot * token.heads + token.head) * capacity * width;
    const T *values = keys + (uint64_t)all_slots * token.heads * capacity * width;
    for (uint32_t place = warp; place < context; place += warps) {
        const T *key = keys + (uint64_t)place * width;
        float score = 0.0f;
        for (uint32_t column = lane; column < width; column += WARP) score += query[column] * widened(key[column]);
        score = warp_sum(score);
        if (lane == 0) weights[place] = score * scale;
    }
    __syncthreads();

    float most = -INFINITY;
    for (uint32_t place = threadIdx.x; place < context; place += blockDim.x) most = fmaxf(most, weights[place]);
    most = block_most(most, scratch);
    float total = 0.0f;
    for (uint32_t place = threadIdx.x; place < context; place += blockDim.x) {
        const float share = expf(weights[place] - most);
        weights[place] = share;
        total += share;
    }
    total = block_sum(total, scratch);

    float sums[LANE_COLUMNS] = {0.0f, 0.0f, 0.0f, 0.0f};
    for (uint32_t place = warp; place < context; place += warps) {
        const T *value = values + (uint64_t)place * width;
        const float share = weights[place];
#pragma unroll
        for (uint32_t i = 0; i < LANE_COLUMNS; i++) {
            const uint32_t column = lane + i * WARP;
            if (column < width) sums[i] += share * widened(value[column]);
        }
    }
#pragma unroll
    for (uint32_t i = 0; i < LANE_COLUMNS; i++) {
        const uint32_t column = lane + i * WARP;
        if (column < width) parts[warp * width + column] = sums[i];
    }
    __syncthreads();
    float *to = out + ((uint64_t)token.row * token.heads + token.head) * width;
    for (uint32_t column = threadIdx.x; column < width; column += blockDim.x) {
        float sum = 0.0f;
        for (uint32_t i = 0; i < warps; i++) sum += parts[i * width + column];
        to[column] = sum / total;
    }
}

#define IN_SLOTS(T)                                                                                                             \
    extern "C" __global__ void slot_append_##T(const float *fused, const float *weight, const float *shift,                 \
        const float *cosines, const float *sines, const uint32_t *slots, const uint32_t *places, T *cache, float eps,           \
        uint32_t width, uint32_t turned, uint32_t capacity, uint32_t all_slots) {                                             \
        slot_append<T>(                                                                                                     \
            fused, weight, shift, cosines, sines, slots, places, cache, eps, width, turned, capacity, all_slots);               \
    }                                                                                                                         \
    extern "C" __global__ void slot_attention_##T(const float *fused, const float *weight, const float *shift,              \
        const float *cosines, const float *sines, const uint32_t *slots, const uint32_t *places, const T *cache, float *out,    \
        float eps, float scale, uint32_t width, uint32_t turned, uint32_t capacity, uint32_t all_slots, uint32_t longest) {   \
        slot_attention<T>(fused, weight, shift, cosines, sines, slots, places, cache, out, eps, scale, width, turned,         \
            capacity, all_slots, longest);                                                                                    \
    }

IN_SLOTS(float)
IN_SLOTS(f16)
IN_SLOTS(bf16)
