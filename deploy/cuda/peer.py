#!/usr/bin/env python3
"""The peer on a GPU: Hugging Face `generate` on BLIP-2 with OPT-2.7B, random weights.

The network is the nearest relative that the library ships: the same vision tower and Q-Former, a language model of the
same size. Weights are drawn, so nothing is downloaded and every answer has the asked-for length. Prints one line of JSON:
captions a second at each batch size, and the best of them.

    python3 -m pip install torch transformers
    python3 deploy/cuda/peer.py --batches 1,8,16,32,64,128,256
    python3 deploy/cuda/peer.py --device cpu --small --batches 1,2      only to see that the script runs
"""

import argparse
import json
import time

import torch
import transformers


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--batches", default="1,8,16,32,64,128,256", help="batch sizes, separated by commas")
    parser.add_argument("--tokens", type=int, default=30, help="new tokens of each caption")
    parser.add_argument("--prompt", type=int, default=20, help="tokens of the prompt beside the picture's 32")
    parser.add_argument("--runs", type=int, default=3, help="runs of each batch size, of which the best counts")
    parser.add_argument("--small", action="store_true", help="two layers everywhere")
    return parser.parse_args()


def build(small, device):
    layers = {"num_hidden_layers": 2} if small else {}
    config = transformers.Blip2Config(
        vision_config=transformers.Blip2VisionConfig(**layers).to_dict(),
        qformer_config=transformers.Blip2QFormerConfig(**layers).to_dict(),
        text_config=transformers.OPTConfig(
            hidden_size=2560,
            ffn_dim=10240,
            num_attention_heads=32,
            num_hidden_layers=2 if small else 32,
            word_embed_proj_dim=2560,
            vocab_size=50304,
        ).to_dict(),
        num_query_tokens=32,
    )
    # Older releases of the library take the picture's place in the prompt from this id.
    config.image_token_index = 50265 % 50304
    dtype = torch.float16 if device.startswith("cuda") else torch.float32
    torch.set_default_dtype(dtype)
    with torch.device(device):
        model = transformers.Blip2ForConditionalGeneration(config)
    torch.set_default_dtype(torch.float32)
    return model.eval().to(dtype), dtype, config


@torch.inference_mode()
def measure(model, dtype, config, device, batch, tokens, prompt, runs):
    pixels = torch.randn(batch, 3, 224, 224, device=device, dtype=dtype)
    picture = torch.full((batch, 32), config.image_token_index, device=device)
    words = torch.randint(10, 40_000, (batch, prompt), device=device)
    ids = torch.cat([picture, words], dim=1)
    best = float("inf")
    for _ in range(runs):
        started = time.perf_counter()
        model.generate(
            pixel_values=pixels,
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            min_new_tokens=tokens,
            max_new_tokens=tokens,
            do_sample=False,
        )
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - started)
    return batch / best


def main():
    args = arguments()
    torch.manual_seed(1)
    model, dtype, config = build(args.small, args.device)
    rates = {}
    for batch in map(int, args.batches.split(",")):
        try:
            rates[batch] = measure(
                model, dtype, config, args.device, batch, args.tokens, args.prompt, args.runs
            )
        except torch.cuda.OutOfMemoryError:
            torch.cuda.empty_cache()
            break
    best = max(rates, key=rates.get)
    on_gpu = args.device.startswith("cuda")
    print(
        json.dumps(
            {
                "peer": f"transformers {transformers.__version__}, torch {torch.__version__}",
                "device": torch.cuda.get_device_name() if on_gpu else args.device,
                "captions_per_second": rates,
                "best_batch": best,
                "best": rates[best],
                "peak_bytes": torch.cuda.max_memory_allocated() if on_gpu else None,
            }
        )
    )


if __name__ == "__main__":
    main()
