"""The Pareto front in one projection."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import plotly.graph_objects as go

from axsearch.measurement import Measurement

# Okabe and Ito's colours, told apart with every kind of colour vision.
ALL, FRONT, BASE = "#999999", "#0072B2", "#D55E00"

TITLES = {
    "latency_ratio": "latency, relative to the base",
    "size_ratio": "size, relative to the base",
}


def front_figure(
    trials: Sequence[Measurement],
    front: Sequence[Measurement],
    baseline: Measurement,
    *,
    cost: Literal["latency_ratio", "size_ratio"],
    metric: str,
) -> go.Figure:
    """Accuracy against one cost: all trials, the front with 95 % intervals, and the base.

    The front is that of all objectives, so in one projection members may lie behind others.
    """
    figure = go.Figure()
    on_front = {m.trial for m in front}
    others = [m for m in trials if m.trial not in on_front]
    figure.add_scatter(
        x=[getattr(m, cost) for m in others],
        y=[m.accuracy for m in others],
        mode="markers",
        name="other trials",
        marker={"color": ALL, "size": 6, "opacity": 0.6},
        text=[f"trial {m.trial}" for m in others],
        hovertemplate="%{text}<br>%{x:.3f}, %{y:.4f}<extra></extra>",
    )
    figure.add_scatter(
        x=[getattr(m, cost) for m in front],
        y=[m.accuracy for m in front],
        mode="markers+text",
        name="front",
        marker={"color": FRONT, "size": 9},
        text=[str(m.trial) for m in front],
        textposition="top center",
        error_y={
            "type": "data",
            "symmetric": False,
            "array": [m.accuracy_high - m.accuracy for m in front],
            "arrayminus": [m.accuracy - m.accuracy_low for m in front],
            "thickness": 1,
            "width": 2,
        },
        hovertemplate="trial %{text}<br>%{x:.3f}, %{y:.4f}<extra></extra>",
    )
    figure.add_scatter(
        x=[getattr(baseline, cost)],
        y=[baseline.accuracy],
        mode="markers",
        name="base",
        marker={"color": BASE, "size": 12, "symbol": "star"},
        hovertemplate="base<br>%{x:.3f}, %{y:.4f}<extra></extra>",
    )
    figure.update_layout(
        title=f"{metric} and {TITLES[cost].partition(',')[0]}",
        xaxis_title=TITLES[cost],
        yaxis_title=f"{metric}, search split",
        template="plotly_white",
    )
    return figure
