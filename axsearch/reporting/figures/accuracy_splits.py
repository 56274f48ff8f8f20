"""Whether accuracy on the search split holds on examples that the search never saw."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from axsearch.reporting.figures import style
from axsearch.reporting.figures.data import StudyData
from axsearch.statistics.measurement import Measurement
from axsearch.statistics.outcome import Estimate

ORDER = 60
NO_HOLDOUT = (
    "No model of the front has been evaluated on the holdout split yet; `axsearch front --holdout` "
    "does this."
)


def of_study(data: StudyData) -> list[go.Figure]:
    """The front's accuracy on both splits, for models with a holdout accuracy."""
    if data.baseline is None or not data.front:
        return [style.nothing(_title(data.metric), style.NO_TRIALS)]
    if not any(m.trial in data.holdout for m in data.front):
        return [style.nothing(_title(data.metric), NO_HOLDOUT)]
    return [
        accuracy_splits_figure(
            data.front, data.baseline, data.holdout, metric=data.metric, bias=data.bias
        )
    ]


def accuracy_splits_figure(
    front: Sequence[Measurement],
    baseline: Measurement,
    holdout: Mapping[int, Estimate],
    *,
    metric: str,
    bias: str = "",
) -> go.Figure:
    """Accuracy on the search split against that on the holdout split, with 95 % intervals.

    A model below the diagonal is less accurate on the holdout split than on the search split.

    Args:
        front: its members; those without a holdout accuracy are left out.
        baseline: the base; left out if it has no holdout accuracy.
        holdout: the metric on the holdout split, by trial.
        metric: the accuracy metric.
        bias: a sentence about the selection bias; empty if it is not known.
    """
    members = [m for m in front if m.trial in holdout and m.trial != baseline.trial]
    bases = [baseline] if baseline.trial in holdout else []
    ends = [
        value
        for m in (*members, *bases)
        for value in (m.accuracy_low, m.accuracy_high, *holdout[m.trial or 0])
    ]
    both = style.padded(ends)
    figure = go.Figure()
    figure.add_scatter(
        x=both,
        y=both,
        mode="lines",
        line={"color": style.OTHER, "width": 1, "dash": "dash"},
        name="same on both",
        hoverinfo="skip",
    )
    _add_front(figure, members, holdout)
    figure.add_scatter(
        **_crosses(bases, holdout, style.BASE),
        mode="markers",
        name="base",
        marker={"color": style.BASE, "size": 14, "symbol": "star"},
        hovertemplate=f"base<br>{_HOVER}<extra></extra>",
    )
    name = style.in_words(metric)
    return style.lay_out(
        figure,
        _title(metric),
        subtitle=bias,
        height=520,
        xaxis={"title": {"text": f"{name}, search split"}, "range": both},
        yaxis={"title": {"text": f"{name}, holdout split"}, "range": both},
    )


_HOVER = (
    "search split %{x:.4f} (95 % interval %{customdata[0]} to %{customdata[1]})<br>"
    "holdout split %{y:.4f} (95 % interval %{customdata[2]} to %{customdata[3]})"
)


def _add_front(
    figure: go.Figure, members: Sequence[Measurement], holdout: Mapping[int, Estimate]
) -> None:
    figure.add_scatter(
        **_crosses(members, holdout, style.FRONT),
        mode="markers+text" if len(members) <= style.MOST_NAMED else "markers",
        name="front, 95 % intervals",
        marker={"color": style.FRONT, "size": 9},
        text=[str(m.trial) for m in members],
        textposition=["top right" if i % 2 else "bottom right" for i in range(len(members))],
        textfont={"color": style.TEXT},
        hovertemplate=f"trial %{{text}}<br>{_HOVER}<extra></extra>",
    )


def _title(metric: str) -> str:
    return f"{style.capitalised(style.in_words(metric))} on search and holdout splits"


def _crosses(
    members: Sequence[Measurement], holdout: Mapping[int, Estimate], colour: str
) -> dict[str, Any]:
    """Positions, error bars and interval ends of the members."""
    searched = [Estimate(m.accuracy, m.accuracy_low, m.accuracy_high) for m in members]
    held = [holdout[m.trial or 0] for m in members]
    return {
        "x": style.all_rounded(e.value for e in searched),
        "y": style.all_rounded(e.value for e in held),
        "error_x": _bars(searched, colour),
        "error_y": _bars(held, colour),
        "customdata": [
            style.all_rounded((s.low, s.high, h.low, h.high))
            for s, h in zip(searched, held, strict=True)
        ],
    }


def _bars(estimates: Sequence[Estimate], colour: str) -> dict[str, Any]:
    return {
        "type": "data",
        "symmetric": False,
        "array": style.all_rounded(max(e.high - e.value, 0) for e in estimates),
        "arrayminus": style.all_rounded(max(e.value - e.low, 0) for e in estimates),
        "color": colour,
        "thickness": 1,
        "width": 0,
    }
