"""How the search went on: the hypervolume of the front by trial and by time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from axsearch.reporting.figures import style
from axsearch.reporting.figures.data import Point, StudyData, TrialTime
from axsearch.statistics import pareto

ORDER = 50
TIMES = " \N{MULTIPLICATION SIGN} "
TITLE = "Hypervolume of the front"
PANEL = 210
"""Pixels of a panel with its axis title."""

MOST_STEPS = 1000
"""Points of the line of shares, which changes with every trial."""


def of_study(data: StudyData, *, compact: bool = False) -> list[go.Figure]:
    """The study's hypervolume, from its least acceptable accuracy up; see hypervolume_figure."""
    if data.baseline is None or not data.points:
        return [style.nothing(TITLE, style.NO_TRIALS)]
    reference = data.reference
    if "max_drop" in data.limits:
        reference = max(reference, data.baseline.accuracy - data.limits["max_drop"])
    return [
        hypervolume_figure(
            data.points,
            data.times,
            reference=reference,
            metric=data.metric,
            costs=data.costs,
            compact=compact,
        )
    ]


def hypervolume_figure(
    points: Sequence[Point],
    times: Sequence[TrialTime],
    *,
    reference: float,
    metric: str,
    costs: Sequence[Literal["latency", "size"]] = ("latency", "size"),
    compact: bool = False,
) -> go.Figure:
    """Hypervolume by trial and by wall-clock time, and the share of time not spent evaluating.

    The hypervolume is that of all feasible models so far: the volume that they dominate above the
    reference accuracy, with costs from 0 to the base's 1. The share is the time of the sampler and
    the database, divided by the summed time of the trials so far: trials of several workers
    overlap, and each counts in full.

    Args:
        points: all evaluated models.
        times: of trials; without any there is only the first panel.
        reference: the accuracy below which nothing counts.
        metric: the accuracy metric.
        costs: of the study.
        compact: two panels side by side, and the share in words, for a low box.
    """
    by_trial = sorted(points, key=lambda p: p.trial)
    ended = {t.trial: t.ended for t in times}
    timed = sorted((p for p in points if p.trial in ended), key=lambda p: (ended[p.trial], p.trial))
    known = sorted((t for t in times if t.evaluating is not None), key=lambda t: t.ended)
    volumes = hypervolumes(by_trial, reference, costs)
    rows = 1 if compact else 1 + bool(timed) + bool(known)
    by_time = {"row": 1, "col": 2} if compact else {"row": 2, "col": 1}
    figure = (
        make_subplots(rows=1, cols=1 + bool(timed), shared_yaxes=True, horizontal_spacing=0.06)
        if compact
        else make_subplots(rows=rows, cols=1, vertical_spacing=75 / (PANEL * rows))
    )
    _add_by_trial(figure, [float(p.trial) for p in by_trial], volumes)
    factors = [style.in_words(metric), *costs]
    title = f"hypervolume<br>({TIMES.join(factors)})".replace(TIMES, f"{TIMES.rstrip()}<br>", 1)
    figure.update_yaxes(title={"text": title}, row=1, col=1)
    if timed:
        if timed != by_trial:
            volumes = hypervolumes(timed, reference, costs)
        _add_by_time(figure, [ended[p.trial] / 60 for p in timed], volumes, by_time)
        if not compact:
            figure.update_yaxes(title={"text": title}, matches="y", **by_time)
    if known and not compact:
        _add_share(figure, known, rows)
        if timed:
            figure.update_xaxes(matches="x2", row=rows)
    subtitle = _subtitle(metric, reference, costs, known if compact else ())
    return style.lay_out(figure, TITLE, subtitle=subtitle, height=190 + PANEL * rows)


def hypervolumes(
    points: Sequence[Point], reference: float, costs: Sequence[Literal["latency", "size"]]
) -> list[float]:
    """The hypervolume of the feasible ones among the points so far, after each of them.

    What a point adds is its own volume without what the front already has of it, so that only
    points which change the front cost more than a comparison.
    """
    front = np.empty((len(costs) + 1, 0))  # a row for each cost, and one for negated accuracy
    volume, found = 0.0, []
    for point in points:
        own = [cost for name in costs if (cost := point.cost(name)) is not None and cost < 1]
        if point.feasible and point.accuracy > reference and len(own) == len(costs):
            new = np.array([*own, -point.accuracy])[:, None]
            if not (front <= new).all(axis=0).any():
                volume += _added(new, front, reference)
                front = np.hstack((front[:, ~(new <= front).all(axis=0)], new))
        found.append(volume)
    return found


def _added(new: pareto.Floats, front: pareto.Floats, reference: float) -> float:
    """The volume of one point, (costs + 1, 1), without what members, (costs + 1, members), have."""
    # Of each member the part within the new point's box; few of these parts lie in no other.
    parts, shared = np.maximum(front, new), [np.empty((len(new), 0))]
    while parts.shape[1]:
        least = parts[:, [parts.sum(axis=0).argmin()]]
        shared.append(least)
        parts = parts[:, ~(least <= parts).all(axis=0)]
    own = float(np.prod(1 - new[:-1])) * (-float(new[-1, 0]) - reference)
    members = np.hstack(shared).T
    return own - pareto.hypervolume(members[:, :-1], -members[:, -1], reference)


def _mode(along: Sequence[object]) -> str:
    """A line, which through one point would not be seen."""
    return "lines" if len(along) > 1 else "markers"


def _steps(x: Sequence[float], y: Sequence[float]) -> dict[str, list[float | None]]:
    """The first point, those at which the value changes, and the last."""
    kept = [i for i in range(len(y)) if i in (0, len(y) - 1) or y[i] != y[i - 1]]
    return {"x": style.all_rounded(x[i] for i in kept), "y": style.all_rounded(y[i] for i in kept)}


def _subtitle(
    metric: str, reference: float, costs: Sequence[str], known: Sequence[TrialTime]
) -> str:
    """The volume in words, and the share that was not evaluation for trials of known times."""
    text = f"Volume between {style.in_words(metric)} {reference:.4g} and what feasible models"
    text += " reach" + (f"; {' and '.join(costs)} count up to the base's" if costs else "")
    if known:
        share = float(_shares(known)[-1])
        text += f". Sampler and database took {share:.1%} of the trials' time"
    return f"{text}."


def _add_by_trial(figure: go.Figure, trials: Sequence[float], volumes: Sequence[float]) -> None:
    figure.add_scatter(
        **_steps(trials, volumes),
        mode=_mode(trials),
        line={"color": style.BLUE, "shape": "hv"},
        name="hypervolume by trial",
        hovertemplate="trial %{x}<br>hypervolume %{y:.5f}<extra></extra>",
        row=1,
        col=1,
    )
    figure.update_xaxes(title={"text": "trial"}, row=1, col=1)


def _add_by_time(
    figure: go.Figure, minutes: Sequence[float], volumes: Sequence[float], place: dict[str, int]
) -> None:
    figure.add_scatter(
        **_steps(minutes, volumes),
        mode=_mode(minutes),
        line={"color": style.GREEN, "dash": "dash", "shape": "hv"},
        name="hypervolume by wall-clock",
        hovertemplate="after %{x:.2f} minutes<br>hypervolume %{y:.5f}<extra></extra>",
        **place,
    )
    figure.update_xaxes(title={"text": "wall-clock (minutes)"}, **place)


def _shares(known: Sequence[TrialTime]) -> pareto.Floats:
    """Of the summed time of the trials so far, what was not evaluation."""
    whole = np.cumsum([max(t.ended - t.began, 0.0) for t in known])
    evaluating = np.cumsum([t.evaluating or 0.0 for t in known])
    share: pareto.Floats = np.clip(1 - evaluating / np.where(whole > 0, whole, np.inf), 0, 1)
    share[whole <= 0] = 0  # nothing took time: nothing was the sampler's
    return share


def _add_share(figure: go.Figure, known: Sequence[TrialTime], row: int) -> None:
    share = _shares(known)
    kept = style.evenly(len(known), MOST_STEPS)
    figure.add_scatter(
        x=style.all_rounded(known[i].ended / 60 for i in kept),
        y=style.all_rounded(100 * float(share[i]) for i in kept),
        mode=_mode(known),
        line={"color": style.VERMILLION, "dash": "dot"},
        name="share of sampler and database, so far",
        hovertemplate="after %{x:.2f} minutes<br>%{y:.1f} % of the trials' time"
        "<extra>sampler and database</extra>",
        row=row,
        col=1,
    )
    figure.update_yaxes(title={"text": "sampler and<br>database (%)"}, rangemode="tozero", row=row)
    figure.update_xaxes(title={"text": "wall-clock (minutes)"}, row=row)
