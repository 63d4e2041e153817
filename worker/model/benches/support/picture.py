"""The network in PyTorch with drawn weights: answers each line, `BATCH SIDE PROMPT TOKENS`, with the seconds of one `generate`.

Arguments: threads, layers of the vision tower, of the Q-Former and of the language model. Needs torch and transformers. It is
BLIP-2's vision tower and Q-Former with Phi-2 (queries and keys normed, as here), in bf16 on the CPU, greedy, with a cache of
keys and values. The embedding for search, which ours makes besides, is not computed.
"""

import sys
import time

import torch
import transformers

threads, vision, qformer, language = map(int, sys.argv[1:])
torch.set_num_threads(threads)
torch.manual_seed(0)
transformers.logging.set_verbosity_error()
PICTURE_TOKEN = 51199


def build(side):
    config = transformers.Blip2Config(
        vision_config=transformers.Blip2VisionConfig(image_size=side, num_hidden_layers=vision).to_dict(),
        qformer_config=transformers.Blip2QFormerConfig(num_hidden_layers=qformer).to_dict(),
        text_config=transformers.PhiConfig(
            vocab_size=51200,
            hidden_size=2560,
            intermediate_size=10240,
            num_hidden_layers=language,
            num_attention_heads=32,
            partial_rotary_factor=0.4,
            qk_layernorm=True,
        ).to_dict(),
        num_query_tokens=32,
        image_token_index=PICTURE_TOKEN,
    )
    torch.set_default_dtype(torch.bfloat16)
    return transformers.Blip2ForConditionalGeneration(config).eval()


models = {}
for line in sys.stdin:
    batch, side, prompt, tokens = map(int, line.split())
    if side not in models:
        models.clear()
        models[side] = build(side)
    ids = torch.cat([torch.full((batch, 32), PICTURE_TOKEN), torch.randint(10, 40_000, (batch, prompt))], dim=1)
    pixels = torch.randn(batch, 3, side, side)
    since = time.perf_counter()
    with torch.inference_mode():
        models[side].generate(
            pixel_values=pixels,
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            min_new_tokens=tokens,
            max_new_tokens=tokens,
            do_sample=False,
        )
    print(time.perf_counter() - since, flush=True)
