"""When a worker brings the dashboard's notes and figures up to date."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import axsearch
from axsearch import Study
from axsearch.reporting.dashboard.annotating import annotate
from axsearch.running.trial_loop import TrialLoop
from axsearch.running.worker import is_due


@pytest.mark.parametrize(
    ("count", "due"),
    [(1, False), (20, True), (30, False), (200, True), (220, False), (300, True), (2500, True)],
)
def test_how_often_it_is_brought_up_to_date(count: int, due: bool) -> None:
    assert is_due(count) == due


def test_a_running_search_keeps_it_up_to_date(
    base_dir: Path, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts: list[int] = []

    def counted(study: Study) -> None:
        counts.append(study.count)
        annotate(study)

    search(monkeypatch, counted, base_dir, data_dir, tmp_path, trials=6)
    assert counts == [3, 6, 6]  # every third model, and at the end when the front was timed


def test_a_model_that_is_known_already_is_no_reason_to_draw_again(
    base_dir: Path, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts: list[int] = []
    real = TrialLoop.run

    def repeated(loop: TrialLoop) -> None:
        told = loop.on_trial
        assert told is not None
        loop.on_trial = lambda count: [told(count) for _ in range(3)]  # as if proposed thrice
        real(loop)

    monkeypatch.setattr(TrialLoop, "run", repeated)
    search(
        monkeypatch,
        lambda study: counts.append(study.count),
        base_dir,
        data_dir,
        tmp_path,
        trials=6,
    )
    assert counts == [3, 6, 6]


def test_what_cannot_be_drawn_ends_no_search(
    base_dir: Path,
    data_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def broken(study: Study) -> None:
        raise ZeroDivisionError("division by zero")

    study = search(monkeypatch, broken, base_dir, data_dir, tmp_path, trials=3)
    assert study.count == 3
    assert "could not be brought up to date: ZeroDivisionError: division" in capsys.readouterr().err


def search(
    monkeypatch: pytest.MonkeyPatch,
    annotate: Callable[[Study], None],
    base_dir: Path,
    data_dir: Path,
    folder: Path,
    *,
    trials: int,
) -> Study:
    monkeypatch.setattr("axsearch.reporting.dashboard.annotating.annotate", annotate)
    monkeypatch.setattr("axsearch.running.worker.is_due", lambda count: count % 3 == 0)
    return axsearch.search(
        str(base_dir), str(data_dir), storage=f"sqlite:///{folder / 'new.db'}", study="new",
        trials=trials, objectives=("accuracy", "size"), staged=False,
        compensation="least_squares",
    )  # fmt: skip
