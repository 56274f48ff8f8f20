"""Split: tokenised examples with their targets, in batches."""

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
"""The target of a token that has none, as torch's cross entropy ignores it."""

Batch = dict[str, torch.Tensor]
Features = list[dict[str, list[int]]]


@dataclass(frozen=True)
class Split:
    """Tokenised examples with what the model should say about them.

    A feature is one input of the model: one example, or one window of a long one.

    Attributes:
        name: ``calibration``, ``search``, ``holdout``, ``train`` or ``validation``.
        inputs: one a feature, as the tokenizer gives them, unpadded.
        targets: what the loss needs, one a feature: class ids or numbers, (features,), or a
            class id for each token, as lists.
        pad_id: the token that fills a batch.
        names: what the head's class ids are called; empty where they have no names.
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
        """SHA-256 of the token ids and all that answers are scored against.

        So it tells apart texts, labels, tokenizers and lengths.
        """
        targets = self.targets if isinstance(self.targets, list) else self.targets.tolist()
        data = json.dumps([self.inputs, targets, *self.references()], separators=(",", ":"))
        return hashlib.sha256(data.encode()).hexdigest()

    @property
    def owners(self) -> NDArray[np.int64]:
        """Which example each feature is of, (features,)."""
        return np.arange(len(self))

    def take(self, examples: NDArray[np.int64]) -> Split:
        """The split of these examples alone, in the order of the features they own here."""
        return self._features([int(r) for r in np.flatnonzero(np.isin(self.owners, examples))])

    def _features(self, rows: list[int], **more: Any) -> Split:
        targets = (
            [self.targets[row] for row in rows]
            if isinstance(self.targets, list)
            else self.targets[rows]
        )
        return replace(self, inputs=[self.inputs[row] for row in rows], targets=targets, **more)

    def references(self) -> Sequence[Any]:
        """What answers are scored against, where that is more than the targets, as plain data."""
        return ()

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens in each feature, (features,)."""
        return np.array([len(feature["input_ids"]) for feature in self.inputs])

    def batches(self, size: int) -> Iterator[tuple[NDArray[np.int64], Batch]]:
        """Length-bucketed batches, shortest first: the features' positions and their tensors.

        Tensors are (features in the batch, longest of them).
        """
        order = np.argsort(self.lengths, kind="stable")
        for start in range(0, len(order), size):
            rows = order[start : start + size]
            yield rows, self.collate(rows)

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


def _padded(rows: list[list[int]], fill: int) -> torch.Tensor:
    longest = max(map(len, rows))
    return torch.tensor([row + [fill] * (longest - len(row)) for row in rows])
