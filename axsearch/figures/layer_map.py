"""What each front member keeps of each layer."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go

from axsearch.measurement import Measurement


def layer_map(front: Sequence[Measurement], baseline: Measurement) -> go.Figure:
    """A heat map: a row for each front member, a column for each layer and approximation.

    Colour is the share of the base's units kept, none for a setting; the number in a cell is the
    units kept, or the k of top-k attention.
    """
    columns = [
        (layer, name)
        for layer, choices in baseline.choices.items()
        for name in choices
        if any(m.choices[layer][name] is not None for m in (*front, baseline))
    ]

    def share(member: Measurement, layer: str, name: str) -> float | None:
        kept, full = member.choices[layer][name], baseline.choices[layer][name]
        return None if kept is None or full is None else kept / full  # a k is no share

    figure = go.Figure(
        go.Heatmap(
            x=[f"{layer}.{name}" for layer, name in columns],
            y=[f"trial {m.trial}" for m in front],
            z=[[share(m, *column) for column in columns] for m in front],
            text=[
                ["all" if m.choices[la][n] is None else str(m.choices[la][n]) for la, n in columns]
                for m in front
            ],
            texttemplate="%{text}",
            hovertemplate="%{y}, %{x}: %{text}<extra></extra>",
            colorscale="Cividis",
            zmin=0,
            zmax=1,
            colorbar={"title": "share kept"},
        )
    )
    figure.update_layout(
        title="What the front keeps of each layer",
        template="plotly_white",
        height=220 + 24 * len(front),
        yaxis={"autorange": "reversed"},
    )
    return figure
