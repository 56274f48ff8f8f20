"""The fronts of several studies or machines in one figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import plotly.graph_objects as go

from axsearch.reporting.figures import style
from axsearch.statistics import pareto
from axsearch.statistics.measurement import Measurement


def fronts_figure(
    fronts: Mapping[str, tuple[Measurement, Sequence[Measurement]]],
    *,
    cost: Literal["latency", "size"],
    metric: str,
    change: bool = False,
) -> go.Figure:
    """Accuracy against a cost: a colour, a symbol and a kind of line for each front.

    Each line is the best accuracy at a cost; members off the line are better in another cost.

    Args:
        fronts: base and members of each front, by its name in the legend.
        cost: of the horizontal axis, each relative to the front's own base.
        metric: the accuracy metric.
        change: whether to draw the change from the front's own base, for fronts whose bases differ;
            intervals are then left out, since a difference has another interval.
    """
    figure = go.Figure()
    words = style.in_words(metric)
    for index, (name, (baseline, front)) in enumerate(fronts.items()):
        zero = baseline.accuracy if change else 0.0
        places = [(x, m) for m in front if (x := _cost(m, cost)) is not None]
        places.sort(key=lambda place: (place[0], -place[1].accuracy))
        colour = style.PALETTE[index % len(style.PALETTE)]
        symbol = style.SYMBOLS[index % len(style.SYMBOLS)]
        dash = style.DASHES[index % len(style.DASHES)]
        line = {"color": colour, "width": 1.5, "shape": "hv", "dash": dash}
        _add_line(figure, places, zero, name, line)
        figure.add_scatter(
            x=style.all_rounded(x for x, _ in places),
            y=style.all_rounded(m.accuracy - zero for _, m in places),
            mode="markers",
            name=name,
            legendgroup=name,
            marker={"color": colour, "symbol": symbol, "size": 9},
            error_y=None if change else _intervals([m for _, m in places], colour),
            customdata=[
                [m.trial, *style.all_rounded((m.accuracy, m.accuracy_low, m.accuracy_high))]
                for _, m in places
            ],
            hovertemplate=f"trial %{{customdata[0]}}<br>{words} %{{customdata[1]}} (95 % interval "
            f"%{{customdata[2]}} to %{{customdata[3]}})<br>{cost} %{{x:.3f}} of its base",
        )
    if change:
        figure.add_hline(y=0, line={"color": style.BASE, "width": 1, "dash": "dot"})
    return style.lay_out(
        figure,
        f"Fronts: {words} against {cost}",
        height=520,
        xaxis={"title": {"text": f"{cost}, relative to its base"}},
        yaxis={
            "title": {"text": f"change of {words} from its base" if change else words},
        },
    )


def _add_line(
    figure: go.Figure,
    places: Sequence[tuple[float, Measurement]],
    zero: float,
    name: str,
    line: dict[str, object],
) -> None:
    best = pareto.front([(x, -m.accuracy) for x, m in places])
    figure.add_scatter(
        x=style.all_rounded(places[i][0] for i in best),
        y=style.all_rounded(places[i][1].accuracy - zero for i in best),
        mode="lines",
        line=line,
        legendgroup=name,
        showlegend=False,
        hoverinfo="skip",
    )


def _cost(member: Measurement, cost: Literal["latency", "size"]) -> float | None:
    return member.latency_ratio if cost == "latency" else member.size_ratio


def _intervals(members: Sequence[Measurement], colour: str) -> dict[str, object]:
    return {
        "type": "data",
        "symmetric": False,
        "array": style.all_rounded(max(m.accuracy_high - m.accuracy, 0) for m in members),
        "arrayminus": style.all_rounded(max(m.accuracy - m.accuracy_low, 0) for m in members),
        "color": colour,
        "thickness": 1,
        "width": 0,
    }
