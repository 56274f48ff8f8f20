"""The members of the front, one line each, across its objectives and shape."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import plotly.graph_objects as go

from axsearch.approximations import Approximation, UnitRemoval, named, removal
from axsearch.approximations.site import OUTSIDE, layer_of
from axsearch.reporting.figures import style
from axsearch.reporting.figures.data import StudyData
from axsearch.reporting.figures.layer_map import removed_layers
from axsearch.statistics.measurement import Measurement

ORDER = 30
TITLE = "The front across objectives and shape"
MOST_NUMBERED = 20
"""Most lines for which the trial's number is readable."""


def of_study(data: StudyData) -> list[go.Figure]:
    """The front's lines."""
    if data.baseline is None or not data.front:
        return [style.nothing(TITLE, style.NO_TRIALS)]
    return [
        parallel_coordinates_figure(data.front, data.baseline, metric=data.metric, costs=data.costs)
    ]


def parallel_coordinates_figure(
    front: Sequence[Measurement],
    baseline: Measurement,
    *,
    metric: str,
    costs: Sequence[Literal["latency", "size"]] = ("latency", "size"),
) -> go.Figure:
    """A line for each member of the front, coloured by its accuracy.

    The axes are the trial, accuracy and the costs, and those of the following in which members
    differ: the shares of units kept, the number of layers with a setting such as top-k attention,
    and the number of layers removed.
    """
    accuracy = [m.accuracy for m in front]
    axes: list[tuple[str, list[float | None], bool]] = [(style.in_words(metric), [*accuracy], True)]
    if "latency" in costs:
        axes.append(("latency ratio", [m.latency_ratio for m in front], True))
    if "size" in costs:
        axes.append(("size ratio", [m.size_ratio for m in front], True))
    axes += [
        *_of_approximations(front, baseline),
        ("layers removed", [len(removed_layers(m)) for m in front], False),
    ]
    dimensions = [_trials(front)]
    for label, values, objective in axes:
        known = [v for v in values if v is not None]
        if len(known) == len(values) and (objective or len(set(known)) > 1):
            dimensions.append(
                {"label": label, "values": style.all_rounded(known), "range": _range(known)}
            )
    low, high = _range(accuracy)
    figure = go.Figure(
        go.Parcoords(
            dimensions=dimensions,
            line={
                "color": style.all_rounded(accuracy),
                "coloraxis": "coloraxis",
            },
            labelangle=-20,
            labelfont={"color": style.TEXT},
            tickfont={"color": style.TEXT, "shadow": "none"},  # its own would be white
            rangefont={"color": style.TRANSPARENT},
        )
    )
    style.lay_out(
        figure,
        TITLE,
        subtitle="One line for each member; drag along an axis to pick some. Ratios are to the "
        "base.",
        height=520,
        margin={"t": 170, "l": 40, "r": 60},
    )
    return style.with_colour_bar(
        figure,
        f"{style.in_words(metric)}, search split",
        below=15,
        colorscale=style.LINE_SCALE,
        cmin=low,
        cmax=high,
    )


def _of_approximations(
    front: Sequence[Measurement], baseline: Measurement
) -> list[tuple[str, list[float | None], bool]]:
    names = dict.fromkeys(name for kept in baseline.choices.values() for name in kept)
    axes: list[tuple[str, list[float | None], bool]] = []
    for one in named(names):
        if isinstance(one, UnitRemoval):
            label = f"{one.axis} (%)"
            axes.append((label, [100 * _share(m, baseline, one.name) for m in front], False))
        elif not one.choice_type.lossless and _in_layers(baseline, one.name):
            label = f"layers with {one.title}"
            axes.append((label, [_layers_with(m, one) for m in front], False))
    return axes


def _in_layers(baseline: Measurement, name: str) -> bool:
    return any(name in kept and layer_of(p) != OUTSIDE for p, kept in baseline.choices.items())


def _share(member: Measurement, baseline: Measurement, unit: str) -> float:
    full = sum(kept.get(unit) or 0 for kept in baseline.choices.values())
    return sum(kept.get(unit) or 0 for kept in member.choices.values()) / full if full else 0.0


def _layers_with(member: Measurement, approximation: Approximation) -> int:
    """In how many layers it is set, those aside whose block was removed."""
    units = [one.name for kind in approximation.kinds if (one := removal(kind)) is not None]
    return sum(
        kept.get(approximation.name) is not None and all(kept.get(unit) != 0 for unit in units)
        for kept in member.choices.values()
    )


def _trials(front: Sequence[Measurement]) -> dict[str, Any]:
    """An axis on which each line stands beside its trial's number."""
    axis: dict[str, Any] = {
        "label": "trial",
        "values": list(range(len(front))),
        "range": [-0.5, len(front) - 0.5],
    }
    every = range(0, len(front), -(-len(front) // MOST_NUMBERED))
    return {**axis, "tickvals": list(every), "ticktext": [str(front[i].trial) for i in every]}


def _range(values: Sequence[float]) -> list[float]:
    """From the least to the greatest; around the value if there is only one."""
    low, high = min(values), max(values)
    return style.padded(values) if low == high else [low, high]
