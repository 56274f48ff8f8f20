"""The contract of a sampler, and what several of them share."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState

from axsearch.space.problem import Problem
from axsearch.space.recipe import Compensation
from axsearch.store.attributes import INTERRUPTED_ATTR


@dataclass(frozen=True)
class Sampler:
    """A sampler as a search sees it: how it is built, and what is done differently for it.

    Attributes:
        build: makes Optuna's sampler from a problem and the study's seed.
        approximations: those that its space must be made of; None if it takes any.
        needs_exact_losses: whether it compares losses, so that every trial must be evaluated on
            all examples and in float32.
        needs_calibration: whether it needs importance orders and damage, and a space without the
            levels that are no faster than a more exact one.
        greedy: whether it walks from the base, one step a trial: there is no warm start then, and
            models above a limit are evaluated, since the walk may lead through them.
        default_compensation: that of a search that names none, where the model can have it, see
            :func:`axsearch.models.weights.choose_compensation`.
        options: the settings that are for this sampler, by name; each check is called with the
            value and raises UsageError if it cannot be used.
    """

    build: Callable[[Problem, int], BaseSampler]
    approximations: tuple[str, ...] | None = None
    needs_exact_losses: bool = False
    needs_calibration: bool = True
    greedy: bool = False
    default_compensation: Compensation = "sequential"
    options: Mapping[str, Callable[[Any], None]] = field(default_factory=dict)


@runtime_checkable
class Finite(Protocol):
    """A sampler that at some point has nothing left to propose."""

    def finished(self, study: optuna.Study) -> bool:
        """Whether every trial that it would propose is complete."""
        ...


def interrupted(trial: FrozenTrial) -> bool:
    """Whether a trial was stopped by a signal or lost, and so says nothing about its recipe."""
    return trial.state == TrialState.FAIL and INTERRUPTED_ATTR in trial.user_attrs


def turn(trials: Sequence[FrozenTrial], trial: FrozenTrial) -> int:
    """How many of a study's trials began before this one, interrupted ones left out.

    What a trial draws must not depend on how often the study was stopped.
    """
    return sum(other.number < trial.number and not interrupted(other) for other in trials)


class GenomeSampler(BaseSampler):
    """A sampler that proposes a genome as a whole, in ``sample_relative``.

    Args:
        problem: what is known before the first trial.
    """

    def __init__(self, problem: Problem) -> None:
        self.problem = problem

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """The whole space."""
        return dict(self.problem.space.distributions())

    def sample_independent(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """Exact, for a parameter outside the space, or one that an enqueued trial leaves open."""
        return getattr(param_distribution, "low", 0)


class PerTrial(BaseSampler):
    """One of Optuna's samplers, made for each trial with a seed of its own.

    Optuna's samplers draw from a stream that lives in the process: a resumed study repeats its
    draws, or draws what an uninterrupted one would not have drawn. Here the draws of a trial depend
    only on the seed and the trials before it.

    Args:
        make: makes the sampler from a seed.
        seed: of the study.
    """

    def __init__(self, make: Callable[[int], BaseSampler], seed: int) -> None:
        self._make = make
        self._seed = seed
        self._made: dict[int, BaseSampler] = {}

    def _of(self, study: optuna.Study, trial: FrozenTrial) -> BaseSampler:
        if trial.number not in self._made:
            key = (self._seed, turn(study.get_trials(deepcopy=False), trial))
            seed = np.random.SeedSequence(key).generate_state(1)[0]
            with warnings.catch_warnings():  # some of Optuna's arguments are "experimental"
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                self._made[trial.number] = self._make(int(seed))
        return self._made[trial.number]

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """The search space of the sampler."""
        return self._of(study, trial).infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """The sampler's draw for all parameters together."""
        return self._of(study, trial).sample_relative(study, trial, search_space)

    def sample_independent(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """The sampler's draw for one parameter."""
        return self._of(study, trial).sample_independent(
            study, trial, param_name, param_distribution
        )

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """Passed on."""
        self._of(study, trial).before_trial(study, trial)

    def after_trial(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        state: TrialState,
        values: Sequence[float] | None,
    ) -> None:
        """Passed on to the trial's sampler, which is then dropped."""
        self._of(study, trial).after_trial(study, trial, state, values)
        del self._made[trial.number]


def finished(sampler: BaseSampler, study: optuna.Study) -> bool:
    """Whether a sampler has nothing left to propose; most never come to an end."""
    return isinstance(sampler, Finite) and sampler.finished(study)
