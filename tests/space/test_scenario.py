"""What latency is measured for: plain data, and as versions without runtimes wrote it."""

from __future__ import annotations

from typing import Any

import pytest

from axsearch.space.scenario import Scenario, in_words

OURS: dict[str, Any] = {
    "batch_size": 4, "sequence_length": 128, "threads": 2, "device": "cuda",
    "runtime": "other", "precision": "int8",
}  # fmt: skip
OLDER: dict[str, Any] = {
    "batch_size": 32, "sequence_length": None, "threads": None, "device": "cpu", "dtype": "float32"
}  # fmt: skip


def test_plain_data_and_back() -> None:
    scenario = Scenario(4, 128, 2, "cuda", "other", "int8")
    assert scenario.to_dict() == OURS
    assert Scenario.from_dict(OURS) == scenario


def test_one_without_a_runtime_is_torch_with_the_dtype_as_precision() -> None:
    assert Scenario.from_dict(OLDER) == Scenario()
    assert Scenario().runtime == "torch"
    assert Scenario().precision == "float32"


@pytest.mark.parametrize(
    "change",
    [
        {"batch_size": 0}, {"batch_size": None}, {"batch_size": True}, {"batch_size": 1.0},
        {"sequence_length": 0}, {"threads": -1}, {"threads": "2"}, {"device": None},
        {"more": 1},
    ],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("written", [OURS, OLDER])
def test_anything_else_is_refused(written: dict[str, Any], change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"scenario holds batch_size, .*, runtime, precision"):
        Scenario.from_dict({**written, **change})


@pytest.mark.parametrize("given", [{**OURS, "dtype": "float32"}, {**OLDER, "runtime": "torch"}, {}])
def test_the_two_forms_do_not_mix(given: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="scenario holds"):
        Scenario.from_dict(given)


@pytest.mark.parametrize("name", [*OURS])
def test_nothing_may_be_left_out(name: str) -> None:
    with pytest.raises(ValueError, match="scenario holds"):
        Scenario.from_dict({key: value for key, value in OURS.items() if key != name})


@pytest.mark.parametrize(
    ("scenario", "words"),
    [
        (
            Scenario(threads=2),
            "batches of 32, the examples at their own lengths, 2 threads, cpu, float32",
        ),
        (
            Scenario(1, 64, 1, "cuda"),
            "batches of 1, 64 tokens, 1 thread, cuda, float32",
        ),
        (
            Scenario(1, 64, 1, runtime="other", precision="int8"),
            "batches of 1, 64 tokens, 1 thread, cpu, other int8",
        ),
    ],
)
def test_in_words(scenario: Scenario, words: str) -> None:
    assert in_words(scenario) == words
