"""The default: candidates from measured damage, chosen by expected hypervolume improvement."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from threading import Lock
from typing import Any

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState

from axsearch.samplers.base import GenomeSampler, Sampler, interrupted, turn
from axsearch.samplers.knapsack import Knapsack
from axsearch.samplers.surrogate import Observations, Surrogate, stacked
from axsearch.space.problem import Floats, Genomes, Problem
from axsearch.statistics import pareto
from axsearch.store.attributes import DIVERGENCE_ATTR, FIXED_ATTR, STOPPED_ATTR

WEIGHTS = 24
"""Genomes of the knapsack a proposal, for weights drawn again each time."""

SWITCHES = 256
"""Level switches a proposal, from members of the front."""

Row = NDArray[np.int64]

RECENT = 8
"""The latest trials, whose layers' outputs are assumed to be cached still."""

STARTING = 0.05
"""The time of an evaluation outside of layers, as a share of the base's pass."""

SOURCES = ("knapsack", "switches")


@dataclass(frozen=True)
class Parts:
    """Which parts of the sampler are at work, for ablations.

    Attributes:
        sources: where candidates come from, some of :data:`SOURCES`.
        correct: whether damage is corrected by what trials have shown.
        process: whether a Gaussian process models the residuals of the curve.
        improve: whether the candidate with the largest expected improvement is proposed, or any.
        thrifty: whether improvement is divided by the cost of evaluating it.
    """

    sources: tuple[str, ...] = SOURCES
    correct: bool = True
    process: bool = True
    improve: bool = True
    thrifty: bool = True


class AutoSampler(GenomeSampler):
    """Proposes the genome that is expected to add most to the hypervolume of the front.

    Latency and size of a genome are known before its model is made, so only accuracy is uncertain;
    :class:`axsearch.samplers.surrogate.Surrogate` predicts it from damage that was measured once
    and from the trials so far. Candidates are the knapsack's genomes on the corrected damage, for
    weights drawn at random, and level switches of front members (one dimension a level or two up,
    another down, or one alone). Of those that are new and within the known limits, it proposes the
    one with the largest expected hypervolume improvement for the cost of its evaluation: layers
    below the first that differs from one of the last eight trials' need not be run again.

    A proposal depends only on the seed and the trials before it: one worker proposes the same
    trials again, and continues after a stop as if there had been none. Several workers avoid the
    genomes that the others are running.

    Args:
        problem: what is known before the first trial; needs damage and at least one cost.
        seed: of the candidates.
        parts: which parts are at work.
    """

    def __init__(self, problem: Problem, seed: int, parts: Parts = Parts()) -> None:
        super().__init__(problem)
        self.seed = seed
        self.parts = parts
        self._read: dict[int, tuple[Row, float, float, float]] = {}
        self._lock = Lock()
        self._proposed: dict[int, Row] = {}

    def sample_relative(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        search_space: dict[str, BaseDistribution],
    ) -> dict[str, Any]:
        """The next genome."""
        with self._lock:  # or two threads would propose the same
            trials = study.get_trials(deepcopy=False)
            random = np.random.default_rng((self.seed, turn(trials, trial)))
            seen = self._seen(trials)
            taken = {row.tobytes() for row in self._taken(trials, trial.number)}
            row = self.propose(seen, taken, random)
            self._proposed[trial.number] = row
        return self.problem.genome(row)

    def propose(
        self, seen: Observations, taken: Collection[bytes], random: np.random.Generator
    ) -> Row:
        """The next genome as a row, (dimensions,).

        Args:
            seen: the trials with an accuracy.
            taken: the rows, as bytes, that are not to be proposed again.
            random: draws the candidates.
        """
        problem = self.problem
        surrogate = Surrogate(problem, seen, correct=self.parts.correct, process=self.parts.process)
        costs = self._costs(seen.genomes)
        kept = self._allowed(seen, costs)
        points = np.column_stack((-seen.accuracy[kept], costs[kept]))
        members = kept[pareto.front(points)] if len(kept) else kept
        candidates = self._new(self._candidates(seen.genomes[members], surrogate, random), taken)
        if not len(candidates):
            return self._anything(taken, random)
        if not self.parts.improve:
            drawn: Row = candidates[random.integers(len(candidates))]
            return drawn
        mean, spread = surrogate.predict(candidates)
        improvement = pareto.expected_improvement(
            mean,
            spread,
            self._costs(candidates),
            seen.accuracy[members],
            costs[members],
            self.problem.reference(surrogate.curve.high),
        )
        if self.parts.thrifty:
            improvement = improvement / (STARTING + self._left_to_run(candidates, seen.genomes))
        # None improves where all are beyond doubt below the front.
        best: Row = candidates[np.argmax(improvement if improvement.max() > 0 else mean)]
        return best

    def _left_to_run(self, candidates: Genomes, seen: Genomes) -> Floats:
        """The share of the base's layers that an evaluation must run, (candidates,).

        Layers below the first one that differs from a recent trial's are not run again, see
        :class:`axsearch.evaluation.accuracy.Predictor`; it has room for some recipes only.
        """
        recent = seen[-RECENT:]
        alike = np.ones((len(candidates), len(recent)), bool)
        left = np.zeros(len(candidates))
        name = next(iter(self.problem.costs))
        for layer, columns in self.problem.layers.items():
            if columns == [self.problem.narrowing]:  # it changes no layer but the last
                continue
            own = candidates[:, columns]
            alike &= (own[:, None] == recent[None, :, columns]).all(axis=2)
            left += np.where(alike.any(axis=1), 0.0, self.problem.layer_costs(name, layer, own))
        return left

    def _costs(self, genomes: Genomes) -> Floats:
        names = [name for name in self.problem.objectives if name in self.problem.costs]
        columns = [self.problem.cost(name, genomes) for name in names]
        return np.stack(columns, axis=1) if columns else np.empty((len(genomes), 0))

    def _allowed(self, seen: Observations, costs: Floats) -> NDArray[np.int64]:
        high = seen.accuracy[(seen.genomes == 0).all(axis=1)]
        floor = self.problem.reference(float(high[0])) if len(high) else self.problem.trivial
        allowed = self.problem.feasible(seen.genomes) & (seen.accuracy >= floor - 1e-12)
        allowed &= seen.errors == 0  # a model that is only estimated is not on the front
        return np.flatnonzero(allowed)

    def _seen(self, trials: list[FrozenTrial]) -> Observations:
        """The trials with an accuracy; of one that was stopped, its estimate."""
        place = self.problem.objectives.index("accuracy")
        for trial in trials:
            if trial.number in self._read or not trial.state.is_finished():
                continue
            stopped: Mapping[str, Any] = trial.user_attrs.get(STOPPED_ATTR, {})
            if trial.state == TrialState.COMPLETE:
                value, divergence = trial.values[place], trial.user_attrs.get(DIVERGENCE_ATTR)
                error = 0.0
            else:
                value, divergence = stopped.get("value"), None
                # Ends of a 95 % interval; one that is clipped has been called too narrow.
                error = (stopped.get("high", 0.0) - stopped.get("low", 0.0)) / 3.92 + 1e-3
            if value is not None and self._whole(trial):
                missing = np.nan if divergence is None else divergence
                self._read[trial.number] = (
                    self.problem.array(trial.params), value, missing, error
                )  # fmt: skip
        known = [self._read[trial.number] for trial in trials if trial.number in self._read]
        columns = list(zip(*known, strict=True)) or [(), (), (), ()]
        rows = stacked(columns[0], len(self.problem.levels))
        accuracy, divergence = (np.array(column, float) for column in columns[1:3])
        return Observations(rows, accuracy, divergence, np.array(columns[3], float))

    def _whole(self, trial: FrozenTrial) -> bool:
        return all(d.name in trial.params for d in self.problem.space.dimensions)

    def _taken(self, trials: list[FrozenTrial], number: int) -> list[Row]:
        rows = []
        for trial in trials:
            if trial.number in self._read:
                rows.append(self._read[trial.number][0])
            elif trial.number != number and not interrupted(trial):
                # Of a trial that has only just begun not every parameter is written yet.
                params = {**trial.system_attrs.get(FIXED_ATTR, {}), **trial.params}
                if all(d.name in params for d in self.problem.space.dimensions):
                    rows.append(self.problem.array(params))
                elif trial.number in self._proposed:
                    rows.append(self._proposed[trial.number])
        return rows

    def _candidates(
        self, members: Genomes, surrogate: Surrogate, random: np.random.Generator
    ) -> Genomes:
        found = [np.zeros((1, len(self.problem.levels)), np.int64)]
        if "knapsack" in self.parts.sources:
            costs = len(self.problem.costs)
            weights = np.exp(random.uniform(np.log(1e-4), np.log(1e2), (WEIGHTS, 1)))
            weights = weights * random.dirichlet(np.ones(costs), WEIGHTS)
            found.append(Knapsack(self.problem, surrogate.scale).solve(weights))
        if len(members) and "switches" in self.parts.sources:
            found.append(self._switches(members, random))
        return np.unique(np.concatenate(found), axis=0)

    def _switches(self, members: Genomes, random: np.random.Generator) -> Genomes:
        rows = members[random.integers(len(members), size=SWITCHES)]
        count, dimensions = np.arange(SWITCHES), len(self.problem.levels)
        up, down = random.integers(dimensions, size=(2, SWITCHES))
        steps = random.integers(1, 3, size=(2, SWITCHES))
        alone = random.random(SWITCHES) < 1 / 3
        rows[count, up] += steps[0]
        rows[count, down] -= np.where(alone, 0, steps[1])
        clipped: Genomes = np.clip(rows, 0, self.problem.levels - 1)
        return clipped

    def _new(self, candidates: Genomes, taken: Collection[bytes]) -> Genomes:
        fresh = [row.tobytes() not in taken for row in candidates]
        candidates = candidates[np.array(fresh, dtype=bool)]
        return candidates[self.problem.feasible(candidates)] if len(candidates) else candidates

    def _anything(self, taken: Collection[bytes], random: np.random.Generator) -> Row:
        """A random genome that is new and feasible, or else the best one found."""
        drawn = random.integers(self.problem.levels, size=(1024, len(self.problem.levels)))
        new = self._new(drawn, taken)
        if not len(new):
            costs = [self.problem.cost(name, drawn) for name in self.problem.costs]
            cheapest = drawn[np.argsort(np.sum(costs, axis=0))]
            new = np.array([row for row in cheapest if row.tobytes() not in taken])
        first: Row = new[0] if len(new) else drawn[0]
        return first


def build(problem: Problem, seed: int) -> BaseSampler:
    """The sampler with all its parts."""
    return AutoSampler(problem, seed)


SAMPLER = Sampler(build)
