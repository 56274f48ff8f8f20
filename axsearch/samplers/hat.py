"""HAT's evolutionary search, under limits on the costs that are known before a trial.

Wang et al., "HAT: Hardware-Aware Transformers for Efficient Natural Language Processing" (2020,
arXiv 2005.14187), section "Evolutionary Search for SubTransformer" and the settings of its
experiments.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from axsearch.samplers.base import GenomeSampler, Sampler, interrupted, turn
from axsearch.space.problem import Genomes, Problem
from axsearch.store.attributes import FIXED_ATTR, GENERATION_ATTR
from axsearch.store.optuna_internals import elite, id_of_study, set_system_attr, storage_of

POPULATION = 125
"""Members of generation 0: those of the warm start and, for the rest, random ones."""
PARENTS = 25
"""How many of the best are parents; they stay in the population."""
MUTANTS = 50
"""Mutants a generation."""
CROSSOVERS = 50
"""Crossovers a generation."""
MUTATION = 0.3
"""The probability that a mutant's gene is drawn again."""

# Candidates drawn at once, the next number if none fits: most fit at once, so most cost little.
_DRAWS = (8, 64, 512)
# A space of at most this size is searched exhaustively where chance finds nothing new.
_SMALL = 4096

_Row = tuple[int, ...]


def build(problem: Problem, seed: int) -> BaseSampler:
    """HAT's search with the paper's settings."""
    return HatSampler(problem, seed)


SAMPLER = Sampler(build)


class HatSampler(GenomeSampler):
    """HAT's evolutionary search (arXiv 2005.14187, "Evolutionary Search for SubTransformer").

    Generation 0 has 125 members: the trials that others put into the study, and random genomes.
    Each later one has 25 parents, the best of all before it, and 100 new trials, alternately
    mutants and crossovers of the parents. A genome that breaks a limit on a known cost, or that the
    study already has, is rejected before it is evaluated.

    HAT has one objective, the loss, under a limit on latency. Where a study has several, the best
    are those of the lowest non-dominated rank, and of these the least crowded; trials that break a
    constraint come last, by how far they break it.

    Everything follows from the seed, the trial's number and the trials in the study, so that a
    study can be stopped and continued.
    """

    def __init__(self, problem: Problem, seed: int) -> None:
        super().__init__(problem)
        self._seed = seed
        self._names = [d.name for d in problem.space.dimensions]
        self._bred: tuple[Any, Genomes] | None = None

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """The next member of the latest generation, or the first of a new one."""
        if FIXED_ATTR in trial.system_attrs:
            return {}  # a genome that was enqueued, if only in part
        others = [t for t in study.get_trials(deepcopy=False) if t.number != trial.number]
        generation, position = _place(others)
        parents = self._parents(study, others, generation)
        # A generator of its own for each trial: none has to be carried over to a resumed study.
        rng = np.random.default_rng((self._seed, turn(others, trial)))
        row = self._propose(rng, parents, position, {self._row(t) for t in others})
        set_system_attr(study, trial, GENERATION_ATTR, generation)
        return self.problem.genome(row)

    def _row(self, trial: FrozenTrial) -> _Row | None:
        # A waiting trial has its genome as fixed parameters only.
        genome = trial.params
        if len(genome) < len(self._names):
            genome = {**trial.system_attrs.get(FIXED_ATTR, {}), **genome}
        try:
            return tuple([genome[name] for name in self._names])
        except KeyError:
            return None

    def _parents(self, study: Study, trials: Sequence[FrozenTrial], generation: int) -> Genomes:
        # HAT's parents stay in the population, so the best of a population are the best so far.
        # Only earlier generations count, so that all of one generation have the same parents.
        complete = [t for t in trials if t.state == TrialState.COMPLETE]
        before = [t for t in complete if t.system_attrs.get(GENERATION_ATTR, 0) < generation]
        key = (storage_of(study), id_of_study(study), generation, len(before))
        if self._bred is None or self._bred[0] != key:
            # A genome that was evaluated twice is one member.
            members = {row: t for t in before if (row := self._row(t)) is not None}
            best = elite(study, list(members.values()), PARENTS)
            rows = [self._row(t) for t in best]
            self._bred = key, np.array(rows, dtype=np.int64).reshape(-1, len(self._names))
        return self._bred[1]

    def _propose(
        self,
        rng: np.random.Generator,
        parents: Genomes,
        position: int,
        seen: set[_Row | None],
    ) -> _Row:
        repeated = None
        for candidates in self._candidates(rng, parents, position):
            for row in _rows(candidates[self.problem.feasible(candidates)]):
                if row not in seen:
                    return row
                repeated = repeated or row
        if repeated is not None:
            return repeated  # costs nothing: results are kept, and all else breaks a limit
        # Nothing keeps the limits.
        some = self._everything if len(self._everything) else self._random(rng, _DRAWS[-1])
        rows = _rows(rng.permutation(some))
        return next((row for row in rows if row not in seen), rows[0])

    def _candidates(
        self, rng: np.random.Generator, parents: Genomes, position: int
    ) -> Iterator[Genomes]:
        """Genomes to choose from, best first; not all of them are feasible or new."""
        if len(parents):
            # By turns, so that a search that stops within a generation has had both.
            mutant = position % 2 == 0 or len(parents) == 1
            for count in _DRAWS:
                if mutant:
                    yield mutants(rng, parents, self.problem.levels, count)
                else:
                    yield crossovers(rng, parents, count)
        for count in _DRAWS[:2]:
            yield self._random(rng, count)
        for _ in range(4):
            yield self._path(rng)
        yield rng.permutation(self._everything)

    def _random(self, rng: np.random.Generator, count: int) -> Genomes:
        return rng.integers(self.problem.levels, size=(count, len(self._names)))

    def _path(self, rng: np.random.Generator) -> Genomes:
        """From a random genome, one level of a random gene at a time, to the cheapest.

        Its end at least is feasible, however tight the limit, if the cheapest genome is.
        """
        start = self._random(rng, 1)
        away = self._cheapest - start[0]
        genes = rng.permutation(np.repeat(np.arange(len(away)), np.abs(away)))
        steps = np.zeros((len(genes) + 1, len(away)), dtype=np.int64)
        steps[np.arange(len(genes)) + 1, genes] = np.sign(away)[genes]
        path: Genomes = start + steps.cumsum(axis=0)
        return path

    @cached_property
    def _cheapest(self) -> NDArray[np.int64]:
        """The genome of the last levels; if even that breaks a limit, the cheapest that is found.

        Gene by gene: costs add up over layers, so that the layers can descend together.
        """
        problem = self.problem
        row: NDArray[np.int64] = problem.levels - 1
        if problem.feasible(row[None])[0]:
            return row
        limited = [name for name in problem.costs if f"max_{name}_ratio" in problem.limits]
        while True:
            changed = np.repeat(np.arange(len(row)), problem.levels)
            rows = np.tile(row, (len(changed), 1))
            rows[np.arange(len(changed)), changed] = np.concatenate(
                [np.arange(count) for count in problem.levels]
            )
            costs = np.sum([problem.cost(name, rows) for name in limited], axis=0)
            now = costs[(rows == row).all(axis=1)][0]
            better = row.copy()
            for columns in problem.layers.values():
                of_layer = np.flatnonzero(np.isin(changed, columns))
                best = of_layer[np.argmin(costs[of_layer])]
                if costs[best] < now - 1e-12:
                    better[changed[best]] = rows[best, changed[best]]
            if (better == row).all():
                return row
            row = better

    @cached_property
    def _everything(self) -> Genomes:
        """All genomes of a small space, (genomes, dimensions); an empty array for a large one."""
        levels = self.problem.levels.tolist()
        if math.prod(levels) > _SMALL:
            return np.empty((0, len(levels)), dtype=np.int64)
        return np.indices(levels).reshape(len(levels), -1).T


def mutants(
    rng: np.random.Generator, parents: Genomes, levels: NDArray[np.int64], count: int
) -> Genomes:
    """Genomes of random parents, each gene drawn again with HAT's probability of 0.3.

    A gene that is drawn again may come out as it was.
    """
    rows = parents[rng.integers(len(parents), size=count)]
    return np.where(rng.random(rows.shape) < MUTATION, rng.integers(levels, size=rows.shape), rows)


def crossovers(rng: np.random.Generator, parents: Genomes, count: int) -> Genomes:
    """Genomes with each gene from one of two different parents, by the toss of a coin (HAT)."""
    first = rng.integers(len(parents), size=count)
    second = (first + rng.integers(1, len(parents), size=count)) % len(parents)
    coins = rng.random((count, parents.shape[1])) < 0.5
    return np.where(coins, parents[first], parents[second])


def _rows(genomes: Genomes) -> list[_Row]:
    return [tuple(row) for row in genomes.tolist()]


def _place(trials: Sequence[FrozenTrial]) -> tuple[int, int]:
    """The generation of the next trial, and how many its generation already has.

    Trials that others put into the study are of generation 0 once they are complete; of those
    that HAT proposed, failed and running ones count too, or a generation might never end.
    """
    sizes: Counter[int] = Counter()
    for trial in trials:
        generation = trial.system_attrs.get(GENERATION_ATTR)
        if generation is not None and not interrupted(trial):
            sizes[generation] += 1
        elif trial.state == TrialState.COMPLETE:
            sizes[0] += 1
    latest = max(sizes, default=0)
    if sizes[latest] < (MUTANTS + CROSSOVERS if latest else POPULATION):
        return latest, sizes[latest]
    return latest + 1, 0
