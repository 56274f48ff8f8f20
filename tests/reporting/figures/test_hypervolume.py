"""Hypervolume and the sampler's share, tested on their data."""

from __future__ import annotations

import time

import numpy as np
import pytest

from axsearch.reporting.figures.data import Point, StudyData, TrialTime
from axsearch.reporting.figures.hypervolume import hypervolume_figure, hypervolumes, of_study
from axsearch.statistics import pareto
from axsearch.testing.studies import measurement, study

POINTS = [
    Point(0, 0.9, 1.0, 1.0),
    Point(1, 0.7, 0.5, 0.5),
    Point(2, 0.6, 0.6, 0.6),
    Point(3, 0.95, 0.1, 0.1, feasible=False),
    Point(4, 0.8, 0.75, 0.5),
    Point(5, 0.4, 0.1, 0.1),
]
TIMES = [
    TrialTime(1, 0, 60, 30),
    TrialTime(4, 0, 30, 30),
    TrialTime(2, 30, 120, None),
    TrialTime(5, 60, 150, 45),
]


def test_only_feasible_models_better_than_the_reference_count() -> None:
    found = hypervolumes(POINTS, 0.5, ("latency", "size"))
    # 0.2 * 0.25, then the part of trial 4 above trial 1: 0.1 * 0.25 * 0.5
    assert found == pytest.approx([0, 0.05, 0.05, 0.05, 0.0625, 0.0625])


def test_with_one_cost_and_with_none() -> None:
    assert hypervolumes(POINTS, 0.5, ("size",))[-1] == pytest.approx(0.3 * 0.5)
    assert hypervolumes(POINTS, 0.5, ())[-1] == pytest.approx(0.4)


def test_a_model_without_the_cost_does_not_count() -> None:
    assert hypervolumes([Point(0, 0.9, None, 0.5)], 0.5, ("latency",)) == [0]


@pytest.mark.parametrize("costs", [("latency", "size"), ("latency",), ("size",), ()])
def test_step_by_step_it_is_that_of_all_models_so_far(costs: tuple[str, ...]) -> None:
    rng = np.random.default_rng(1)
    points = [
        Point(i, round(float(a), 2), float(la), float(s))
        for i, (a, la, s) in enumerate(rng.uniform(0.3, 1.2, (150, 3)))
    ]
    found = hypervolumes(points, 0.5, costs)  # type: ignore[arg-type]
    for count in (1, 10, 75, 150):
        own = np.array([[getattr(p, c) for c in costs] for p in points[:count]])
        accuracy = np.array([p.accuracy for p in points[:count]])
        whole = pareto.hypervolume(own.reshape(count, len(costs)), accuracy, 0.5)
        assert found[count - 1] == pytest.approx(whole)


def test_by_trial_and_by_the_time_that_trials_ended() -> None:
    figure = hypervolume_figure(POINTS, TIMES, reference=0.5, metric="f1")
    by_trial, by_time, _ = figure.data
    assert list(by_trial.x) == [0, 1, 4, 5]
    assert list(by_trial.y) == pytest.approx([0, 0.05, 0.0625, 0.0625])
    # Trial 4 ended first, and alone has 0.3 * 0.25 * 0.5.
    assert list(by_time.x) == [0.5, 1.0, 2.5]
    assert list(by_time.y) == pytest.approx([0.0375, 0.0625, 0.0625])
    layout = figure.layout
    assert layout.yaxis.title.text.replace("<br>", " ") == (
        "hypervolume (f1 \N{MULTIPLICATION SIGN} latency \N{MULTIPLICATION SIGN} size)"
    )
    assert (layout.yaxis2.matches, layout.xaxis3.matches) == ("y", "x2")
    assert (layout.xaxis.title.text, layout.xaxis2.title.text) == (
        "trial",
        "wall-clock (minutes)",
    )


def test_compact_it_has_two_panels_side_by_side_and_the_share_in_words() -> None:
    figure = hypervolume_figure(POINTS, TIMES, reference=0.5, metric="f1", compact=True)
    whole = hypervolume_figure(POINTS, TIMES, reference=0.5, metric="f1")
    assert [(t.x, t.y) for t in figure.data] == [(t.x, t.y) for t in whole.data[:2]]
    layout = figure.layout
    assert layout.xaxis.domain[1] < layout.xaxis2.domain[0]
    assert layout.yaxis2.matches == "y"
    assert layout.xaxis2.title.text == "wall-clock (minutes)"
    # Of 60 + 30 + 90 seconds 30 + 30 + 45 were evaluation; of trial 2 it is not known.
    assert "Sampler and database took 41.7%" in layout.title.text.replace("<br>", " ")
    alone = hypervolume_figure(POINTS, [], reference=0.5, metric="f1", compact=True)
    assert len(alone.data) == 1
    assert "Sampler" not in alone.layout.title.text


def test_the_share_is_of_the_summed_time_of_trials_so_far() -> None:
    share = hypervolume_figure(POINTS, TIMES, reference=0.5, metric="f1").data[2]
    assert list(share.x) == [0.5, 1.0, 2.5]
    # 1 - 30 / 30, 1 - 60 / 90, 1 - 105 / 180; the trial that does not know counts nowhere
    assert list(share.y) == pytest.approx([0, 33.333, 41.667], abs=1e-3)


def test_trials_of_no_length_have_no_share() -> None:
    figure = hypervolume_figure(POINTS, [TrialTime(1, 5, 5, 0.0)], reference=0.5, metric="f1")
    assert list(figure.data[2].y) == [0]


def test_without_times_there_is_one_panel() -> None:
    figure = hypervolume_figure(POINTS, (), reference=0.5, metric="f1")
    assert [t.name for t in figure.data] == ["hypervolume by trial"]


@pytest.mark.parametrize(("drop", "reference"), [(0.05, 0.85), (0.6, 0.5), (None, 0.5)])
def test_a_study_counts_from_the_higher_reference(drop: float | None, reference: float) -> None:
    data = StudyData(
        "s",
        "accuracy",
        baseline=measurement(0, accuracy=0.9),
        points=[Point(0, 0.9, 0.5, 0.5)],
        reference=0.5,
        limits={} if drop is None else {"max_drop": drop},
    )
    (figure,) = of_study(data)
    assert list(figure.data[0].y) == pytest.approx([0.25 * (0.9 - reference)])
    assert f"{reference:.4g}" in figure.layout.title.text


def test_ten_thousand_trials_take_little_time() -> None:
    data = study(10_000)
    began = time.perf_counter()
    (figure,) = of_study(data)
    assert time.perf_counter() - began < 3
    assert len(figure.data[2].x) == 1000
