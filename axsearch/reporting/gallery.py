"""The figures of a study: from its database to plotly."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Literal

from axsearch.reporting import figures
from axsearch.reporting.figures.data import Point, StudyData, TrialTime
from axsearch.reporting.figures.fronts import fronts_figure
from axsearch.space.recipe import Recipe
from axsearch.statistics.measurement import Measurement
from axsearch.store.queries import LatencyKey, load_ratios
from axsearch.store.studies import TrialHistory, trial_history
from axsearch.study.choosing import ORDERS
from axsearch.study.comparison import Ties, selection_bias, ties
from axsearch.study.rankings import rankings, read_ranking
from axsearch.study.study import Study
from axsearch.study.tables import Tables

if TYPE_CHECKING:
    import plotly.graph_objects as go

PAUSE = timedelta(minutes=1)
"""If no trial runs for longer than this, the study is paused, and its clock stands still."""


def study_figures(study: Study) -> dict[str, list[go.Figure]]:
    """Every figure of a study by the name of its module in :mod:`axsearch.reporting.figures`.

    Example:
        >>> study_figures(Study.open("sqlite:///studies.db", "reviews"))["front"][0].show()
        ... # doctest: +SKIP
    """
    return figures.study_figures(study_data(study))


def study_data(study: Study, tied: Ties | None = None) -> StudyData:
    """The data from which a study's figures are drawn; pass ``tied`` if it is already known."""
    spec, tables = study.spec, Tables(study)
    limits = {
        "max_drop": spec.max_drop,
        "max_latency_ratio": spec.max_latency_ratio,
        "max_size_ratio": spec.max_size_ratio,
    }
    # Of a ranking only its models are known; when trials ran is a matter of the search.
    own = study.searched is study
    history = trial_history(study.database.engine, study.id) if own else []
    front = study.front() if study.has_baseline else []
    baseline = study.baseline if study.has_baseline else None
    tied = tied or (ties(study) if study.has_baseline else None)
    bias = selection_bias(study) if study.has_baseline else None
    return StudyData(
        name=study.name,
        metric=spec.metric,
        objectives=spec.objectives,
        limits={name: limit for name, limit in limits.items() if limit is not None},
        reference=tables.trivial or 0.0,
        baseline=baseline,
        points=_points(study, history),
        front=front,
        ties=tied.groups if tied else (),
        holdout=study.holdout([baseline, *front]) if baseline else {},
        bias=bias.words if bias else "",
        times=_times(history),
        damage=tables.damage,
        levels=tables.levels,
        latency_table=tables.latency,
        scenario=study.scenario or "",
        importance=tables.head_importance,
    )


def _points(study: Study, history: Sequence[TrialHistory]) -> list[Point]:
    if study.searched is study:
        return [
            Point(h.number, h.accuracy, h.latency_ratio, h.size_ratio, bool(h.feasible))
            for h in history
            if h.accuracy is not None and h.size_ratio is not None
        ]
    return [
        Point(m.trial or 0, m.accuracy, m.latency_ratio, m.size_ratio, True)
        for m in study.measurements
    ]


def compare_fronts(studies: Sequence[Study]) -> go.Figure:
    """The fronts of several studies, machines and scenarios in one figure, by accuracy and latency.

    If models or data differ, accuracy is shown as the change from each base. If none of them has a
    latency, the figure is by size.
    """
    found = {name: front for study in studies for name, front in fronts(study).items()}
    judged = {(s.spec.model_fingerprint, s.spec.splits["search"], s.spec.metric) for s in studies}
    metric = " or ".join(sorted({study.spec.metric for study in studies}))
    timed = any(m.latency_ratio is not None for _, front in found.values() for m in front)
    cost: Literal["latency", "size"] = "latency" if timed else "size"
    return fronts_figure(found, cost=cost, metric=metric, change=len(judged) > 1)


def fronts(study: Study) -> dict[str, tuple[Measurement, list[Measurement]]]:
    """A study's base and front, and those of each of its rankings by ``axsearch remeasure``.

    The keys are names for a legend, as :func:`axsearch.reporting.figures.fronts.fronts_figure`
    takes them.
    """
    found = {study.name: (study.baseline, study.front())}
    for name, data in rankings(study).items():
        ranking = read_ranking(study, name, data)
        key = LatencyKey(study.spec.model_fingerprint, ranking.workload, ranking.machine)
        members = [study.trial(number) for number in ranking.trials]
        recipes = [Recipe.from_dict(m.recipe).hash for m in members]
        ratios = load_ratios(study.database.engine, key, recipes)
        timed = [
            m.model_copy(update={"latency_ratio": ratios[recipe], "latency_measured": True})
            for m, recipe in zip(members, recipes, strict=True)
            if recipe in ratios
        ]
        base = study.baseline.model_copy(update={"latency_ratio": 1.0})
        found[f"{study.name}: {name}"] = base, sorted(timed, key=ORDERS["latency"])
    return found


def _times(history: Sequence[TrialHistory]) -> list[TrialTime]:
    """When trials ran, without pauses; trials that were lost or are still running are left out."""
    started = [(h.began, h) for h in history if h.began is not None]
    found: list[TrialTime] = []
    if not started:
        return found
    zero = busy_until = min(began for began, _ in started)
    for began, trial in sorted(started, key=lambda pair: (pair[0], pair[1].number)):
        if began - busy_until > PAUSE:
            zero += began - busy_until
        busy_until = max(busy_until, trial.ended or began)
        if trial.ended is not None:
            times = (began - zero).total_seconds(), (trial.ended - zero).total_seconds()
            found.append(TrialTime(trial.number, *times, trial.seconds))
    return found
