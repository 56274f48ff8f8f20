"""The contract of figures of a study: the tests that each of them passes."""

from __future__ import annotations

import functools
import json
import math
import re
import time
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import plotly.graph_objects as go
import pytest

from axsearch.reporting.figures import style
from axsearch.reporting.figures.data import StudyData
from axsearch.testing.studies import study

EMPTY = StudyData("empty", "accuracy")
STUDIES = {
    "no trial": EMPTY,
    "one trial": study(1, tied=True),
    "all tied": study(12, tied=True),
    "small": study(24),
    "one objective": study(24, objectives=("accuracy",), ties=(), limits={}),
    "no tables": study(
        24, holdout={}, bias="", times=(), damage={}, latency_table=None, importance={}
    ),
    "2,000 trials": study(2000, layers=24),
}
CIVIDIS = [list(stop) for stop in go.layout.Coloraxis(colorscale="Cividis").colorscale]
COLOURS = {
    *style.PALETTE, style.TEXT, style.GRID, style.REGION, style.BAND, style.TRANSPARENT,
    style.MODEBAR,
}  # fmt: skip
COLOUR = re.compile(r"#[0-9a-fA-F]{3,8}|(rgb|hsl)a?\(.*")


def short(module: ModuleType) -> str:
    """The name of a module without its package."""
    return module.__name__.rpartition(".")[2]


def values(tree: Any) -> Iterator[Any]:
    """Every leaf of nested data."""
    if isinstance(tree, dict):
        for own in tree.values():
            yield from values(own)
    elif isinstance(tree, list | tuple):
        for own in tree:
            yield from values(own)
    else:
        yield tree


@functools.cache
def plain(module: ModuleType, name: str) -> list[dict[str, Any]]:
    """The figures of a module for one of ``STUDIES``, as JSON data."""
    return [
        json.loads(figure.to_json(validate=False), parse_constant=pytest.fail)
        for figure in module.of_study(STUDIES[name])
    ]


class FigureContract:
    """The tests of one figure; a subclass sets its ``module``, by a parameter or a fixture."""

    @pytest.fixture(params=STUDIES)
    def drawn(self, module: ModuleType, request: pytest.FixtureRequest) -> list[dict[str, Any]]:
        """The figures as plain data."""
        return plain(module, request.param)

    def test_has_titles(self, drawn: list[dict[str, Any]]) -> None:
        assert drawn
        for figure in drawn:
            layout = figure["layout"]
            assert layout["title"]["text"]
            axes = {name: axis for name, axis in layout.items() if "axis" in name[:5]}
            axes |= {name: axis for name, axis in layout.get("scene", {}).items() if "axis" in name}
            for name, axis in axes.items():
                beside_another = name.startswith("yaxis") and "matches" in axis
                if figure["data"] and not beside_another:
                    assert axis["title"]["text"], (layout["title"]["text"], name)

    def test_is_of_finite_numbers(self, drawn: list[dict[str, Any]]) -> None:
        numbers = [v for v in values(drawn) if isinstance(v, float)]
        assert all(math.isfinite(v) for v in numbers)

    def test_is_coloured_from_the_palette(self, drawn: list[dict[str, Any]]) -> None:
        for figure in drawn:
            used = {v for v in values(figure) if isinstance(v, str) and COLOUR.fullmatch(v)}
            scale = figure["layout"].get("coloraxis", {}).get("colorscale", ())
            ends = [[0, style.BLUE], [1, style.VERMILLION]]
            assert scale in ((), CIVIDIS, ends)
            assert used - {colour for _, colour in scale} <= COLOURS

    def test_has_no_background_and_fits_any_width(self, drawn: list[dict[str, Any]]) -> None:
        for figure in drawn:
            layout = figure["layout"]
            assert layout["paper_bgcolor"] == layout["plot_bgcolor"] == style.TRANSPARENT
            assert "width" not in layout
            assert layout["height"]
            assert layout["font"]["color"] == style.TEXT

    def test_is_drawn_in_time(self, module: ModuleType) -> None:
        began = time.process_time()  # other processes of the tests do not count
        drawn = module.of_study(STUDIES["2,000 trials"])
        assert time.process_time() - began < 3
        assert all(len(figure.to_json()) < 200_000 for figure in drawn)

    def test_says_what_is_missing(self, module: ModuleType) -> None:
        for figure in module.of_study(EMPTY):
            assert not figure.data
            (said,) = figure.layout.annotations
            assert "`axsearch" in said.text.replace("<br>", " ")
