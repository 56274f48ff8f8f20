"""The Pareto front in all three objectives."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go

from axsearch.reporting.figures import style
from axsearch.reporting.figures.data import Point, StudyData
from axsearch.statistics.measurement import Measurement

ORDER = 20


def of_study(data: StudyData) -> list[go.Figure]:
    """The front in three dimensions, if the study has three objectives."""
    if len(data.costs) < 2:
        words = " and ".join(data.objectives)
        sentence = (
            f"This study has the objectives {words}, so there is no third dimension; `axsearch "
            "search --objectives accuracy,latency,size` starts one with all three."
        )
        return [style.nothing(_title(data.metric), sentence)]
    if data.baseline is None or not data.points:
        return [style.nothing(_title(data.metric), style.NO_TRIALS)]
    return [front_3d_figure(data.points, data.front, data.baseline, metric=data.metric)]


def front_3d_figure(
    points: Sequence[Point], front: Sequence[Measurement], baseline: Measurement, *, metric: str
) -> go.Figure:
    """Latency, size and accuracy: all models, the front by its trials' numbers, and the base."""
    members = [m for m in front if m.latency_ratio is not None]
    drawn = {m.trial for m in (*members, baseline)}
    others = [p for p in points if p.trial not in drawn and p.latency is not None]
    name = style.in_words(metric)
    words = "<br>latency %{x:.3f} of the base<br>size %{y:.3f} of the base"
    words += f"<br>{name} %{{z:.4f}}"
    figure = go.Figure()
    _add_others(figure, others, words)
    figure.add_scatter3d(
        x=style.all_rounded(m.latency_ratio for m in members),
        y=style.all_rounded(m.size_ratio for m in members),
        z=style.all_rounded(m.accuracy for m in members),
        mode="markers+text" if len(members) <= style.MOST_NAMED else "markers",
        name="front",
        marker={"color": style.FRONT, "size": 4, "symbol": "square"},
        text=[str(m.trial) for m in members],
        textfont={"color": style.TEXT},
        customdata=[
            [style.rounded(m.accuracy_low), style.rounded(m.accuracy_high)] for m in members
        ],
        hovertemplate=f"trial %{{text}}{words} (95 % interval %{{customdata[0]}} to "
        "%{customdata[1]})<extra>front</extra>",
    )
    figure.add_scatter3d(
        x=[1.0],
        y=[1.0],
        z=[style.rounded(baseline.accuracy)],
        mode="markers",
        name="base",
        marker={"color": style.BASE, "size": 6, "symbol": "diamond"},
        hovertemplate=f"base{words}<extra></extra>",
    )
    return style.lay_out(
        figure,
        _title(metric),
        subtitle="Drag to rotate. Ratios are to the base.",
        height=560,
        margin={"l": 0, "r": 0},
        scene={
            "xaxis": {"title": {"text": "latency ratio"}},
            "yaxis": {"title": {"text": "size ratio"}},
            "zaxis": {"title": {"text": name}},
            "camera": {"eye": {"x": 1.6, "y": -1.6, "z": 0.7}},
        },
    )


def _add_others(figure: go.Figure, others: Sequence[Point], words: str) -> None:
    shown = [others[i] for i in style.evenly(len(others), style.MOST_POINTS)]
    count = "" if len(shown) == len(others) else f" ({len(shown):,} of {len(others):,})"
    figure.add_scatter3d(
        x=style.all_rounded(p.latency for p in shown),
        y=style.all_rounded(p.size for p in shown),
        z=style.all_rounded(p.accuracy for p in shown),
        mode="markers",
        name=f"other models{count}",
        marker={
            "color": style.OTHER,
            "size": 2 if len(shown) > style.CROWD else 3,
            "symbol": ["circle" if p.feasible else "circle-open" for p in shown],
        },
        opacity=0.5,
        customdata=[[p.trial, "" if p.feasible else ", over a limit"] for p in shown],
        hovertemplate=f"trial %{{customdata[0]}}%{{customdata[1]}}{words}<extra></extra>",
    )


def _title(metric: str) -> str:
    return f"{style.capitalised(style.in_words(metric))}, latency and size"
