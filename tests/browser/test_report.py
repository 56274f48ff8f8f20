from __future__ import annotations

import json
import re
import runpy
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from axsearch import Study, write_report

from .page import Page

DRAWN = "return document.querySelectorAll('.js-plotly-plot .main-svg').length > 0 && " + (
    "document.querySelectorAll('script[data-figure]').length === "
    "document.querySelectorAll('.js-plotly-plot').length"
)


@pytest.fixture(scope="module")
def report(study: Study, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(study, str(tmp_path_factory.mktemp("report") / "report.html"))


def test_it_is_small(report: Path) -> None:
    assert report.stat().st_size < 5_000_000


def titles(report: Path) -> dict[str, list[str]]:
    """The lines of the titles of the figures that a report holds."""
    found = re.findall(r'data-figure="([^"]+)">(.*?)</script>', report.read_text(), re.DOTALL)
    texts = {name: json.loads(figure)["layout"]["title"]["text"] for name, figure in found}
    return {
        name: [re.sub("<.*?>", "", line) for line in text.split("<br>")]
        for name, text in texts.items()
    }


@pytest.mark.parametrize("width", [390, 1280])
def test_every_figure_draws_within_the_screen(page: Page, report: Path, width: int) -> None:
    page.open(report.as_uri(), width=width)
    page.wait(DRAWN)
    # It opens offline: nothing is asked for but what the file itself holds.
    asked = [url for url in page.requests() if not url.startswith(("data:", "blob:"))]
    assert asked == [report.as_uri()]
    plots = page.plots(".figure")
    wanted = titles(report)
    assert len(wanted) >= 8
    assert {name: plot["title"] for name, plot in plots.items()} == wanted
    for name, plot in plots.items():
        assert plot["missing"] == 0, name
        assert plot["traces"] > 0, name
        assert plot["over"] <= 1, name
    assert page.overflow <= 0


def test_it_is_readable_in_both_themes(page: Page, report: Path) -> None:
    page.open(report.as_uri(), dark=True)
    page.wait(DRAWN)
    for dark, background in ((True, "rgb(30, 30, 30)"), (False, "rgb(255, 255, 255)")):
        page.prefer(dark)
        assert page.js("return getComputedStyle(document.body).backgroundColor") == background
        assert page.unreadable("body, body :not(script, style, noscript, svg *)") == []
        words = ".gtitle, .xtitle, .ytitle, .xtick text, .ytick text, .legendtext"
        # One grey for both themes, which none can give more.
        assert page.unreadable(words, least=4.0, colour="fill") == []


@pytest.fixture
def undrawn(page: Page, report: Path) -> Iterator[Page]:
    """The report in a browser that cannot unpack its figures."""
    script = page.driver.execute_cdp_cmd(
        "Page.addScriptToEvaluateOnNewDocument", {"source": "delete window.DecompressionStream"}
    )
    try:
        page.open(report.as_uri())
        page.wait("return !document.getElementById('undrawn').hidden")
        (error,) = page.errors()  # for whoever looks for the reason
        assert "DecompressionStream" in error
        yield page
    finally:
        page.driver.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", script)


def test_without_figures_it_says_so(undrawn: Page, study: Study) -> None:
    assert "cannot unpack the figures" in undrawn.one("#undrawn").text
    models = [row[0] for row in undrawn.table("#models")[1:]]
    assert models == ["base", *(str(m.trial) for m in study.front())]


def test_the_table_sorts_by_every_header(undrawn: Page, study: Study) -> None:
    # Numbers of one digit and of two, which would have another order as text.
    undrawn.js(
        "document.querySelectorAll('#models td:first-child').forEach("
        "(cell, i) => cell.dataset.value = cell.textContent = 8 + i)"
    )
    heads = [cell.removesuffix("↕").strip() for cell in undrawn.table("#models")[0]]
    assert {"model", "accuracy", "holdout", "latency", "size", "parameters"} <= set(heads)
    for name in ("parameters", "size", "latency", "holdout", "expected drop", "accuracy", "model"):
        column = heads.index(name)
        button = undrawn.one(f"#models th:nth-child({column + 1}) button")
        for direction in ("ascending", "descending"):
            button.click()
            said = undrawn.js(
                "return [...document.querySelectorAll('#models th')]"
                ".map(h => h.getAttribute('aria-sort'))"
            )
            assert said == [direction if i == column else None for i in range(len(heads))]
            shown = [row[column] for row in undrawn.table("#models")[1:]]
            values = [float(value.strip("~*").replace(",", "")) for value in shown]
            assert len(values) == len(study.front()) + 1 >= 3
            assert values == sorted(values, reverse=direction == "descending"), name
            assert len(set(values)) > 1


def test_two_studies_compared(
    page: Page, storage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "fronts.html"
    script = Path(__file__).parents[2] / "dashboards" / "compare.py"
    monkeypatch.setattr(sys, "argv", [str(script), str(out), storage, "tiny", "other"])
    runpy.run_path(str(script), run_name="__main__")
    page.open(out.as_uri())
    page.wait_for(".js-plotly-plot .main-svg")
    (plot,) = page.plots().values()
    assert plot["missing"] == 0
    names = " ".join(str(trace.get("name")) for trace in plot["data"])
    assert "tiny" in names
    assert "other" in names
