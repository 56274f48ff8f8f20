"""What figures are drawn from, against the study's database."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import text

import axsearch
from axsearch import Study
from axsearch.reporting.gallery import _times, compare_fronts, fronts, study_data
from axsearch.store.studies import TrialHistory
from axsearch.study.tables import Tables
from tests.common_fixtures import copied

ZERO = datetime(2026, 1, 1)


def ran(number: int, began: float | None, ended: float | None) -> TrialHistory:
    times = [None if t is None else ZERO + timedelta(seconds=t) for t in (began, ended)]
    return TrialHistory(number, *times, 0.5, 0.9, 0.5, 0.5, True)  # type: ignore[arg-type]


def test_points_are_all_evaluated_models(tiny_study: tuple[str, str]) -> None:
    study = Study.open(*tiny_study)
    data = study_data(study)
    expected = {m.trial: m for m in study.measurements}
    assert {p.trial for p in data.points} == set(expected)
    for point in data.points:
        member = expected[point.trial]
        assert point.accuracy == member.accuracy
        assert point.latency == pytest.approx(member.objective_latency)
        assert point.size == pytest.approx(member.size_ratio)
        assert point.feasible


def test_the_rest_is_what_the_study_says(opened_study: tuple[str, str]) -> None:
    study = Study.open(*opened_study)
    data, tables = study_data(study), Tables(study)
    assert data.front == study.front()
    assert data.baseline == study.baseline
    assert set(data.holdout) == {m.trial for m in (study.baseline, *study.front())}
    assert data.bias.startswith("Selection bias: ")
    assert data.limits == {}
    assert data.reference == tables.trivial
    assert 0.4 < data.reference < 0.7  # two classes, about as many of each
    assert data.latency_table is not None
    assert tables.latency is not None
    assert data.latency_table.blocks == tables.latency.blocks
    assert set(data.damage) == set(data.levels)
    assert all(len(data.levels[name]) == len(own) for name, own in data.damage.items())
    assert all(own[0] == 0 for own in data.damage.values())
    assert {layer: len(own) for layer, own in data.importance.items()} == {
        f"layer{n:02d}": 4 for n in range(3)
    }
    assert [t.trial for t in data.times] == sorted(t.trial for t in data.times)
    for own in data.times:
        assert 0 <= own.began <= own.ended
        assert own.evaluating is None or own.evaluating <= own.ended - own.began + 0.1


def test_a_study_without_its_base(tiny_study: tuple[str, str], tmp_path: Path) -> None:
    study = Study.open(copied(tiny_study[0], tmp_path), tiny_study[1])
    with study.database.engine.begin() as connection:
        connection.execute(text("DELETE FROM ax_trials"))
        connection.execute(text("UPDATE trials SET state = 'FAIL'"))
    data = study_data(Study.open(str(study.database.engine.url), study.name))
    assert data.baseline is None
    assert (data.points, data.front, data.holdout, data.bias) == ([], [], {}, "")
    drawn = axsearch.study_figures(Study.open(str(study.database.engine.url), study.name))
    assert all(figures for figures in drawn.values())


def test_tables_that_an_older_version_did_not_keep(
    tiny_study: tuple[str, str], tmp_path: Path
) -> None:
    study = Study.open(copied(tiny_study[0], tmp_path), tiny_study[1])
    with study.database.engine.begin() as connection:
        connection.execute(text("DELETE FROM ax_calibrations"))
    tables = Tables(study)
    assert (tables.latency, tables.size, tables.trivial) == (None, None, None)
    assert (tables.damage, tables.levels, tables.head_importance) == ({}, {}, {})
    data = study_data(study)
    assert (data.latency_table, data.reference, data.damage) == (None, 0.0, {})


def test_the_clock_stands_still_while_nothing_runs() -> None:
    # Two workers, a second of pause, then one of an hour, and a trial that was lost.
    found = _times(
        [ran(0, 0, 10), ran(1, 2, 20), ran(2, 21, 30), ran(3, 3630, 3640), ran(4, 5, None)]
    )
    assert [(t.trial, t.began, t.ended) for t in found] == [
        (0, 0, 10), (1, 2, 20), (2, 21, 30), (3, 30, 40),
    ]  # fmt: skip
    assert {t.evaluating for t in found} == {0.5}


def test_nothing_ran() -> None:
    assert _times([]) == []
    assert _times([ran(0, None, None)]) == []


def test_fronts_of_one_study_alone(tiny_study: tuple[str, str]) -> None:
    study = Study.open(*tiny_study)
    assert fronts(study) == {"tiny": (study.baseline, study.front())}


def test_fronts_are_compared_by_change_where_models_or_data_differ(
    tiny_study: tuple[str, str],
) -> None:
    one, other = Study.open(*tiny_study), Study.open(*tiny_study)
    figure = compare_fronts([one])
    drawn = [trace for trace in figure.data if trace.mode == "markers"]
    assert [trace.name for trace in drawn] == ["tiny"]
    assert set(drawn[0].y) == {round(m.accuracy, 5) for m in one.front()}
    assert sorted(drawn[0].x) == pytest.approx(
        sorted(m.latency_ratio or 0.0 for m in one.front()), rel=1e-4
    )
    other.name = "other"
    other.__dict__["optuna"] = one.optuna
    splits = {**other.spec.splits, "search": "0" * 64}
    other.spec = other.spec.model_copy(update={"splits": splits})
    assert "change of accuracy" in compare_fronts([one, other]).layout.yaxis.title.text


def test_fronts_without_a_latency_are_compared_by_size(
    tiny_study: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    study = Study.open(*tiny_study)
    untimed = [
        m.model_copy(update={"latency_ratio": None, "latency_ms": None}) for m in study.front()
    ]
    monkeypatch.setattr(Study, "front", lambda self: untimed)
    figure = compare_fronts([study])
    (drawn,) = (trace for trace in figure.data if trace.mode == "markers")
    assert sorted(drawn.x) == pytest.approx(sorted(m.size_ratio for m in untimed), rel=1e-4)
