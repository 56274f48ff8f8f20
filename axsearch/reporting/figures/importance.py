"""The importance of heads, by which the search removes them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import plotly.graph_objects as go

from axsearch.reporting.figures import style
from axsearch.reporting.figures.data import StudyData

ORDER = 90
TITLE = "Importance of each head"
NO_SCORES = (
    "This study has no importance scores; `axsearch search` measures them before its trials."
)
DECADES = 3
"""The colour scale extends this many powers of ten below the greatest score."""

MOST_LABELLED = 400
"""Most cells in which the rank is readable."""


def of_study(data: StudyData) -> list[go.Figure]:
    """The study's importance scores."""
    if not any(len(scores) for scores in data.importance.values()):
        return [style.nothing(TITLE, NO_SCORES)]
    return [importance_figure(data.importance)]


def importance_figure(scores: Mapping[str, Sequence[float]]) -> go.Figure:
    """A heat map: a row for each layer, a column for each head; the number is the head's rank.

    Colour is the score as a share of the model's greatest, on a log scale, since scores of one
    model differ by powers of ten. Rank 1 has the lowest score of its layer.

    Args:
        scores: of the heads of each layer, by ``layer00``; the higher, the more important.
    """
    layers = sorted(scores)
    width = max(len(scores[layer]) for layer in layers)
    greatest = max((s for own in scores.values() for s in own if math.isfinite(s)), default=0.0)
    rows = [[*scores[layer], *[None] * (width - len(scores[layer]))] for layer in layers]
    ranks = [_ranks(scores[layer]) + [""] * (width - len(scores[layer])) for layer in layers]
    figure = go.Figure()
    figure.add_heatmap(
        x=[str(head) for head in range(width)],
        y=[style.layer_number(layer) for layer in layers],
        z=[[_colour(score, greatest) for score in row] for row in rows],
        text=ranks,
        texttemplate="%{text}" if width * len(layers) <= MOST_LABELLED else None,
        customdata=[
            [[style.rounded(score), len(scores[layer])] for score in row]
            for layer, row in zip(layers, rows, strict=True)
        ],
        hovertemplate="layer %{y}, head %{x}<br>score %{customdata[0]}<br>rank %{text} of "
        "%{customdata[1]} in its layer (1 has the lowest score)<extra></extra>",
        coloraxis="coloraxis",
        hoverongaps=False,
        xgap=1,
        ygap=1,
    )
    figure.update_xaxes(type="category", showgrid=False, title={"text": "head"})
    figure.update_yaxes(
        type="category", showgrid=False, title={"text": "layer"}, autorange="reversed"
    )
    style.lay_out(
        figure,
        TITLE,
        subtitle="The number is the rank within the layer; 1 has the lowest score.",
        height=250 + 24 * len(layers),
    )
    return style.with_colour_bar(
        figure,
        "share of the greatest score, log scale",
        cmin=-DECADES,
        cmax=0,
        colorbar={
            "tickvals": list(range(-DECADES, 1)),
            "ticktext": ["≤ 0.1 %", "1 %", "10 %", "100 %"],
        },
    )


def _ranks(scores: Sequence[float]) -> list[str]:
    order = sorted(range(len(scores)), key=lambda head: scores[head])
    return [str(order.index(head) + 1) for head in range(len(scores))]


def _colour(score: float | None, greatest: float) -> float | None:
    """The power of ten of a score's share of the greatest; the lowest colour for zero."""
    if score is None or not math.isfinite(score):
        return None
    share = score / greatest if greatest > 0 else 0.0
    return style.rounded(math.log10(max(share, 10.0**-DECADES)))
