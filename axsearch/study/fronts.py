"""The Pareto front of a study's models."""

from __future__ import annotations

from collections.abc import Sequence

from axsearch.statistics import pareto
from axsearch.statistics.measurement import Measurement
from axsearch.study.spec import OBJECTIVES, StudySpec, limits


def front_of(
    spec: StudySpec, baseline: Measurement, measurements: Sequence[Measurement]
) -> list[Measurement]:
    """The front of these measurements, as :meth:`axsearch.Study.front` returns it for all.

    Models are compared by the accuracies of their polished weights, or, where they were not
    polished, by those that their trials had.
    """
    members = [measurements[i] for i in _front(spec, baseline, measurements)]
    return sorted(members, key=lambda m: (m.latency_ratio or 0.0, m.size_ratio))


def _front(
    spec: StudySpec, baseline: Measurement, measurements: Sequence[Measurement]
) -> list[int]:
    """The positions of the measurements that keep the limits and are on the front."""
    feasible = [
        position
        for position, m in enumerate(measurements)
        if all(excess <= 1e-12 for excess in limits(spec, baseline.accuracy, m).values())
    ]
    objectives = [OBJECTIVES[name] for name in spec.objectives]
    losses = [[objective.loss(measurements[i]) for objective in objectives] for i in feasible]
    return [feasible[i] for i in pareto.front(losses)]
