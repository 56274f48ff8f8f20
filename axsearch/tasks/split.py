"""Split: tokenised examples and their targets, in batches."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

IGNORED = -100
"""The target of a token without a label; torch's cross entropy ignores it."""

FULL = 512
"""Tokens of an input up to which a batch has all its rows."""

Batch = dict[str, torch.Tensor]
Features = list[dict[str, list[int]]]


@dataclass(frozen=True)
class Split:
    """Tokenised examples and the answers expected for them.

    A feature is one input of the model: one example, or one window of a long one.

    Attributes:
        name: ``calibration``, ``search``, ``holdout``, ``train`` or ``validation``.
        inputs: the tokenizer's output for each feature, unpadded.
        targets: the target of each feature, for the loss: class ids or numbers, (features,), or
            a list of a class id for each token.
        pad_id: the token that pads a batch.
        names: the names of the head's class ids; empty if they have none.
    """

    name: str
    inputs: Features
    targets: NDArray[Any] | list[list[int]]
    pad_id: int
    names: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.inputs)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the token ids and of everything that answers are scored against.

        It differs for other texts, labels, tokenizers and lengths.
        """
        targets = self.targets if isinstance(self.targets, list) else self.targets.tolist()
        data = json.dumps([self.inputs, targets, *self.references()], separators=(",", ":"))
        return hashlib.sha256(data.encode()).hexdigest()

    @property
    def owners(self) -> NDArray[np.int64]:
        """The example that each feature belongs to, (features,)."""
        return np.arange(len(self))

    def take(self, examples: NDArray[np.int64]) -> Split:
        """A split of these examples only, in the order of their features in this one."""
        return self._features([int(r) for r in np.flatnonzero(np.isin(self.owners, examples))])

    def _features(self, rows: list[int], **more: Any) -> Split:
        targets = (
            [self.targets[row] for row in rows]
            if isinstance(self.targets, list)
            else self.targets[rows]
        )
        return replace(self, inputs=[self.inputs[row] for row in rows], targets=targets, **more)

    def references(self) -> Sequence[Any]:
        """Plain data that answers are scored against, if that is more than the targets."""
        return ()

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens in each feature, (features,)."""
        return np.array([len(feature["input_ids"]) for feature in self.inputs])

    def batches(self, size: int) -> Iterator[tuple[NDArray[np.int64], Batch]]:
        """Batches of features of similar length, shortest first: their positions and tensors.

        Tensors are (features in the batch, tokens of the longest). Batches are :meth:`groups`.
        """
        for rows in self.groups(np.arange(len(self)), size):
            yield rows, self.collate(rows)

    def groups(
        self, rows: NDArray[np.int64], size: int, full: int = FULL
    ) -> Iterator[NDArray[np.int64]]:
        """Some features, by their positions, in groups of similar length, shortest first.

        A group is no larger than :func:`most_rows` allows for the length of its longest, so that a
        model takes a bounded memory for it.
        """
        order = rows[np.argsort(self.lengths[rows], kind="stable")]
        start = 0
        while start < len(order):
            end = min(start + size, len(order))
            while end - start > most_rows(size, int(self.lengths[order[end - 1]]), full):
                end -= 1
            yield order[start:end]
            start = end

    def collate(self, rows: Sequence[int] | NDArray[np.int64]) -> Batch:
        """Pad the inputs of these features to the longest of them."""
        batch = {}
        for key in self.inputs[0]:
            fill = self.pad_id if key == "input_ids" else 0
            batch[key] = _padded([self.inputs[row][key] for row in rows], fill)
        return batch

    def collate_targets(self, rows: Sequence[int] | NDArray[np.int64]) -> torch.Tensor:
        """The targets of these features; lists are padded with :data:`IGNORED`."""
        if isinstance(self.targets, list):
            return _padded([self.targets[row] for row in rows], IGNORED)
        targets = torch.from_numpy(self.targets[np.asarray(rows)])
        return targets.float() if targets.is_floating_point() else targets


def most_rows(size: int, length: int, full: int = FULL) -> int:
    """How many inputs of ``length`` tokens go into a batch that has ``size`` of ``full`` tokens.

    Longer inputs are fewer by the square of their length: then the batch has fewer tokens, and the
    scores and masks of attention, (rows, length, length), take no more memory than those of
    ``size`` inputs of ``full`` tokens. At least one.
    """
    return max(1, min(size, size * full**2 // length**2))


def _padded(rows: list[list[int]], fill: int) -> torch.Tensor:
    longest = max(map(len, rows))
    return torch.tensor([row + [fill] * (longest - len(row)) for row in rows])
