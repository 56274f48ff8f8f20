"""How much each choice alone changes the model's outputs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from axsearch.approximations import named
from axsearch.reporting.figures import style
from axsearch.reporting.figures.data import StudyData

ORDER = 70
TITLE = "Damage of each choice alone"
NO_TABLE = (
    "This study has no damage table; `axsearch search` measures one, unless its sampler does not "
    "need it."
)
DECADES = 5
"""The colour scale extends this many powers of ten below the greatest damage."""

_Row = dict[str, tuple[float, str]]  # by column: the damage, and the level in words


def of_study(data: StudyData) -> list[go.Figure]:
    """The study's damage table, if its sampler needed one."""
    if not any(len(levels) for levels in data.damage.values()):
        return [style.nothing(TITLE, NO_TABLE)]
    return [damage_table_figure(data.damage, data.levels)]


def damage_table_figure(
    damage: Mapping[str, Sequence[float]], levels: Mapping[str, Sequence[int | None]] | None = None
) -> go.Figure:
    """Heat maps, one for each approximation: a row for each layer, a column for each level.

    Colour is the damage on a log scale; zero has the lowest colour. A parameter with parts, such as
    ``layer03.head_mask.05``, has a column for each part, which shows its most approximate level.

    Args:
        damage: for each parameter, ``layer03.heads``, the damage of its levels in nats, exact
            first.
        levels: for each parameter the values of its levels, None for exact.
    """
    levels = levels or {}
    panels = _panels(damage, levels)
    known = [
        d for p in panels.values() for row in p.values() for d, _ in row.values() if _positive(d)
    ]
    high = max(known, default=1.0)
    floor = max(min(known, default=1.0), high * 10.0**-DECADES)
    layers = [len(rows) for rows in panels.values()]
    figure = make_subplots(
        rows=len(panels),
        cols=1,
        subplot_titles=[style.in_words(name) for name in panels],
        row_heights=[n + 1.5 for n in layers],
        vertical_spacing=min(0.9 / max(len(panels) - 1, 1), 95 / _inner_height(layers)),
    )
    for row, (name, rows) in enumerate(panels.items(), start=1):
        figure.add_heatmap(**_cells(name, rows, floor), row=row, col=1)
        figure.update_xaxes(title={"text": _columns_title(name, damage, levels)}, row=row)
    figure.update_xaxes(type="category", showgrid=False)
    figure.update_yaxes(
        type="category", showgrid=False, autorange="reversed", title={"text": "layer"}
    )
    figure.update_annotations(font={"color": style.TEXT, "size": 13})
    style.lay_out(
        figure,
        TITLE,
        subtitle="Mean KL divergence from the base's outputs on calibration examples.",
        height=190 + _inner_height(layers),
    )
    return style.with_colour_bar(
        figure,
        "damage (nats), log scale",
        cmin=style.rounded(math.log10(floor)),
        cmax=style.rounded(math.log10(max(high, floor * 10))),
        colorbar=_ticks(floor, high),
    )


def _cells(name: str, rows: Mapping[str, _Row], floor: float) -> dict[str, Any]:
    """A panel's heat map: the colours of its cells, and the words beside the pointer."""
    columns = list(dict.fromkeys(column for cells in rows.values() for column in cells))
    cells = [[own.get(c, (None, "")) for c in columns] for own in rows.values()]
    return {
        "x": columns,
        "y": [style.layer_number(layer) for layer in rows],
        "z": [[_log(d, floor) for d, _ in own] for own in cells],
        "customdata": [[[style.rounded(d), said] for d, said in own] for own in cells],
        "hovertemplate": f"layer %{{y}}, {style.in_words(name)}<br>%{{customdata[1]}}<br>"
        "damage %{customdata[0]} nats<extra></extra>",
        "coloraxis": "coloraxis",
        "hoverongaps": False,
        "xgap": 1,
        "ygap": 1,
    }


def _inner_height(layers: Sequence[int]) -> int:
    return sum(22 * n + 95 for n in layers)


def _panels(
    damage: Mapping[str, Sequence[float]], levels: Mapping[str, Sequence[int | None]]
) -> dict[str, dict[str, _Row]]:
    """The damage, and the level in words, of each approximation, layer and column."""
    panels: dict[str, dict[str, _Row]] = {}
    for parameter, values in damage.items():
        layer, name, part = _parsed(parameter)
        row = panels.setdefault(name, {}).setdefault(layer, {})
        if part is not None:
            if len(values):
                row[part] = (float(values[-1]), f"part {part}")
            continue
        known = _values(parameter, damage, levels)
        for index, value in enumerate(values):
            said = f"level {index}"
            column = str(index)
            if known is not None:
                column = "exact" if known[index] is None else str(known[index])
                said += f": {column}"
            row[column] = (float(value), said)
    ordered = {
        name: {layer: rows[layer] for layer in sorted(rows)} for name, rows in panels.items()
    }
    return {name: rows for name, rows in ordered.items() if any(rows.values())}


def _parsed(parameter: str) -> tuple[str, str, str | None]:
    """Layer, approximation and part of ``layer03.head_mask.05``."""
    layer, _, rest = parameter.partition(".")
    name, _, part = rest.partition(".")
    return layer, name or layer, str(int(part)) if part.isdecimal() else part or None


def _values(
    parameter: str,
    damage: Mapping[str, Sequence[float]],
    levels: Mapping[str, Sequence[int | None]],
) -> Sequence[int | None] | None:
    """The values of a parameter's levels, if they are distinct and as many as the damages."""
    known = levels.get(parameter)
    fits = known is not None and len(known) == len(damage[parameter]) == len(set(known))
    return known if fits else None


def _columns_title(
    name: str, damage: Mapping[str, Sequence[float]], levels: Mapping[str, Sequence[int | None]]
) -> str:
    parameters = [p for p in damage if _parsed(p)[1] == name]
    if any(_parsed(p)[2] is not None for p in parameters):
        return "part"
    if all(_values(p, damage, levels) is not None for p in parameters):
        return next((one.axis for one in named([name])), "value of the level")
    return "level, 0 being exact"


def _positive(value: float) -> bool:
    return math.isfinite(value) and value > 0


def _log(value: float | None, floor: float) -> float | None:
    """The colour of a damage: its power of ten; the floor's for zero and, by noise, below."""
    if value is None or not math.isfinite(value):
        return None
    return style.rounded(math.log10(max(value, floor)))


def _ticks(floor: float, high: float) -> dict[str, Any]:
    """The powers of ten within the colour scale; the floor stands for everything below it."""
    powers = range(math.ceil(math.log10(floor) + 0.6), math.floor(math.log10(high)) + 1)
    return {
        "tickvals": [style.rounded(math.log10(floor)), *powers],
        "ticktext": [f"≤ {floor:.1g}", *(f"{10.0**power:g}" for power in powers)],
    }
