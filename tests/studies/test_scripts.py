"""The scripts to copy, run from top to bottom on a tiny model and small data of their task."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest

from axsearch.testing.latency import MEASURE, table_by_units
from axsearch.testing.samples import rows, write_rows
from axsearch.testing.text import reviews, write_csv

ROOT = Path(__file__).parents[2]
TASKS = {
    "two_texts": "text-classification",
    "similarity": "regression",
    "entities": "token-classification",
    "emotions": "multi-label-classification",
    "long_contexts": "question-answering",
}


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(MEASURE, table_by_units)
    monkeypatch.setattr("axsearch.training.finetuning.LEARNING_RATE", 2e-3)  # for so few steps
    monkeypatch.setattr("axsearch.training.finetuning.BATCH_SIZE", 8)


def run(
    script: str, arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: object
) -> list[str]:
    path = ROOT / "studies" / f"{script}.py"
    monkeypatch.setattr(sys, "argv", [str(path), *arguments])
    runpy.run_path(str(path), run_name="__main__")
    return capsys.readouterr().out.splitlines()  # type: ignore[attr-defined, no-any-return]


def test_there_is_a_test_of_every_script() -> None:
    there = {path.stem for path in ROOT.glob("studies/*.py")}
    assert there == {*TASKS, "own_model", "movie_reviews"}  # the last is the demo


@pytest.mark.parametrize("script", TASKS)
def test_a_script_of_a_task(
    script: str,
    base_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    for seed, (split, count) in enumerate((("train", 240), ("validation", 240), ("test", 40))):
        write_rows(data / f"{split}.jsonl", rows(TASKS[script], count, seed))
    said = run(script, [str(base_dir), str(data), "out", "6"], monkeypatch, capsys)
    assert said[0].startswith("base: ")
    assert said[1].startswith("base: ")
    assert sum(line.startswith("trial ") for line in said) >= 1
    assert any(line.startswith("chosen: trial ") for line in said)
    assert said[-1].strip()  # what the exported model answers
    assert (tmp_path / "out").is_dir()


def test_the_script_for_a_model_and_data_of_ones_own(
    base_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    named = [(text, ("complaint", "praise")[label]) for text, label in reviews(900, 3)]
    write_csv(tmp_path / "tickets.csv", named, ("message", "kind"))
    given = [str(base_dir), "tickets.csv", "message", "kind", "complaint=0,praise=1", "own", "6"]
    said = run("own_model", given, monkeypatch, capsys)
    assert said[0].startswith("Trial ")
    assert any(line.startswith("difference to the searched model: ") for line in said)
    assert (tmp_path / "own-small" / "model.safetensors").is_file()
    assert said[-1].endswith("own-report.html")
    with pytest.raises(SystemExit, match="MODEL DATA TEXT_COLUMNS"):
        run("own_model", given[:2], monkeypatch, capsys)
