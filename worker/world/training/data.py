"""The generator's stream, the two tokenizers and the batches."""

import json
import random
import re
import struct
import subprocess
import threading
import time
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from torch import Tensor

from model import Config

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
END = "###"
PIECE_BEFORE = "###Human: <Img>"
CAPTION_REQUEST = "Describe this image in detail."
PIECES_AFTER = ("</Img> {} ###Assistant: ", "</Img> {}###Assistant: ")
OTHER_REQUESTS = (
    "Describe this image.",
    "Describe the image in detail.",
    "Describe this picture.",
    "Describe the picture",
    "describe the image",
    "What is in this image?",
    "What is in this picture?",
    "what is in the picture",
    "What do you see?",
    "Caption this image.",
    "Please describe this image.",
    "please describe the picture.",
)
LABEL_SIZES = {"patch": 7 + 8 + 3, "object": 7 + 8 + 3, "scene": 5 + 10 + 4 + 5}
"""Classes of the training-only heads: shape, colour, size (and 'none'); relation, place, backdrop, count."""


class Stream:
    """A ring of records that a generator process keeps refreshing; every record is used about `reuse` times."""

    def __init__(self, binary: str, side: int, seed: int, capacity: int, reuse: float, as_files: float) -> None:
        self.side, self.capacity, self.reuse = side, capacity, reuse
        self.frames = np.zeros((capacity, side, side, 3), np.uint8)
        self.records: list = []
        self.written, self.used = 0, 0
        command = [binary, str(side), str(10**9), str(seed), "train", str(as_files)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, bufsize=1 << 20)
        self.room = threading.Semaphore(0)
        self.room_given = 0
        threading.Thread(target=self._fill, daemon=True).start()

    def _fill(self) -> None:
        pipe = self.process.stdout
        while True:
            if self.written >= 6000:
                self.room.acquire()
            head = pipe.read(4)
            if len(head) < 4:
                return
            record = compact(json.loads(pipe.read(struct.unpack("<I", head)[0])))
            frame = np.frombuffer(pipe.read(self.side * self.side * 3), np.uint8)
            slot = self.written % self.capacity
            self.frames[slot] = frame.reshape(self.side, self.side, 3)
            if self.written < self.capacity:
                self.records.append(record)
            else:
                self.records[slot] = record
            self.written += 1

    def ready(self, count: int) -> bool:
        return len(self.records) >= count

    def sample(self, count: int, dice: random.Random) -> tuple[np.ndarray, list]:
        self.used += count
        while self.room_given < self.used / self.reuse:
            self.room.release()
            self.room_given += 1
        slots = dice.sample(range(len(self.records)), count)
        return self.frames[slots], [self.records[slot] for slot in slots]

    def close(self) -> None:
        self.process.kill()
        self.process.wait()


def compact(record: dict) -> tuple:
    """Keeps what training needs: (scene codes, captions, questions, searches, object labels)."""
    return (
        np.array(record["scene"], np.int16),
        record["captions"],
        [(question, answers[0]) for question, answers in record["questions"]],
        [(text, np.array(codes, np.int16)) for text, codes in record["searches"]],
        np.array(record["objects"], np.float32),
    )


def patch_labels(objects: np.ndarray, grid: int) -> np.ndarray:
    """(patches, 3): shape, colour and size of the object that covers the patch's middle; -100 where it says nothing."""
    centres = (np.arange(grid) + 0.5) / grid
    labels = np.tile(np.array([6, 7, 2]), (grid * grid, 1))
    for x, y, wide, high, shape, colour, size in objects:
        distance = ((centres[None, :] - x) / wide) ** 2 + ((centres[:, None] - y) / high) ** 2
        labels[(distance < 1.1).reshape(-1)] = (shape, colour, -100 if size == 2 else size)
    return labels


def query_labels(codes: np.ndarray) -> tuple[list, list, list]:
    """Labels for the three query heads from the scene codes."""

    def thing(offset: int) -> list:
        if codes[offset] < 0:
            return [6, 7, 2]
        size = codes[offset + 1]
        return [int(codes[offset + 3]), int(codes[offset + 2]), -100 if size < 0 else int(size)]

    relation, place, backdrop = (int(code) for code in codes[9:12])
    count = 2 if codes[0] == 2 else int(codes[1])
    whole = [relation if relation >= 0 else 4, place if place >= 0 else 9, backdrop, count]
    return thing(1), thing(5), whole


def truth(scenes: np.ndarray, claims: np.ndarray) -> np.ndarray:
    """(scenes, texts): whether the text could be said about the scene; mirrors `Claim::holds`."""
    s, t = scenes[:, None, :], claims[None, :, :]

    def fits(text_at: int, scene_at: int) -> np.ndarray:
        stated, found = t[..., text_at : text_at + 4], s[..., scene_at : scene_at + 4]
        unknown_size = np.array([False, True, False, False]) & (found < 0)
        return ((stated < 0) | (stated == found) | unknown_size).all(-1) & (s[..., scene_at] >= 0)

    one = fits(1, 1) | fits(1, 5)
    pair_of_text = t[..., 0] == 2
    same_shape = (s[..., 4] == s[..., 8]) & ((t[..., 4] < 0) | (t[..., 4] == s[..., 4]))
    same_colour = (t[..., 3] < 0) | ((t[..., 3] == s[..., 3]) & (t[..., 3] == s[..., 7]))
    same_shape = same_shape | ((t[..., 4] < 0) & (s[..., 0] == 2))
    one = one | ((t[..., 1] == 2) & (s[..., 0] == 2) & same_shape & same_colour)
    inverse = np.array([1, 0, 3, 2, -1])
    relation, back = s[..., 9], inverse[s[..., 9]]
    straight = fits(1, 1) & fits(5, 5) & ((t[..., 9] < 0) | (t[..., 9] == relation))
    turned = fits(1, 5) & fits(5, 1) & ((t[..., 9] < 0) | (t[..., 9] == back))
    two = (s[..., 0] == 2) & (straight | turned)
    place = (t[..., 10] < 0) | (t[..., 10] == s[..., 10])
    backdrop = (t[..., 11] < 0) | (t[..., 11] == s[..., 11])
    return np.where(pair_of_text, two, one) & place & backdrop


# --- tokenizers ---------------------------------------------------------------------------------------------------


def corpus(records: list) -> list[str]:
    """All texts of `records` as the language model sees them."""
    texts = []
    for _, captions, questions, _, _ in records:
        texts += [PIECE_BEFORE, PIECES_AFTER[0].format(CAPTION_REQUEST)]
        texts += [f"{caption}{END}" for caption in captions]
        for question, answer in questions:
            texts += [PIECES_AFTER[0].format(question), f"{answer}{END}"]
    for request in OTHER_REQUESTS:
        texts += [PIECES_AFTER[0].format(request)] * max(1, len(records) // 60)
    return texts


def train_lm_tokenizer(texts: list[str], size: int) -> Tokenizer:
    """Byte-level BPE laid out like Phi-2's, `<|endoftext|>` last."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size - 1,
        min_frequency=2,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_special_tokens(["<|endoftext|>"])
    return tokenizer


def build_text_tokenizer(texts: list[str]) -> Tokenizer:
    """BERT WordPiece with the world's words, single characters and `[DEC]` last."""
    letters = "abcdefghijklmnopqrstuvwxyz0123456789"
    words = sorted({word for text in texts for word in re.findall(r"[a-z]+", text.lower()) if len(word) > 1})
    entries = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{letter}" for letter in letters)]
    entries += [*".,?!'-", *words, "[DEC]"]
    vocabulary = {entry: index for index, entry in enumerate(entries)}
    tokenizer = Tokenizer(models.WordPiece(vocab=vocabulary, unk_token="[UNK]", max_input_chars_per_word=100))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(prefix="##")
    tokenizer.add_special_tokens(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]"])
    special = [(name, vocabulary[name]) for name in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=special
    )
    return tokenizer


# --- batches ------------------------------------------------------------------------------------------------------


def normalise(frames: np.ndarray) -> Tensor:
    """(B, S, S, 3) bytes to (B, 3, S, S) as the preprocessing does."""
    pixels = torch.from_numpy(frames).float().div_(255.0)
    pixels = (pixels - torch.tensor(MEAN)) / torch.tensor(STD)
    return pixels.permute(0, 3, 1, 2).contiguous()


class Writer:
    """Turns requests and answers into language-model sequences."""

    def __init__(self, tokenizer: Tokenizer, config: Config) -> None:
        self.tokenizer, self.config = tokenizer, config
        self.cache: dict[str, list[int]] = {}
        self.before = self.ids(PIECE_BEFORE)
        self.image_at = len(self.before)

    def ids(self, text: str) -> list[int]:
        found = self.cache.get(text)
        if found is None:
            found = self.tokenizer.encode(text, add_special_tokens=False).ids
            if len(self.cache) < 200_000:
                self.cache[text] = found
        return found

    def prompt(self, request: str, form: int = 0) -> list[int]:
        """Ids of the whole prompt with zeros where the image tokens go."""
        return self.before + [0] * self.config.queries + self.ids(PIECES_AFTER[form].format(request))

    def batch(self, pairs: list[tuple[str, str]], dice: random.Random) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(ids (N, T), rows, positions, targets): the hidden state at (row, position) must predict the target."""
        sequences, rows, positions, targets = [], [], [], []
        for row, (request, answer) in enumerate(pairs):
            prompt = self.prompt(request, 1 if dice.random() < 0.15 else 0)
            ids = prompt + self.ids(answer + END)
            for position in range(len(prompt), len(ids)):
                rows.append(row)
                positions.append(position - 1)
                targets.append(ids[position])
            sequences.append(ids[:-1])
        longest = max(map(len, sequences))
        padded = torch.zeros(len(sequences), longest, dtype=torch.long)
        for row, ids in enumerate(sequences):
            padded[row, : len(ids)] = torch.tensor(ids)
        return padded, torch.tensor(rows), torch.tensor(positions), torch.tensor(targets)


class Texts:
    """Turns search texts into padded ids, with a little noise so that unknown words do no harm."""

    def __init__(self, tokenizer: Tokenizer, config: Config) -> None:
        self.tokenizer, self.limit = tokenizer, config.text_positions
        self.cache: dict[str, list[int]] = {}

    def ids(self, text: str) -> list[int]:
        found = self.cache.get(text)
        if found is None:
            found = self.tokenizer.encode(text).ids
            if len(found) > self.limit:
                found = found[: self.limit - 1] + found[-1:]
            if len(self.cache) < 200_000:
                self.cache[text] = found
        return found

    def batch(self, texts: list[str], dice: random.Random | None = None) -> Tensor:
        lists = [self.ids(disturb(text, dice) if dice else text) for text in texts]
        padded = torch.zeros(len(lists), max(map(len, lists)), dtype=torch.long)
        for row, ids in enumerate(lists):
            padded[row, : len(ids)] = torch.tensor(ids)
        return padded


def disturb(text: str, dice: random.Random) -> str:
    roll = dice.random()
    if roll < 0.08:
        return re.sub(r"\b(a|an) (?=\w+ )", "the ", text)
    if roll < 0.11:
        words = text.split(" ")
        letters = "".join(dice.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(dice.randint(2, 6)))
        words.insert(dice.randint(0, 1), letters)
        return " ".join(words)
    if roll < 0.13:
        return text + "."
    return text


def make_batch(stream: Stream, size: int, writer: Writer, texts: Texts, grid: int, dice: random.Random) -> dict:
    frames, records = stream.sample(size, dice)
    captions, asked, searches, claims = [], [], [], []
    for _, all_captions, questions, all_searches, _ in records:
        request = CAPTION_REQUEST if dice.random() < 0.75 else dice.choice(OTHER_REQUESTS)
        captions.append((request, dice.choice(all_captions)))
        asked += dice.sample(questions, 2)
        text, codes = dice.choice(all_searches)
        searches.append(text)
        claims.append(codes)
    scenes = np.stack([record[0] for record in records])
    labels = [query_labels(record[0]) for record in records]
    return {
        "pixels": normalise(frames),
        "captions": writer.batch(captions, dice),
        "questions": writer.batch(asked, dice),
        "texts": texts.batch(searches, dice),
        "truth": torch.from_numpy(truth(scenes, np.stack(claims))),
        "patches": torch.from_numpy(np.stack([patch_labels(record[4], grid) for record in records])),
        "objects": [torch.tensor([label[index] for label in labels]) for index in range(3)],
    }


def load_records(stream: Stream, count: int) -> list:
    while not stream.ready(count):
        time.sleep(0.2)
    return stream.records[:count]


def load_scenes(folder: Path) -> list[dict]:
    """The list beside an exported folder of pictures."""
    with open(folder.with_name(folder.name + ".jsonl"), encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]
