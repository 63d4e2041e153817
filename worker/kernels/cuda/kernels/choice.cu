// The likeliest token of each row of logits: two numbers go to the processor instead of a vocabulary.
#include "portable.cuh"

// Of the first `valid` of a block's row of `width` logits: the first of the largest, and the logarithm of its share among them,
// `(row, 2)`. Where any of them is no number, or none is finite, the share is not finite. `valid` is below 2^24: a float counts it.
// Shared: SCRATCH floats.
extern "C" __global__ void likeliest(const float *logits, float *out, uint32_t width, uint32_t valid) {
    SHARED_FLOATS(scratch);
    const float *row = logits + (uint64_t)blockIdx.x * width;
    float most = -INFINITY;
    for (uint32_t id = threadIdx.x; id < valid; id += blockDim.x) most = fmaxf(most, row[id]);
    most = block_most(most, scratch);
    float total = 0.0f, first = (float)valid;
    for (uint32_t id = threadIdx.x; id < valid; id += blockDim.x) {
        const float x = row[id];
        total += expf(x - most);
        if (x == most) first = fminf(first, (float)id);
    }
    total = block_sum(total, scratch);
    first = -block_most(-first, scratch);
    if (threadIdx.x == 0) {
        out[2 * blockIdx.x] = first;
        out[2 * blockIdx.x + 1] = -logf(total);
    }
}
