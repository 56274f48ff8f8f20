"""A search narrows the last layer by itself, and its models are exported so."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from axsearch import Study, export_model, search, verify_export
from axsearch.cli.front import print_front
from axsearch.reporting.explanation import explain_trial
from axsearch.testing.latency import MEASURE, narrowing_table

ONLY = {"version": 1, "sites": {"stack": {"one_token": {"tokens": 1}}}}


@pytest.fixture(scope="module")
def study(
    base_dir: Path, data_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Study]:
    url = f"sqlite:///{tmp_path_factory.mktemp('narrowed')}/studies.db"
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(MEASURE, narrowing_table)
        found = search(
            str(base_dir), str(data_dir), storage=url, study="narrowed", trials=4, batch_size=4,
            threads=1, search_examples=64, staged=False,
        )  # fmt: skip
    yield found
    found.database.close()


def test_the_second_trial_loses_nothing_and_is_faster(study: Study) -> None:
    base, second = study.baseline, study.trial(1)
    assert second.recipe == ONLY
    assert second.accuracy == base.accuracy
    assert second.objective_latency == pytest.approx(0.73)
    assert second.size_ratio == 1
    assert (base.choices["stack"]["one_token"], second.choices["stack"]["one_token"]) == (None, 1)
    assert all("stack" in m.recipe["sites"] for m in study.measurements[1:])


def test_it_is_not_pruned(base_dir: Path, data_dir: Path, tmp_path: Path) -> None:
    """Though it is as large as the base, and so adds no hypervolume over all three objectives."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(MEASURE, narrowing_table)
        found = search(
            str(base_dir), str(data_dir), storage=f"sqlite:///{tmp_path}/staged.db", study="staged",
            trials=2, batch_size=4, threads=1,
        )  # fmt: skip
    assert [m.recipe for m in found.measurements] == [found.baseline.recipe, ONLY]
    assert {m.trial for m in found.front()} == {1}
    found.database.close()


def test_the_front_and_an_explanation_say_so(
    study: Study, capsys: pytest.CaptureFixture[str]
) -> None:
    print_front(study)
    said = " ".join(capsys.readouterr().out.split())
    assert "t1: the last layer computes only the one token that the head reads" in said
    found = explain_trial(study, 1, None, None)
    sentences = " ".join(found.sentences)
    assert "Its last layer computes only the one token that the head reads" in sentences
    assert "of its layers keep only some" not in sentences
    assert "0.0000 nats" not in sentences
    (cut,) = found.cuts
    assert (cut.name, cut.kept, cut.time) == (
        "stack", "1 token in the last layer", pytest.approx(0.27)
    )  # fmt: skip


@pytest.mark.parametrize("format", ["hf", "onnx"])
def test_it_is_exported(study: Study, format: str, tmp_path: Path) -> None:
    export_model(study, 2, str(tmp_path / "small"), format=format)
    assert verify_export(str(tmp_path / "small")).difference <= 1e-5


def test_an_export_is_searched_with_all_its_tokens(study: Study, tmp_path: Path) -> None:
    """Its last layer may be another one then, and is narrowed again."""
    export_model(study, 1, str(tmp_path / "small"))
    again = search(
        str(tmp_path / "small"), study.spec.data, storage=f"sqlite:///{tmp_path}/again.db",
        study="again", trials=1, objectives=("accuracy", "size"), sampler="random",
        search_examples=64,
    )  # fmt: skip
    assert again.baseline.accuracy == study.baseline.accuracy
    assert not any(name.startswith("stack") for name in again.optuna.trials[0].params)
    again.database.close()
