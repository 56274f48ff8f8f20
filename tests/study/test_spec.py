"""A study's record: how a scenario of an earlier version is read, compared and written."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest

from axsearch.errors import UsageError
from axsearch.space.scenario import Scenario
from axsearch.study.spec import StudySpec
from tests.faults.studies import SPEC

OLDER: dict[str, Any] = {
    **SPEC,
    "scenario": {
        "batch_size": 4, "sequence_length": None, "threads": 1, "device": "cpu", "dtype": "float32",
    },
}  # fmt: skip


def test_a_study_of_before_there_were_runtimes_is_the_same_study() -> None:
    older = StudySpec.stored("reviews", OLDER)
    assert older.scenario == Scenario(batch_size=4, threads=1)
    asked = StudySpec.model_validate({**SPEC, "scenario": Scenario(batch_size=4, threads=1)})
    assert asked.differences(older) == []
    assert older.differences(asked) == []
    assert older.model_dump(mode="json") == {
        **SPEC, "weights": "", "latency_tables": 1, "labels": None, "tokenizer": None,
        "encoding": None, "reading": 1, "file_dtype": "float32", "max_length": 512, "polished": "",
        "vocabulary_from": None, "portable": False,
    }  # fmt: skip  # as it is written from now on


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"precision": "int8"}, "precision=float32, not .* precision=int8"),
        ({"runtime": "other"}, "runtime=torch .*, not .* runtime=other"),
        ({"batch_size": 8}, "batch_size=4 .*, not batch_size=8"),
    ],
)
def test_another_scenario_is_another_study(change: dict[str, Any], words: str) -> None:
    known = StudySpec.stored("reviews", SPEC)
    assert known.scenario is not None
    asked = known.model_copy(update={"scenario": replace(known.scenario, **change)})
    (difference,) = asked.differences(known)
    assert difference.startswith("scenario (")
    assert re.search(words, difference)


def test_other_weights_are_another_study() -> None:
    known = StudySpec.stored("reviews", SPEC)
    asked = known.model_copy(update={"weights": "recovery"})
    assert asked.differences(known) == ["how the weights of smaller models are made"]


def test_data_cut_to_another_length_are_said_to_be() -> None:
    known = StudySpec.stored("reviews", SPEC)
    longer = {**known.splits, "search": "l" * 64}
    asked = known.model_copy(update={"max_length": 2048, "splits": longer})
    assert asked.differences(known) == ["max length (512, not 2048)"]
    elsewhere = asked.model_copy(update={"data": "mails"})
    assert [one.partition(" (")[0] for one in elsewhere.differences(known)] == [
        "max length",
        "data",
    ]
    whole = known.model_copy(update={"max_length": 2048})  # of texts that are shorter than both
    assert whole.differences(known) == []


def test_a_scenario_that_is_none_is_refused_in_a_sentence() -> None:
    with pytest.raises(UsageError, match=r"'reviews' .* damaged .*scenario: scenario holds batch"):
        StudySpec.stored("reviews", {**SPEC, "scenario": {"batch_size": 4}})
