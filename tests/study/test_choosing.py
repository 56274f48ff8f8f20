from __future__ import annotations

import math
from typing import Any

import pytest

from axsearch.errors import UsageError
from axsearch.statistics.measurement import Measurement
from axsearch.study.choosing import choose, knee
from axsearch.study.settings import Limits
from axsearch.testing.studies import measurement

BASE = 0.90


def member(trial: int, accuracy: float, latency: float | None, size: int) -> Measurement:
    return measurement(
        trial,
        accuracy=accuracy,
        latency_ratio=latency,
        latency_ms=latency,
        size_bytes=size,
        size_ratio=size / 100,
    )


FRONT = [
    member(1, 0.91, 0.90, 95),
    member(2, 0.90, 0.60, 80),
    member(3, 0.89, 0.50, 70),
    member(4, 0.88, 0.40, 75),
    member(5, 0.80, 0.20, 60),
]


def chosen(front: list[Measurement], by: Any = None, **limits: float) -> int | None:
    return choose(front, BASE, Limits(**limits), by=by).trial


@pytest.mark.parametrize(
    ("given", "trial"),
    [
        ({"max_drop": 0.01}, 3),
        ({"max_drop": 0.01, "by": "latency"}, 3),
        ({"max_drop": 0.02, "by": "latency"}, 4),
        ({"max_drop": 0.02, "by": "size"}, 3),
        ({"max_drop": 0.0, "by": "accuracy"}, 1),
        ({"max_drop": -0.01}, 1),  # more accurate than the base by a point
        ({"max_latency_ratio": 0.5}, 3),  # on the limit is within it
        ({"max_latency_ratio": 0.5, "by": "accuracy"}, 3),
        ({"max_latency_ratio": 0.5, "by": "size"}, 5),
        ({"max_size_ratio": 0.75}, 3),
        ({"max_size_ratio": 0.75, "by": "latency"}, 5),
        ({"max_size_ratio": 0.75, "max_drop": 0.05, "by": "latency"}, 4),
    ],
)
def test_the_best_within_the_limits(given: dict[str, Any], trial: int) -> None:
    assert chosen(FRONT, **given) == trial


@pytest.mark.parametrize("by", ["latency", "accuracy"])
def test_of_equals_the_smaller_one_wins(by: Any) -> None:
    twins = [member(1, 0.9, 0.5, 90), member(2, 0.9, 0.5, 70), member(3, 0.9, 0.5, 80)]
    assert chosen(twins, max_drop=0.1, by=by) == 2


def test_of_equally_small_ones_the_faster_one_wins() -> None:
    twins = [member(1, 0.9, 0.6, 70), member(2, 0.9, 0.5, 70)]
    assert chosen(twins, max_drop=0.1, by="size") == 2


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({}, "`max_drop=0.01`"),
        ({"by": "size"}, "`max_drop=0.01`"),
        ({"max_drop": math.nan}, "`max_drop` must be a number"),
        ({"max_latency_ratio": math.inf}, "`max_latency_ratio` must be a number"),
        ({"max_latency_ratio": 0.0}, "`max_latency_ratio` must be a number"),
        ({"max_size_ratio": -1.0}, "`max_size_ratio` must be a number"),
        (
            {"max_drop": 0.0, "max_latency_ratio": 0.5},
            "keeps `max_drop=0` and `max_latency_ratio=0.5`",
        ),
    ],
)
def test_what_cannot_be_chosen_by(given: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        chosen(FRONT, **given)


@pytest.mark.parametrize("given", [{"max_drop": 0.1}, {"max_latency_ratio": 0.5}])
def test_without_latencies_size_is_left(given: dict[str, float]) -> None:
    untimed = [member(1, 0.9, None, 90), member(2, 0.89, None, 70)]
    with pytest.raises(UsageError, match="did not measure latency"):
        chosen(untimed, **given)
    assert chosen(untimed, max_drop=0.1, by="size") == 2
    assert chosen(untimed, max_size_ratio=0.8) == 2


def test_nothing_to_choose_from() -> None:
    with pytest.raises(UsageError, match="front is empty"):
        chosen([], max_drop=0.1)
    with pytest.raises(UsageError, match="front is empty"):
        knee([], [])


def test_the_knee_is_nearest_to_the_best_of_all_and_of_equals_the_smaller() -> None:
    losses = [(-m.accuracy, m.latency_ratio or 0.0) for m in FRONT]
    assert knee(FRONT, losses).trial == 4
    twins = [member(1, 0.9, 0.5, 90), member(2, 0.9, 0.5, 70)]
    assert knee(twins, [(0.0, 0.0), (0.0, 0.0)]).trial == 2
