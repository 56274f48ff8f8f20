"""Choosing one model of a front."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from typing import Literal

from axsearch.errors import UsageError
from axsearch.statistics import pareto
from axsearch.statistics.measurement import Measurement
from axsearch.study.settings import Limits

By = Literal["latency", "size", "accuracy"]

ORDERS: Mapping[By, Callable[[Measurement], tuple[float, ...]]] = {
    "latency": lambda m: (m.latency_ratio or 0.0, m.size_bytes, -m.accuracy),
    "size": lambda m: (m.size_bytes, m.latency_ratio or 0.0, -m.accuracy),
    "accuracy": lambda m: (-m.accuracy, m.size_bytes, m.latency_ratio or 0.0),
}
"""By what a front is sorted: the best first, and of equals the smaller."""

ROUNDING = 1e-12
"""How far above a limit a number may be that is on it but for rounding."""


def choose(
    front: Sequence[Measurement],
    base_accuracy: float,
    limits: Limits,
    *,
    by: By | None = None,
) -> Measurement:
    """The best member within limits; of equally good ones the smaller one.

    Args:
        front: to choose from.
        base_accuracy: that of the base on the search split.
        limits: at least one, which the member must keep.
        by: what it is to be best in; if None, latency where ``max_drop`` is given, else accuracy.

    Raises:
        UsageError: no limit is given, one that is no number, or nothing keeps them.
    """
    if not limits.given:
        names = ", ".join(f"`{one.name}`" for one in fields(Limits))
        raise UsageError(f"Give `knee` or one of {names}, such as `max_drop=0.01`.")
    limits.check()
    check_front(front)
    by = by or ("accuracy" if limits.max_drop is None else "latency")
    untimed = any(m.latency_ratio is None for m in front)
    if untimed and (by == "latency" or limits.max_latency_ratio is not None):
        raise UsageError(
            'This study did not measure latency; choose `by="size"`, or `max_size_ratio=0.7` and '
            '`by="accuracy"`.'
        )
    drop, latency, size = (
        math.inf if limit is None else limit + ROUNDING
        for limit in (limits.max_drop, limits.max_latency_ratio, limits.max_size_ratio)
    )
    allowed = [
        m
        for m in front
        if base_accuracy - m.accuracy <= drop
        and (m.latency_ratio or 0.0) <= latency
        and m.size_ratio <= size
    ]
    if not allowed:
        words = " and ".join(f"`{name}={limit:g}`" for name, limit in limits.given.items())
        raise UsageError(f"No model of the front keeps {words}; `axsearch front` shows them.")
    return min(allowed, key=ORDERS[by])


def knee(front: Sequence[Measurement], losses: Sequence[Sequence[float]]) -> Measurement:
    """The member nearest to the best of every objective; of equally near ones the smaller one.

    Args:
        front: to choose from.
        losses: of each member in each objective, less being better, (members, objectives).

    Raises:
        UsageError: the front is empty.
    """
    check_front(front)
    order = sorted(range(len(front)), key=lambda i: front[i].size_bytes)
    return front[order[pareto.knee([losses[i] for i in order])]]


def check_front(front: Sequence[Measurement]) -> None:
    """Raises UsageError where there is nothing to choose from."""
    if not front:
        raise UsageError("The front is empty: no finished trial meets the study's limits.")
