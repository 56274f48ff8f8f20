"""A sentence on what a tokenizer makes of the texts: what is unknown to it, and what is cut."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from axsearch.tasks.kinds import TaskKind
from axsearch.tasks.split import Split

Read = Sequence[tuple[Split, Sequence[Any]]]
"""Splits with the examples that they were made of."""


def unknown_share(tokenizer: PreTrainedTokenizerBase, splits: Sequence[Split]) -> float:
    """The share of tokens that the tokenizer does not know; those of its own apart."""
    unknown = tokenizer.unk_token_id
    if unknown is None:
        return 0.0
    own = [token for token in tokenizer.all_special_ids if token != unknown]
    ids = (one["input_ids"] for split in splits for one in split.inputs)
    tokens = np.fromiter(chain.from_iterable(ids), np.int64)
    words = tokens[~np.isin(tokens, own)]
    return float((words == unknown).mean()) if len(words) else 0.0


def tokens_read(
    kind: TaskKind[Any, Any], tokenizer: PreTrainedTokenizerBase, length: int, read: Read
) -> str:
    """How many examples are cut to ``length`` tokens, by how much, and how much is unknown."""
    unknown = unknown_share(tokenizer, [split for split, _ in read])
    count = sum(len(examples) for _, examples in read)
    whole: list[int] = []
    for split, examples in read:
        if len(split) == len(examples):  # else long ones are read in parts
            full = [row for row, own in enumerate(split.lengths) if own >= length]
            if full:
                found = kind.lengths(tokenizer, [examples[row] for row in full])
                whole += [own for own in found or () if own > length]
    said = f"{count} examples of at most {length} tokens"
    if whole:
        lost = 1 - length * len(whole) / sum(whole)
        said += f"; {len(whole)} are longer and cut, by {lost:.0%} on average"
    else:
        said += "; none is cut"
    return f"{said}; {_share(unknown)} of the tokens are unknown."


def _share(part: float) -> str:
    return f"{part:.1%}" if part >= 0.0005 or not part else "under 0.1%"
