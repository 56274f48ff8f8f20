"""A runtime is added by one file: here a wrapper of PyTorch's, with nothing else edited."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from sqlalchemy import select
from sqlalchemy.orm import Session as DatabaseSession

import axsearch.runtimes
from axsearch import Task, export_model, search
from axsearch.approximations.choices import Kept
from axsearch.approximations.site import SiteId
from axsearch.calibration.preparation import latency_table
from axsearch.errors import UsageError
from axsearch.evaluation.evaluator import Evaluator
from axsearch.reporting.explanation import explain_trial
from axsearch.runtimes import check, runtimes
from axsearch.space.genome import SearchSpace
from axsearch.space.recipe import Recipe
from axsearch.space.scenario import Scenario, in_words
from axsearch.store.database import open_database
from axsearch.store.models import LatencyRow
from axsearch.system.machine import machine_name

WRAPPER = '''
"""PyTorch again, which counts what it is asked for."""

from axsearch.runtimes.base import Runtime, Session
from axsearch.runtimes.torch import Torch

COUNTS = {"opened": 0, "closed": 0, "run": 0, "layer_times": 0}


class CountedSession(Session):
    def __init__(self, inner):
        COUNTS["opened"] += 1
        self.inner = inner

    def prepare(self, batch):
        return self.inner.prepare(batch)

    def run(self, batch):
        COUNTS["run"] += 1
        return self.inner.run(batch)

    def layer_times(self, batches):
        COUNTS["layer_times"] += 1
        return self.inner.layer_times(batches)

    def quiet(self):
        return self.inner.quiet()

    def close(self):
        COUNTS["closed"] += 1
        self.inner.close()


class Counted(Runtime):
    """Counts."""

    name = "counted"
    precisions = ("int8", "int4")
    export_format = "hf"

    def open(self, model, *, precision, threads, device):
        inner = Torch().open(model, precision="float32", threads=threads, device=device)
        return CountedSession(inner)
'''
SCENARIO = Scenario(batch_size=4, threads=1, runtime="counted", precision="int8")
SMALLER = Recipe.of({SiteId(1, "attention"): {"heads": Kept(of=4, kept=(0, 2))}})


@pytest.fixture
def counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, int]]:
    """The wrapper is there; what it counts."""
    folder = tmp_path / "more"
    folder.mkdir()
    (folder / "counted.py").write_text(WRAPPER)
    package: Any = axsearch.runtimes
    monkeypatch.setattr(package, "__path__", [*package.__path__, str(folder)])
    runtimes.cache_clear()
    assert [*runtimes()] == sorted({*runtimes(), "counted", "torch"})
    yield sys.modules["axsearch.runtimes.counted"].COUNTS
    monkeypatch.undo()
    del sys.modules["axsearch.runtimes.counted"], package.counted
    runtimes.cache_clear()


def test_it_is_listed_with_its_precisions(counts: dict[str, int]) -> None:
    check("counted", "int4")
    with pytest.raises(UsageError, match=r"no precision 'float32'; choose int8, int4\."):
        check("counted", "float32")
    with pytest.raises(UsageError, match=r"choose .*counted, .*torch"):
        check("other", "float32")


def test_a_scenario_is_measured_in_it_from_the_table_to_a_model(
    counts: dict[str, int],
    base_dir: Path,
    data_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, fewer in (("ROUNDS", 3), ("PAIRINGS", 1), ("HELD_OUT", 2)):
        monkeypatch.setattr(f"axsearch.calibration.block_timing.{name}", fewer)
    task = Task.load(str(base_dir), str(data_dir))
    database = open_database(f"sqlite:///{tmp_path / 'studies.db'}", create=True)
    evaluator = Evaluator(task, database.engine, SCENARIO)
    sites = task.base.sites
    orders = {site_id: range(site.units.count) for site_id, site in sites.items()}
    space = SearchSpace(list(sites.values()), orders, names=["heads"])
    table = latency_table(evaluator, space, machine_name())
    assert table.rounds == 3
    assert counts["run"] == 0
    assert counts["layer_times"] > 3 * counts["opened"] > 9
    evaluator.table = table
    assert evaluator.measure(SMALLER).latency_ratio == table.ratio(SMALLER)
    before = counts["opened"]
    measured = evaluator.latency(SMALLER)
    assert measured is not None
    assert 0.1 < measured.ratio < 10
    assert counts["opened"] > before
    assert counts["run"] >= 2 * 2 * measured.pairs
    assert counts["closed"] == counts["opened"]
    # Nothing of it is taken for PyTorch's.
    in_torch = Evaluator(task, database.engine, Scenario(batch_size=4, threads=1))
    assert in_torch.workload[1] != evaluator.workload[1]
    with DatabaseSession(database.engine) as session:
        kept = session.scalars(select(LatencyRow.scenario)).all()
    assert kept
    assert all(Scenario.from_dict(scenario) == SCENARIO for scenario in kept)
    assert in_words(SCENARIO).endswith("cpu, counted int8")


def test_a_search_takes_it_and_its_front_is_timed_in_it(
    counts: dict[str, int], base_dir: Path, data_dir: Path, tmp_path: Path
) -> None:
    given: dict[str, Any] = {
        "storage": f"sqlite:///{tmp_path / 'studies.db'}", "study": "counted", "trials": 4,
        "search_examples": 32, "batch_size": 4, "threads": 1, "sampler": "random",
        "approximations": ["heads"], "runtime": "counted",
    }  # fmt: skip
    with pytest.raises(UsageError, match="no precision 'float32'; choose int8, int4"):
        search(str(base_dir), str(data_dir), **given)
    assert counts["opened"] == 0
    study = search(str(base_dir), str(data_dir), **given, precision="int8")
    assert study.scenario is not None
    assert study.scenario.endswith("cpu, counted int8")
    assert all(member.latency_measured for member in study.front())
    assert counts["closed"] == counts["opened"] > 3
    found = explain_trial(study, study.front()[0].trial or 0)
    assert any("counted int8" in sentence for sentence in found.sentences)
    out = export_model(study, study.front()[0].trial or 0, str(tmp_path / "out"), force=True)
    assert "counted int8" in (out / "README.md").read_text()
    with runtimes()["counted"].open(out, precision="int8", threads=1, device="cpu") as session:
        assert session.run(study_batch()).logits.shape == (1, 2)
    study.database.close()


def study_batch() -> dict[str, torch.Tensor]:
    ids = torch.tensor([[2, 5, 7, 3]])
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
