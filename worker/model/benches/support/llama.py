"""Phi-2 in llama.cpp with random weights: answers each line with the seconds of one step, the median of several.

Arguments: the type of the matrices (Q8_0, or Q4_K with Q6_K for the head), threads, layers. Needs the packages
llama-cpp-python and gguf. Lines: `prefill TOKENS` reads one prompt, `decode ROWS TOKENS` makes a token for each of ROWS
sequences that follow prompts of TOKENS.
"""

import os
import statistics
import sys
import tempfile
import time

import gguf
import llama_cpp as ll
import numpy as np

KIND = gguf.GGMLQuantizationType[sys.argv[1]]
HEAD = gguf.GGMLQuantizationType.Q6_K if sys.argv[1] == "Q4_K" else KIND
THREADS, LAYERS = int(sys.argv[2]), int(sys.argv[3])
WIDTH, HEADS, INNER, VOCABULARY, ROTARY = 2560, 32, 10240, 51200, 32
STEPS, MOST_ROWS, MOST_TOKENS = 8, 16, 128

random = np.random.default_rng(0)


def matrix(rows, columns, kind):
    """Random blocks with scales that keep values about as large as those of a trained matrix."""
    block, size = gguf.GGML_QUANT_SIZES[kind]
    raw = random.integers(0, 256, (rows * columns // block, size), dtype=np.uint8)
    scale = {"Q8_0": 3e-4, "Q4_K": 5e-5, "Q6_K": 2e-5}[kind.name]
    halves = np.array([scale], np.float16).view(np.uint8)
    if kind.name == "Q6_K":
        raw[:, -2:] = halves
    else:
        raw[:, :2] = halves
    if kind.name == "Q4_K":
        raw[:, 2:4] = halves
    return raw.reshape(rows, columns // block * size)


def write(path):
    out = gguf.GGUFWriter(path, "phi2")
    out.add_context_length(2048)
    out.add_embedding_length(WIDTH)
    out.add_feed_forward_length(INNER)
    out.add_block_count(LAYERS)
    out.add_head_count(HEADS)
    out.add_layer_norm_eps(1e-5)
    out.add_rope_dimension_count(ROTARY)
    out.add_tokenizer_model("gpt2")
    out.add_token_list([f"token{i}" for i in range(VOCABULARY)])
    out.add_token_merges(["t o"])

    def vector(name, width, value):
        out.add_tensor(name, np.full(width, value, np.float32))

    def linear(name, rows, columns, kind):
        out.add_tensor(f"{name}.weight", matrix(rows, columns, kind), raw_dtype=kind)
        vector(f"{name}.bias", rows, 0.0)

    out.add_tensor("token_embd.weight", matrix(VOCABULARY, WIDTH, KIND), raw_dtype=KIND)
    for layer in range(LAYERS):
        block = f"blk.{layer}"
        vector(f"{block}.attn_norm.weight", WIDTH, 1.0)
        vector(f"{block}.attn_norm.bias", WIDTH, 0.0)
        linear(f"{block}.attn_qkv", 3 * WIDTH, WIDTH, KIND)
        linear(f"{block}.attn_output", WIDTH, WIDTH, KIND)
        linear(f"{block}.ffn_up", INNER, WIDTH, KIND)
        linear(f"{block}.ffn_down", WIDTH, INNER, KIND)
    vector("output_norm.weight", WIDTH, 1.0)
    vector("output_norm.bias", WIDTH, 0.0)
    linear("output", VOCABULARY, WIDTH, HEAD)
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()


def load():
    ll.llama_backend_init()
    quiet = ll.llama_log_callback(lambda level, text, data: None)
    ll.llama_log_set(quiet, None)
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "phi2.gguf")
        write(path)
        options = ll.llama_model_default_params()
        options.use_mmap = False
        model = ll.llama_model_load_from_file(path.encode(), options)
    options = ll.llama_context_default_params()
    options.n_ctx = MOST_ROWS * MOST_TOKENS
    options.n_batch = options.n_ubatch = 512
    options.n_seq_max = MOST_ROWS
    options.n_threads = options.n_threads_batch = THREADS
    context = ll.llama_init_from_model(model, options)
    if not context:
        sys.exit("llama.cpp made no context")
    return context, quiet


# The callback lives as long as llama.cpp may call it.
context, _quiet = load()
memory = ll.llama_get_memory(context)
batch = ll.llama_batch_init(512, 0, 1)


def run(rows):
    """One step with (token's sequence, position, whether its logits are wanted); the seconds that it took."""
    batch.n_tokens = len(rows)
    for at, (sequence, position, wanted) in enumerate(rows):
        batch.token[at] = 7 + at
        batch.pos[at] = position
        batch.n_seq_id[at] = 1
        batch.seq_id[at][0] = sequence
        batch.logits[at] = wanted
    since = time.perf_counter()
    if ll.llama_decode(context, batch) != 0:
        sys.exit("llama_decode failed")
    ll.llama_synchronize(context)
    return time.perf_counter() - since


def prefill(sequence, tokens):
    return run([(sequence, position, position + 1 == tokens) for position in range(tokens)])


for line in sys.stdin:
    step, *numbers = line.split()
    numbers = [int(number) for number in numbers]
    ll.llama_memory_clear(memory, True)
    if step == "prefill":
        seconds = prefill(0, *numbers)
    else:
        rows, tokens = numbers
        for sequence in range(rows):
            prefill(sequence, tokens)
        seconds = statistics.median(
            run([(sequence, tokens + at, True) for sequence in range(rows)]) for at in range(STEPS)
        )
    print(seconds, flush=True)
