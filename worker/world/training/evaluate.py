"""Measures a set of weights on exported held-out scenes, through files, Pillow's resize and greedy decoding."""

import re
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer

from data import CAPTION_REQUEST, END, LABEL_SIZES, Texts, Writer, load_scenes, normalise
from model import Config, DemoModel

UNIMPORTANT = {"a", "an", "the", "it", "is", "are", "there", "in", "on", "at"}


def plain(answer: str) -> list[str]:
    """The words of an answer that matter; mirrors `Question::accepts`."""
    words = re.findall(r"[a-z0-9]+", answer.lower())
    return ["gray" if word == "grey" else word for word in words if word not in UNIMPORTANT]


def open_picture(path: Path, side: int) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB").resize((side, side), Image.Resampling.BICUBIC))


@torch.no_grad()
def decode(model: DemoModel, writer: Writer, images: torch.Tensor, requests: list[str], longest: int = 28) -> list[str]:
    """Greedy answers, one request per row of image tokens."""
    end = writer.tokenizer.token_to_id(END)
    known = writer.tokenizer.get_vocab_size()
    sequences = [writer.prompt(request) for request in requests]
    starts = [len(ids) for ids in sequences]
    running = list(range(len(sequences)))
    count = images.shape[1]
    for _ in range(longest):
        width = max(len(sequences[row]) for row in running)
        ids = torch.zeros(len(running), width, dtype=torch.long)
        for at, row in enumerate(running):
            ids[at, : len(sequences[row])] = torch.tensor(sequences[row])
        states = model.lm.embed_tokens(ids)
        states[:, writer.image_at : writer.image_at + count] = images[running]
        last = torch.tensor([len(sequences[row]) - 1 for row in running])
        hidden = model.lm.hidden(states)[torch.arange(len(running)), last]
        best = model.lm.lm_head(hidden)[:, :known].argmax(-1).tolist()
        for row, token in zip(running, best, strict=True):
            sequences[row].append(token)
        running = [row for row in running if sequences[row][-1] != end]
        if not running:
            break
    answers = []
    for row, ids in enumerate(sequences):
        text = writer.tokenizer.decode(ids[starts[row] :], skip_special_tokens=False)
        answers.append(text.split(END)[0].strip())
    return answers


def kind_of(scene: dict) -> str:
    caption = scene["captions"][0]
    if re.search(r"left of|right of|above|below", caption):
        return "pair"
    return "group" if re.match(r"two|three|four", caption) else "single"


@torch.no_grad()
def evaluate(tensors: dict, config: Config, run: Path, folder: Path, count: int, verbose: bool = False) -> dict:
    """Share of right captions, answers and first hits among `count` scenes, with all weights rounded to f16."""
    model = DemoModel(config, LABEL_SIZES)
    model.load_state_dict({name: tensor.half().float() for name, tensor in tensors.items()})
    model.eval()
    writer = Writer(Tokenizer.from_file(str(run / "lm_tokenizer.json")), config)
    texts = Texts(Tokenizer.from_file(str(run / "text_tokenizer.json")), config)
    scenes = load_scenes(folder)[:count]
    frames = np.stack([open_picture(folder / scene["file"], config.image_size) for scene in scenes])
    vit = torch.cat([model.visual_encoder(part) for part in normalise(frames).split(50)])
    images = model.image_tokens(model.qformer.read_picture(model.ln_vision(vit)))

    captions = decode(model, writer, images, [CAPTION_REQUEST] * len(scenes))
    by_kind: dict[str, list[bool]] = {}
    for scene, caption in zip(scenes, captions, strict=True):
        right = caption in scene["captions"]
        by_kind.setdefault(kind_of(scene), []).append(right)
        if verbose and not right:
            print(f"caption: {caption!r} for {scene['captions'][0]!r} ({scene['file']})")
    asked = [(row, question) for row, scene in enumerate(scenes) for question in scene["questions"]]
    answers = []
    for start in range(0, len(asked), 250):
        part = asked[start : start + 250]
        answers += decode(model, writer, images[[row for row, _ in part]], [q["question"] for _, q in part], 12)
    right_answers = []
    for (row, question), answer in zip(asked, answers, strict=True):
        right = plain(answer) in [plain(accepted) for accepted in question["answers"]]
        right_answers.append(right)
        if verbose and not right:
            print(f"answer: {answer!r} to {question['question']!r}, not {question['answers'][0]!r} ({scenes[row]['file']})")

    head = scenes[:200]
    vision = model.itc_ln_vision(vit[: len(head)])
    vectors = model.image_vectors(vision)[1]
    ids = texts.batch([scene["retrieval"] for scene in head])
    similarity = torch.einsum("iqd,td->tiq", vectors, model.text_vectors(ids)).max(-1).values
    own = torch.arange(len(head))
    best = similarity.topk(8, dim=1).indices
    matching = torch.stack([
        model.itm_head(model.itc_qformer.read_both(vision[candidates], ids[text : text + 1].expand(8, -1)))
        .mean(1).softmax(-1)[:, 1]
        for text, candidates in enumerate(best)
    ])
    reranked = best.gather(1, (similarity.gather(1, best) + matching).argmax(1, keepdim=True))[:, 0]
    matched = best.gather(1, matching.argmax(1, keepdim=True))[:, 0]
    mean = lambda values: round(float(np.mean(values)), 4)  # noqa: E731
    return {
        "scenes": len(scenes),
        "captions": mean([right for rights in by_kind.values() for right in rights]),
        "by_kind": {kind: mean(rights) for kind, rights in sorted(by_kind.items())},
        "questions": len(asked),
        "answers": mean(right_answers),
        "recall_at_1": mean((similarity.argmax(1) == own).numpy()),
        "recall_at_1_itc_plus_itm": mean((reranked == own).numpy()),
        "recall_at_1_itm_of_8": mean((matched == own).numpy()),
        "itm_true": mean((matching[best == own[:, None]] > 0.5).numpy()),
        "itm_wrong": mean((matching[best != own[:, None]] > 0.5).numpy()),
    }
