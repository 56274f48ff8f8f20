"""AxFormer's greedy search: one change after the other, each kept or rejected for good."""

from __future__ import annotations

import contextlib
import math
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState

from axsearch.approximations.ffn_mask.choice import FfnMask
from axsearch.approximations.head_mask.choice import HeadMask
from axsearch.approximations.topk_hard.choice import HardTopKAttention
from axsearch.errors import UsageError
from axsearch.samplers.base import GenomeSampler, Sampler
from axsearch.space.genome import Dimension, SearchSpace
from axsearch.space.problem import Problem
from axsearch.store.attributes import MEAN_LOSS_ATTR, NOT_WORSE_ATTR, STOPPED_ATTR

APPROXIMATIONS = (HeadMask.name, FfnMask.name, HardTopKAttention.name)
"""The approximations that the space must be made of."""

HARD_K = 30
"""The paper's K of selective hard attention."""

NEAR = 1.1
"""A rejected block is tried part by part if its loss is below this multiple of the bound."""


class Result(NamedTuple):
    """What a trial measured on the search split: two of its user attributes.

    ``not_worse`` is the share of the examples whose loss is not above the base's.
    """

    mean_loss: float
    not_worse: float


@dataclass(frozen=True)
class Change:
    """Levels to set together, and the smaller changes to try if they are nearly good enough."""

    levels: Mapping[str, int]
    parts: tuple[Change, ...] = ()


@dataclass(frozen=True)
class Step:
    """A change that was tried: its genome and its result.

    ``result`` is None for the step whose genome is still to be measured, the last one then.
    """

    change: Change
    genome: Mapping[str, int]
    result: Result | None
    kept: bool


class Rule:
    """Whether a change is kept.

    Args:
        base: the base's mean loss.
        epsilon: None for the accuracy-driven form, the tolerance of the speed-focused one.

    Attributes:
        bound: the bound on the mean loss of a change. In the accuracy-driven form it is the loss of
            the last kept change, and the next one must be strictly below it; in the speed-focused
            form it is ``(1 + epsilon) * base``, and no change may be above it.
    """

    def __init__(self, base: float, epsilon: float | None) -> None:
        self.focused = epsilon is not None
        self.bound = base * (1 + (epsilon or 0.0))

    def keeps(self, result: Result) -> bool:
        """Decide on a change; a kept one sets the bound of the accuracy-driven form."""
        if self.focused:
            return result.mean_loss <= self.bound
        kept = result.mean_loss < self.bound and result.not_worse > 0.5
        if kept:
            self.bound = result.mean_loss
        return kept

    def near(self, result: Result) -> bool:
        """Whether a rejected block is worth trying part by part."""
        return result.mean_loss < NEAR * self.bound


def changes(space: SearchSpace) -> tuple[Change, ...]:
    """The changes in the order in which they are tried.

    Selective hard attention comes first, from the bottom layer to the top one; then the blocks are
    removed, from the top layer to the bottom one, the FFN before the attention. Kinds and layers
    that the space lacks are left out.
    """
    layers = sorted({d.sites[0].id.layer for d in space.dimensions})
    hard = [
        Change({d.name: d.levels.index(HARD_K)})
        for layer in layers
        for d in _of(space, layer, HardTopKAttention.name)
        if HARD_K in d.levels
    ]
    blocks = [
        Change(dict.fromkeys((d.name for d in parts), 1), tuple(Change({d.name: 1}) for d in parts))
        for layer in reversed(layers)
        for name in (FfnMask.name, HeadMask.name)
        if (parts := _of(space, layer, name))
    ]
    return (*hard, *blocks)


def steps(problem: Problem, results: Mapping[tuple[int, ...], Result]) -> Iterator[Step]:
    """Walk through the greedy (AxFormer, arXiv 2010.03688, section on accuracy-driven pruning).

    The first step is the base. Nothing is undone: a kept change stays, a rejected one is not tried
    again. A block that is rejected although its loss is below 1.1 times the bound of its form (see
    :class:`Rule`) is tried part by part, in the order of the parts.

    Args:
        problem: the space and epsilon.
        results: of measured genomes, by genome as a row of levels in the order of the dimensions.
            The walk ends at the first genome that is not among them.
    """
    current: Mapping[str, int] = problem.space.exact()
    base = results.get(tuple(current.values()))
    yield Step(Change({}), current, base, kept=True)
    if base is None:
        return
    rule = Rule(base.mean_loss, problem.epsilon)
    pending = deque(changes(problem.space))
    while pending:
        change = pending.popleft()
        genome = {**current, **change.levels}
        result = results.get(tuple(genome.values()))
        kept = result is not None and rule.keeps(result)
        yield Step(change, genome, result, kept)
        if result is None:
            return
        if kept:
            current = genome
        elif rule.near(result):
            pending.extendleft(reversed(change.parts))


class AxFormerSampler(GenomeSampler):
    """Proposes the steps of AxFormer's greedy search as trials, one after the other.

    It holds no state: each time it walks through the study's complete trials again, so a study that
    was stopped continues where it was, and trials that failed, were pruned, are running or are not
    steps of the search do no harm. A step whose genome was measured before is not measured again.
    Each step waits for the one before it: trials that run at the same time are the same.

    The worker must set the user attributes ``mean_loss`` and ``not_worse`` of a trial before the
    trial is complete.

    Raises:
        UsageError: the space has nothing that the greedy search could change.
    """

    def __init__(self, problem: Problem) -> None:
        if not changes(problem.space):
            raise UsageError(
                f"The axformer sampler needs `approximations={','.join(APPROXIMATIONS)}`."
            )
        super().__init__(problem)

    def trace(self, study: optuna.Study) -> list[Step]:
        """The steps so far; if the last one has no result, it is to be tried next."""
        return list(steps(self.problem, self._results(study)))

    def finished(self, study: optuna.Study) -> bool:
        """Whether every step was made."""
        return self.trace(study)[-1].result is not None

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """The genome of the next step; at the end, the one that the search arrived at."""
        walked = self.trace(study)
        step = walked[-1]
        if step.result is not None:
            step = next(step for step in reversed(walked) if step.kept)
        return {name: step.genome[name] for name in search_space}

    def after_trial(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        state: TrialState,
        values: Sequence[float] | None,
    ) -> None:
        """Stop ``study.optimize`` after the last step."""
        if state != TrialState.COMPLETE:
            return
        results = self._results(study)  # without this trial, whose state is not stored yet
        row = self._row(trial)
        if row is not None:
            # A trial without its losses would be proposed for ever: KeyError.
            results.setdefault(row, _result(trial.user_attrs))
        if list(steps(self.problem, results))[-1].result is not None:
            with contextlib.suppress(RuntimeError):  # asked and told: there is nothing to stop
                study.stop()

    def _results(self, study: optuna.Study) -> dict[tuple[int, ...], Result]:
        found: dict[tuple[int, ...], Result] = {}
        for trial in study.get_trials(deepcopy=False):
            row = self._row(trial)
            if row is not None and STOPPED_ATTR in trial.user_attrs:  # numbers that overflowed
                found.setdefault(row, Result(math.inf, 0.0))
            if trial.state != TrialState.COMPLETE:
                continue
            # The study may have trials that were made for another sampler, without losses. Of equal
            # ones the first counts, or a repeated trial could change a decision.
            if row is not None and {MEAN_LOSS_ATTR, NOT_WORSE_ATTR} <= trial.user_attrs.keys():
                found.setdefault(row, _result(trial.user_attrs))
        return found

    def _row(self, trial: FrozenTrial) -> tuple[int, ...] | None:
        names = [d.name for d in self.problem.space.dimensions]
        if not trial.params.keys() >= set(names):
            return None
        return tuple(trial.params[name] for name in names)


def build(problem: Problem, seed: int) -> BaseSampler:
    """Nothing is drawn: the seed does not matter."""
    return AxFormerSampler(problem)


def _check_epsilon(epsilon: float) -> None:
    if not 0 <= epsilon < math.inf:
        raise UsageError(f"`epsilon` must be a number from 0 up, not {epsilon}.")


SAMPLER = Sampler(
    build,
    approximations=APPROXIMATIONS,
    needs_exact_losses=True,
    needs_calibration=False,
    greedy=True,
    default_compensation="none",
    options={"epsilon": _check_epsilon},
)


def _of(space: SearchSpace, layer: int, name: str) -> list[Dimension]:
    found = [
        d for d in space.dimensions if d.approximation.name == name and d.sites[0].id.layer == layer
    ]
    return sorted(found, key=lambda d: d.part)


def _result(attrs: Mapping[str, Any]) -> Result:
    return Result(float(attrs[MEAN_LOSS_ATTR]), float(attrs[NOT_WORSE_ATTR]))
