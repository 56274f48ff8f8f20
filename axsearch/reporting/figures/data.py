"""The plain data from which the figures of a study are drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from axsearch.space.latency_table import LatencyTable
from axsearch.statistics.measurement import Measurement
from axsearch.statistics.outcome import Estimate


@dataclass(frozen=True)
class Point:
    """One evaluated model, with the search's numbers; costs are ratios to the base.

    Attributes:
        trial: its number.
        accuracy: the metric on the search split.
        latency: the ratio that the search optimised; None if latency was not an objective.
        size: the ratio of the bytes.
        feasible: whether it is within all limits of the study.
    """

    trial: int
    accuracy: float
    latency: float | None
    size: float
    feasible: bool = True

    def cost(self, name: Literal["latency", "size"]) -> float | None:
        """One of the costs."""
        return self.latency if name == "latency" else self.size


@dataclass(frozen=True)
class TrialTime:
    """When a trial ran, in seconds since the study's first trial began.

    Attributes:
        trial: its number.
        began: when it was claimed.
        ended: when its end was stored.
        evaluating: seconds of these spent evaluating the model; None if it is not known. The rest
            was spent in the sampler and the database.
    """

    trial: int
    began: float
    ended: float
    evaluating: float | None = None


@dataclass(frozen=True)
class StudyData:
    """The data of a study for its figures.

    Attributes:
        name: of the study.
        metric: the accuracy metric.
        objectives: ``accuracy`` and any of ``latency`` and ``size``.
        limits: those of ``max_drop``, ``max_latency_ratio`` and ``max_size_ratio`` that are set.
        reference: the accuracy of the best constant answer; hypervolume counts from there.
        baseline: the base; None if the study has no finished trial.
        points: all evaluated models, by trial.
        front: the members of the front, fastest first.
        ties: groups of members, by trial, whose accuracies cannot be told apart.
        holdout: the metric on the holdout split with its interval, by trial, for models evaluated
            there; the base is among them.
        bias: a sentence about the selection bias; empty if it is not known.
        times: of trials.
        damage: for each parameter of the genome the damage of each of its levels, in nats.
        levels: for each parameter the values of its levels, if they are known.
        latency_table: None if there is none.
        scenario: what latency is measured for, in words.
        importance: scores of the heads of each layer, by ``layer00``.
    """

    name: str
    metric: str
    objectives: tuple[str, ...] = ("accuracy", "latency", "size")
    limits: Mapping[str, float] = field(default_factory=dict)
    reference: float = 0.0
    baseline: Measurement | None = None
    points: Sequence[Point] = ()
    front: Sequence[Measurement] = ()
    ties: Sequence[Sequence[int]] = ()
    holdout: Mapping[int, Estimate] = field(default_factory=dict)
    bias: str = ""
    times: Sequence[TrialTime] = ()
    damage: Mapping[str, Sequence[float]] = field(default_factory=dict)
    levels: Mapping[str, Sequence[int | None]] = field(default_factory=dict)
    latency_table: LatencyTable | None = None
    scenario: str = ""
    importance: Mapping[str, Sequence[float]] = field(default_factory=dict)

    @property
    def costs(self) -> tuple[Literal["latency", "size"], ...]:
        """The costs among the objectives."""
        return tuple(c for c in ("latency", "size") if c in self.objectives)
