"""The base and the data of the recorded studies: made from a seed, the same bytes on any machine.

Nothing is trained and nothing is rounded: weights are small integers times a power of two, and all
that is drawn is drawn with ``random.Random.random``, whose sequence Python promises to keep. The
base works all the same: words of judgement are embedded along one direction, which attention
passes on to the first token and the FFNs amplify.

This module stands alone, and what it makes must never change: the studies in ``tests/fixtures``
were made with it.
"""

from __future__ import annotations

import json
import random
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertTokenizerFast,
    PreTrainedTokenizerFast,
)

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
GOOD = ["good", "fine", "great", "lovely", "bright", "superb"]
BAD = ["bad", "poor", "awful", "dull", "weak", "dreadful"]
NEUTRAL = [f"word{i}" for i in range(23)]
VOCABULARY = [*SPECIAL, *GOOD, *BAD, *NEUTRAL]

HIDDEN, HEADS, LAYERS, NEURONS = 16, 4, 3, 32
SPLITS = {"train": 128, "validation": 128, "test": 64}


def make_base(folder: Path) -> Path:
    """Write a BERT classifier with its tokenizer; about 9,000 parameters."""
    config = BertConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=HIDDEN,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        intermediate_size=NEURONS,
        max_position_embeddings=48,
        num_labels=2,
    )
    model = BertForSequenceClassification(config)
    draw = random.Random(1)
    with torch.no_grad():
        for name, tensor in sorted(model.state_dict().items()):
            tensor.copy_(_weights(name, tensor, draw))
    model.save_pretrained(folder)
    _tokenizer().save_pretrained(folder)
    return folder


def make_data(folder: Path) -> Path:
    """Write train, validation and test; the label is whether good words outnumber bad ones."""
    folder.mkdir()
    for seed, (split, count) in enumerate(SPLITS.items()):
        draw = random.Random(seed)
        rows = [json.dumps(_example(draw)) for _ in range(count)]
        (folder / f"{split}.jsonl").write_text("\n".join(rows) + "\n")
    return folder


def _weights(name: str, like: Tensor, draw: random.Random) -> Tensor:
    """A tensor of the base: noise, and what makes it work."""
    if "LayerNorm" in name:
        return torch.ones_like(like) if name.endswith("weight") else torch.zeros_like(like)
    values = [_below(17, draw) - 8 for _ in range(like.numel())]
    noise = torch.tensor(values, dtype=torch.float32).reshape(like.shape) / 64
    judgement = torch.tensor([1.0, -1.0, -1.0, 1.0] * (HIDDEN // 4))
    if name.endswith("word_embeddings.weight"):
        noise = noise * 8
        for words, sign in ((GOOD, 1), (BAD, -1)):
            for word in words:
                noise[VOCABULARY.index(word)] += sign * judgement
    elif name.endswith(("value.weight", "attention.output.dense.weight", "pooler.dense.weight")):
        noise = noise + torch.eye(HIDDEN)
    elif name.endswith("intermediate.dense.weight"):
        noise[::2] += judgement / 8
        noise[1::2] -= judgement / 8
    elif name.endswith("output.dense.weight"):
        noise[:, ::2] += judgement[:, None] / 16
        noise[:, 1::2] -= judgement[:, None] / 16
    elif name == "classifier.weight":
        noise = noise + torch.stack((-judgement, judgement)) / 4
    return noise


def _example(draw: random.Random) -> dict[str, str | int]:
    label = _below(2, draw)
    fewer = _below(3, draw)
    more = fewer + 1 + _below(2, draw)
    words = [_one_of(GOOD if label else BAD, draw) for _ in range(more)]
    words += [_one_of(BAD if label else GOOD, draw) for _ in range(fewer)]
    words += [_one_of(NEUTRAL, draw) for _ in range(3 + _below(30, draw))]
    text = " ".join(sorted(words, key=lambda _: draw.random()))
    return {"text": text, "label": label}


def _below(end: int, draw: random.Random) -> int:
    return int(draw.random() * end)


def _one_of(words: list[str], draw: random.Random) -> str:
    return words[_below(len(words), draw)]


def _tokenizer() -> PreTrainedTokenizerFast:
    known = {word: number for number, word in enumerate(VOCABULARY)}
    words = Tokenizer(models.WordLevel(known, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=words,
        model_max_length=48,
        unk_token="[UNK]",
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_input_names=BertTokenizerFast.model_input_names,
    )
