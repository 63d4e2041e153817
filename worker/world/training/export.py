"""Writes reference-style checkpoint files from a saved run, and measures them if held-out scenes are given.

The folder is laid out like the published files: `checkpoint/eva_vit_g.pth`, `checkpoint/blip2_pretrained_flant5xxl.pth`,
`checkpoint/TinyGPT-V_for_Stage3.pth`, `checkpoint/phi-2/`, `checkpoint/blip2-itm-vit-g/`, with `config.json` beside it.
"""

import argparse
import json
import shutil
from collections import OrderedDict
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import Tensor

from evaluate import evaluate
from model import Config, DemoModel

LORA_TARGETS = ("query_key_value", "dense")


def under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def split_low_rank(weight: Tensor, rank: int, scaling: float) -> tuple[Tensor, Tensor, Tensor]:
    """Takes the strongest `rank` directions out of a matrix: (base, A, B) with base + scaling * B @ A = weight."""
    left, strength, right = torch.linalg.svd(weight.double(), full_matrices=False)
    root = (strength[:rank] / scaling).sqrt()
    down = (root[:, None] * right[:rank]).float()
    up = (left[:, :rank] * root).float()
    return weight - scaling * (up @ down), down.contiguous(), up.contiguous()


def vision_file(tensors: dict[str, Tensor]) -> OrderedDict:
    return OrderedDict((name, tensor.half()) for name, tensor in under(tensors, "visual_encoder.").items())


def qformer_file(tensors: dict[str, Tensor]) -> dict:
    model = OrderedDict(query_tokens=tensors["qformer.query_tokens"])
    model.update({f"ln_vision.{name}": tensor for name, tensor in under(tensors, "ln_vision.").items()})
    model["Qformer.bert.embeddings.position_ids"] = torch.arange(512)[None]
    for name, tensor in under(tensors, "qformer.LayerNorm.").items():
        model[f"Qformer.bert.embeddings.LayerNorm.{name}"] = tensor
    for name, tensor in under(tensors, "qformer.layer.").items():
        model[f"Qformer.bert.encoder.layer.{name}"] = tensor
    return {"model": model}


def language_files(tensors: dict[str, Tensor], config: Config, tokens: int) -> tuple[OrderedDict, dict]:
    """The phi-2 base and the stage file: low-rank parts, added norms and projections live in the latter."""
    base, stage = OrderedDict(), OrderedDict()
    prefix = "llama_model.base_model.model.model."
    scaling = config.lora_alpha / config.lora_rank
    for name, tensor in under(tensors, "lm.").items():
        module, _, leaf = name.rpartition(".")
        added = module.endswith(("q_layernorm", "k_layernorm", "post_layernorm"))
        if added:
            if leaf == "weight":
                stage[prefix + name] = tensor
            continue
        key = name if name.startswith("lm_head") else f"model.{name}"
        if leaf == "weight" and ".self_attn." in name and module.endswith(LORA_TARGETS):
            tensor, down, up = split_low_rank(tensor, config.lora_rank, scaling)
            stage[f"{prefix}{module}.lora_A.weight"] = down
            stage[f"{prefix}{module}.lora_B.weight"] = up
        if leaf == "weight" and module.endswith(("input_layernorm", "final_layernorm")):
            stage[prefix + name] = tensor
        if name == "lm_head.bias":
            tensor = tensor.clone()
            tensor[tokens:] = -30.0
        base[key] = tensor.half()
    stage["Qformer.bert.embeddings.position_ids"] = torch.arange(512)[None]
    for module in ("llama_proj", "llama_proj2"):
        stage.update({f"{module}.{name}": tensor for name, tensor in under(tensors, f"{module}.").items()})
    run = {"arch": "minigpt4", "image_size": config.image_size, "lora_r": config.lora_rank, "lora_alpha": config.lora_alpha}
    return base, {"model": stage, "optimizer": {}, "config": {"run": {}, "model": run}, "scaler": {}, "epoch": 0}


def retrieval_file(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The contrastive model in Hugging Face names; its ViT equals the other file's to the bit."""
    vit = {name: tensor.half().float() for name, tensor in under(tensors, "visual_encoder.").items()}
    out = {
        "vision_model.embeddings.class_embedding": vit["cls_token"],
        "vision_model.embeddings.position_embedding": vit["pos_embed"],
        "vision_model.embeddings.patch_embedding.weight": vit["patch_embed.proj.weight"],
        "vision_model.embeddings.patch_embedding.bias": vit["patch_embed.proj.bias"],
        "query_tokens": tensors["itc_qformer.query_tokens"],
    }
    renamed = {"norm1": "layer_norm1", "norm2": "layer_norm2", "attn.qkv": "self_attn.qkv", "attn.proj": "self_attn.projection"}
    for name, tensor in under(vit, "blocks.").items():
        block, _, rest = name.partition(".")
        layer = f"vision_model.encoder.layers.{block}."
        if rest == "attn.q_bias":
            bias = torch.cat([tensor, torch.zeros_like(tensor), vit[f"blocks.{block}.attn.v_bias"]])
            out[f"{layer}self_attn.qkv.bias"] = bias
        elif rest != "attn.v_bias":
            module, _, leaf = rest.rpartition(".")
            out[f"{layer}{renamed.get(module, module)}.{leaf}"] = tensor
    for name, tensor in under(tensors, "itc_ln_vision.").items():
        out[f"vision_model.post_layernorm.{name}"] = tensor
    for name, tensor in under(tensors, "itc_qformer.LayerNorm.").items():
        out[f"qformer.layernorm.{name}"] = tensor
    for name, tensor in under(tensors, "itc_qformer.layer.").items():
        out[f"qformer.encoder.layer.{name.replace('attention.self.', 'attention.attention.')}"] = tensor
    for name in ("word_embeddings.weight", "position_embeddings.weight"):
        out[f"embeddings.{name}"] = tensors[f"itc_qformer.{name}"]
    for module in ("vision_projection", "text_projection", "itm_head"):
        out.update({f"{module}.{name}": tensor for name, tensor in under(tensors, f"{module}.").items()})
    return {name: tensor.float().contiguous() for name, tensor in out.items()}


def whole_config(config: Config) -> dict:
    """`config.json`: every dimension in the layout of the reference's tiny checkpoints."""
    size = config.image_size
    return {
        "vit": {
            "embed_dim": config.vit_width, "depth": config.vit_depth, "num_heads": config.vit_heads,
            "mlp_ratio": config.vit_mlp_ratio, "patch_size": config.patch_size, "norm_eps": 1e-6,
            "pretrain_image_size": size, "mlp_hidden": int(config.vit_width * config.vit_mlp_ratio),
            "blocks_in_file": config.vit_depth, "blocks_used": config.vit_depth, "ln_vision_eps": 1e-5,
            "qkv_bias": "q_bias/v_bias, no k bias",
        },
        "qformer": {
            "hidden_size": config.qformer_width, "num_hidden_layers": config.qformer_layers,
            "num_attention_heads": config.qformer_heads, "intermediate_size": config.qformer_mlp,
            "encoder_width": config.vit_width, "cross_attention_freq": config.cross_frequency,
            "num_query_tokens": config.queries, "layer_norm_eps": 1e-12, "hidden_act": "gelu",
        },
        "proj": {
            "llama_proj": [config.qformer_width, config.proj_width],
            "llama_proj2": [config.proj_width, config.lm_width],
        },
        "lm": {
            "vocab_size": config.lm_vocab, "hidden_size": config.lm_width, "intermediate_size": config.lm_mlp,
            "num_hidden_layers": config.lm_layers, "num_attention_heads": config.lm_heads,
            "partial_rotary_factor": config.rotary_factor, "resid_pdrop": 0.0, "max_position_embeddings": 2048,
            "hidden_act": "gelu_new", "layer_norm_eps": 1e-5, "post_layernorm_rms_eps": 1e-6,
            "rope_theta": config.rope_theta,
            "rotary_dim": int(config.rotary_factor * config.lm_width / config.lm_heads),
            "lm_head_bias": True, "tie_word_embeddings": False,
        },
        "lora": {
            "r": config.lora_rank, "alpha": config.lora_alpha, "scaling": config.lora_alpha / config.lora_rank,
            "targets": list(LORA_TARGETS), "stage1_has_lora": False,
        },
        "stage4_file_contains_qformer": False,
        "phi2_file_contains_added_norms": False,
        "image_sizes": {"stage1": size, "stage3": size, "stage4": size},
        "prompts": {
            "caption": "###Human: <Img><ImageHere></Img> Describe this image in detail. ###Assistant: ",
            "ask": "###Human: <Img><ImageHere></Img> {question} ###Assistant: ",
        },
    }


def phi_config(config: Config, end: int) -> dict:
    return {
        "architectures": ["PhiForCausalLM"], "attention_dropout": 0.0, "bos_token_id": end, "embd_pdrop": 0.0,
        "eos_token_id": end, "hidden_act": "gelu_new", "hidden_size": config.lm_width, "initializer_range": 0.02,
        "intermediate_size": config.lm_mlp, "layer_norm_eps": 1e-5, "max_position_embeddings": 2048, "model_type": "phi",
        "num_attention_heads": config.lm_heads, "num_hidden_layers": config.lm_layers,
        "partial_rotary_factor": config.rotary_factor, "qk_layernorm": False, "resid_pdrop": 0.0, "rope_scaling": None,
        "rope_theta": config.rope_theta, "tie_word_embeddings": False, "torch_dtype": "float16", "use_cache": True,
        "vocab_size": config.lm_vocab,
    }


def retrieval_config(config: Config) -> dict:
    return {
        "architectures": ["Blip2ForImageTextRetrieval"], "image_text_hidden_size": config.itc_width, "image_token_index": None,
        "model_type": "blip-2", "num_query_tokens": config.queries,
        "qformer_config": {
            "cross_attention_frequency": config.cross_frequency, "encoder_hidden_size": config.vit_width,
            "hidden_size": config.qformer_width, "intermediate_size": config.qformer_mlp, "layer_norm_eps": 1e-12,
            "max_position_embeddings": config.text_positions, "model_type": "blip_2_qformer",
            "num_attention_heads": config.qformer_heads, "num_hidden_layers": config.qformer_layers,
            "use_qformer_text_input": True, "vocab_size": config.text_vocab,
        },
        "text_config": {"model_type": "opt"}, "torch_dtype": "float32", "use_decoder_only_language_model": True,
        "vision_config": {
            "hidden_size": config.vit_width, "image_size": config.image_size,
            "intermediate_size": int(config.vit_width * config.vit_mlp_ratio), "layer_norm_eps": 1e-6,
            "model_type": "blip_2_vision_model", "num_attention_heads": config.vit_heads,
            "num_hidden_layers": config.vit_depth, "patch_size": config.patch_size,
        },
    }


def write_json(path: Path, value: dict) -> None:
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def write_lm_tokenizer(source: Path, folder: Path) -> None:
    """tokenizer.json and the files of the slow tokenizer."""
    folder.mkdir(parents=True)
    shutil.copyfile(source, folder / "tokenizer.json")
    model = json.loads(source.read_text(encoding="utf-8"))["model"]
    write_json(folder / "vocab.json", model["vocab"])
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), encoding="utf-8")
    end = "<|endoftext|>"
    write_json(folder / "special_tokens_map.json", {"bos_token": end, "eos_token": end, "unk_token": end})
    write_json(folder / "tokenizer_config.json", {
        "add_prefix_space": False, "bos_token": end, "clean_up_tokenization_spaces": False, "eos_token": end,
        "model_max_length": 2048, "tokenizer_class": "CodeGenTokenizer", "unk_token": end,
    })


def write_text_tokenizer(source: Path, folder: Path) -> None:
    shutil.copyfile(source, folder / "tokenizer.json")
    vocabulary = Tokenizer.from_file(str(source)).get_vocab()
    (folder / "vocab.txt").write_text("\n".join([*sorted(vocabulary, key=vocabulary.get), ""]), encoding="utf-8")
    write_json(folder / "added_tokens.json", {"[DEC]": vocabulary["[DEC]"]})
    names = {"bos_token": "[DEC]", "cls_token": "[CLS]", "mask_token": "[MASK]", "pad_token": "[PAD]", "sep_token": "[SEP]",
             "unk_token": "[UNK]"}
    write_json(folder / "special_tokens_map.json", names)
    write_json(folder / "tokenizer_config.json", {**names, "do_lower_case": True, "tokenizer_class": "BertTokenizer"})


def export_checkpoint(tensors: dict[str, Tensor], config: Config, run: Path, target: Path) -> None:
    """Writes all files beside `target` and then puts them in its place."""
    fresh = target.with_name(target.name + ".new")
    shutil.rmtree(fresh, ignore_errors=True)
    files = fresh / "checkpoint"
    write_lm_tokenizer(run / "lm_tokenizer.json", files / "phi-2")
    write_lm_tokenizer(run / "lm_tokenizer.json", fresh / "tokenizer")
    tokenizer = Tokenizer.from_file(str(run / "lm_tokenizer.json"))
    base, stage = language_files(tensors, config, tokenizer.get_vocab_size())
    torch.save(base, files / "phi-2" / "pytorch_model.bin")
    end = tokenizer.token_to_id("<|endoftext|>")
    write_json(files / "phi-2" / "config.json", phi_config(config, end))
    write_json(files / "phi-2" / "generation_config.json", {"bos_token_id": end, "eos_token_id": end})
    torch.save(stage, files / "TinyGPT-V_for_Stage3.pth")
    torch.save(vision_file(tensors), files / "eva_vit_g.pth")
    torch.save(qformer_file(tensors), files / "blip2_pretrained_flant5xxl.pth")
    retrieval = files / "blip2-itm-vit-g"
    retrieval.mkdir()
    save_file(retrieval_file(tensors), retrieval / "model.safetensors", metadata={"format": "pt"})
    write_json(retrieval / "config.json", retrieval_config(config))
    write_text_tokenizer(run / "text_tokenizer.json", retrieval)
    write_json(fresh / "config.json", whole_config(config))
    old = target.with_name(target.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        target.rename(old)
    fresh.rename(target)
    shutil.rmtree(old, ignore_errors=True)


def load_run(run: Path) -> tuple[dict[str, Tensor], Config, dict]:
    """The averaged weights of a saved run by name, the configuration and the saved state."""
    from train import LABEL_SIZES, configuration

    state = torch.load(run / "run.pt", weights_only=True)
    config = configuration(run)
    model = DemoModel(config, LABEL_SIZES)
    tensors = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    parts = state["optimizer"]["average"].split(state["optimizer"]["sizes"])
    for name, part in zip(state["optimizer"]["names"], parts, strict=True):
        tensors[name] = part.view(tensors[name].shape).clone()
    return tensors, config, state


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", required=True, help="folder of the training run")
    parser.add_argument("--checkpoint", required=True, help="folder for the checkpoint files; replaced as a whole")
    parser.add_argument("--held-out", help="folder of exported held-out scenes to measure on")
    parser.add_argument("--scenes", type=int, default=200)
    parser.add_argument("--verbose", action="store_true", help="print every wrong caption and answer")
    options = parser.parse_args()
    torch.set_num_threads(1)
    run = Path(options.run)
    tensors, config, state = load_run(run)
    export_checkpoint(tensors, config, run, Path(options.checkpoint))
    figures = {"minutes": round(state["elapsed"] / 60, 1), "steps": state["optimizer"]["steps"]}
    if options.held_out:
        figures |= evaluate(tensors, config, run, Path(options.held_out), options.scenes, options.verbose)
    print("figures " + json.dumps(figures), flush=True)
    with open(run / "figures.jsonl", "a", encoding="utf-8") as lines:
        lines.write(json.dumps(figures) + "\n")


if __name__ == "__main__":
    main()
