"""Trains the demo model: one cosine over a wall-clock budget, checkpoints and held-out figures on the way.

Every worker process runs single-threaded on its own records and the gradients are averaged: on a busy machine this
is much faster than threads inside one process, which wait for one another at every operation.
"""

import argparse
import dataclasses
import json
import math
import os
import random
import socket
import subprocess
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as processes
import torch.nn.functional as F
from tokenizers import Tokenizer

from data import LABEL_SIZES, Stream, Texts, Writer, build_text_tokenizer, corpus, load_records, make_batch, train_lm_tokenizer
from model import Config, DemoModel


class FlatAdamW:
    """AdamW over one flat f32 master copy; the model's bf16 parameters and gradients are views of flat buffers."""

    def __init__(self, model: torch.nn.Module, decay: float) -> None:
        self.model = model
        self.names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
        parameters = dict(model.named_parameters())
        chosen = [parameters[name] for name in self.names]
        self.sizes = [parameter.numel() for parameter in chosen]
        self.master = torch.cat([parameter.detach().float().reshape(-1) for parameter in chosen])
        self.weights = self.master.to(torch.bfloat16)
        self.gradients = torch.zeros_like(self.weights)
        self.decay = torch.cat([torch.full((p.numel(),), decay if p.dim() > 1 else 0.0) for p in chosen])
        offset = 0
        for parameter in chosen:
            end = offset + parameter.numel()
            parameter.data = self.weights[offset:end].view(parameter.shape)
            parameter.grad = self.gradients[offset:end].view(parameter.shape)
            offset = end
        for parameter in parameters.values():
            if not parameter.requires_grad:
                parameter.data = parameter.data.to(torch.bfloat16)
        self.first = torch.zeros_like(self.master)
        self.second = torch.zeros_like(self.master)
        self.average = self.master.clone()
        self.steps = 0

    def step(self, rate: float, workers: int) -> float:
        """One update from the averaged gradients; returns their norm before clipping."""
        self.steps += 1
        gradient = self.gradients.float()
        if workers > 1:
            dist.all_reduce(gradient)
            gradient /= workers
        norm = float(gradient.norm())
        self.gradients.zero_()
        if not math.isfinite(norm):
            return norm
        gradient *= min(1.0, 1.0 / (norm + 1e-6))
        self.first.lerp_(gradient, 0.1)
        self.second.mul_(0.98).addcmul_(gradient, gradient, value=0.02)
        scale = math.sqrt(1 - 0.98**self.steps) / (1 - 0.9**self.steps)
        update = self.first / (self.second.sqrt() + 1e-8)
        update.mul_(scale).addcmul_(self.decay, self.master)
        self.master.add_(update, alpha=-rate)
        self.weights.copy_(self.master)
        if self.steps % 4 == 0:
            keep = min(0.996, (1 + self.steps / 4) / (10 + self.steps / 4))
            self.average.lerp_(self.master, 1 - keep)
        return norm

    def state(self) -> dict:
        return {"names": self.names, "sizes": self.sizes, "master": self.master, "first": self.first,
                "second": self.second, "average": self.average, "steps": self.steps}

    def load(self, state: dict) -> None:
        if state["names"] != self.names or state["sizes"] != self.sizes:
            raise SystemExit("the saved run has other parameters than this model; start afresh in another folder")
        for name in ("master", "first", "second", "average"):
            getattr(self, name).copy_(state[name])
        self.weights.copy_(self.master)
        self.steps = state["steps"]

    def averaged(self) -> dict[str, torch.Tensor]:
        """The averaged parameters by name, f32."""
        shapes = {name: parameter.shape for name, parameter in self.model.named_parameters()}
        parts = self.average.split(self.sizes)
        tensors = {name: part.view(shapes[name]).clone() for name, part in zip(self.names, parts, strict=True)}
        for name, parameter in self.model.named_parameters():
            if name not in tensors:
                tensors[name] = parameter.detach().float().clone()
        return tensors


def label_loss(logits: torch.Tensor, labels: torch.Tensor, sizes: tuple[int, ...], weights: tuple[float, ...]) -> torch.Tensor:
    """Sum of cross-entropies of neighbouring classifiers that share one linear layer."""
    total = logits.new_zeros((), dtype=torch.float32)
    for part, column, weight in zip(logits.float().split(sizes, -1), labels.unbind(-1), weights, strict=True):
        total = total + weight * F.cross_entropy(part.flatten(0, -2), column.flatten(), ignore_index=-100)
    return total


def language_loss(model: DemoModel, images: torch.Tensor, batch: tuple, image_at: int) -> torch.Tensor:
    ids, rows, positions, targets = batch
    states = model.lm.embed_tokens(ids)
    count = images.shape[1]
    states = torch.cat([states[:, :image_at], images, states[:, image_at + count :]], dim=1)
    hidden = model.lm.hidden(states)[rows, positions]
    return F.cross_entropy(model.lm.lm_head(hidden).float(), targets)


def losses(model: DemoModel, batch: dict, image_at: int, weights: dict) -> tuple[torch.Tensor, dict]:
    vit = model.visual_encoder(batch["pixels"].to(torch.bfloat16))
    vision = model.ln_vision(vit)
    parts = {}
    object_sizes, object_weights = (7, 8, 3), (2.0, 1.0, 1.0)
    scene_sizes, scene_weights = (5, 10, 4, 5), (1.0, 1.0, 0.5, 1.0)
    parts["patch"] = label_loss(model.aux_patch(vision[:, 1:]), batch["patches"], object_sizes, object_weights)
    queries = model.qformer.read_picture(vision)
    itc_vision = model.itc_ln_vision(vit)
    itc_queries, image_vectors = model.image_vectors(itc_vision)
    for name, states, heads in (("query", queries, model.aux_query), ("itc_query", itc_queries, model.aux_itc_query)):
        parts[name] = sum(
            label_loss(
                head(states[:, index]),
                batch["objects"][index],
                object_sizes if index < 2 else scene_sizes,
                object_weights if index < 2 else scene_weights,
            )
            for index, head in enumerate(heads)
        )
    images = model.image_tokens(queries)
    parts["caption"] = language_loss(model, images, batch["captions"], image_at)
    parts["question"] = language_loss(model, images.repeat_interleave(2, 0), batch["questions"], image_at)

    text_vectors = model.text_vectors(batch["texts"])
    similarity = torch.einsum("iqd,td->itq", image_vectors, text_vectors).max(-1).values
    count = len(similarity)
    own = torch.eye(count, dtype=torch.bool)
    allowed = own | ~batch["truth"]
    scaled = (similarity * model.aux_temperature.float().clamp(max=4.0).exp()).masked_fill(~allowed, -1e4)
    labels = torch.arange(count)
    parts["itc"] = (F.cross_entropy(scaled, labels) + F.cross_entropy(scaled.t(), labels)) / 2

    # Matching: a third true pairs, a third with a hard wrong picture, a third with a hard wrong text.
    with torch.no_grad():
        wrong = (similarity * 15).masked_fill(batch["truth"] | own, -1e4)
        chosen = torch.randperm(count)[: count // 4]
        wrong_image = torch.multinomial(wrong.t()[chosen].softmax(-1), 1)[:, 0]
        wrong_text = torch.multinomial(wrong[chosen].softmax(-1), 1)[:, 0]
    image_rows = torch.cat([chosen, wrong_image, chosen])
    text_rows = torch.cat([chosen, chosen, wrong_text])
    match = torch.cat([torch.ones(len(chosen)), torch.zeros(2 * len(chosen))]).long()
    both = model.itc_qformer.read_both(itc_vision[image_rows], batch["texts"][text_rows])
    logits = model.itm_head(both).float().mean(1)
    parts["itm"] = F.cross_entropy(logits, match)
    total = sum(weights[name] * part for name, part in parts.items())
    return total, {name: float(part.detach()) for name, part in parts.items()}


WEIGHTS = {"caption": 1.0, "question": 1.0, "itc": 0.5, "itm": 0.5, "patch": 0.5, "query": 0.3, "itc_query": 0.2}


def tokenizers(options: argparse.Namespace, out: Path) -> None:
    """Trains both tokenizers on the first records of the stream."""
    stream = Stream(options.stream, 32, 7, 6000, 1.0, 0.0)
    records = load_records(stream, 6000)
    stream.close()
    train_lm_tokenizer(corpus(records), options.lm_vocab).save(str(out / "lm_tokenizer.json"))
    searches = [text for record in records for text, _ in record[3]]
    captions = [text for record in records for text in record[1]]
    extra = "please what which color colour are there picture photo image object objects shape shapes"
    build_text_tokenizer([*searches, *captions, extra]).save(str(out / "text_tokenizer.json"))


def configuration(out: Path) -> Config:
    lm_tokenizer = Tokenizer.from_file(str(out / "lm_tokenizer.json"))
    text_tokenizer = Tokenizer.from_file(str(out / "text_tokenizer.json"))
    rows = -(-lm_tokenizer.get_vocab_size() // 32) * 32
    return Config(lm_vocab=rows, text_vocab=text_tokenizer.get_vocab_size())


def work(rank: int, options: argparse.Namespace, port: int) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(1)
    if options.workers > 1:
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
        dist.init_process_group("gloo", rank=rank, world_size=options.workers)
    out = Path(options.out)
    config = configuration(out)
    model = DemoModel(config, LABEL_SIZES)
    optimizer = FlatAdamW(model, 0.05)
    writer = Writer(Tokenizer.from_file(str(out / "lm_tokenizer.json")), config)
    texts = Texts(Tokenizer.from_file(str(out / "text_tokenizer.json")), config)
    saved = out / "run.pt"
    elapsed_before = 0.0
    if saved.exists():
        state = torch.load(saved, weights_only=True)
        optimizer.load(state["optimizer"])
        elapsed_before = state["elapsed"]
    seed = 1_000_000_007 * (rank + 1) + optimizer.steps * 1_000
    stream = Stream(options.stream, config.image_size, seed, options.ring, options.reuse, options.as_files)
    load_records(stream, 3000)
    dice = random.Random(seed)
    torch.manual_seed(seed)
    budget = options.minutes * 60.0
    started = time.monotonic()
    last_report, last_save = started, started
    sums: dict[str, float] = {}
    summed = 0
    if rank == 0:
        exported = sum(p.numel() for name, p in model.named_parameters() if not name.startswith("aux_"))
        print(json.dumps({"parameters": exported, **dataclasses.asdict(config)}), flush=True)
    while True:
        # All workers follow the clock of the first, so that they stop at the same step.
        elapsed = elapsed_before + time.monotonic() - started
        clock = torch.tensor(elapsed / budget, dtype=torch.float64)
        if options.workers > 1:
            dist.broadcast(clock, 0)
        progress = float(clock)
        if progress >= 1.0:
            break
        rate = options.rate * min(1.0, (optimizer.steps + 1) / 200) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * progress)))
        batch = make_batch(stream, options.batch, writer, texts, config.grid, dice)
        loss, parts = losses(model, batch, writer.image_at, WEIGHTS)
        loss.backward()
        norm = optimizer.step(rate, options.workers)
        summed += 1
        for name, value in {**parts, "norm": norm}.items():
            sums[name] = sums.get(name, 0.0) + value
        now = time.monotonic()
        if rank == 0 and now - last_report > 20:
            means = {name: round(value / summed, 4) for name, value in sums.items()}
            print(json.dumps({"minutes": round(elapsed / 60, 2), "step": optimizer.steps, "rate": round(rate, 6),
                              "ms": round((now - last_report) * 1000 / summed), "drawn": stream.written, **means}), flush=True)
            sums, summed, last_report = {}, 0, now
            if (out / "minutes").exists():
                budget = float((out / "minutes").read_text()) * 60.0
        if rank == 0 and now - last_save > options.save_minutes * 60:
            save(saved, optimizer, elapsed)
            report(options, out, wait=False)
            last_save = last_report = time.monotonic()
            sums, summed = {}, 0
    if rank == 0:
        save(saved, optimizer, budget)
        report(options, out, wait=True)
    stream.close()
    if options.workers > 1:
        dist.barrier()
        dist.destroy_process_group()


def save(path: Path, optimizer: FlatAdamW, elapsed: float) -> None:
    torch.save({"optimizer": optimizer.state(), "elapsed": elapsed}, path.with_suffix(".tmp"))
    path.with_suffix(".tmp").replace(path)


def report(options: argparse.Namespace, out: Path, wait: bool) -> None:
    """Lets other processes write the checkpoint files of the saved averages and measure them on held-out scenes."""
    here = Path(__file__).parent
    command = [sys.executable, str(here / "export.py"), "--run", str(out), "--checkpoint", options.checkpoint]
    if options.held_out:
        command += ["--held-out", options.held_out, "--scenes", str(options.evaluate_scenes)]
    process = subprocess.Popen(command)
    if wait:
        process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stream", required=True, help="the generator's `stream` program")
    parser.add_argument("--out", required=True, help="folder of the run: tokenizers, state, figures")
    parser.add_argument("--checkpoint", required=True, help="folder for the reference-style checkpoint files")
    parser.add_argument("--held-out", help="folder of exported held-out scenes to measure on")
    parser.add_argument("--minutes", type=float, default=65, help="budget of wall-clock time, where the cosine ends; a number in the file `minutes` of the run folder changes it on the way")
    parser.add_argument("--workers", type=int, default=2, help="processes, one per core")
    parser.add_argument("--batch", type=int, default=40, help="pictures per worker and step")
    parser.add_argument("--rate", type=float, default=1.8e-3, help="peak learning rate")
    parser.add_argument("--ring", type=int, default=40_000, help="pictures each worker keeps at hand")
    parser.add_argument("--reuse", type=float, default=4.0, help="how often a picture is used")
    parser.add_argument("--as-files", type=float, default=0.3, help="share of pictures that were resized and compressed")
    parser.add_argument("--lm-vocab", type=int, default=608, help="most entries of the language model's tokenizer")
    parser.add_argument("--save-minutes", type=float, default=5.0)
    parser.add_argument("--evaluate-scenes", type=int, default=200)
    options = parser.parse_args()
    out = Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    if not (out / "text_tokenizer.json").exists():
        tokenizers(options, out)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    if options.workers == 1:
        work(0, options, port)
    else:
        processes.spawn(work, args=(options, port), nprocs=options.workers)


if __name__ == "__main__":
    main()
