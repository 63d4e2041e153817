"""TinyGPT-V and the BLIP-2 contrastive head in PyTorch, at any size.

Module and parameter names follow the published checkpoint files, so that `export.py` only has to add prefixes.
Shapes: B pictures, P patches + 1 class token, Q queries, T text tokens.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass
class Config:
    """Every dimension of the demo model."""

    image_size: int = 112
    patch_size: int = 14
    vit_width: int = 160
    vit_depth: int = 6
    vit_heads: int = 5
    vit_mlp_ratio: float = 3.0
    qformer_width: int = 128
    qformer_layers: int = 3
    qformer_heads: int = 4
    qformer_mlp: int = 256
    cross_frequency: int = 2
    queries: int = 8
    proj_width: int = 128
    lm_width: int = 128
    lm_layers: int = 3
    lm_heads: int = 4
    lm_mlp: int = 384
    lm_vocab: int = 512
    rotary_factor: float = 0.5
    rope_theta: float = 10000.0
    lora_rank: int = 4
    lora_alpha: int = 1
    itc_width: int = 64
    text_vocab: int = 256
    text_positions: int = 32

    @property
    def grid(self) -> int:
        return self.image_size // self.patch_size


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    """Plain attention over (B, heads, tokens, head width): on CPU its backward is faster than the fused kernel's."""
    batch, heads, rows, width = query.shape
    columns = key.shape[2]
    scores = torch.bmm(query.reshape(-1, rows, width), key.reshape(-1, columns, width).transpose(1, 2))
    if mask is not None:
        scores = (scores.view(batch, heads, rows, columns) + mask.to(scores.dtype)).view(-1, rows, columns)
    weights = torch.softmax(scores, dim=-1)
    return torch.bmm(weights, value.reshape(-1, columns, width)).view(batch, heads, rows, width)


def split_heads(states: Tensor, heads: int) -> Tensor:
    batch, tokens, width = states.shape
    return states.view(batch, tokens, heads, width // heads).transpose(1, 2)


def join_heads(states: Tensor) -> Tensor:
    batch, heads, tokens, width = states.shape
    return states.transpose(1, 2).reshape(batch, tokens, heads * width)


class VitAttention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_bias = nn.Parameter(torch.zeros(width))
        self.v_bias = nn.Parameter(torch.zeros(width))
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.proj = nn.Linear(width, width)

    def forward(self, states: Tensor) -> Tensor:
        bias = torch.cat([self.q_bias, torch.zeros_like(self.q_bias), self.v_bias])
        query, key, value = F.linear(states, self.qkv.weight, bias).chunk(3, dim=-1)
        query = split_heads(query, self.heads) * (query.shape[-1] // self.heads) ** -0.5
        mixed = attend(query, split_heads(key, self.heads), split_heads(value, self.heads), None)
        return self.proj(join_heads(mixed))


class VitMlp(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, states: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(states)))


class VitBlock(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        width = config.vit_width
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = VitAttention(width, config.vit_heads)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = VitMlp(width, int(width * config.vit_mlp_ratio))

    def forward(self, states: Tensor) -> Tensor:
        states = states + self.attn(self.norm1(states))
        return states + self.mlp(self.norm2(states))


class PatchEmbed(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, config.vit_width, config.patch_size, config.patch_size)

    def forward(self, pixels: Tensor) -> Tensor:
        """The convolution written as one product: pixels (B, 3, S, S) to (B, patches, width)."""
        batch, _, side, _ = pixels.shape
        patch = self.proj.kernel_size[0]
        grid = side // patch
        patches = pixels.view(batch, 3, grid, patch, grid, patch).permute(0, 2, 4, 1, 3, 5)
        flat = patches.reshape(batch, grid * grid, 3 * patch * patch)
        return F.linear(flat, self.proj.weight.flatten(1), self.proj.bias)


class Vit(nn.Module):
    """The EVA ViT up to its last used block: class token first, no final norm."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.randn(1, 1, config.vit_width) * 0.02)
        self.pos_embed = nn.Parameter(grid_positions(config.grid, config.vit_width))
        self.patch_embed = PatchEmbed(config)
        self.blocks = nn.ModuleList(VitBlock(config) for _ in range(config.vit_depth))

    def forward(self, pixels: Tensor) -> Tensor:
        patches = self.patch_embed(pixels)
        states = torch.cat([self.cls_token.expand(len(patches), -1, -1), patches], dim=1) + self.pos_embed
        for block in self.blocks:
            states = block(states)
        return states


def grid_positions(grid: int, width: int) -> Tensor:
    """Sine and cosine of row and column as the first value of the learned positions: (1, 1 + grid^2, width)."""
    quarter = width // 4
    frequencies = 1.0 / 100 ** (torch.arange(quarter) / quarter)
    angles = torch.arange(grid)[:, None] * frequencies[None]
    rows = angles[:, None, :].expand(grid, grid, quarter)
    columns = angles[None, :, :].expand(grid, grid, quarter)
    table = torch.cat([rows.sin(), rows.cos(), columns.sin(), columns.cos()], dim=-1).reshape(-1, 4 * quarter)
    return F.pad(table * 0.5, (0, width - 4 * quarter, 1, 0))[None]


class BertSelf(nn.Module):
    def __init__(self, width: int, source: int) -> None:
        super().__init__()
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(source, width)
        self.value = nn.Linear(source, width)


class BertOutput(nn.Module):
    """Dense, residual, LayerNorm."""

    def __init__(self, source: int, width: int) -> None:
        super().__init__()
        self.dense = nn.Linear(source, width)
        self.LayerNorm = nn.LayerNorm(width, eps=1e-12)

    def forward(self, states: Tensor, residual: Tensor) -> Tensor:
        return self.LayerNorm(self.dense(states) + residual)


class BertAttention(nn.Module):
    def __init__(self, width: int, source: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.self = BertSelf(width, source)
        self.output = BertOutput(width, width)

    def forward(self, states: Tensor, source: Tensor, mask: Tensor | None) -> Tensor:
        query = split_heads(self.self.query(states), self.heads) * (states.shape[-1] // self.heads) ** -0.5
        key = split_heads(self.self.key(source), self.heads)
        value = split_heads(self.self.value(source), self.heads)
        return self.output(join_heads(attend(query, key, value, mask)), states)


class BertIntermediate(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.dense = nn.Linear(width, hidden)

    def forward(self, states: Tensor) -> Tensor:
        return F.gelu(self.dense(states))


class QformerLayer(nn.Module):
    def __init__(self, config: Config, index: int, with_text: bool) -> None:
        super().__init__()
        width, hidden = config.qformer_width, config.qformer_mlp
        self.attention = BertAttention(width, width, config.qformer_heads)
        if index % config.cross_frequency == 0:
            self.crossattention = BertAttention(width, config.vit_width, config.qformer_heads)
        self.intermediate_query = BertIntermediate(width, hidden)
        self.output_query = BertOutput(hidden, width)
        if with_text:
            self.intermediate = BertIntermediate(width, hidden)
            self.output = BertOutput(hidden, width)

    def forward(self, queries: Tensor | None, text: Tensor | None, vision: Tensor | None, mask: Tensor | None):
        parts = [part for part in (queries, text) if part is not None]
        states = torch.cat(parts, dim=1) if len(parts) > 1 else parts[0]
        states = self.attention(states, states, mask)
        count = 0 if queries is None else queries.shape[1]
        if queries is not None:
            queries = states[:, :count]
            if hasattr(self, "crossattention"):
                queries = self.crossattention(queries, vision, None)
            queries = self.output_query(self.intermediate_query(queries), queries)
        if text is not None:
            text = states[:, count:]
            text = self.output(self.intermediate(text), text)
        return queries, text


class Qformer(nn.Module):
    """Queries that read the picture and, with `with_text`, texts."""

    def __init__(self, config: Config, with_text: bool) -> None:
        super().__init__()
        width = config.qformer_width
        self.query_tokens = nn.Parameter(torch.randn(1, config.queries, width) * 0.3)
        self.LayerNorm = nn.LayerNorm(width, eps=1e-12)
        self.layer = nn.ModuleList(QformerLayer(config, i, with_text) for i in range(config.qformer_layers))
        if with_text:
            self.word_embeddings = nn.Embedding(config.text_vocab, width)
            self.position_embeddings = nn.Embedding(config.text_positions, width)

    def run(self, queries: Tensor | None, text: Tensor | None, vision: Tensor | None, mask: Tensor | None):
        for layer in self.layer:
            queries, text = layer(queries, text, vision, mask)
        return queries, text

    def read_picture(self, vision: Tensor) -> Tensor:
        queries = self.LayerNorm(self.query_tokens).expand(len(vision), -1, -1)
        return self.run(queries, None, vision, None)[0]

    def embed_text(self, ids: Tensor) -> Tensor:
        return self.word_embeddings(ids) + self.position_embeddings.weight[: ids.shape[1]]

    def read_text(self, ids: Tensor) -> Tensor:
        """The hidden state of [CLS]; padding has id 0."""
        mask = text_mask(ids, 0)
        return self.run(None, self.LayerNorm(self.embed_text(ids)), None, mask)[1][:, 0]

    def read_both(self, vision: Tensor, ids: Tensor) -> Tensor:
        """Queries that have seen the picture and the text: (B, Q, width)."""
        text = self.LayerNorm(self.embed_text(ids))
        queries = self.LayerNorm(self.query_tokens).expand(len(ids), -1, -1)
        return self.run(queries, text, vision, text_mask(ids, queries.shape[1]))[0]


def text_mask(ids: Tensor, queries: int) -> Tensor:
    """Additive mask (B, 1, 1, queries + T) that hides padding."""
    hidden = F.pad((ids == 0).float() * -10000.0, (queries, 0))
    return hidden[:, None, None, :]


class PhiAttention(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        width, self.heads = config.lm_width, config.lm_heads
        head = width // self.heads
        self.rotary = int(config.rotary_factor * head)
        self.query_key_value = nn.Linear(width, 3 * width)
        self.dense = nn.Linear(width, width)
        self.q_layernorm = nn.LayerNorm(head, eps=1e-5)
        self.k_layernorm = nn.LayerNorm(head, eps=1e-5)
        # The reference never trains nor saves these two biases.
        self.q_layernorm.bias.requires_grad_(False)
        self.k_layernorm.bias.requires_grad_(False)

    def rotate(self, states: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        turned, kept = states[..., : self.rotary], states[..., self.rotary :]
        first, second = turned.chunk(2, dim=-1)
        crossed = torch.cat([-second, first], dim=-1)
        return torch.cat([turned * cosine + crossed * sine, kept], dim=-1)

    def forward(self, states: Tensor, tables: tuple[Tensor, Tensor], mask: Tensor) -> Tensor:
        batch, tokens, width = states.shape
        head = width // self.heads
        fused = self.query_key_value(states).view(batch, tokens, self.heads, 3 * head).transpose(1, 2)
        query, key, value = fused.split(head, dim=-1)
        query = self.rotate(self.q_layernorm(query), *tables) * head**-0.5
        key = self.rotate(self.k_layernorm(key), *tables)
        return self.dense(join_heads(attend(query, key, value, mask)))


class RmsNorm(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((width,), 0.3))

    def forward(self, states: Tensor) -> Tensor:
        return F.rms_norm(states, (states.shape[-1],), self.weight, eps=1e-6)


class PhiLayer(nn.Module):
    """Attention and MLP in parallel from the same normed input."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.input_layernorm = nn.LayerNorm(config.lm_width, eps=1e-5)
        self.self_attn = PhiAttention(config)
        self.post_layernorm = RmsNorm(config.lm_width)
        self.mlp = VitMlp(config.lm_width, config.lm_mlp)

    def forward(self, states: Tensor, tables: tuple[Tensor, Tensor], mask: Tensor) -> Tensor:
        normed = self.input_layernorm(states)
        mixed = self.post_layernorm(self.self_attn(normed, tables, mask))
        wide = F.gelu(self.mlp.fc1(normed), approximate="tanh")
        return mixed + self.mlp.fc2(wide) + states


class Phi(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.lm_vocab, config.lm_width)
        self.layers = nn.ModuleList(PhiLayer(config) for _ in range(config.lm_layers))
        self.final_layernorm = nn.LayerNorm(config.lm_width, eps=1e-5)
        self.lm_head = nn.Linear(config.lm_width, config.lm_vocab)

    def hidden(self, states: Tensor) -> Tensor:
        """Hidden states of right-padded embeddings (B, T, width): causal order alone hides the padding."""
        tokens = states.shape[1]
        rotary = self.layers[0].self_attn.rotary
        frequencies = 1.0 / self.config.rope_theta ** (torch.arange(0, rotary, 2).float() / rotary)
        angles = torch.arange(tokens).float()[:, None] * frequencies[None]
        angles = torch.cat([angles, angles], dim=-1)
        # The reference rounds its tables to f16.
        tables = (angles.cos().half().to(states.dtype), angles.sin().half().to(states.dtype))
        mask = torch.full((tokens, tokens), -10000.0, dtype=states.dtype).triu(1)
        for layer in self.layers:
            states = layer(states, tables, mask)
        return self.final_layernorm(states)


class DemoModel(nn.Module):
    """Captioner, contrastive head and the heads that only training uses (`aux_*`)."""

    def __init__(self, config: Config, label_sizes: dict[str, int]) -> None:
        super().__init__()
        self.config = config
        self.visual_encoder = Vit(config)
        self.ln_vision = nn.LayerNorm(config.vit_width, eps=1e-5)
        self.qformer = Qformer(config, with_text=False)
        self.llama_proj = nn.Linear(config.qformer_width, config.proj_width)
        self.llama_proj2 = nn.Linear(config.proj_width, config.lm_width)
        self.lm = Phi(config)
        self.itc_ln_vision = nn.LayerNorm(config.vit_width, eps=1e-6)
        self.itc_qformer = Qformer(config, with_text=True)
        self.vision_projection = nn.Linear(config.qformer_width, config.itc_width)
        self.text_projection = nn.Linear(config.qformer_width, config.itc_width)
        self.itm_head = nn.Linear(config.qformer_width, 2)
        self.aux_patch = nn.Linear(config.vit_width, label_sizes["patch"])
        self.aux_query = nn.ModuleList(
            nn.Linear(config.qformer_width, size) for size in (label_sizes["object"], label_sizes["object"], label_sizes["scene"])
        )
        self.aux_itc_query = nn.ModuleList(
            nn.Linear(config.qformer_width, size) for size in (label_sizes["object"], label_sizes["object"], label_sizes["scene"])
        )
        self.aux_temperature = nn.Parameter(torch.tensor(2.66))
        self.apply(initialise)
        for block in self.visual_encoder.blocks:
            shrink(block.attn.proj, config.vit_depth)
            shrink(block.mlp.fc2, config.vit_depth)
        for layer in self.lm.layers:
            shrink(layer.mlp.fc2, config.lm_layers)

    def image_tokens(self, queries: Tensor) -> Tensor:
        return self.llama_proj2(self.llama_proj(queries))

    def image_vectors(self, vision: Tensor) -> tuple[Tensor, Tensor]:
        """Query states and normalised vectors (B, Q, itc width)."""
        queries = self.itc_qformer.read_picture(vision)
        return queries, F.normalize(self.vision_projection(queries).float(), dim=-1)

    def text_vectors(self, ids: Tensor) -> Tensor:
        return F.normalize(self.text_projection(self.itc_qformer.read_text(ids)).float(), dim=-1)


def initialise(module: nn.Module) -> None:
    if isinstance(module, (nn.Linear, nn.Conv2d)):
        fan_in = module.weight[0].numel()
        nn.init.trunc_normal_(module.weight, std=0.8 * fan_in**-0.5)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Embedding):
        nn.init.normal_(module.weight, std=0.3)


def shrink(linear: nn.Linear, depth: int) -> None:
    """Starts a residual branch small."""
    with torch.no_grad():
        linear.weight.mul_((2 * depth) ** -0.5)
