"""What each front member keeps of each layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from axsearch.approximations import approximations, is_removed
from axsearch.reporting.figures import style
from axsearch.reporting.figures.data import StudyData
from axsearch.statistics.measurement import Measurement

ORDER = 40
TITLE = "What the front keeps of each layer"
MOST_LABELLED = 500
"""Most cells in which the number is readable."""


def of_study(data: StudyData) -> list[go.Figure]:
    """The map of the study's front."""
    if data.baseline is None or not data.front:
        return [style.nothing(TITLE, style.NO_TRIALS)]
    return [layer_map(data.front, data.baseline)]


def layer_map(front: Sequence[Measurement], baseline: Measurement) -> go.Figure:
    """Heat maps, one for each approximation: a row for each front member, a column for each layer.

    Colour is the share of the base's units kept. A setting, such as the k of top-k attention, is
    not a share: its cells have one colour, and are empty if it is not set. Removed layers are
    crossed out.
    """
    names = _names((*front, baseline), baseline)
    layers = _places((*front, baseline), names)
    figure = make_subplots(
        rows=1,
        cols=len(names),
        shared_yaxes=True,
        subplot_titles=[style.in_words(name) for name in names],
        horizontal_spacing=0.03,
    )
    gone = any(removed_layers(m) for m in front)
    labelled = len(front) * len(layers) * len(names) <= MOST_LABELLED
    for column, name in enumerate(names, start=1):
        is_share = any(_kept(baseline, layer, name) is not None for layer in layers)
        cells = _shares(front, baseline, name) if is_share else _settings(front, layers, name)
        if labelled:
            cells["texttemplate"] = "%{text}"
        figure.add_heatmap(
            x=[style.layer_number(layer) for layer in layers],
            y=[str(m.trial) for m in front],
            **cells,
            name=name,
            hoverongaps=False,
            xgap=1,
            ygap=1,
            row=1,
            col=column,
        )
        if is_share:
            _add_crosses(figure, front, column)
    # Without ranges the crosses would add room around the cells.
    figure.update_xaxes(
        type="category",
        showgrid=False,
        title={"text": "layer"},
        range=[-0.5, len(layers) - 0.5],
    )
    figure.update_yaxes(type="category", showgrid=False, range=[len(front) - 0.5, -0.5])
    figure.update_yaxes(title={"text": "trial"}, col=1)
    figure.update_annotations(font={"color": style.TEXT, "size": 13})
    style.lay_out(
        figure, TITLE, height=(225 if gone else 200) + len(front) * (24 if len(front) <= 24 else 14)
    )
    return style.with_colour_bar(
        figure,
        "share of the base's units kept",
        legend=25 if gone else 0,
        cmin=0,
        cmax=1,
        colorbar={"tickformat": ".0%"},
    )


def removed_layers(member: Measurement) -> list[str]:
    """The layers of which a model keeps no block."""
    return [name for name, kept in member.choices.items() if is_removed(kept)]


def _names(models: Sequence[Measurement], baseline: Measurement) -> list[str]:
    """The choices of which a model has a number anywhere, in the base's order."""
    every = dict.fromkeys(name for choices in baseline.choices.values() for name in choices)
    return [
        name
        for name in every
        if not (name in approximations() and approximations()[name].choice_type.lossless)
        and any(_kept(m, layer, name) is not None for m in models for layer in baseline.choices)
    ]


def _places(models: Sequence[Measurement], names: Sequence[str]) -> list[str]:
    """The layers, and other places, where one of these choices has a number in a model."""
    return [
        place
        for place in models[-1].choices
        if any(_kept(m, place, name) is not None for m in models for name in names)
    ]


def _kept(member: Measurement, layer: str, name: str) -> int | None:
    return member.choices[layer].get(name)


def _shares(front: Sequence[Measurement], baseline: Measurement, name: str) -> dict[str, Any]:
    """Cells of units, coloured by the share of the base's units that is kept."""
    full = {layer: _kept(baseline, layer, name) for layer in baseline.choices}
    kept = [[_kept(m, layer, name) for layer in full] for m in front]
    return {
        "z": [
            [
                style.rounded(own / of) if own is not None and of else None
                for own, of in zip(row, full.values(), strict=True)
            ]
            for row in kept
        ],
        "text": [["" if own is None else str(own) for own in row] for row in kept],
        "customdata": [list(full.values()) for _ in front],
        "hovertemplate": f"trial %{{y}}, layer %{{x}}<br>{style.in_words(name)}: %{{text}} of "
        "%{customdata} kept<extra></extra>",
        "coloraxis": "coloraxis",
    }


def _settings(front: Sequence[Measurement], layers: Sequence[str], name: str) -> dict[str, Any]:
    """Cells of a setting: one colour if it is set, empty if not."""
    kept = [[_kept(m, layer, name) for layer in layers] for m in front]
    return {
        "z": [[None if own is None else 1 for own in row] for row in kept],
        "text": [["" if own is None else str(own) for own in row] for row in kept],
        "hovertemplate": f"trial %{{y}}, layer %{{x}}<br>{style.in_words(name)}: %{{text}}"
        "<extra></extra>",
        "colorscale": [[0, style.PURPLE], [1, style.PURPLE]],
        "showscale": False,
    }


def _add_crosses(figure: go.Figure, front: Sequence[Measurement], column: int) -> None:
    crossed = [(layer, m) for m in front for layer in removed_layers(m)]
    if not crossed:
        return
    figure.add_scatter(
        x=[style.layer_number(layer) for layer, _ in crossed],
        y=[str(m.trial) for _, m in crossed],
        mode="markers",
        name="layer removed",
        legendgroup="removed",
        showlegend=column == 1,
        marker={
            "symbol": "x-thin",
            "size": 12 if len(front) <= 24 else 7,
            "line": {"color": style.ORANGE, "width": 2},
        },
        hoverinfo="skip",
        row=1,
        col=column,
    )
