"""The common look of the figures: colours, layout, and a figure without data."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

import plotly.graph_objects as go

from axsearch.approximations import named

# Figures have no background of their own, so the same text is read on white paper and on a dark
# page. No grey has 4.5:1 on both; this one has the most on the worse of the two, 4.06:1.
TEXT = "#7e7e7e"
GRID = "rgba(126,126,126,0.25)"
TRANSPARENT = "rgba(0,0,0,0)"
MODEBAR = "rgba(126,126,126,0.5)"

# Okabe and Ito's colours, distinguishable with every kind of colour vision, without black and
# yellow, which vanish on one of the backgrounds. The first four have 3:1 on both.
BLUE, VERMILLION, GREEN, PURPLE = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
ORANGE, SKY = "#E69F00", "#56B4E9"
PALETTE = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY)
FRONT, BASE, OTHER = BLUE, VERMILLION, TEXT
REGION = "rgba(0,158,115,0.13)"
BAND = "rgba(126,126,126,0.2)"

# One more than the colours, so that a pair of both repeats only after all pairs.
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "pentagon", "triangle-down", "hexagram")
DASHES = ("solid", "dash", "dot", "dashdot", "longdash")

SCALE = "Cividis"
# Lines, unlike cells, have nothing around them, and the ends of Cividis vanish on one background.
LINE_SCALE = [[0, BLUE], [1, VERMILLION]]

MOST_POINTS = 2000
"""Most points of one trace; from more, an even sample is drawn."""

CROWD = 300
"""With this many points or more, each is drawn smaller and paler."""

MOST_NAMED = 30
"""Most members of a front whose trials are readable as text; with more, hovering shows them."""

NO_TRIALS = "No model has been evaluated yet; `axsearch search` evaluates models."

COLOUR_BAR = 60
"""Pixels of a colour bar with its title and labels."""

_TITLE_CHARACTERS, _SUBTITLE_CHARACTERS = 42, 56  # what a screen of 390 pixels shows
_AXIS = {
    "gridcolor": GRID,
    "linecolor": TEXT,
    "tickcolor": TEXT,
    "zeroline": False,
    "automargin": True,
    "title": {"standoff": 8, "font": {"size": 12}},
}
_SCENE_AXIS = {
    "gridcolor": TEXT,
    "linecolor": TEXT,
    "showbackground": False,
    "title": {"font": {"size": 11}},
    "tickfont": {"size": 10},
}


def lay_out(
    figure: go.Figure, title: str, *, subtitle: str = "", height: int = 480, **more: Any
) -> go.Figure:
    """Set a figure's title, height in pixels and the common look; ``more`` goes to its layout.

    Plotly does not wrap titles: here they are wrapped for narrow screens, and the top margin grows
    with them.
    """
    lines = textwrap.wrap(title, _TITLE_CHARACTERS)
    smaller = textwrap.wrap(subtitle, _SUBTITLE_CHARACTERS)
    text = "<br>".join(lines)
    if smaller:
        text += f'<br><span style="font-size:12px">{"<br>".join(smaller)}</span>'
    top = 30 + 21 * len(lines) + 17 * len(smaller)
    # Assigned, since an update would be added to plotly's own template, which is 6 kB of JSON.
    scene = dict.fromkeys(("xaxis", "yaxis", "zaxis"), _SCENE_AXIS) if "scene" in more else {}
    figure.layout.template = go.layout.Template(
        layout={"xaxis": _AXIS, "yaxis": _AXIS, "scene": scene}
    )
    figure.update_layout(
        title={
            "text": text,
            "font": {"size": 16},
            "x": 0,
            "xanchor": "left",
            "y": 1,
            "yanchor": "top",
            "pad": {"t": 12, "l": 12},
        },
        font={"color": TEXT, "size": 12},
        paper_bgcolor=TRANSPARENT,
        plot_bgcolor=TRANSPARENT,
        modebar={"bgcolor": TRANSPARENT, "color": MODEBAR, "activecolor": TEXT},
        height=height,
        margin={"t": top, "l": 60, "r": 20, "b": 50},
        legend={
            "orientation": "h",
            "x": 0,
            "xanchor": "left",
            "xref": "container",
            "y": 0,
            "yanchor": "bottom",
            "yref": "container",
        },
    )
    return figure.update_layout(**more)


def nothing(title: str, sentence: str) -> go.Figure:
    """A figure without data: its title, and a sentence that says why."""
    figure = lay_out(go.Figure(), title, height=220).update_layout(margin={"l": 20})
    figure.update_xaxes(visible=False)
    figure.update_yaxes(visible=False)
    return figure.add_annotation(
        text="<br>".join(textwrap.wrap(sentence, _SUBTITLE_CHARACTERS - 8)),
        x=0.5,
        y=0.5,
        xref="paper",
        yref="paper",
        showarrow=False,
        font={"size": 13, "color": TEXT},
    )


def with_colour_bar(
    figure: go.Figure, title: str, *, below: int = 60, legend: int = 0, **more: Any
) -> go.Figure:
    """Add the shared colour scale, its bar being ``below`` pixels under a figure laid out before.

    ``legend`` pixels stay free below it. ``more`` goes to the colour axis, and its ``colorbar`` to
    the bar.
    """
    margin = figure.layout.margin
    bottom = below + COLOUR_BAR + legend
    plot = figure.layout.height - margin.t - bottom
    bar = {
        "title": {"text": title, "side": "top"},
        "orientation": "h",
        "thickness": 12,
        "len": 1.0,
        "x": 0.5,
        "xanchor": "center",
        "y": -below / plot,
        "yanchor": "top",
        "ypad": 0,
        "outlinewidth": 0,
        "tickcolor": TEXT,
    }
    return figure.update_layout(
        margin={"b": bottom},
        coloraxis={"colorscale": SCALE, **more, "colorbar": {**bar, **more.get("colorbar", {})}},
    )


def rounded(value: float | None) -> float | None:
    """The value to five significant digits, for a short JSON; None if it is not a number.

    Example:
        >>> rounded(0.123456789)
        0.12346
    """
    return None if value is None or not math.isfinite(value) else float(f"{value:.5g}")


def all_rounded(values: Iterable[float | None]) -> list[float | None]:
    """Each value to five significant digits."""
    return [rounded(value) for value in values]


def padded(values: Sequence[float], share: float = 0.06) -> list[float]:
    """The range of an axis that shows all values, even if they are all the same."""
    low, high = min(values), max(values)
    margin = (high - low) * share or max(abs(high), 1e-3) * share
    return [float(f"{low - margin:.5g}"), float(f"{high + margin:.5g}")]


def evenly(count: int, most: int) -> list[int]:
    """Indices of an even sample of at most ``most``, with the first and the last."""
    if count <= most:
        return list(range(count))
    return [round(i * (count - 1) / (most - 1)) for i in range(most)]


def in_words(name: str) -> str:
    """The name of a metric or a choice in a title."""
    titles = (one.title for one in named([name]))
    return next(titles, "") or name.replace("_", " ")


def capitalised(text: str) -> str:
    """The text with a capital first letter; a name such as ``F1`` keeps its own capitals."""
    return text[:1].upper() + text[1:]


def layer_number(layer: str) -> str:
    """The name of ``layer03`` in the figures, ``3``."""
    number = layer.removeprefix("layer")
    return str(int(number)) if number.isdecimal() else layer


def fitted(figure: go.Figure, height: int) -> go.Figure:
    """The figure at another height in pixels, its colour bar at the same distance from the plot."""
    layout = figure.layout
    used = layout.margin.t + layout.margin.b
    bar = layout.coloraxis.colorbar
    if bar.y is not None:  # it is given as a share of the plot's height
        bar.y *= (layout.height - used) / (height - used)
    return figure.update_layout(height=height)
