"""What every figure of a study keeps to."""

from __future__ import annotations

import functools
import json
import math
import re
import sys
import time
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import plotly.graph_objects as go
import pytest

from axsearch import discovery
from axsearch.reporting import figures
from axsearch.reporting.figures import study_figures, style
from axsearch.reporting.figures.data import StudyData
from tests.reporting.figures.studies import study

MODULES = [m for m in discovery.modules(figures) if hasattr(m, "of_study")]
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
    return [
        json.loads(figure.to_json(validate=False), parse_constant=pytest.fail)
        for figure in module.of_study(STUDIES[name])
    ]


def luminance(colour: str) -> float:
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("module", MODULES, ids=short)
class TestEveryFigure:
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
        began = time.perf_counter()
        drawn = module.of_study(STUDIES["2,000 trials"])
        assert time.perf_counter() - began < 3
        if short(module) in ("front", "layer_map", "hypervolume"):
            assert all(len(figure.to_json()) < 200_000 for figure in drawn)

    def test_says_what_is_missing(self, module: ModuleType) -> None:
        for figure in module.of_study(EMPTY):
            assert not figure.data
            (said,) = figure.layout.annotations
            assert "`axsearch" in said.text.replace("<br>", " ")


def test_what_each_table_and_split_is_missing_for() -> None:
    drawn = study_figures(STUDIES["no tables"])
    missing = {
        name: own[0].layout.annotations[0].text.replace("<br>", " ")
        for name, own in drawn.items()
        if not own[0].data
    }
    assert list(missing) == ["accuracy_splits", "damage_table", "latency_table", "importance"]
    assert "`axsearch front --holdout`" in missing["accuracy_splits"]
    assert all("`axsearch search`" in missing[n] for n in list(missing)[1:])


def test_study_figures_finds_all_in_order() -> None:
    drawn = study_figures(STUDIES["small"])
    counts = {
        "front": 2,
        "front_3d": 1,
        "parallel_coordinates": 1,
        "layer_map": 1,
        "hypervolume": 1,
        "accuracy_splits": 1,
        "damage_table": 1,
        "latency_table": 1,
        "importance": 1,
    }
    assert [(name, len(own)) for name, own in drawn.items() if name in counts] == [*counts.items()]
    orders = {short(m): m.ORDER for m in MODULES}
    assert list(drawn) == sorted(orders, key=lambda name: orders[name])
    assert len(set(orders.values())) == len(orders)
    assert "fronts" not in drawn


def test_text_is_read_on_paper_and_in_the_dark() -> None:
    # No colour has more than the root of the backgrounds' own contrast on both: 4.08.
    assert min(contrast(style.TEXT, "#ffffff"), contrast(style.TEXT, "#1e1e1e")) > 4.05


def test_first_colours_are_seen_on_both_backgrounds() -> None:
    for colour in style.PALETTE[:4]:
        assert min(contrast(colour, "#ffffff"), contrast(colour, "#1e1e1e")) > 3


def test_front_is_light_to_import() -> None:
    import subprocess

    heavy = "{'torch', 'scipy', 'sklearn', 'axsearch.statistics.metrics', 'axsearch.study.study'}"
    code = f"import sys, axsearch.reporting.figures.front; print(*({heavy} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == ""
