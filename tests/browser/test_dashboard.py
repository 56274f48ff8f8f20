from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from optuna.trial import TrialState

from axsearch import Recipe, Study

from .page import Page

Open = Callable[..., None]


@pytest.fixture
def open_study(page: Page, dashboard: str, study: Study) -> Open:
    """Open a page of the study."""
    return lambda path="", **screen: page.open(
        f"{dashboard}/dashboard/studies/{study.id}{path}", **screen
    )


def test_the_list_leads_to_a_study(page: Page, dashboard: str, study: Study) -> None:
    page.open(f"{dashboard}/dashboard/")
    page.wait_for("main a, .MuiCard-root a")
    links = {link.text.partition(" ")[2].split("\n")[0]: link for link in page.all("a")}
    assert {"tiny", "other"} <= {name.strip() for name in links}
    assert "Direction: MAXIMIZE, MINIMIZE, MINIMIZE" in page.text
    page.js("arguments[0].click()", links["tiny"])
    page.wait("return location.pathname.startsWith(arguments[0])", f"/dashboard/studies/{study.id}")
    page.wait_for("#graph-pareto-front .main-svg")
    assert "tiny (id=" in page.text


def test_the_pareto_plot_has_every_finished_trial(
    page: Page, open_study: Open, study: Study
) -> None:
    finished = study.optuna.get_trials(states=(TrialState.COMPLETE,))
    over = {t.number for t in finished if max(t.system_attrs["constraints"]) > 0}
    assert len(finished) == 20
    assert 0 < len(over) < 20
    open_study()
    page.wait_for("#graph-pareto-front .point", len(finished))
    plot = page.plots("#graph-pareto-front")["graph-pareto-front"]
    assert (plot["points"], plot["missing"]) == (len(finished), 0)
    places: dict[str, set[tuple[float, float]]] = {}
    for trace in plot["data"]:
        kind = trace["hovertemplate"].partition("<extra>")[2].removesuffix("</extra>")
        points = zip(trace["x"], trace["y"], strict=True)
        places.setdefault(kind, set()).update(points)
    values = {t.number: tuple(t.values[:2]) for t in finished}
    best = {t.number for t in study.optuna.best_trials}
    assert places["Infeasible Trial"] == {values[number] for number in over}
    assert places["Best Trial"] == {values[number] for number in best}
    assert places["Feasible Trial"] == {values[n] for n in values.keys() - over - best}


def test_objectives_are_named(page: Page, open_study: Open) -> None:
    open_study()
    page.wait_for("[role=combobox]", 3)
    assert page.texts("[role=combobox]", 2)[:2] == ["accuracy", "latency_ratio"]
    page.all("[role=combobox]")[1].click()
    assert page.texts("[role=option]", 3) == ["accuracy", "latency_ratio", "size_ratio"]
    page.all("[role=option]")[2].click()
    page.wait("return document.querySelectorAll('[role=option]').length === 0")


@pytest.mark.parametrize("dark", [False, True])
def test_the_three_figures_of_the_study(page: Page, open_study: Open, dark: bool) -> None:
    open_study(dark=dark)
    own = "[id^='user-defined-plot:']"
    page.wait_for(f"{own} .main-svg", 3)
    plots = page.plots(own)
    titles = {
        "front": "Accuracy against latency",
        "layer-map": "What the front keeps of each layer",
        "hypervolume": "Hypervolume of the front",
    }
    assert set(plots) == {f"user-defined-plot:axsearch-{name}" for name in titles}
    for name, title in titles.items():
        plot = plots[f"user-defined-plot:axsearch-{name}"]
        assert plot["title"][0] == title
        assert (plot["traces"] > 0, plot["missing"]) == (True, 0)
        # The dashboard has a box of one height for all; more would be cut, or cover what follows.
        assert plot["over"] <= 1, name
    words = ", ".join(f"{own} .{kind}" for kind in ("gtitle", "xtitle", "ytitle", "xtick text"))
    assert page.unreadable(words, least=4.0, colour="fill") == []


def test_the_note_of_the_study(page: Page, open_study: Open, study: Study) -> None:
    open_study("/note")
    page.wait_for("h1")
    assert page.one("h1").text == "tiny"
    page.wait_for("table", 2)
    facts = dict(page.table("table"))
    assert facts["limits"] == "at most a drop of 0.05"
    rows = page.js(
        "return [...document.querySelectorAll('table')[1].rows].map(r => r.cells[0].innerText)"
    )
    assert rows == ["trial", *(str(m.trial) for m in study.front())]
    assert page.one("pre").text.startswith("axsearch export --storage URL --study tiny --trial N")


def test_a_trial_has_its_note_and_artifacts(page: Page, open_study: Open, study: Study) -> None:
    member = study.front()[0]
    open_study(f"/trials?numbers={member.trial}")
    page.wait_for("a[download]", 2)
    head, *layers = page.table("table")
    assert head[:3] == ["layer", "heads", "ffn"]
    assert "damage, nats" in head
    said = {place: c for place, c in member.choices.items() if place.startswith("layer")}
    assert [row[0] for row in layers] == list(said)
    kept = [(row[1], row[2]) for row in layers]
    assert kept == [(str(c["heads"]), str(c["ffn"])) for c in said.values()]
    assert f"--study tiny --trial {member.trial} --format hf" in page.one("pre").text
    links = {link.get_attribute("download"): link for link in page.all("a[download]")}
    assert set(links) == {"recipe.json", "layers.csv"}
    fetched = {
        name: page.driver.execute_async_script(
            "fetch(arguments[0]).then(r => r.text()).then(arguments[1])", link.get_attribute("href")
        )
        for name, link in links.items()
    }
    place = links["recipe.json"].get_attribute("href")
    page.open(place)  # stored, and not shown as a page of the dashboard's
    assert page.js("return location.href") != place
    recipe = json.loads(fetched["recipe.json"])
    assert recipe == {**member.recipe, "sha256": Recipe.from_dict(member.recipe).hash}
    places = [line.split(",")[0] for line in fetched["layers.csv"].splitlines()[1:]]
    assert places == list(member.choices)


def test_analytics_name_the_objectives(page: Page, open_study: Open) -> None:
    open_study("/analytics")
    for name in ("accuracy", "latency_ratio", "size_ratio"):
        page.wait("return document.body.innerText.includes(arguments[0])", f"EDF for {name}")
    page.wait_for(".js-plotly-plot .main-svg", 6)
