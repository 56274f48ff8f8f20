"""A base that is kept in half precision: sizes, weights and exports are those of its own file."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification

import axsearch
from axsearch import Study, export_model, verify_export
from axsearch.cli.front import front
from axsearch.errors import UsageError
from axsearch.evaluation.loading import MovedError, load_task
from axsearch.evaluation.size import safetensors_bytes
from axsearch.models.base_model import Base
from axsearch.models.fingerprint import model_fingerprint
from axsearch.models.weights import ClosedForm, Rounded, rounded
from axsearch.running.holdout import evaluate_front
from axsearch.study.spec import StudySpec
from axsearch.tasks.pretrained import load_model
from axsearch.testing.text import tiny_bert


@pytest.fixture(scope="module")
def half(base_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny BERT as a float16 file."""
    folder = tmp_path_factory.mktemp("half") / "base"
    shutil.copytree(base_dir, folder)
    path = folder / "model.safetensors"
    state = {name: tensor.half() for name, tensor in load_file(path).items()}
    save_file(state, path, metadata={"format": "pt"})
    return folder


@pytest.fixture(scope="module")
def study(half: Path, data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Study:
    storage = f"sqlite:///{tmp_path_factory.mktemp('study')}/studies.db"
    return axsearch.search(
        str(half), str(data_dir), storage=storage, study="half", trials=3,
        objectives=("accuracy", "size"), staged=False,
    )  # fmt: skip


def smallest(study: Study) -> Any:
    return min(study.measurements, key=lambda m: m.size_bytes)


def test_sizes_are_those_of_the_users_file(study: Study, half: Path) -> None:
    assert study.baseline.size_bytes == (half / "model.safetensors").stat().st_size
    assert study.spec.file_dtype == "float16"
    assert study.baseline.size_ratio == 1
    small = smallest(study)
    assert small.size_ratio == small.size_bytes / study.baseline.size_bytes < 0.9


def test_an_export_keeps_the_type_and_answers_as_it_was_measured(
    study: Study, tmp_path: Path
) -> None:
    small = smallest(study)
    folder = export_model(study, small.trial, str(tmp_path / "small"), force=True)
    file = folder / "model.safetensors"
    assert file.stat().st_size == small.size_bytes
    assert {tensor.dtype for tensor in load_file(file).values()} == {torch.float16}
    assert json.loads((folder / "config.json").read_text())["dtype"] == "float16"
    assert verify_export(str(folder)).difference < 1e-6


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_another_type_for_an_export(study: Study, tmp_path: Path, dtype: str) -> None:
    small, type_ = smallest(study), getattr(torch, dtype)
    folder = export_model(study, small.trial, str(tmp_path / "small"), force=True, dtype=dtype)
    state = load_file(folder / "model.safetensors")
    assert {tensor.dtype for tensor in state.values()} == {type_}
    written = (folder / "model.safetensors").stat().st_size
    assert written == safetensors_bytes(state)
    assert f"{written:,}" in (folder / "README.md").read_text()
    assert verify_export(str(folder)).difference < 1e-6


@pytest.mark.parametrize(("dtype", "format"), [("int8", "hf"), ("float16", "onnx")])
def test_a_type_that_an_export_cannot_have(
    study: Study, tmp_path: Path, dtype: str, format: str
) -> None:
    out = str(tmp_path / "small")
    with pytest.raises(UsageError, match=r"`dtype` (is for the format hf|must be one of)"):
        export_model(study, 1, out, dtype=dtype, format=format)


def test_a_study_of_version_0_1_keeps_its_sizes(
    study: Study,
) -> None:
    """They were those of float32, whatever the file."""
    stored = study.spec.model_dump(mode="json")
    del stored["file_dtype"]
    model = load_model(study.spec.model, AutoModelForSequenceClassification)
    stored["model_fingerprint"] = model_fingerprint(model)
    assert stored["model_fingerprint"] != study.spec.model_fingerprint
    assert load_task(StudySpec.stored("half", stored)).base.dtype == torch.float32


def test_where_base_and_data_are_on_another_machine(
    study: Study, half: Path, data_dir: Path, tmp_path: Path
) -> None:
    gone = study.spec.model_copy(
        update={"model": str(tmp_path / "no-model"), "data": str(tmp_path / "no-data")}
    )
    moved = Study(study.database, study.name, gone)
    out = str(tmp_path / "small")
    with pytest.raises(UsageError, match=r"The model of this study is not at .*`model`"):
        export_model(moved, 1, out)
    with pytest.raises(UsageError, match=r"The data of this study are not at .*`data`"):
        export_model(moved, 1, out, model=str(half))
    made = export_model(moved, 1, out, model=str(half), data=str(data_dir), force=True)
    assert (made / "model.safetensors").is_file()


def test_rounded_weights_are_other_weights() -> None:
    base = Base(tiny_bert())
    weights = ClosedForm(base)
    found = Rounded(weights, torch.bfloat16)
    assert found.key not in ("", Rounded(weights, torch.float16).key)
    state = {"a": torch.tensor([1 / 3]), "b": torch.tensor([2])}
    other = rounded(state, torch.bfloat16)
    assert other["a"].dtype == torch.float32
    assert other["a"].item() == torch.tensor(1 / 3).bfloat16().item()
    assert other["b"] is state["b"]


def test_a_front_is_shown_where_its_base_was_moved(
    half: Path,
    data_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    study = axsearch.search(
        str(half), str(data_dir), storage=f"sqlite:///{tmp_path}/studies.db", study="moved",
        trials=2, objectives=("accuracy", "size"), staged=False,
    )  # fmt: skip
    capsys.readouterr()
    gone = study.spec.model_copy(update={"model": str(tmp_path / "no-model")})
    moved = Study(study.database, study.name, gone)
    monkeypatch.setattr(Study, "open", lambda *_: moved)
    with pytest.raises(MovedError, match="`model`"):
        evaluate_front(moved)
    front("sqlite:///studies.db", study.name, holdout=True, json=True)
    said, shown = capsys.readouterr()[::-1]
    assert "The holdout split is not opened: The model of this study is not at" in said
    assert "say where with --model." in said
    assert json.loads(shown)["baseline"]["holdout_accuracy"] is None
    evaluate_front(moved, model=str(half))
    assert moved.baseline.holdout_accuracy is not None
