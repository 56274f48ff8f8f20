"""Layer map, parallel coordinates, three dimensions and several fronts, tested on their data."""

from __future__ import annotations

from typing import Any, ClassVar

import plotly.graph_objects as go
import pytest

from axsearch.reporting.figures import style
from axsearch.reporting.figures.data import Point, StudyData
from axsearch.reporting.figures.front_3d import front_3d_figure
from axsearch.reporting.figures.front_3d import of_study as front_3d_of_study
from axsearch.reporting.figures.fronts import fronts_figure
from axsearch.reporting.figures.layer_map import MOST_LABELLED, layer_map, removed_layers
from axsearch.reporting.figures.parallel_coordinates import parallel_coordinates_figure
from axsearch.statistics.measurement import Measurement
from axsearch.testing.studies import measurement, study


def kept(*layers: tuple[int, int, int | None]) -> dict[str, dict[str, int | None]]:
    return {
        f"layer{i:02d}": {"heads": heads, "ffn": ffn, "topk": topk}
        for i, (heads, ffn, topk) in enumerate(layers)
    }


BASE = measurement(0, choices=kept((4, 64, None), (4, 64, None)))
SMALL = measurement(
    1, accuracy=0.8, accuracy_low=0.75, accuracy_high=0.84, latency_ratio=0.5, size_ratio=0.7,
    choices=kept((2, 48, 8), (0, 0, None)),
)  # fmt: skip
THIN = measurement(
    2, accuracy=0.85, accuracy_low=0.8, accuracy_high=0.9, latency_ratio=0.6, size_ratio=0.8,
    choices=kept((3, 64, None), (1, 16, 4)),
)  # fmt: skip


def named(figure: go.Figure, name: str) -> Any:
    (found,) = [t for t in figure.data if t.name and t.name.startswith(name)]
    return found


class TestLayerMap:
    def test_shows_shares_and_units(self) -> None:
        figure = layer_map([SMALL, THIN], BASE)
        heads, neurons = named(figure, "heads"), named(figure, "ffn")
        assert (list(heads.x), list(heads.y)) == (["0", "1"], ["1", "2"])
        assert [list(row) for row in heads.z] == [[0.5, 0.0], [0.75, 0.25]]
        assert [list(row) for row in heads.text] == [["2", "0"], ["3", "1"]]
        assert [list(row) for row in heads.customdata] == [[4, 4], [4, 4]]
        assert [list(row) for row in neurons.z] == [[0.75, 0.0], [1.0, 0.25]]
        assert (figure.layout.coloraxis.cmin, figure.layout.coloraxis.cmax) == (0, 1)

    def test_settings_have_one_colour_and_their_number(self) -> None:
        topk = named(layer_map([SMALL, THIN], BASE), "topk")
        assert [list(row) for row in topk.z] == [[1, None], [None, 1]]
        assert [list(row) for row in topk.text] == [["8", ""], ["", "4"]]
        assert {colour for _, colour in topk.colorscale} == {style.PURPLE}

    def test_crosses_out_layers_that_lost_both_blocks(self) -> None:
        crosses = [t for t in layer_map([SMALL, THIN], BASE).data if t.name == "layer removed"]
        assert [(list(t.x), list(t.y)) for t in crosses] == [(["1"], ["1"])] * 2
        assert [t.showlegend for t in crosses] == [True, False]
        assert removed_layers(THIN) == []

    def test_leaves_out_settings_that_nobody_uses(self) -> None:
        assert [t.name for t in layer_map([BASE], BASE).data] == ["heads", "ffn"]

    def test_a_row_for_each_member_first_on_top(self) -> None:
        axis = layer_map([SMALL, THIN], BASE).layout.yaxis
        assert list(axis.range) == [1.5, -0.5]

    def test_numbers_stand_in_cells_only_where_they_can_be_read(self) -> None:
        few, many = study(24), study(2000, layers=24)
        assert few.baseline is not None
        assert many.baseline is not None
        assert len(many.front) * 24 * 3 > MOST_LABELLED
        assert layer_map(few.front, few.baseline).data[0].texttemplate == "%{text}"
        figure = layer_map(many.front, many.baseline)
        assert figure.data[0].texttemplate is None
        assert "%{text}" in figure.data[0].hovertemplate
        assert len(figure.data[0].z) == 60
        assert {len(row) for row in figure.data[0].z} == {24}


class TestParallelCoordinates:
    def axes(self, front: list[Measurement], **more: Any) -> dict[str, Any]:
        (lines,) = parallel_coordinates_figure(front, BASE, metric="f1", **more).data
        return {axis.label: axis for axis in lines.dimensions}

    def test_axes_of_objectives_and_shape(self) -> None:
        axes = self.axes([SMALL, THIN])
        assert {label: list(axis["values"]) for label, axis in axes.items()} == {
            "trial": [0, 1],
            "f1": [0.8, 0.85],
            "latency ratio": [0.5, 0.6],
            "size ratio": [0.7, 0.8],
            "heads kept (%)": [25.0, 50.0],
            "neurons kept (%)": [37.5, 62.5],
            "layers removed": [1, 0],
        }  # both have one layer with top-k: no axis
        assert list(axes["trial"].ticktext) == ["1", "2"]
        assert list(axes["latency ratio"].range) == [0.5, 0.6]

    def test_topk_of_layers_that_have_heads(self) -> None:
        all_topk = measurement(4, choices=kept((4, 64, 8), (4, 64, 8)))
        gone = measurement(5, choices=kept((4, 64, 8), (0, 0, 8)))
        assert list(self.axes([all_topk, gone])["layers with top-k keys"]["values"]) == [2, 1]

    def test_only_the_costs_of_the_study(self) -> None:
        assert "latency ratio" not in self.axes([SMALL, THIN], costs=("size",))

    def test_constant_axes_have_a_range_around_the_value(self) -> None:
        axes = self.axes([SMALL])
        assert list(axes) == ["trial", "f1", "latency ratio", "size ratio"]
        for axis in axes.values():
            low, high = axis.range
            assert low < axis["values"][0] < high

    def test_colour_is_accuracy(self) -> None:
        figure = parallel_coordinates_figure([SMALL, THIN], BASE, metric="f1")
        scale = figure.layout.coloraxis
        assert list(figure.data[0].line.color) == [0.8, 0.85]
        assert (scale.cmin, scale.cmax) == (0.8, 0.85)
        assert scale.colorbar.title.text == "f1, search split"

    def test_of_many_members_some_are_numbered(self) -> None:
        front = [measurement(100 + i) for i in range(60)]
        axis = self.axes(front)["trial"]
        assert list(axis.tickvals)[:3] == [0, 3, 6]
        assert list(axis.ticktext)[:3] == ["100", "103", "106"]


class TestThreeDimensions:
    def test_positions(self) -> None:
        points = [
            Point(0, 0.9, 1.0, 1.0),
            Point(1, 0.8, 0.45, 0.7),
            Point(8, 0.6, 0.3, 0.2),
            Point(9, 0.5, 0.2, 0.1, feasible=False),
            Point(10, 0.5, None, 0.1),
        ]
        figure = front_3d_figure(points, [SMALL], BASE, metric="f1")
        others, front, base = figure.data
        assert (list(others.x), list(others.y), list(others.z)) == (
            [0.3, 0.2], [0.2, 0.1], [0.6, 0.5],
        )  # fmt: skip
        assert [list(own) for own in others.customdata] == [[8, ""], [9, ", over a limit"]]
        assert others.marker.symbol[0] != others.marker.symbol[1]
        assert (list(front.x), list(front.y), list(front.z)) == ([0.5], [0.7], [0.8])
        assert (list(front.text), list(front.customdata[0])) == (["1"], [0.75, 0.84])
        assert (base.x[0], base.y[0], base.z[0]) == (1, 1, 0.9)
        assert figure.layout.scene.zaxis.title.text == "f1"

    def test_many_points_are_sampled_and_said(self) -> None:
        points = [Point(i, 0.5, 0.5, 0.5) for i in range(1, 4001)]
        others = front_3d_figure(points, [], BASE, metric="f1").data[0]
        assert len(others.x) == 2000
        assert others.name == "other models (2,000 of 4,000)"

    def test_two_objectives_need_none(self) -> None:
        (figure,) = front_3d_of_study(StudyData("s", "f1", objectives=("accuracy", "size")))
        said = figure.layout.annotations[0].text.replace("<br>", " ")
        assert "accuracy and size" in said
        assert not figure.data


class TestFronts:
    FRONTS: ClassVar[dict[Any, Any]] = {
        "here": (BASE, [THIN, SMALL]),
        "there": (measurement(0, accuracy=0.7), [measurement(6, accuracy=0.65, latency_ratio=0.4)]),
    }

    def test_accuracy_against_a_cost_with_intervals(self) -> None:
        figure = fronts_figure(self.FRONTS, cost="latency", metric="f1")
        here, there = named(figure, "here"), named(figure, "there")
        assert (list(here.x), list(here.y)) == ([0.5, 0.6], [0.8, 0.85])
        assert list(here.error_y.array) == pytest.approx([0.04, 0.05])
        assert list(here.error_y.arrayminus) == pytest.approx([0.05, 0.05])
        assert [list(own) for own in here.customdata] == [
            [1, 0.8, 0.75, 0.84], [2, 0.85, 0.8, 0.9],
        ]  # fmt: skip
        assert (list(there.x), list(there.y)) == ([0.4], [0.65])
        assert figure.layout.yaxis.title.text == "f1"

    def test_change_from_each_own_base(self) -> None:
        figure = fronts_figure(self.FRONTS, cost="size", metric="f1", change=True)
        assert list(named(figure, "here").y) == pytest.approx([-0.1, -0.05])
        assert list(named(figure, "here").x) == [0.7, 0.8]
        assert list(named(figure, "there").y) == pytest.approx([-0.05])
        assert named(figure, "here").error_y.array is None
        assert figure.layout.yaxis.title.text == "change of f1 from its base"
        assert figure.layout.shapes[0].y0 == 0

    def test_each_has_a_colour_a_symbol_and_a_line(self) -> None:
        figure = fronts_figure(self.FRONTS, cost="latency", metric="f1")
        lines, marks = figure.data[::2], figure.data[1::2]
        assert len({t.line.dash for t in lines}) == 2
        assert len({t.marker.symbol for t in marks}) == 2
        assert [t.line.color for t in lines] == [t.marker.color for t in marks]
        assert len({t.marker.color for t in marks}) == 2

    def test_lines_go_through_what_no_member_beats(self) -> None:
        beaten = measurement(7, accuracy=0.75, latency_ratio=0.55)
        line = fronts_figure(
            {"one": (BASE, [beaten, THIN, SMALL])}, cost="latency", metric="f1"
        ).data[0]
        assert (list(line.x), list(line.y)) == ([0.5, 0.6], [0.8, 0.85])
