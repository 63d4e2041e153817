// Runs the kernels' launches on a CPU, called through `host_launch`.
#include "host.h"

#include <setjmp.h>
#include <ucontext.h>

#include <deque>
#include <utility>
#include <vector>

#include "../../kernels/choice.cu"
#include "../../kernels/heads.cu"
#include "../../kernels/slots.cu"
#include "../../kernels/finish.cu"
#include "../../kernels/norm.cu"

Place threadIdx, blockIdx, blockDim, gridDim;
float *host_shared;

namespace {

const size_t STACK = 64 << 10;
// Behind the shared memory, to see whether a kernel writes there.
const size_t GUARD = 64;
const float UNTOUCHED = -12345.5f;

enum State { READY, AT_BARRIER, AT_SHUFFLE, ENDED };

// Switches save no signal mask: that would be a call of the system each.
struct Fibre {
    ucontext_t start;
    jmp_buf place;
    bool is_started = false;
    char stack[STACK];
    State state;
    // What it gives the rest of its warp, by turns: the last may still be read when the next is given.
    float given[2];
    int turn;
};

// They outlive their blocks and go on with the next. A deque leaves them where they are when it grows.
std::deque<Fibre> fibres;
size_t threads, running;
jmp_buf scheduler;
void (*body)(void **);
void **body_arguments;

void wait(State state) {
    Fibre &own = fibres[running];
    own.state = state;
    if (_setjmp(own.place) == 0) _longjmp(scheduler, 1);
}

void fibre_main() {
    for (;;) {
        body(body_arguments);
        wait(ENDED);
    }
}

void go_on(size_t next) {
    running = next;
    threadIdx = {(uint32_t)next, 0, 0};
    if (_setjmp(scheduler) != 0) return;
    if (fibres[next].is_started) _longjmp(fibres[next].place, 1);
    fibres[next].is_started = true;
    ucontext_t *start = &fibres[next].start;
    getcontext(start);
    start->uc_stack.ss_sp = fibres[next].stack;
    start->uc_stack.ss_size = STACK;
    start->uc_link = nullptr;
    makecontext(start, fibre_main, 0);
    setcontext(start);
}

// Whether there are any in these places that have not ended, and all of them are in that state.
bool all_are(size_t first, size_t end, State state) {
    bool any = false;
    for (size_t i = first; i < end; i++) {
        if (fibres[i].state == ENDED) continue;
        if (fibres[i].state != state) return false;
        any = true;
    }
    return any;
}

bool let_go(size_t first, size_t end, State state) {
    if (!all_are(first, end, state)) return false;
    for (size_t i = first; i < end; i++) {
        if (fibres[i].state == state) fibres[i].state = READY;
    }
    return true;
}

// Whether every thread of the block came to its end.
bool run_block(bool backwards) {
    for (size_t i = 0; i < threads; i++) {
        fibres[i].state = READY;
        fibres[i].turn = 0;
    }
    for (;;) {
        bool any = false;
        for (size_t turn = 0; turn < threads; turn++) {
            const size_t next = backwards ? threads - 1 - turn : turn;
            if (fibres[next].state != READY) continue;
            any = true;
            go_on(next);
        }
        for (size_t first = 0; first < threads; first += WARP) any |= let_go(first, first + WARP, AT_SHUFFLE);
        any |= let_go(0, threads, AT_BARRIER);
        if (any) continue;
        for (size_t i = 0; i < threads; i++) {
            if (fibres[i].state != ENDED) return false;
        }
        return true;
    }
}

template <typename... A, size_t... I>
void call(void (*kernel)(A...), void **arguments, std::index_sequence<I...>) {
    kernel(*(A *)arguments[I]...);
}

template <auto kernel> struct Entry;
template <typename... A, void (*kernel)(A...)> struct Entry<kernel> {
    static const size_t count = sizeof...(A);
    static void run(void **arguments) { call(kernel, arguments, std::index_sequence_for<A...>()); }
};

struct Kernel {
    const char *name;
    size_t arguments;
    void (*run)(void **);
};

#define KERNEL(name) {#name, Entry<name>::count, Entry<name>::run}
#define KERNELS(T)                                                                                        \
    KERNEL(finish_##T), KERNEL(finish_add_##T), KERNEL(finish_gelu_erf_##T), KERNEL(finish_gelu_tanh_##T), \
        KERNEL(layer_norm_##T##_float), KERNEL(layer_norm_##T##_f16), KERNEL(layer_norm_##T##_bf16),       \
        KERNEL(rms_norm_##T), KERNEL(slot_append_##T), KERNEL(slot_attention_##T),                         \
        KERNEL(split_heads_##T), KERNEL(join_heads_##T), KERNEL(softmax_##T)

const Kernel kernels[] = {KERNELS(float), KERNELS(f16), KERNELS(bf16), KERNEL(likeliest)};

}  // namespace

void __syncthreads() { wait(AT_BARRIER); }

float __shfl_xor_sync(uint32_t, float value, int distance) {
    const size_t own = running;
    const int turn = fibres[own].turn ^= 1;
    fibres[own].given[turn] = value;
    wait(AT_SHUFFLE);
    return fibres[own ^ (size_t)distance].given[turn];
}

// As cuLaunchKernel: each argument is the address of a value of the parameter's type. Returns 0, or 1 for an unknown kernel, 2 for
// another number of parameters, 3 for threads that wait for each other in vain, 4 for writes behind the shared memory.
extern "C" int host_launch(const char *name, uint32_t grid_x, uint32_t grid_y, uint32_t block, uint32_t shared_bytes,
    void **arguments, size_t count, int backwards) {
    const Kernel *kernel = nullptr;
    for (const Kernel &each : kernels) {
        if (strcmp(each.name, name) == 0) kernel = &each;
    }
    if (kernel == nullptr) return 1;
    if (kernel->arguments != count) return 2;
    body = kernel->run;
    body_arguments = arguments;
    gridDim = {grid_x, grid_y, 1};
    blockDim = {block, 1, 1};
    threads = block;
    if (fibres.size() < threads) fibres.resize(threads);
    const size_t floats = shared_bytes / sizeof(float);
    std::vector<float> shared(floats + GUARD);
    host_shared = shared.data();
    for (uint32_t y = 0; y < grid_y; y++) {
        for (uint32_t x = 0; x < grid_x; x++) {
            blockIdx = {x, y, 0};
            // Nothing may count on what it finds there.
            for (size_t i = 0; i < shared.size(); i++) shared[i] = i < floats ? NAN : UNTOUCHED;
            if (!run_block(backwards != 0)) {
                // They wait in the middle of it.
                fibres.clear();
                return 3;
            }
            for (size_t i = floats; i < shared.size(); i++) {
                if (shared[i] != UNTOUCHED) return 4;
            }
        }
    }
    return 0;
}
