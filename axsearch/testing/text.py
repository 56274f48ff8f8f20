"""A tiny BERT, its tokenizer and labelled texts that it can learn in seconds."""

from __future__ import annotations

import csv
import random
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertTokenizer,
    PreTrainedTokenizerFast,
)

GOOD = ["good", "fine", "great", "lovely", "bright", "superb"]
BAD = ["bad", "poor", "awful", "dull", "weak", "dreadful"]
NEUTRAL = [f"word{i}" for i in range(40)]
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"
NEVER = [f"never{n}" for n in range(99)]
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *GOOD, *BAD, *NEUTRAL]
PIECES = [*VOCABULARY, *LETTERS, *(f"##{letter}" for letter in LETTERS), *NEVER]
"""What a tokenizer knows that can spell; texts have none of ``NEVER``."""


def tiny_bert(seed: int = 0, layers: int = 3) -> BertForSequenceClassification:
    """BERT with 3 layers, hidden 32, 4 heads, FFN 64; biases and norms are random too."""
    torch.manual_seed(seed)
    own: dict[str, Any] = {"attn_implementation": "sdpa"}
    config = BertConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=32,
        num_hidden_layers=layers,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=64,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        **own,
    )
    model = BertForSequenceClassification(config)
    model.eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """A word-level tokenizer over VOCABULARY with BERT's special tokens."""
    words = Tokenizer(models.WordLevel({w: i for i, w in enumerate(VOCABULARY)}, unk_token="[UNK]"))
    words.normalizer = normalizers.Lowercase()
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return _with_special_tokens(words)


def spelling_tokenizer() -> PreTrainedTokenizerFast:
    """WordPiece over PIECES: words have the ids that they have in the word-level one, and others
    are spelled.
    """
    pieces = {piece: place for place, piece in enumerate(PIECES)}
    words = Tokenizer(models.WordPiece(pieces, unk_token="[UNK]"))
    words.normalizer = normalizers.Lowercase()
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return _with_special_tokens(words)


def _with_special_tokens(words: Tokenizer) -> PreTrainedTokenizerFast:
    words.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=words,
        model_max_length=48,
        unk_token="[UNK]",
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_input_names=BertTokenizer.model_input_names,
    )


def reviews(count: int, seed: int) -> list[tuple[str, int]]:
    """Texts of 3 to 20 words; the label is whether the words of judgement are good ones."""
    draw = random.Random(seed)
    rows = []
    for _ in range(count):
        label = draw.randint(0, 1)
        words = draw.choices(NEUTRAL, k=draw.randint(2, 16))
        words += draw.choices(GOOD if label else BAD, k=draw.randint(1, 4))
        draw.shuffle(words)
        wrong = draw.random() < 0.05  # or every model would be right
        rows.append((" ".join(words), 1 - label if wrong else label))
    return rows


def write_csv(path: Path, rows: list[tuple[str, object]], header: tuple[str, str]) -> None:
    """A two-column CSV file."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)
