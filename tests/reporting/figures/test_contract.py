"""Every figure of a study keeps what figures promise, by being there."""

from __future__ import annotations

import subprocess
import sys

import pytest

from axsearch import discovery
from axsearch.reporting import figures
from axsearch.reporting.figures import study_figures, style
from axsearch.testing.figures import STUDIES, FigureContract, short

MODULES = [m for m in discovery.modules(figures) if hasattr(m, "of_study")]


@pytest.mark.parametrize("module", MODULES, ids=short)
class TestEveryFigure(FigureContract):
    """Those of axsearch."""


def luminance(colour: str) -> float:
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


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
    heavy = "{'torch', 'scipy', 'sklearn', 'axsearch.statistics.metrics', 'axsearch.study.study'}"
    code = f"import sys, axsearch.reporting.figures.front; print(*({heavy} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == ""
