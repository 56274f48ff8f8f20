"""Rankings for other scenarios, from one study, without evaluating anything."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from axsearch import Study, UsageError, holdout_speed, remeasure
from axsearch.evaluation.accuracy import Predictor
from axsearch.evaluation.evaluator import Evaluator
from axsearch.evaluation.latency import Latency
from axsearch.reporting.gallery import fronts, study_data
from axsearch.reporting.report import Report
from axsearch.space.latency_table import LatencyTable
from axsearch.space.recipe import Recipe
from axsearch.space.scenario import Scenario
from axsearch.statistics.measurement import Measurement
from axsearch.store.optuna_internals import STUDY_USER_ATTRS
from axsearch.store.studies import change_attributes
from axsearch.study.rankings import RANKED, keep_ranking, ranked
from tests.common_fixtures import copied


@pytest.fixture(autouse=True)
def _no_accuracy_is_evaluated(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("a model was evaluated")

    monkeypatch.setattr(Predictor, "predict", never)


@pytest.fixture
def study(tiny_study: tuple[str, str], tmp_path: Path) -> Study:
    return Study.open(copied(tiny_study[0], tmp_path), tiny_study[1])


def table(heads: float, neurons: float) -> LatencyTable:
    """Where a layer's heads and neurons take these shares of the time."""
    blocks = {f"attention heads={count}": heads * count / 4 for count in range(4)}
    blocks |= {f"ffn ffn={count}": neurons * count / 64 for count in range(64)}
    blocks |= {f"attention topk={k}.renormalised": heads for k in (8, 16, 32)}
    blocks |= {"attention": heads, "ffn": neurons}
    return LatencyTable(1 - 3 * (heads + neurons), blocks, dict.fromkeys(range(3), 1))


TABLE = table(0.01, 0.3)


class Clock:
    """In place of measuring: models that are fast with one example are slow with more."""

    def __init__(self, patched: pytest.MonkeyPatch) -> None:
        self.timed: list[Recipe] = []
        patched.setattr(
            "axsearch.calibration.preparation.measure_latency_table", lambda *_, **__: TABLE
        )
        patched.setattr(Evaluator, "_time", self.time)
        real = Evaluator.latency

        def latency(evaluator: Evaluator, recipe: Recipe, *args: Any, **given: Any) -> Any:
            self.asked = recipe
            return real(evaluator, recipe, *args, **given)

        patched.setattr(Evaluator, "latency", latency)

    @staticmethod
    def ratio(recipe: Recipe, batch_size: int) -> float:
        return TABLE.ratio(recipe) if batch_size == 1 else 1.5 - TABLE.ratio(recipe)

    def time(self, model: Any, batches: Any, pairs: int, *own: Any) -> Latency:
        self.timed.append(self.asked)
        ratio = self.ratio(self.asked, len(batches[0]["input_ids"]))
        return Latency(ratio * 10, 10.0, ratio, ratio, ratio, 5)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def test_batches_of_1_and_of_32_are_two_rankings(study: Study, clock: Clock) -> None:
    before = study.front()
    one, many = remeasure(study, batch_size=1), remeasure(study, batch_size=32)
    assert (one.scenario["batch_size"], many.scenario["batch_size"]) == (1, 32)
    for ranking, size in ((one, 1), (many, 32)):
        ratios = [clock.ratio(Recipe.from_dict(m.recipe), size) for m in ranking.front]
        assert [m.latency_ratio for m in ranking.front] == pytest.approx(ratios)
        assert ratios == sorted(ratios)
        assert all(member.latency_measured for member in ranking.front)
        assert {m.trial for m in ranking.front} == {*ranking.latencies}
        assert ranking.baseline.latency_ratio == 1
    orders = [[m.trial for m in ranking.front] for ranking in (one, many)]
    assert len(orders[0]) > 2
    assert orders[0] == orders[1][::-1]
    study.refresh()
    assert study.front() == before  # the study is what it was
    drawn = list(fronts(study).values())
    assert [[m.trial for m in front] for _, front in drawn[1:]] == [
        [m.trial for m in ranking.front] for ranking in (one, many)
    ]


def test_a_ranking_is_shown_again_as_a_study(study: Study, clock: Clock) -> None:
    found = remeasure(study, batch_size=1)
    scenario = {**found.scenario, "precision": "int8", "runtime": "openvino"}
    own = found.front[0].model_copy(update={"size_bytes": 7, "size_ratio": 0.01})
    members = [own, *found.front[1:]]
    study.refresh()
    keep_ranking(study, Scenario.from_dict(scenario), "w", "m", members, found.baseline)
    study = Study.open(str(study.database.engine.url), study.name)
    shown = ranked(study, "openvino", "int8")
    assert [m.trial for m in shown.front()] == [m.trial for m in found.front]
    assert [m.latency_ratio for m in shown.front()] == [m.latency_ratio for m in found.front]
    assert all(m.latency_measured for m in shown.front())
    assert (shown.front()[0].size_bytes, shown.front()[0].size_ratio) == (7, 0.01)
    assert (shown.baseline.latency_ratio, shown.baseline.latency_ms) == (1.0, 10.0)
    assert shown.scenario is not None
    assert "openvino int8" in shown.scenario
    assert ranked(study, None, None) is study
    assert ranked(study, "torch", None) is study  # what it is about
    with pytest.raises(UsageError, match="not ranked for onnxruntime float32, only for"):
        ranked(study, "onnxruntime", None)
    with pytest.raises(UsageError, match="Trial 999 is not on the front of study"):
        shown.trial(999)
    words = Report(shown).commands
    assert "--runtime openvino" not in words[0]
    assert words[2].endswith("--runtime openvino --precision int8 --holdout")
    assert len(study_data(shown).points) == len(shown.measurements)
    change_attributes(
        study.database.engine, study.id, lambda _: {f"{RANKED}nothing": {"trials": "all"}},
        identity=study.identity, attrs=STUDY_USER_ATTRS,
    )  # fmt: skip
    with pytest.raises(UsageError, match=r"The ranking of study .* for nothing is damaged"):
        ranked(Study.open(str(study.database.engine.url), study.name), "openvino", "int8")


def test_real_models_are_timed(study: Study) -> None:
    found = remeasure(study, batch_size=2)
    assert all(0 < latency.ratio < 20 for latency in found.latencies.values())
    assert found.words.startswith("batches of 2, the examples at their own lengths, 1 thread")


def test_without_latency_among_the_objectives_it_is_for_the_ranking(
    study: Study, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = {m.trial for m in remeasure(study, batch_size=1).front}
    changed = {"objectives": ("accuracy", "size"), "scenario": None, "max_latency_ratio": 0.01}
    study.spec = study.spec.model_copy(update=changed)
    found = remeasure(study, batch_size=1)
    assert {m.trial for m in found.front} == both  # nor does a limit of another scenario count
    assert found.scenario["threads"] == torch.get_num_threads()


def test_a_model_that_the_table_does_not_know_is_timed_before(
    study: Study, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = Evaluator.predicted_ratio
    last = Recipe.from_dict(study.measurements[-1].recipe)
    monkeypatch.setattr(
        Evaluator,
        "predicted_ratio",
        lambda self, recipe: None if recipe == last else known(self, recipe),
    )
    remeasure(study, batch_size=1)
    assert last in clock.timed


def test_other_timings_of_the_model_are_no_ranking(study: Study) -> None:
    holdout_speed(study, study.front()[0].trial or 0, pairs=1, batches=1)
    assert list(fronts(study)) == [study.name]


def test_the_front_is_drawn_anew_from_all_trials(study: Study, clock: Clock) -> None:
    found = remeasure(study, batch_size=2)

    def losses(m: Measurement) -> tuple[float, ...]:
        return -m.accuracy, TABLE.ratio(Recipe.from_dict(m.recipe)), m.size_ratio

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
    assert len(clock.timed) <= 1 + len(expected)  # the base and the front, nothing else


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


def test_a_length_of_0_is_the_examples_own(study: Study, clock: Clock) -> None:
    own = study.spec.scenario
    assert own is not None
    longer = replace(own, sequence_length=16)
    study.spec = study.spec.model_copy(update={"scenario": longer})
    assert remeasure(study).scenario["sequence_length"] == 16
    assert remeasure(study, sequence_length=0).scenario == own.to_dict()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"batch_size": 0}, "`batch_size` must be at least 1"),
        ({"sequence_length": -1}, "`sequence_length` must be at least 1"),
        ({"threads": 0}, "`threads` must be at least 1"),
        ({"sequence_length": 65}, "`sequence_length=65` is above the model's 64"),
        ({"device": "tpu"}, "tpu"),
        ({"model": "/no/where"}, "/no/where"),
    ],
)
def test_what_cannot_be_timed(study: Study, given: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        remeasure(study, **given)
