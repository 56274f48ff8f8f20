"""A runtime is added by one file: here a wrapper of PyTorch's, with nothing else edited.

`test_family.py` has a study in it that is exported as `hf` and as `onnx`.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from sqlalchemy import select
from sqlalchemy.orm import Session as DatabaseSession

from axsearch import Task, export_model, search
from axsearch import runtimes as package
from axsearch.approximations.choices import Kept
from axsearch.approximations.site import SiteId
from axsearch.calibration.preparation import latency_table
from axsearch.cli.front import print_front
from axsearch.errors import UsageError
from axsearch.evaluation.evaluator import Evaluator
from axsearch.reporting.explanation import explain_trial
from axsearch.reporting.gallery import study_figures
from axsearch.runtimes import check, runtimes
from axsearch.space.genome import SearchSpace
from axsearch.space.recipe import Recipe
from axsearch.space.scenario import Scenario, in_words
from axsearch.store.database import open_database
from axsearch.store.models import LatencyRow
from axsearch.system.machine import machine_name
from axsearch.testing.runtimes import RuntimeContract
from tests.extension.conftest import Drop
from tests.extension.toy_runtime import RUNTIME

SCENARIO = Scenario(batch_size=4, threads=1, runtime="counted", precision="int8")
SMALLER = Recipe.of({SiteId(1, "attention"): {"heads": Kept(of=4, kept=(0, 2))}})


@pytest.fixture(scope="module", autouse=True)
def _toy(drop: Drop) -> None:
    drop(package, RUNTIME)


@pytest.fixture
def counts() -> dict[str, int]:
    """What the wrapper counts from here on."""
    runtimes()
    found: dict[str, int] = sys.modules["axsearch.runtimes.counted"].COUNTS
    found.update(dict.fromkeys(found, 0))
    return found


class TestContract(RuntimeContract):
    """The wrapper keeps what every runtime promises."""

    threads_of_torch = ("counted",)
    tolerances: ClassVar = {"int8": 1e-5}  # which is PyTorch's float32 in truth

    @pytest.fixture
    def scenario(self) -> Scenario:
        return SCENARIO


def test_it_is_listed_with_its_precisions() -> None:
    assert [*runtimes()] == sorted({*runtimes(), "counted", "torch"})
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
    for name, fewer in (
        ("block_timing.ROUNDS", 3), ("timed_models.PAIRINGS", 1), ("block_timing.HELD_OUT", 2),
    ):  # fmt: skip
        monkeypatch.setattr(f"axsearch.calibration.{name}", fewer)
    task = Task.load(str(base_dir), str(data_dir))
    database = open_database(f"sqlite:///{tmp_path / 'studies.db'}", create=True)
    evaluator = Evaluator(task, database.engine, SCENARIO)
    sites = task.base.sites
    orders = {site_id: range(site.count) for site_id, site in sites.items()}
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
    counts: dict[str, int],
    base_dir: Path,
    data_dir: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
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
    capsys.readouterr()
    print_front(study)
    assert "counted int8" in " ".join(capsys.readouterr().out.split())
    (table,) = study_figures(study)["latency_table"]
    assert "counted int8" in table.layout.title.text.replace("<br>", " ")
    out = export_model(study, study.front()[0].trial or 0, str(tmp_path / "out"), force=True)
    assert "counted int8" in (out / "README.md").read_text()
    ids = torch.tensor([[2, 5, 7, 3]])
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    with runtimes()["counted"].open(out, precision="int8", threads=1, device="cpu") as session:
        assert session.run(batch).logits.shape == (1, 2)
    study.database.close()
