"""Splits, damage, latency table and importance, tested on their data."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, ClassVar

import plotly.graph_objects as go
import pytest

from axsearch.reporting.figures.accuracy_splits import accuracy_splits_figure
from axsearch.reporting.figures.damage_table import damage_table_figure
from axsearch.reporting.figures.data import StudyData
from axsearch.reporting.figures.importance import importance_figure
from axsearch.reporting.figures.latency_table import latency_table_figure
from axsearch.reporting.figures.latency_table import of_study as latency_of_study
from axsearch.space.latency_table import LatencyTable
from axsearch.statistics.outcome import Estimate
from axsearch.testing.studies import measurement


def named(figure: go.Figure, name: str) -> Any:
    return next(t for t in figure.data if t.name and t.name.startswith(name))


class TestAccuracySplits:
    BASE = measurement(0, accuracy=0.91, accuracy_low=0.9, accuracy_high=0.92)
    FRONT = (
        measurement(3, accuracy=0.8, accuracy_low=0.75, accuracy_high=0.84),
        measurement(5, accuracy=0.7),
    )
    HOLDOUT: ClassVar[dict[Any, Any]] = {
        0: Estimate(0.9, 0.88, 0.93),
        3: Estimate(0.78, 0.77, 0.81),
    }

    def drawn(self, **more: Any) -> go.Figure:
        return accuracy_splits_figure(self.FRONT, self.BASE, self.HOLDOUT, metric="f1", **more)

    def test_positions_and_intervals_of_both_splits(self) -> None:
        front, base = named(self.drawn(), "front"), named(self.drawn(), "base")
        assert (list(front.x), list(front.y), list(front.text)) == ([0.8], [0.78], ["3"])
        assert list(front.error_x.array) == pytest.approx([0.04])
        assert list(front.error_x.arrayminus) == pytest.approx([0.05])
        assert list(front.error_y.array) == pytest.approx([0.03])
        assert list(front.error_y.arrayminus) == pytest.approx([0.01])
        assert list(front.customdata[0]) == [0.75, 0.84, 0.77, 0.81]
        assert (list(base.x), list(base.y)) == ([0.91], [0.9])

    def test_diagonal_and_one_range_for_both_axes(self) -> None:
        figure = self.drawn()
        diagonal, layout = named(figure, "same"), figure.layout
        assert list(diagonal.x) == list(diagonal.y)
        assert layout.xaxis.range == layout.yaxis.range == tuple(diagonal.x)
        low, high = diagonal.x
        assert low < 0.75
        assert high > 0.93

    def test_the_base_is_drawn_only_where_its_holdout_is_known(self) -> None:
        holdout = {3: self.HOLDOUT[3]}
        figure = accuracy_splits_figure(self.FRONT, self.BASE, holdout, metric="f1")
        assert len(named(figure, "base").x) == 0

    def test_bias_is_said_in_words(self) -> None:
        said = self.drawn(bias="Selection bias: none to speak of.").layout.title.text
        assert said.replace("<br>", " ").endswith("Selection bias: none to speak of.</span>")
        assert "Selection" not in self.drawn().layout.title.text


class TestDamage:
    DAMAGE: ClassVar[dict[Any, Any]] = {
        "layer00.heads": [0.0, 0.01, 10.0],
        "layer01.heads": [-1e-12, 1e-9, 1.0],
        "layer00.topk": [0.0, 0.1],
        "layer00.head_mask.00": [0.0, 0.5],
        "layer00.head_mask.11": [0.0, 0.25],
    }
    LEVELS: ClassVar[dict[Any, Any]] = {
        "layer00.heads": [4, 2, 0],
        "layer01.heads": [4, 2, 0],
        "layer00.topk": [None, 32, 16],
    }

    def maps(self, levels: Any = None) -> dict[str, Any]:
        figure = damage_table_figure(self.DAMAGE, levels)
        names = [a.text for a in figure.layout.annotations]
        return dict(zip(names, figure.data, strict=True))

    def test_colour_is_the_power_of_ten_with_a_floor(self) -> None:
        heads = self.maps()["heads"]
        assert list(heads.y) == ["0", "1"]
        # Five powers of ten below the greatest, 10.
        assert [list(row) for row in heads.z] == [[-4, -2, 1], [-4, -4, 0]]
        scale = damage_table_figure(self.DAMAGE).layout.coloraxis
        assert (scale.cmin, scale.cmax) == (-4, 1)
        assert list(scale.colorbar.tickvals) == [-4, -3, -2, -1, 0, 1]
        assert list(scale.colorbar.ticktext) == ["≤ 0.0001", "0.001", "0.01", "0.1", "1", "10"]

    def test_hover_has_the_value_itself(self) -> None:
        heads = self.maps(self.LEVELS)["heads"]
        assert [list(cell) for cell in heads.customdata[1]] == [
            [-1e-12, "level 0: 4"], [1e-9, "level 1: 2"], [1.0, "level 2: 0"],
        ]  # fmt: skip

    def test_columns_are_the_levels_values_where_they_fit(self) -> None:
        maps, figure = self.maps(self.LEVELS), damage_table_figure(self.DAMAGE, self.LEVELS)
        assert list(maps["heads"].x) == ["4", "2", "0"]
        assert list(maps["top-k keys"].x) == ["0", "1"]  # three values for two damages
        assert figure.layout.xaxis.title.text == "heads kept"
        assert figure.layout.xaxis2.title.text == "level, 0 being exact"
        fits = {**self.LEVELS, "layer00.topk": [None, 32]}
        assert list(self.maps(fits)["top-k keys"].x) == ["exact", "32"]

    def test_masks_have_a_column_for_each_part(self) -> None:
        mask = self.maps()["head mask"]
        assert list(mask.x) == ["0", "11"]
        assert [list(row) for row in mask.z] == [pytest.approx([math.log10(0.5), math.log10(0.25)],
                                                               abs=1e-5)]  # fmt: skip
        assert [cell[1] for cell in mask.customdata[0]] == ["part 0", "part 11"]

    def test_all_zero_and_not_finite(self) -> None:
        (heat,) = damage_table_figure({"layer00.ffn": [0.0, 0.0, math.nan]}).data
        assert [list(row) for row in heat.z] == [[0.0, 0.0, None]]


class TestLatencyTable:
    TABLE = LatencyTable(
        0.08,
        {
            "attention": 0.06,
            "attention heads=0": 0.001,
            "attention heads=2": 0.03,
            "attention topk=32.renormalised": 0.07,
            "attention heads=2 topk=32.renormalised": 0.035,
            "ffn": 0.1,
            "ffn ffn=32": 0.05,
        },
        error=0.02,
    )
    UNITS: ClassVar[dict[Any, Any]] = {"heads": 4, "ffn": 64}

    def drawn(self) -> go.Figure:
        return latency_table_figure(self.TABLE, self.UNITS, "batches of 8")

    def test_lines_by_units_in_per_cent(self) -> None:
        attention, ffn = named(self.drawn(), "attention"), named(self.drawn(), "FFN")
        assert (list(attention.x), list(attention.y)) == ([0, 2, 4], [0.1, 3.0, 6.0])
        assert (list(ffn.x), list(ffn.y)) == ([32, 64], [5.0, 10.0])
        assert (attention.xaxis, ffn.xaxis) == ("x", "x2")

    def test_settings_are_markers(self) -> None:
        topk = named(self.drawn(), "top-k keys 32, renormalised")
        assert (list(topk.x), list(topk.y)) == ([2, 4], [3.5, 7.0])
        assert topk.mode == "markers"

    def test_the_rest_is_a_dashed_line(self) -> None:
        rest = [t for t in self.drawn().data if t.name == "all that no recipe changes"]
        assert [(list(t.x), list(t.y), t.line.dash) for t in rest] == [
            ([0, 4], [8.0, 8.0], "dash"),
            ([0, 64], [8.0, 8.0], "dash"),
        ]

    def test_the_error_is_a_band_and_said(self) -> None:
        band = named(self.drawn(), "±")
        assert list(band.x) == [0, 2, 4, 4, 2, 0]
        assert list(band.y) == pytest.approx([0.102, 3.06, 6.12, 5.88, 2.94, 0.098])
        said = self.drawn().layout.title.text.replace("<br>", " ")
        assert "error on whole models is 2.0 %; measured for batches of 8." in said

    def test_the_error_of_one_size_is_said_where_it_was_measured(self) -> None:
        timed = replace(self.TABLE, error_of_one_size=0.034, errors={"ffn ffn=32": 0.001})
        said = latency_table_figure(timed).layout.title.text.replace("<br>", " ")
        assert "is 2.0 %, with one size in all layers 3.4 %." in said
        assert "one size" not in self.drawn().layout.title.text

    def test_exact_blocks_need_the_units_of_the_base(self) -> None:
        figure = latency_table_figure(self.TABLE)
        assert list(named(figure, "attention").x) == [0, 2]
        data = StudyData(
            "s",
            "f1",
            latency_table=self.TABLE,
            baseline=measurement(0, choices={"layer00": {"heads": 4, "ffn": 64}}),
        )
        assert list(named(latency_of_study(data)[0], "attention").x) == [0, 2, 4]


class TestImportance:
    def test_colour_is_the_share_of_the_models_greatest_on_a_log_scale(self) -> None:
        (heat,) = importance_figure({"layer01": [5.0, 0.05], "layer00": [50.0, 0.0, 0.5]}).data
        assert list(heat.y) == ["0", "1"]
        assert [list(row) for row in heat.z] == [[0.0, -3.0, -2.0], [-1.0, -3.0, None]]

    def test_rank_one_goes_first(self) -> None:
        (heat,) = importance_figure({"layer01": [5.0, 0.05], "layer00": [50.0, 0.0, 0.5]}).data
        assert [list(row) for row in heat.text] == [["3", "1", "2"], ["2", "1", ""]]
        assert [list(cell) for cell in heat.customdata[1]] == [[5.0, 2], [0.05, 2], [None, 2]]

    def test_all_zero(self) -> None:
        (heat,) = importance_figure({"layer00": [0.0, 0.0]}).data
        assert [list(row) for row in heat.z] == [[-3.0, -3.0]]

    def test_ranks_stand_in_cells_only_where_they_can_be_read(self) -> None:
        few = importance_figure({"layer00": [1.0]}).data[0]
        many = importance_figure({f"layer{i:02d}": [1.0] * 20 for i in range(24)}).data[0]
        assert (few.texttemplate, many.texttemplate) == ("%{text}", None)
