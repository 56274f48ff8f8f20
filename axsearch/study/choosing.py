"""Choosing one model of a front."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Literal

from axsearch.errors import UsageError
from axsearch.statistics import pareto
from axsearch.statistics.measurement import Measurement
from axsearch.study.settings import Limits

if TYPE_CHECKING:
    from axsearch.statistics.expectation import Expected

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
    base: Measurement,
    limits: Limits,
    expected: Mapping[int, Expected],
    *,
    confidence: float | None = None,
    by: By | None = None,
) -> Measurement:
    """The best member within limits; of equally good ones the smaller one.

    Args:
        front: to choose from.
        base: the base.
        limits: at least one, which the member must keep.
        expected: what members are expected to lose, by trial. If empty, ``max_drop`` is compared
            with the drop that the search split shows.
        confidence: the probability with which the drop must be at most ``max_drop``; if None, its
            mean must be.
        by: what it is to be best in; if None, latency where ``max_drop`` is given, else accuracy.

    Raises:
        UsageError: no limit is given, one that is no number, or nothing keeps them; or, with
            ``confidence``, nothing but the base does.
    """
    if not limits.given:
        names = ", ".join(f"`{one.name}`" for one in fields(Limits))
        raise UsageError(f"Give `knee` or one of {names}, such as `max_drop=0.01`.")
    limits.check()
    _check_confidence(limits, confidence, expected)
    check_front(front)
    by = by or ("accuracy" if limits.max_drop is None else "latency")
    untimed = any(m.latency_ratio is None for m in front)
    if untimed and (by == "latency" or limits.max_latency_ratio is not None):
        raise UsageError(
            'This study did not measure latency; choose `by="size"`, or `max_size_ratio=0.7` and '
            '`by="accuracy"`.'
        )
    latency, size = (
        math.inf if limit is None else limit + ROUNDING
        for limit in (limits.max_latency_ratio, limits.max_size_ratio)
    )
    cheap = [m for m in front if (m.latency_ratio or 0.0) <= latency and m.size_ratio <= size]
    allowed = [m for m in cheap if _keeps(m, base, limits.max_drop, expected, confidence)]
    others = [m for m in cheap if m.recipe != base.recipe]
    if confidence is not None and not any(m in others for m in allowed):
        raise UsageError(_too_few(others, limits, expected, confidence))
    if not allowed:
        words, nearest = _in_words(limits), _nearest(cheap, limits, expected)
        raise UsageError(
            f"No model of the front keeps {words}{nearest}; `axsearch front` shows them."
        )
    return min(allowed, key=ORDERS[by])


def _check_confidence(
    limits: Limits, confidence: float | None, expected: Mapping[int, Expected]
) -> None:
    if confidence is None:
        return
    if limits.max_drop is None:
        raise UsageError("`confidence` says how sure `max_drop` is kept: give both.")
    if not 0 < confidence < 1:
        raise UsageError(
            f"`confidence` must be a probability between 0 and 1, such as 0.9, not {confidence}."
        )
    if not expected:
        raise UsageError(
            "An older axsearch made this study and did not store the answers to single examples, "
            "so nothing can be said with `confidence`: choose without it, or search again."
        )


def _keeps(
    member: Measurement,
    base: Measurement,
    most: float | None,
    expected: Mapping[int, Expected],
    confidence: float | None,
) -> bool:
    if most is None:
        return True
    if not expected:
        return base.accuracy - member.accuracy <= most + ROUNDING
    own = expected[member.trial or 0]
    if confidence is None:
        return own.drop <= most + ROUNDING
    return own.probability(most + ROUNDING) >= confidence


def _too_few(
    members: Sequence[Measurement],
    limits: Limits,
    expected: Mapping[int, Expected],
    confidence: float,
) -> str:
    """Why nothing is certain enough, and how many examples would do for the nearest member."""
    assert limits.max_drop is not None
    own = [(expected[m.trial or 0], m.trial) for m in members]
    needed = [
        (count, trial)
        for one, trial in own
        if (count := one.examples_for(limits.max_drop, confidence)) is not None
    ]
    words = _in_words(limits)
    if not needed:
        return (
            f"No smaller model of the front is expected to keep {words}; `axsearch front` shows "
            "them."
        )
    count, trial = min(needed)
    return (
        f"The {own[0][0].examples:,} examples of the search split are too few to say of a "
        f"smaller model that it keeps {words} with a probability of {confidence:g}; for trial "
        f"{trial} about {two_digits(count):,} would do, if it is as good as expected."
    )


def _nearest(
    members: Sequence[Measurement], limits: Limits, expected: Mapping[int, Expected]
) -> str:
    """The smallest drop that is expected of a member within the other limits."""
    if limits.max_drop is None or not expected or not members:
        return ""
    drop, trial = min((expected[m.trial or 0].drop, m.trial or 0) for m in members)
    return f": the smallest expected drop, of trial {trial}, is {drop:.4f}"


def _in_words(limits: Limits) -> str:
    return " and ".join(f"`{name}={limit:g}`" for name, limit in limits.given.items())


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


def two_digits(count: int) -> int:
    """A count rounded up to two digits, since more would look certain."""
    unit = int(10 ** max(len(str(count)) - 2, 0))
    return math.ceil(count / unit) * unit


def check_front(front: Sequence[Measurement]) -> None:
    """Raises UsageError where there is nothing to choose from."""
    if not front:
        raise UsageError("The front is empty: no finished trial meets the study's limits.")
