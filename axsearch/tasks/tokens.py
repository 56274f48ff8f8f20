"""What a tokenizer makes of the texts: their splits, what is unknown to it, and what is cut."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from axsearch.tasks.kinds import TaskKind
from axsearch.tasks.kinds.labels import Labels
from axsearch.tasks.spec import USUAL
from axsearch.tasks.split import Split

LENGTHS = (USUAL, 1024, 2048, 4096, 8192)
"""The lengths to which inputs are cut where the user leaves that open, and that are recommended."""

MOST_CUT = 0.1
"""The share of texts that may be cut before the next of the lengths is taken."""

OPENED_LATER = "holdout"
"""The split that decides nothing."""


@dataclass(frozen=True)
class Cut:
    """The texts that are longer than a length.

    Attributes:
        length: tokens to which they are cut.
        texts: how many texts there are in all.
        whole: the tokens of each text that is longer, uncut.
        kind: a sentence of the kind of task on other texts that are cut, or empty.
    """

    length: int
    texts: int
    whole: tuple[int, ...] = ()
    kind: str = ""

    @property
    def sentence(self) -> str:
        """How many texts are cut, and by how much; empty if none is."""
        if not self.whole:
            return self.kind
        lost = 1 - self.length * len(self.whole) / sum(self.whole)
        return (
            f"{len(self.whole):,} of {self.texts:,} texts are longer than {self.length:,} tokens "
            f"and are cut, by {lost:.0%} on average."
        )

    def advice(self, limit: int) -> str:
        """The same with the length that keeps them, where the model may read up to ``limit``."""
        kept = sum(own <= limit for own in self.whole)
        if not kept or limit <= self.length:
            return self.sentence
        longest = max(own for own in self.whole if own <= limit)
        enough = next((own for own in LENGTHS if longest <= own <= limit), limit)
        them = "them" if kept == len(self.whole) else f"{kept:,} of them"
        return f"{self.sentence[:-1]}; --max-length {enough} keeps {them}."


@dataclass(frozen=True)
class Tokenised:
    """The splits of a task.

    Attributes:
        length: tokens to which inputs are cut.
        splits: by their names.
        cut: the texts that are longer.
        note: why they are cut to more than :data:`USUAL`, where that was decided here; or empty.
    """

    length: int
    splits: Mapping[str, Split]
    cut: Cut
    note: str = ""


def tokenise(
    kind: TaskKind[Any, Any],
    tokenizer: PreTrainedTokenizerBase,
    examples: Mapping[str, Sequence[Any]],
    labels: Labels,
    *,
    limit: int,
    asked: int | None = None,
) -> Tokenised:
    """Tokenise the examples of each split, cut to ``asked`` tokens or to a length decided here.

    That is :data:`USUAL`, unless more than a tenth of the texts would be cut: a model that reads
    more was likely trained on more, and without the rest may know nothing. Then it is the next of
    :data:`LENGTHS` which cuts at most a tenth, or all that the model reads. Texts that are read in
    parts are not cut, so their length does not matter. The holdout split has no say.

    Args:
        kind: of the task.
        tokenizer: of the model.
        examples: of each split, by its name.
        labels: of the head.
        limit: tokens that the model can see, above which no length is.
        asked: tokens to which to cut, if that is decided.
    """
    length = min(USUAL if asked is None else asked, limit)
    splits = _splits(kind, tokenizer, examples, labels, length)
    whole = {
        name: _longer(kind, tokenizer, split, examples[name], length)
        for name, split in splits.items()
    }
    note = ""
    if asked is None and length < limit:
        deciding = [name for name in examples if name != OPENED_LATER]
        texts = sum(len(examples[name]) for name in deciding)
        found = _enough([own for name in deciding for own in whole[name]], texts, limit)
        if found > length:
            note = (
                f"More than {MOST_CUT:.0%} of the texts are longer than {length:,} tokens, so "
                f"inputs are read up to {found:,}; --max-length {length} takes less time and cuts "
                "them."
            )
            length = found
            splits = _splits(kind, tokenizer, examples, labels, length)
    still = [own for found in whole.values() for own in found if own > length]
    every = sum(len(own) for own in examples.values())
    also = kind.also_cut(list(splits.values()), length)
    return Tokenised(length, splits, Cut(length, every, tuple(still), also), note)


def _enough(whole: Sequence[int], texts: int, limit: int) -> int:
    """The first of :data:`LENGTHS` that cuts at most a tenth of so many texts; or the limit."""
    longer = np.array(whole)
    fitting = (own for own in LENGTHS if (longer > own).sum() <= MOST_CUT * texts)
    return min(next(fitting, limit), limit)


def _splits(
    kind: TaskKind[Any, Any],
    tokenizer: PreTrainedTokenizerBase,
    examples: Mapping[str, Sequence[Any]],
    labels: Labels,
    length: int,
) -> dict[str, Split]:
    return {
        name: kind.split(name, own, tokenizer, length, labels) for name, own in examples.items()
    }


def _longer(
    kind: TaskKind[Any, Any],
    tokenizer: PreTrainedTokenizerBase,
    split: Split,
    examples: Sequence[Any],
    length: int,
) -> list[int]:
    """The tokens of each text that is cut to ``length``, uncut."""
    full = [row for row, own in enumerate(split.lengths) if own >= length]
    if not full or len(split) != len(examples):  # long ones are read in parts
        return []
    found = kind.lengths(tokenizer, [examples[row] for row in full])
    return [own for own in found or () if own > length]


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


def tokens_read(tokenizer: PreTrainedTokenizerBase, read: Tokenised) -> str:
    """How many examples are read, to what length, whether any is cut, and how much is unknown."""
    unknown = _share(unknown_share(tokenizer, list(read.splits.values())))
    cut = "" if read.cut.sentence else "; none is cut"
    return (
        f"{read.cut.texts} examples of at most {read.length} tokens{cut}; {unknown} of the tokens "
        "are unknown."
    )


def _share(part: float) -> str:
    return f"{part:.1%}" if part >= 0.0005 or not part else "under 0.1%"
