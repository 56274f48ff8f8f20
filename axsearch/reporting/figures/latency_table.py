"""The time of each shape of a block, by the latency table."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from axsearch.approximations import removal
from axsearch.approximations.site import KIND_TITLES, layer_of
from axsearch.reporting.figures import style
from axsearch.reporting.figures.data import StudyData
from axsearch.space.latency_table import LatencyTable, in_group

ORDER = 80
TITLE = "Time of a block by what it keeps"
NO_TABLE = (
    "This study has no latency table; `axsearch search` with latency among its objectives "
    "measures one."
)

SHARE = "%{y:.3f} % of the base's pass"
SETTINGS = (style.VERMILLION, style.PURPLE, style.ORANGE, style.SKY)


def of_study(data: StudyData) -> list[go.Figure]:
    """The study's latency table, if latency is an objective."""
    if data.latency_table is None or not data.latency_table.blocks:
        return [style.nothing(TITLE, NO_TABLE)]
    table, units = data.latency_table, dict[str, int]()
    if data.baseline is not None:
        for place, kept in data.baseline.choices.items():
            group = table.groups.get(layer_of(place), 0)
            for kind in table.kinds:
                if (one := removal(kind)) is not None:
                    name = in_group(one.name, group)
                    units[name] = max(units.get(name, 0), kept.get(one.name) or 0)
    return [latency_table_figure(table, units, data.scenario)]


def latency_table_figure(
    table: LatencyTable, units: Mapping[str, int] | None = None, scenario: str = ""
) -> go.Figure:
    """The share of the base's pass that a block takes, by the units it keeps.

    Lines are blocks that only lose units, with a band of the table's error on either side; markers
    are blocks with a setting; the dashed line is the rest of the model, which no recipe changes.

    Args:
        table: the latency table.
        units: of an exact block, ``{"heads": 12, "ffn": 3072}``; without them exact blocks are not
            drawn, since the table does not have their number of units. Those of a group of layers
            are ``heads@1``, as in :class:`LatencyTable`.
        scenario: the scenario of the measurement, in words.
    """
    units = units or {}
    panels = [(kind, one) for kind in table.kinds if (one := removal(kind)) is not None]
    figure = make_subplots(
        rows=1, cols=max(len(panels), 1), shared_yaxes=True, horizontal_spacing=0.05
    )
    looks = itertools.cycle(zip((style.BLUE, style.GREEN), ("circle", "square"), strict=True))
    for column, ((kind, one), look) in enumerate(zip(panels, looks, strict=False), start=1):
        (colour, symbol), title = look, one.axis
        reach: list[int] = []
        for group in sorted({0, *table.groups.values()}):
            if in_group(kind, group) not in table.blocks:
                continue
            full = units.get(in_group(one.name, group))
            line, settings = _places(table.blocks, in_group(kind, group), one.name, full)
            xs = [x for x, _ in line]
            shares = [100 * share for _, share in line]
            if line:
                _add_band(figure, xs, shares, table.error, column, shown=not reach)
            where = _layers(table, group)
            figure.add_scatter(
                **{"x": xs, "y": style.all_rounded(shares), "mode": "lines+markers"},
                name=KIND_TITLES.get(kind, kind) + where,
                line={"color": colour},
                marker={"symbol": symbol, "size": 6},
                hovertemplate=f"%{{x}} {title}{where}<br>{SHARE}<extra></extra>",
                row=1,
                col=column,
            )
            _add_settings(figure, settings, title, column)
            reach += [*xs, *(x for own in settings.values() for x, _ in own)]
        figure.update_xaxes(title={"text": title}, rangemode="tozero", col=column)
        _add_rest(figure, table.rest, reach, column)
    figure.update_yaxes(rangemode="tozero")
    figure.update_yaxes(title={"text": "share of the base's pass (%)"}, col=1)
    subtitle = (
        f"One block of one layer. The table's error on whole models is {100 * table.error:.1f} %"
    )
    if table.errors:
        subtitle += f", with one size in all layers {100 * table.error_of_one_size:.1f} %"
    if scenario:
        subtitle += f"; measured for {scenario}"
    return style.lay_out(figure, TITLE, subtitle=f"{subtitle}.", height=460)


def _layers(table: LatencyTable, group: int) -> str:
    """Which layers a line is of, where not all have the same blocks."""
    if not table.groups:
        return ""
    own = [str(layer) for layer in sorted(table.repeats) if table.groups.get(layer, 0) == group]
    return f", layer{'s' if len(own) > 1 else ''} {', '.join(own)}"


def _parsed(key: str) -> tuple[str, dict[str, str]]:
    """Kind and choices of ``attention heads=8 topk=32.renormalised``."""
    kind, *choices = key.split()
    return kind, {name: value for name, _, value in (c.partition("=") for c in choices)}


def _places(
    blocks: Mapping[str, float], kind: str, unit: str, full: int | None
) -> tuple[list[tuple[int, float]], dict[str, list[tuple[int, float]]]]:
    """Units and share of the blocks that only lose units, and of the others by their setting."""
    line: list[tuple[int, float]] = []
    settings: dict[str, list[tuple[int, float]]] = {}
    for key, share in blocks.items():
        own_kind, choices = _parsed(key)
        kept = choices.pop(unit, None)
        x = full if kept is None else int(kept)
        if own_kind != kind or x is None:
            continue
        setting = ", ".join(
            f"{style.in_words(name)} {value.replace('.', ', ')}" for name, value in choices.items()
        )
        (settings.setdefault(setting, []) if setting else line).append((x, share))
    return sorted(line), {setting: sorted(own) for setting, own in settings.items()}


def _add_band(
    figure: go.Figure,
    xs: Sequence[int],
    shares: Sequence[float],
    error: float,
    column: int,
    *,
    shown: bool,
) -> None:
    above = style.all_rounded(share * (1 + error) for share in shares)
    below = style.all_rounded(share * (1 - error) for share in shares)
    figure.add_scatter(
        x=[*xs, *reversed(xs)],
        y=[*above, *reversed(below)],
        mode="lines",
        line={"width": 0},
        fill="toself",
        fillcolor=style.BAND,
        name="± the table's error",
        legendgroup="error",
        showlegend=column == 1 and shown,
        hoverinfo="skip",
        row=1,
        col=column,
    )


def _add_settings(
    figure: go.Figure, settings: Mapping[str, Sequence[tuple[int, float]]], title: str, column: int
) -> None:
    for index, (setting, own) in enumerate(settings.items(), start=2):
        figure.add_scatter(
            x=[x for x, _ in own],
            y=style.all_rounded(100 * share for _, share in own),
            mode="markers",
            name=setting,
            marker={
                "color": SETTINGS[index % len(SETTINGS)],
                "symbol": style.SYMBOLS[index % len(style.SYMBOLS)] + "-open",
                "size": 9,
                "line": {"width": 2},
            },
            hovertemplate=f"{setting}<br>%{{x}} {title}<br>{SHARE}<extra></extra>",
            row=1,
            col=column,
        )


def _add_rest(figure: go.Figure, rest: float, xs: Sequence[int], column: int) -> None:
    share = style.rounded(100 * rest)
    figure.add_scatter(
        x=[0, max(xs, default=1)],
        y=[share, share],
        mode="lines",
        line={"color": style.OTHER, "dash": "dash"},
        name="all that no recipe changes",
        legendgroup="rest",
        showlegend=column == 1,
        hovertemplate="embeddings, pooler, head<br>%{y:.3f} % of the base's pass<extra></extra>",
        row=1,
        col=column,
    )
