"""The contract of samplers: the tests that each of them passes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import optuna
import pytest
from numpy.typing import NDArray

from axsearch.approximations.site import ATTENTION, FFN, SiteKind
from axsearch.samplers import build_sampler, samplers
from axsearch.samplers.base import Finite, finished
from axsearch.space.genome import SearchSpace
from axsearch.space.problem import Cost, Problem
from axsearch.space.recipe import Recipe
from axsearch.store.attributes import MEAN_LOSS_ATTR, NOT_WORSE_ATTR
from axsearch.testing.problems import share_of_keys, shares, sites_of

LAYERS = 2
TRIALS = 14
UNITS: dict[SiteKind, int] = {ATTENTION: 4, FFN: 16}


def small_problem(names: Sequence[str] | None = None) -> Problem:
    """Two layers whose costs and damage are known in full; ``names`` are its approximations."""
    sites = sites_of(LAYERS, UNITS)
    orders = {site.id: list(range(site.count)) for site in sites}
    space = SearchSpace(sites, orders, names=names)
    damage: dict[str, NDArray[np.float64]] = {
        d.name: np.linspace(0, 0.01 * (column + 1) * (len(d.levels) - 1), len(d.levels))
        for column, d in enumerate(space.dimensions)
    }
    costs = {"latency": Cost(0.2, _latency), "size": Cost(0.4, _size)}
    return Problem(space, ("accuracy", "latency"), costs, damage)


def _size(recipe: Recipe, layer: int) -> float:
    """0.3 a layer: 0.1 for its heads, 0.2 for its neurons."""
    kept = shares(recipe, layer)
    return 0.1 * kept[0] + 0.2 * kept[1]


def _latency(recipe: Recipe, layer: int) -> float:
    """0.4 a layer; attending to k keys takes its share of the attention's time."""
    return _size(recipe, layer) + 0.1 * share_of_keys(recipe, layer, length=40)


def problem_for(name: str) -> Problem:
    """The space that most samplers share, or the one that a sampler asks for."""
    return small_problem(samplers()[name].approximations)


def sampled(name: str, seed: int, trials: int = TRIALS) -> optuna.Study:
    """A study that a sampler runs on its problem, the exact genome first."""
    problem = problem_for(name)
    space = problem.space
    study = optuna.create_study(
        directions=["maximize", "minimize"], sampler=build_sampler(name, problem, seed)
    )
    study.enqueue_trial(space.exact())

    def objective(trial: optuna.Trial) -> tuple[float, float]:
        genome = {
            name: trial.suggest_int(name, d.low, d.high)
            for name, d in space.distributions().items()
        }
        rows = problem.array(genome)[None, :]
        loss = float(problem.damages(rows).sum())
        trial.set_user_attr(MEAN_LOSS_ATTR, 1 + loss)
        trial.set_user_attr(NOT_WORSE_ATTR, 1 / (1 + loss))
        trial.set_constraint("limit", loss - 0.5)
        return -loss, float(problem.cost("latency", rows)[0])

    assert not finished(study.sampler, study)
    study.optimize(objective, n_trials=trials, callbacks=[stop_where_nothing_is_left])
    assert finished(study.sampler, study) or len(study.trials) == trials
    return study


def stop_where_nothing_is_left(study: optuna.Study, _: optuna.trial.FrozenTrial) -> None:
    """A callback of ``optimize``: what :class:`TrialLoop` does with such a sampler."""
    if finished(study.sampler, study):
        study.stop()


def genomes(study: optuna.Study) -> list[dict[str, int]]:
    """The genomes of a study's trials, in their order."""
    return [trial.params for trial in study.trials]


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
class SamplerContract:
    """The tests of one sampler; a subclass sets its ``name``, by a parameter or a fixture."""

    def test_levels_are_in_range_after_an_enqueued_start(self, name: str) -> None:
        found = genomes(sampled(name, seed=0))
        space = problem_for(name).space
        assert found[0] == space.exact()
        for genome in found:
            assert set(genome) == set(space.exact())
            assert all(0 <= genome[key] <= d.high for key, d in space.distributions().items())
        assert len({tuple(g.values()) for g in found}) > 5

    def test_one_seed_gives_the_same_trials(self, name: str) -> None:
        assert genomes(sampled(name, seed=3)) == genomes(sampled(name, seed=3))

    def test_one_that_can_come_to_an_end_does(self, name: str) -> None:
        if isinstance(build_sampler(name, problem_for(name), seed=0), Finite):
            most = 20 * TRIALS
            assert len(sampled(name, seed=0, trials=most).trials) < most
