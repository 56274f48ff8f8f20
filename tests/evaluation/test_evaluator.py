"""Where the Evaluator's models are: latency on the scenario's device, accuracy on its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from axsearch import Task
from axsearch.approximations.choices import Kept
from axsearch.approximations.site import SiteId
from axsearch.evaluation import evaluator as module_under_test
from axsearch.evaluation.evaluator import Evaluator
from axsearch.evaluation.latency import Latency
from axsearch.space.recipe import EXACT, Recipe
from axsearch.space.scenario import Scenario
from axsearch.store.database import open_database

SMALLER = Recipe.of({SiteId(1, "attention"): {"heads": Kept(of=4, kept=(0, 2))}})


@pytest.fixture(scope="module")
def task(base_dir: Path, data_dir: Path) -> Task:
    return Task.load(str(base_dir), str(data_dir))


# No second device is needed: meta tensors have no numbers, so that a model which was left there
# would have no accuracy.
ELSEWHERE = Scenario(batch_size=4, threads=1, device="meta")


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The devices of the models that were timed, the base's first."""
    devices: list[str] = []

    def measured(base: Any, model: Any, batches: Any, own: Any, *, pairs: int) -> Latency:
        devices.extend(session.model.device.type for session in (base, model))
        return Latency(1.0, 2.0, 0.5, 0.4, 0.6, pairs)

    monkeypatch.setattr(module_under_test, "measure_latency", measured)
    return devices


def test_accuracy_is_evaluated_where_it_was_asked_for_after_timing_elsewhere(
    task: Task, timed: list[str], tmp_path: Path
) -> None:
    plain = Evaluator(task, open_database(f"sqlite:///{tmp_path}/a.db", create=True).engine, None)
    expected = plain.measure(SMALLER)
    database = open_database(f"sqlite:///{tmp_path}/b.db", create=True)
    evaluator = Evaluator(task, database.engine, ELSEWHERE)
    small = evaluator.weights.shrink(SMALLER)
    latency = evaluator.latency(SMALLER, lambda: small)
    assert latency is not None
    assert timed == ["meta", "meta"]
    assert (small.device.type, task.model.device.type) == ("cpu", "cpu")
    measured = evaluator.measure(SMALLER)
    assert measured.latency_ratio == 0.5
    assert measured.accuracy == expected.accuracy
    assert evaluator.accuracy(EXACT, task.search).value == plain.accuracy(EXACT, task.search).value
