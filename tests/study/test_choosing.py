from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from axsearch.errors import UsageError
from axsearch.statistics.expectation import Expected
from axsearch.statistics.measurement import Measurement
from axsearch.study.choosing import choose, knee, two_digits
from axsearch.study.settings import Limits
from axsearch.testing.studies import measurement

BASE = measurement(0, accuracy=0.90)


def member(trial: int, accuracy: float, latency: float | None, size: int) -> Measurement:
    return measurement(
        trial,
        recipe={"version": 1, "sites": {"of": trial}},
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


EXPECTED = {
    # the second was lucky, the third less so: what the front shows of them is not to be counted on
    1: Expected(0.002, 0.002, 0.01, 400),
    2: Expected(0.012, 0.004, 0.01, 400),
    3: Expected(0.008, 0.006, 0.01, 400),
    4: Expected(0.025, 0.007, 0.01, 400),
    5: Expected(0.095, 0.010, 0.015, 400),
}
"""Expected drops of FRONT."""


def chosen(front: list[Measurement], by: Any = None, **limits: float) -> int | None:
    """By the drops that the search split shows."""
    return choose(front, BASE, Limits(**limits), {}, by=by).trial


def chosen_by_expectation(
    confidence: float | None = None, front: list[Measurement] | None = None, **limits: float
) -> int | None:
    own = Limits(**limits)
    return choose(front or FRONT, BASE, own, EXPECTED, confidence=confidence).trial


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


@pytest.mark.parametrize(
    ("given", "trial"),
    [
        ({"max_drop": 0.01}, 3),
        ({"max_drop": 0.007}, 1),  # trial 2 shows no drop, but 0.012 is expected
        ({"max_drop": 0.008}, 3),  # on the limit is within it
        ({"max_drop": 0.03}, 4),
        ({"max_drop": 0.01, "max_size_ratio": 0.72, "max_latency_ratio": 0.55}, 3),
        ({"max_drop": 0.01, "confidence": 0.9}, 1),  # that of trial 3 is 0.63
        ({"max_drop": 0.01, "confidence": 0.6}, 3),
        ({"max_drop": 0.02, "confidence": 0.9}, 3),
    ],
)
def test_a_limit_on_the_drop_is_on_the_expected_one(given: dict[str, float], trial: int) -> None:
    assert chosen_by_expectation(**given) == trial


def test_nothing_but_the_base_can_be_promised() -> None:
    base = member(0, 0.90, 1.0, 100).model_copy(update={"recipe": BASE.recipe})
    unsure = {t: replace(one, drop=0.004, error=0.008) for t, one in EXPECTED.items()}
    unsure[3] = replace(unsure[3], error=0.006)
    unsure[0] = Expected(0.0, 0.0, 0.0, 400)
    limits = Limits(max_drop=0.01)
    assert choose([base, *FRONT], BASE, limits, unsure, by="accuracy").trial == 1
    with pytest.raises(UsageError) as refused:
        choose([base, *FRONT], BASE, limits, unsure, confidence=0.9)
    needed = unsure[3].examples_for(0.01, 0.9)
    assert needed is not None
    said = str(refused.value)
    assert "The 400 examples of the search split are too few" in said
    assert "`max_drop=0.01` with a probability of 0.9" in said
    assert f"for trial 3 about {two_digits(needed):,} would do" in said


def test_no_number_of_examples_makes_a_bad_model_good() -> None:
    with pytest.raises(UsageError, match="No smaller model of the front is expected to keep"):
        chosen_by_expectation(0.9, front=FRONT[3:], max_drop=0.01)
    with pytest.raises(UsageError, match="of the front keeps `max_drop=0"):
        chosen_by_expectation(front=FRONT[3:], max_drop=0.01)


@pytest.mark.parametrize(
    ("confidence", "limits", "words"),
    [
        (0.9, {"max_size_ratio": 0.7}, "`confidence` says how sure `max_drop` is kept"),
        (1.0, {"max_drop": 0.01}, "`confidence` must be a probability between 0 and 1"),
        (0.0, {"max_drop": 0.01}, "`confidence` must be a probability between 0 and 1"),
        (math.nan, {"max_drop": 0.01}, "`confidence` must be a probability between 0 and 1"),
    ],
)
def test_confidences_that_cannot_be_used(
    confidence: float, limits: dict[str, float], words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        chosen_by_expectation(confidence, **limits)


def test_without_stored_answers_there_is_no_confidence() -> None:
    with pytest.raises(UsageError, match="An older axsearch made this study"):
        choose(FRONT, BASE, Limits(max_drop=0.01), {}, confidence=0.9)


def test_counts_are_rounded_up_to_two_digits() -> None:
    assert [two_digits(n) for n in (1, 99, 100, 101, 1319, 12_000)] == [
        1, 99, 100, 110, 1400, 12_000
    ]  # fmt: skip
