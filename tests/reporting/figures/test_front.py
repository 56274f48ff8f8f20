"""The front in one projection, tested on its data."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import plotly.graph_objects as go
import pytest

from axsearch.reporting.figures import style
from axsearch.reporting.figures.data import Point, StudyData
from axsearch.reporting.figures.front import front_figure, of_study
from axsearch.statistics.pareto import tie_letters
from axsearch.testing.studies import measurement

BASE = measurement(0, accuracy=0.91, accuracy_low=0.9, accuracy_high=0.92)
FAST = measurement(
    3, accuracy=0.8, accuracy_low=0.75, accuracy_high=0.84, latency_ratio=0.5, size_ratio=0.9
)
SMALL = measurement(
    5, accuracy=0.79, accuracy_low=0.76, accuracy_high=0.82, latency_ratio=0.7, size_ratio=0.4
)
GOOD = measurement(
    7, accuracy=0.9, accuracy_low=0.88, accuracy_high=0.91, latency_ratio=0.8, size_ratio=0.95,
    latency_measured=False,
)  # fmt: skip
FRONT = [FAST, SMALL, GOOD]
POINTS = [
    Point(0, 0.91, 1.0, 1.0),
    Point(1, 0.7, 0.61, 0.62),
    Point(2, 0.4, 0.31, 0.32, feasible=False),
    Point(3, 0.8, 0.48, 0.9),
    Point(5, 0.79, 0.68, 0.4),
    Point(7, 0.9, 0.78, 0.95),
]


def drawn(**changed: Any) -> go.Figure:
    return front_figure(
        changed.pop("points", POINTS),
        changed.pop("front", FRONT),
        BASE,
        **{"cost": "latency", "metric": "accuracy", **changed},
    )


def trace(figure: go.Figure, name: str) -> Any:
    (found,) = [t for t in figure.data if t.name.startswith(name)]
    return found


def test_members_stand_at_what_was_measured_with_their_intervals() -> None:
    front = trace(drawn(), "front")
    assert list(front.x) == [0.5, 0.7, 0.8]
    assert list(front.y) == [0.8, 0.79, 0.9]
    assert list(front.text) == ["3", "5", "7"]
    assert list(front.error_y.array) == pytest.approx([0.04, 0.03, 0.01])
    assert list(front.error_y.arrayminus) == pytest.approx([0.05, 0.03, 0.02])
    assert [list(own) for own in front.customdata] == [
        [3, 0.75, 0.84, "told apart from all others", ", measured"],
        [5, 0.76, 0.82, "told apart from all others", ", measured"],
        [7, 0.88, 0.91, "told apart from all others", ""],
    ]


def test_sizes_stand_on_the_axis_of_size() -> None:
    figure = drawn(cost="size")
    assert list(trace(figure, "front").x) == [0.9, 0.4, 0.95]
    assert list(trace(figure, "other").x) == [0.62]
    assert figure.layout.xaxis.title.text == "size, relative to the base"
    assert "measured" not in str(trace(figure, "front").customdata)


def test_other_models_and_those_over_a_limit_are_marked_apart() -> None:
    figure = drawn()
    others, over = trace(figure, "other models"), trace(figure, "over a limit")
    assert (list(others.x), list(others.y), list(others.customdata)) == ([0.61], [0.7], [1])
    assert (list(over.x), list(over.y), list(over.customdata)) == ([0.31], [0.4], [2])
    assert others.marker.symbol != over.marker.symbol


def test_base_is_a_star_at_one() -> None:
    base = trace(drawn(), "base")
    assert (list(base.x), list(base.y), base.marker.symbol) == ([1.0], [0.91], "star")


def test_staircase_goes_through_what_no_member_beats_in_this_projection() -> None:
    steps = trace(drawn(), "best")
    assert (list(steps.x), list(steps.y)) == ([0.5, 0.8], [0.8, 0.9])
    assert steps.line.shape == "hv"
    steps = trace(drawn(cost="size"), "best")
    assert (list(steps.x), list(steps.y)) == ([0.4, 0.9, 0.95], [0.79, 0.8, 0.9])


def test_limits_shade_the_feasible_region_and_the_legend_says_so() -> None:
    figure = drawn(limits={"max_drop": 0.05, "max_latency_ratio": 0.75, "max_size_ratio": 0.2})
    region = trace(figure, "feasible")
    assert region.name == "feasible: accuracy ≥ 0.86, latency ≤ 0.75"
    left, top = figure.layout.xaxis.range[0], figure.layout.yaxis.range[1]
    assert list(region.x) == [left, 0.75, 0.75, left, left]
    assert list(region.y) == [0.86, 0.86, top, top, 0.86]
    assert region.fill == "toself"


def test_a_limit_alone_is_open_on_the_other_side() -> None:
    figure = drawn(limits={"max_latency_ratio": 2.0})
    region = trace(figure, "feasible")
    assert region.name == "feasible: latency ≤ 2"
    assert min(region.y) == figure.layout.yaxis.range[0]
    assert figure.layout.xaxis.range[1] > 2
    figure = drawn(cost="size", limits={"max_drop": 0.1, "max_latency_ratio": 2.0})
    region = trace(figure, "feasible")
    assert region.name == "feasible: accuracy ≥ 0.81"
    assert max(region.x) == figure.layout.xaxis.range[1]


def test_without_limits_nothing_is_shaded() -> None:
    assert not [t for t in drawn().data if t.name.startswith("feasible")]


def test_ties_are_told_by_letters_colours_symbols_and_hover() -> None:
    front = trace(drawn(ties=[[3, 5], [5, 7]]), "front")
    assert front.name == "front, 95 % intervals; same letter: not told apart"
    assert list(front.text) == ["3 a", "5 ab", "7 b"]
    assert [own[3] for own in front.customdata] == [
        "a: not told apart from 5",
        "a: not told apart from 3<br>b: not told apart from 7",
        "b: not told apart from 5",
    ]
    assert list(front.marker.color) == [style.PALETTE[1], style.PALETTE[1], style.PALETTE[2]]
    assert list(front.marker.symbol) == [style.SYMBOLS[1], style.SYMBOLS[1], style.SYMBOLS[2]]


def test_letters() -> None:
    assert tie_letters([[1, 2], [3], [2, 4]]) == {1: "a", 2: "ac", 4: "c"}
    assert tie_letters([[i, i + 1] for i in range(28)])[28] == "b1"
    assert len(set(tie_letters([[2 * i, 2 * i + 1] for i in range(60)]).values())) == 60


def test_colour_and_symbol_of_a_group_come_back_together_only_late() -> None:
    # The first of each is that of members without a group.
    pairs = zip(style.PALETTE[1:] * 6, style.SYMBOLS[1:] * 5, strict=True)
    assert len(set(pairs)) == 30


def test_many_points_are_sampled_evenly_and_said() -> None:
    points = [Point(i, 0.5, i / 10_000, 0.5, feasible=i % 5 != 0) for i in range(10, 10_010)]
    figure = drawn(points=points)
    others, over = trace(figure, "other models"), trace(figure, "over a limit")
    assert len(others.x) + len(over.x) == 2000
    assert others.name == f"other models ({len(others.x):,} of 8,000)"
    assert over.name == f"over a limit ({len(over.x):,} of 2,000)"
    shown = sorted((*others.customdata, *over.customdata))
    assert (shown[0], shown[-1]) == (10, 10_009)
    assert {b - a for a, b in pairwise(shown)} <= {5, 6}


def test_points_without_a_latency_are_left_out() -> None:
    lost = measurement(9, latency_ms=None, latency_ratio=None)
    figure = drawn(points=[*POINTS, Point(8, 0.6, None, 0.5)], front=[*FRONT, lost])
    assert 8 not in trace(figure, "other").customdata
    assert list(trace(figure, "front").text) == ["3", "5", "7"]


def test_all_is_in_view() -> None:
    figure = drawn()
    (left, right), (low, high) = figure.layout.xaxis.range, figure.layout.yaxis.range
    assert left < 0.31
    assert right > 1
    assert low < 0.4
    assert high > 0.92


def test_a_study_without_costs_is_drawn_by_trial() -> None:
    data = StudyData(
        "s", "f1", objectives=("accuracy",), baseline=BASE, points=POINTS, front=[GOOD],
        limits={"max_drop": 0.1},
    )  # fmt: skip
    (figure,) = of_study(data)
    assert list(trace(figure, "other").x) == [1, 3, 5]
    assert list(trace(figure, "front").x) == [7]
    assert list(trace(figure, "base").x) == [0]
    assert trace(figure, "feasible").name == "feasible: f1 ≥ 0.81"
    assert figure.layout.xaxis.title.text == "trial"
    assert figure.layout.title.text == "F1 by trial"


def test_a_figure_for_each_cost() -> None:
    data = StudyData(
        "s", "f1", objectives=("accuracy", "size"), baseline=BASE, points=POINTS, front=FRONT,
        ties=[[3, 5]],
    )  # fmt: skip
    (figure,) = of_study(data)
    assert figure.layout.title.text == "F1 against size"
    assert list(trace(figure, "front").text) == ["3 a", "5 a", "7"]
    assert len(of_study(StudyData("s", "f1"))) == 2


def test_a_member_that_is_tied_with_none_looks_like_no_group() -> None:
    members = [
        measurement(i, accuracy=0.9 - i / 100, latency_ratio=1 - i / 10) for i in range(1, 9)
    ]
    ties = [[1, 2], [2, 3], [4, 5]]
    figure = front_figure([], members, measurement(0), cost="latency", metric="f1", ties=ties)
    (front,) = (trace for trace in figure.data if trace.name.startswith("front"))
    looks = list(zip(front.marker.color, front.marker.symbol, strict=True))
    assert looks[0] == looks[1]
    assert looks[3] == looks[4]
    assert len({looks[0], looks[3]}) == 2
    assert {looks[5], looks[6], looks[7]}.isdisjoint(looks[:5])
