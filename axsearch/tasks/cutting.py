"""Cutting a split from another one, so that both have an even share of each class."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import datasets
import numpy as np

E = TypeVar("E")

SHARE = 10
"""One in so many examples is cut from train."""

FEWEST = 20
"""Examples from which a split may be cut."""


def cut(
    examples: Sequence[E], every: int, stratum: Callable[[E], Any], seed: int
) -> tuple[list[E], list[E]]:
    """The examples that stay and one in ``every`` that is cut, both in their order.

    Systematic sampling: examples are sorted by stratum, within one at random, and each
    ``every``-th is cut. So of each stratum's n examples n / every are cut, rounded up or down
    (Cochran, Sampling Techniques, 1977, chapter 8).

    Args:
        examples: to cut from.
        every: two or more.
        stratum: what an example is sorted by, such as its class.
        seed: of the order within strata, and of the first example that is cut.
    """
    random = np.random.default_rng(seed)
    order = random.permutation(len(examples))
    ordered = sorted(order, key=lambda row: stratum(examples[row]))  # stable
    rows = set(map(int, ordered[int(random.integers(every)) :: every]))
    return (
        [one for row, one in enumerate(examples) if row not in rows],
        [one for row, one in enumerate(examples) if row in rows],
    )


def cut_as_before(examples: Sequence[E], seed: int) -> tuple[list[E], list[E]]:
    """The same as version 0.1 cut them from train: a tenth, whatever its classes."""
    share = datasets.Dataset.from_dict({"row": range(len(examples))})
    parts = share.train_test_split(test_size=1 / SHARE, seed=seed)
    kept, taken = (
        [examples[row] for row in sorted(parts[part]["row"])] for part in ("train", "test")
    )
    return kept, taken
