"""Choosing one model of a front."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

from axsearch.errors import UsageError
from axsearch.statistics import pareto
from axsearch.statistics.measurement import Measurement

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
    *,
    max_drop: float | None = None,
    max_latency_ratio: float | None = None,
    max_size_ratio: float | None = None,
    by: By | None = None,
) -> Measurement:
    """The best member within limits; of equally good ones the smaller one.

    Args:
        front: to choose from.
        base_accuracy: that of the base on the search split.
        max_drop: how much lower the accuracy may be.
        max_latency_ratio: share of the base's time at most.
        max_size_ratio: share of the base's bytes at most.
        by: what it is to be best in; if None, latency where ``max_drop`` is given, else accuracy.

    Raises:
        UsageError: no limit is given, one that is no number, or nothing keeps them.
    """
    limits = {
        "--max-drop": max_drop,
        "--max-latency-ratio": max_latency_ratio,
        "--max-size-ratio": max_size_ratio,
    }
    given = {option: limit for option, limit in limits.items() if limit is not None}
    if not given:
        raise UsageError(f"Give --knee or one of {', '.join(limits)}, such as --max-drop 0.01.")
    for option, limit in given.items():
        if not math.isfinite(limit) or (limit <= 0 and option != "--max-drop"):
            raise UsageError(f"{option} must be a number such as 0.5, not {limit}.")
    check_front(front)
    by = by or ("latency" if max_drop is not None else "accuracy")
    untimed = any(m.latency_ratio is None for m in front)
    if untimed and (by == "latency" or max_latency_ratio is not None):
        raise UsageError(
            "This study did not measure latency; choose --by size, or --max-size-ratio 0.7 --by "
            "accuracy."
        )
    floor = -math.inf if max_drop is None else base_accuracy - max_drop
    latency = math.inf if max_latency_ratio is None else max_latency_ratio
    size = math.inf if max_size_ratio is None else max_size_ratio
    allowed = [
        m
        for m in front
        if m.accuracy >= floor - ROUNDING
        and (m.latency_ratio or 0.0) <= latency + ROUNDING
        and m.size_ratio <= size + ROUNDING
    ]
    if not allowed:
        words = " and ".join(f"{option} {limit:g}" for option, limit in given.items())
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
