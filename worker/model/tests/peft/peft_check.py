"""Adapters between PEFT and captionfleet, on the tiny checkpoint.

    pip install torch peft safetensors          (made with torch 2.15.0, peft 0.21.2)
    python peft_check.py make                   trains `fused/` and `split/` with PEFT and writes what PyTorch computes with them
    python peft_check.py load FOLDER            loads an adapter that captionfleet trained; prints its loss on the same tokens

The language model below is written from its description alone: LayerNorms on queries and keys, an RMSNorm after attention,
attention and MLP beside each other, rotary tables rounded to f16.
"""

import sys
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

HERE = Path(__file__).parent
CHECKPOINT = HERE.parent / "golden" / "checkpoint"
WIDTH, LAYERS, HEADS, HIDDEN, VOCABULARY, ROTATED = 64, 3, 4, 256, 512, 6
IDS = [(i * 37 + 11) % 470 for i in range(24)]


class Rms(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(WIDTH))

    def forward(self, xs):
        return xs * torch.rsqrt(xs.pow(2).mean(-1, keepdim=True) + 1e-6) * self.weight


def rotated(xs):
    length = xs.shape[-2]
    frequency = 10000.0 ** (-torch.arange(0, ROTATED, 2).float() / ROTATED)
    angle = torch.arange(length).float()[:, None] * frequency[None]
    cos, sin = (f(angle).half().float() for f in (torch.cos, torch.sin))
    half = ROTATED // 2
    one, two, rest = xs[..., :half], xs[..., half:ROTATED], xs[..., ROTATED:]
    return torch.cat([one * cos - two * sin, two * cos + one * sin, rest], -1)


class Attention(nn.Module):
    def __init__(self, split):
        super().__init__()
        self.split = split
        if split:
            self.q_proj, self.k_proj, self.v_proj = (nn.Linear(WIDTH, WIDTH) for _ in range(3))
        else:
            self.query_key_value = nn.Linear(WIDTH, 3 * WIDTH)
        self.dense = nn.Linear(WIDTH, WIDTH)
        self.q_layernorm, self.k_layernorm = (nn.LayerNorm(WIDTH // HEADS) for _ in range(2))

    def forward(self, xs):
        rows, length, _ = xs.shape
        if self.split:
            parts = [p(xs).view(rows, length, HEADS, -1) for p in (self.q_proj, self.k_proj, self.v_proj)]
        else:
            parts = self.query_key_value(xs).view(rows, length, HEADS, 3, -1).unbind(3)
        q, k, v = (part.transpose(1, 2) for part in parts)
        q, k = rotated(self.q_layernorm(q.contiguous())), rotated(self.k_layernorm(k.contiguous()))
        seen = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.dense(seen.transpose(1, 2).reshape(rows, length, WIDTH))


class Mlp(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(WIDTH, HIDDEN), nn.Linear(HIDDEN, WIDTH)

    def forward(self, xs):
        return self.fc2(F.gelu(self.fc1(xs), approximate="tanh"))


class Layer(nn.Module):
    def __init__(self, split):
        super().__init__()
        self.input_layernorm, self.post_layernorm = nn.LayerNorm(WIDTH), Rms()
        self.self_attn, self.mlp = Attention(split), Mlp()

    def forward(self, xs):
        normed = self.input_layernorm(xs)
        return self.post_layernorm(self.self_attn(normed)) + self.mlp(normed) + xs


class Body(nn.Module):
    def __init__(self, split):
        super().__init__()
        self.embed_tokens = nn.Embedding(VOCABULARY, WIDTH)
        self.layers = nn.ModuleList(Layer(split) for _ in range(LAYERS))
        self.final_layernorm = nn.LayerNorm(WIDTH)

    def forward(self, ids):
        xs = self.embed_tokens(ids)
        for layer in self.layers:
            xs = layer(xs)
        return self.final_layernorm(xs)


class Phi(nn.Module):
    def __init__(self, split):
        super().__init__()
        self.model, self.lm_head = Body(split), nn.Linear(WIDTH, VOCABULARY)

    def forward(self, ids):
        return self.lm_head(self.model(ids))


def base(split):
    """Phi-2's weights with what stage 3 trained, its LoRA merged."""
    weights = torch.load(CHECKPOINT / "phi-2/pytorch_model.bin", map_location="cpu", weights_only=True)
    weights = {name: tensor.float() for name, tensor in weights.items()}
    stage = torch.load(CHECKPOINT / "TinyGPT-V_for_Stage3.pth", map_location="cpu", weights_only=False)["model"]
    prefix = "llama_model.base_model.model."
    stage = {name.removeprefix(prefix): tensor for name, tensor in stage.items() if name.startswith(prefix)}
    for name, tensor in stage.items():
        if name.endswith(".lora_A.weight"):
            module = name.removesuffix(".lora_A.weight")
            weights[f"{module}.weight"] += 0.25 * stage[f"{module}.lora_B.weight"] @ tensor
        elif ".lora_" not in name and "rotary" not in name:
            weights[name] = tensor
    for layer in range(LAYERS):
        attention = f"model.layers.{layer}.self_attn"
        for norm in ("q", "k"):
            weights[f"{attention}.{norm}_layernorm.bias"] = torch.zeros(WIDTH // HEADS)
        if split:
            for kind in ("weight", "bias"):
                fused = weights.pop(f"{attention}.query_key_value.{kind}")
                parts = fused.view(HEADS, 3, WIDTH // HEADS, *fused.shape[1:]).unbind(1)
                for name, part in zip("qkv", parts):
                    weights[f"{attention}.{name}_proj.{kind}"] = part.reshape(WIDTH, *fused.shape[1:])
    phi = Phi(split)
    phi.load_state_dict(weights)
    return phi


def loss_of(logits, ids):
    return F.cross_entropy(logits[0, :-1], ids[0, 1:])


def make():
    ids = torch.tensor([IDS])
    out = {"plain": base(False)(ids)[0].detach()}
    for name, split, targets, norms in [
        ("fused", False, ["query_key_value", "dense"], ["input_layernorm", "q_layernorm", "final_layernorm"]),
        ("split", True, ["q_proj", "v_proj", "fc1"], None),
    ]:
        torch.manual_seed(1)
        config = LoraConfig(r=4, lora_alpha=12, target_modules=targets, modules_to_save=norms)
        model = get_peft_model(base(split), config)
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
        for _ in range(30):
            loss = loss_of(model(ids), ids)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        model.eval()
        out[name] = model(ids)[0].detach()
        model.save_pretrained(HERE / name, safe_serialization=True)
        (HERE / name / "README.md").unlink(missing_ok=True)
        print(name, "loss", loss.item())
    save_file({name: tensor.contiguous() for name, tensor in out.items()}, HERE / "logits.safetensors")


def load(folder):
    ids = torch.tensor([IDS])
    model = PeftModel.from_pretrained(base(False), folder).eval()
    plain = loss_of(base(False)(ids), ids).item()
    print(f"without it {plain:.6f}, with it {loss_of(model(ids), ids).item():.6f}")


if __name__ == "__main__":
    make() if sys.argv[1:] == ["make"] else load(sys.argv[2])
