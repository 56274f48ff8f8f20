"""Rankings for other scenarios, from one study, without evaluating anything."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from conftest import copied

from axsearch import Study, UsageError, remeasure
from axsearch.calibration.block_times import LatencyTable
from axsearch.evaluation.accuracy import Predictor
from axsearch.evaluation.evaluator import Evaluator
from axsearch.evaluation.latency import Latency
from axsearch.gallery import fronts
from axsearch.measurement import Measurement
from axsearch.recipe import Recipe


@pytest.fixture(autouse=True)
def _no_accuracy_is_evaluated(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("a model was evaluated")

    monkeypatch.setattr(Predictor, "predict", never)
    for name, fewer in (("ROUNDS", 3), ("PAIRINGS", 1), ("HELD_OUT", 2)):
        monkeypatch.setattr(f"axsearch.calibration.latency_table.{name}", fewer)


@pytest.fixture
def study(tiny_study: tuple[str, str], tmp_path: Path) -> Study:
    return Study.open(copied(tiny_study[0], tmp_path), tiny_study[1])


def test_batches_of_1_and_of_32_are_two_rankings(study: Study) -> None:
    before = study.front()
    one, many = remeasure(study, batch_size=1), remeasure(study, batch_size=32)
    assert (one.scenario["batch_size"], many.scenario["batch_size"]) == (1, 32)
    for ranking in (one, many):
        ratios = [member.latency_ratio or 0.0 for member in ranking.front]
        assert ratios == sorted(ratios)
        assert all(member.latency_measured for member in ranking.front)
        assert {m.trial for m in ranking.front} == {*ranking.latencies}
        for member in ranking.front:
            assert member.latency_ratio == ranking.latencies[member.trial or 0].ratio
        assert ranking.baseline.latency_ratio == 1
    assert one.baseline.latency_ms != many.baseline.latency_ms
    study.refresh()
    assert study.front() == before  # the study is what it was
    assert len(fronts(study)) == 3


def test_the_front_is_drawn_anew_from_all_trials(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where neurons cost all the time and heads none, models with few neurons are the fast ones."""
    timed: list[Recipe] = []

    def by_neurons(*_: object, **__: object) -> LatencyTable:
        blocks = {f"attention heads={count}": 0.0 for count in range(5)}
        blocks |= {f"ffn ffn={count}": 0.3 * count / 64 for count in range(65)}
        blocks |= {f"attention topk={k}.renormalised": 0.0 for k in (8, 16, 32)}
        return LatencyTable(
            0.1, {"attention": 0.0, "ffn": 0.3, **blocks}, dict.fromkeys(range(3), 1)
        )

    def latency(self: Evaluator, recipe: Recipe, **_: Any) -> Latency:
        timed.append(recipe)
        ratio = self.predicted_ratio(recipe)
        assert ratio is not None
        return Latency(ratio * 10, 10.0, ratio, ratio, ratio, 5)

    monkeypatch.setattr("axsearch.preparation.measure_latency_table", by_neurons)
    monkeypatch.setattr(Evaluator, "latency", latency)
    found = remeasure(study, batch_size=2)

    def neurons(choices: dict[str, dict[str, int | None]]) -> float:
        return 0.1 + 0.3 * sum((kept["ffn"] or 0) / 64 for kept in choices.values())

    def losses(m: Measurement) -> tuple[float, ...]:
        return -m.accuracy, round(neurons(m.choices), 9), m.size_ratio

    every = {m.trial: losses(m) for m in study.measurements}
    expected = {
        trial
        for trial, own in every.items()
        if not any(
            other != own and all(a <= b for a, b in zip(other, own, strict=True))
            for other in every.values()
        )
    }
    assert {m.trial for m in found.front} == expected
    assert len(timed) == 1 + len(expected)  # the base and the front, nothing else


def test_what_was_timed_is_not_timed_again_unless_asked(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = remeasure(study, batch_size=1, sequence_length=8)
    calls: list[object] = []

    def counted(*args: Any, **_: Any) -> Latency:
        calls.append(args)
        return Latency(1.0, 2.0, 0.5, 0.4, 0.6, 5)

    monkeypatch.setattr("axsearch.evaluation.evaluator.measure_latency", counted)
    assert remeasure(study, batch_size=1, sequence_length=8).latencies == first.latencies
    assert calls == []
    again = remeasure(study, batch_size=1, sequence_length=8, again=True)
    assert len(calls) == 1 + len(again.front)
    assert {latency.ratio for t, latency in again.latencies.items() if t} <= {0.5}


def test_a_length_of_0_is_the_examples_own(study: Study) -> None:
    assert remeasure(study, sequence_length=0).scenario == study.spec.scenario


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"batch_size": 0}, "--batch-size must be at least 1"),
        ({"sequence_length": -1}, "--sequence-length must be at least 1"),
        ({"threads": 0}, "--threads must be at least 1"),
        ({"sequence_length": 65}, "--sequence-length 65 is above the model's 64"),
        ({"device": "tpu"}, "tpu"),
        ({"model": "/no/where"}, "/no/where"),
    ],
)
def test_what_cannot_be_timed(study: Study, given: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        remeasure(study, **given)
