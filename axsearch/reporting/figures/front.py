"""The Pareto front in one projection: accuracy against one cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import plotly.graph_objects as go

from axsearch.reporting.figures import style
from axsearch.reporting.figures.data import Point, StudyData
from axsearch.statistics import pareto
from axsearch.statistics.measurement import Measurement

ORDER = 10

Cost = Literal["latency", "size"]


def of_study(data: StudyData) -> list[go.Figure]:
    """One figure for each cost of the study; accuracy by trial if it has none."""
    costs: tuple[Cost | None, ...] = data.costs or (None,)
    if data.baseline is None or not data.points:
        return [style.nothing(_title(data.metric, cost), style.NO_TRIALS) for cost in costs]
    return [
        front_figure(
            data.points,
            data.front,
            data.baseline,
            cost=cost,
            metric=data.metric,
            ties=data.ties,
            limits=data.limits,
        )
        for cost in costs
    ]


def front_figure(
    points: Sequence[Point],
    front: Sequence[Measurement],
    baseline: Measurement,
    *,
    cost: Cost | None,
    metric: str,
    ties: Sequence[Sequence[int]] = (),
    limits: Mapping[str, float] | None = None,
) -> go.Figure:
    """Accuracy against one cost: all models, the front with 95 % intervals, and the base.

    The front is that of all objectives, so in one projection members may lie behind others; the
    staircase goes through those that do not. Members with the same letter are not told apart in
    accuracy.

    Args:
        points: all evaluated models; those on the front, and the base, are drawn as such.
        front: its members.
        baseline: the base.
        cost: of the horizontal axis, relative to the base; None for the trial's number instead.
        metric: the accuracy metric.
        ties: groups of members, by trial; they may overlap.
        limits: ``max_drop`` and ``max_<cost>_ratio``; the region within them is shaded.
    """
    members = [m for m in front if _place(m, cost) is not None]
    drawn = {m.trial for m in (*members, baseline)}
    others = [(x, p) for p in points if p.trial not in drawn and (x := _at(p, cost)) is not None]
    at = [float(_place(m, cost) or 0) for m in members]
    base_at = 1.0 if cost is not None else float(baseline.trial or 0)
    limits = limits or {}
    floor = baseline.accuracy - limits["max_drop"] if "max_drop" in limits else None
    edge = limits.get(f"max_{cost}_ratio")
    heights = [p.accuracy for _, p in others]
    heights += [h for m in (*members, baseline) for h in (m.accuracy_low, m.accuracy_high)]
    xs = style.padded([base_at, *at, *(x for x, _ in others), *([] if edge is None else [edge])])
    ys = style.padded([*heights, *([] if floor is None else [floor])])

    figure = go.Figure()
    if floor is not None or edge is not None:
        _add_region(figure, xs, ys, floor=floor, edge=edge, metric=metric, cost=cost)
    _add_others(figure, others, metric, cost)
    if cost is not None:
        _add_staircase(figure, at, members)
    _add_front(figure, at, members, metric, cost, ties)
    figure.add_scatter(
        x=[base_at],
        y=[style.rounded(baseline.accuracy)],
        mode="markers",
        name="base",
        marker={"color": style.BASE, "size": 14, "symbol": "star"},
        hovertemplate=f"base<br>{style.in_words(metric)} %{{y:.4f}}<extra></extra>",
    )
    return style.lay_out(
        figure,
        _title(metric, cost),
        height=520,
        xaxis={"title": {"text": _cost_title(cost)}, "range": xs},
        yaxis={"title": {"text": f"{style.in_words(metric)}, search split"}, "range": ys},
    )


def _title(metric: str, cost: Cost | None) -> str:
    name = style.capitalised(style.in_words(metric))
    return f"{name} by trial" if cost is None else f"{name} against {cost}"


def _cost_title(cost: Cost | None) -> str:
    return "trial" if cost is None else f"{cost}, relative to the base"


def _place(member: Measurement, cost: Cost | None) -> float | None:
    if cost is None:
        return member.trial
    return member.latency_ratio if cost == "latency" else member.size_ratio


def _at(point: Point, cost: Cost | None) -> float | None:
    return point.trial if cost is None else point.cost(cost)


def _add_region(
    figure: go.Figure,
    xs: Sequence[float],
    ys: Sequence[float],
    *,
    floor: float | None,
    edge: float | None,
    metric: str,
    cost: Cost | None,
) -> None:
    """Shade the region within the limits of the two axes."""
    said = []
    if floor is not None:
        said.append(f"{style.in_words(metric)} ≥ {floor:.4g}")
    if edge is not None:
        said.append(f"{cost} ≤ {edge:.4g}")
    left, right = xs[0], style.rounded(xs[1] if edge is None else edge)
    low, top = style.rounded(ys[0] if floor is None else floor), ys[1]
    figure.add_scatter(
        x=[left, right, right, left, left],
        y=[low, low, top, top, low],
        mode="lines",
        line={"color": style.GREEN, "width": 1, "dash": "dot"},
        fill="toself",
        fillcolor=style.REGION,
        name=f"feasible: {', '.join(said)}",
        hoverinfo="skip",
    )


def _add_others(
    figure: go.Figure, others: Sequence[tuple[float, Point]], metric: str, cost: Cost | None
) -> None:
    """Models that are not on the front; those that break a limit have another marker."""
    shown = [others[i] for i in style.evenly(len(others), style.MOST_POINTS)]
    crowd = len(shown) > style.CROWD
    looks = ((True, "other models", "circle"), (False, "over a limit", "x-thin-open"))
    for feasible, name, symbol in looks:
        of = sum(p.feasible is feasible for _, p in others)
        own = [(x, p) for x, p in shown if p.feasible is feasible]
        if not own:
            continue
        words = "trial %{customdata}<br>" + f"{style.in_words(metric)} %{{y:.4f}}"
        if cost is not None:
            words += f"<br>{cost} %{{x:.3f}} of the base, as searched"
        figure.add_scatter(
            x=style.all_rounded(x for x, _ in own),
            y=style.all_rounded(p.accuracy for _, p in own),
            mode="markers",
            name=name if len(own) == of else f"{name} ({len(own):,} of {of:,})",
            marker={
                "color": style.OTHER,
                "symbol": symbol,
                "size": 4 if crowd else 6,
                "opacity": 0.5 if crowd else 0.75,
            },
            customdata=[p.trial for _, p in own],
            hovertemplate=f"{words}<extra>{name}</extra>",
        )


def _add_staircase(figure: go.Figure, at: Sequence[float], members: Sequence[Measurement]) -> None:
    """The best accuracy of any member at each cost or below."""
    kept = pareto.front([(x, -m.accuracy) for x, m in zip(at, members, strict=True)])
    steps = sorted((at[i], members[i].accuracy) for i in kept)
    figure.add_scatter(
        x=style.all_rounded(x for x, _ in steps),
        y=style.all_rounded(y for _, y in steps),
        mode="lines",
        line={"color": style.FRONT, "width": 1, "shape": "hv"},
        name="best at this cost",
        hoverinfo="skip",
    )


def _add_front(
    figure: go.Figure,
    at: Sequence[float],
    members: Sequence[Measurement],
    metric: str,
    cost: Cost | None,
    ties: Sequence[Sequence[int]],
) -> None:
    letters = pareto.tie_letters(ties)
    first = {t: i for i, group in reversed(list(enumerate(ties))) for t in group if t in letters}
    groups = [None if m.trial is None else first.get(m.trial) for m in members]
    words = f"trial %{{customdata[0]}}<br>{style.in_words(metric)} %{{y:.4f}}"
    words += " (95 % interval %{customdata[1]} to %{customdata[2]})"
    if cost is not None:
        words += f"<br>{cost} %{{x:.3f}} of the base%{{customdata[4]}}"
    figure.add_scatter(
        x=style.all_rounded(at),
        y=style.all_rounded(m.accuracy for m in members),
        mode="markers+text" if len(members) <= style.MOST_NAMED else "markers",
        name="front, 95 % intervals" + ("; same letter: not told apart" if letters else ""),
        marker={
            "color": [_cycled(style.PALETTE, g) for g in groups],
            "symbol": [_cycled(style.SYMBOLS, g) for g in groups],
            "size": 10,
        },
        text=[f"{m.trial} {letters.get(m.trial or 0, '')}".strip() for m in members],
        textposition=["top right" if i % 2 else "bottom right" for i in range(len(members))],
        textfont={"color": style.TEXT},
        cliponaxis=False,
        error_y={
            "type": "data",
            "symmetric": False,
            "array": style.all_rounded(max(m.accuracy_high - m.accuracy, 0) for m in members),
            "arrayminus": style.all_rounded(max(m.accuracy - m.accuracy_low, 0) for m in members),
            "color": style.OTHER,
            "thickness": 1,
            "width": 3,
        },
        customdata=[
            [
                m.trial,
                style.rounded(m.accuracy_low),
                style.rounded(m.accuracy_high),
                _tied_with(m.trial, ties),
                ", measured" if cost == "latency" and m.latency_measured else "",
            ]
            for m in members
        ],
        hovertemplate=f"{words}<br>%{{customdata[3]}}<extra>front</extra>",
    )


def _cycled(of: Sequence[str], group: int | None) -> str:
    """The first marker for a member without ties, so that it does not look like a group."""
    return of[0] if group is None else of[1 + group % (len(of) - 1)]


def _tied_with(trial: int | None, ties: Sequence[Sequence[int]]) -> str:
    said = [
        f"{pareto.letter(i)}: not told apart from {', '.join(str(t) for t in group if t != trial)}"
        for i, group in enumerate(ties)
        if trial in group and len(set(group)) > 1
    ]
    return "<br>".join(said) or "told apart from all others"
