"""HAT's evolutionary search: its generations, its parents, and what it never proposes."""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.samplers import BaseSampler
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from axsearch.approximations.choices import Setting
from axsearch.samplers import hat
from axsearch.samplers.hat import HatSampler
from axsearch.space.genome import SearchSpace
from axsearch.space.problem import Cost, Floats, Genomes, Problem
from axsearch.space.recipe import Recipe
from axsearch.store.attributes import GENERATION_ATTR
from axsearch.testing.problems import shares, sites_of

HEADS, NEURONS = 4, 16


def space_of(layers: int, names: tuple[str, ...] | None = None) -> SearchSpace:
    sites = sites_of(layers, {"attention": HEADS, "ffn": NEURONS})
    orders = {site.id: list(range(site.units.count)) for site in sites}
    return SearchSpace(sites, orders, names=names)


def problem_of(
    layers: int = 3,
    names: tuple[str, ...] | None = ("heads", "ffn"),
    topk_is_slow: bool = False,
    **limits: float,
) -> Problem:
    """Latency: 0.1 that stays, and for each layer what is kept of its heads and neurons."""

    def layer(recipe: Recipe, number: int) -> float:
        cost = sum(shares(recipe, number))
        topk = recipe.at(number, "attention").get("topk")
        if topk_is_slow and isinstance(topk, Setting):
            cost *= {32: 1.3, 16: 0.8, 8: 1.2}[topk.value]
        return cost * 0.45 / layers

    return Problem(
        space_of(layers, names),
        ("accuracy", "latency"),
        {"latency": Cost(0.1, layer)},
        limits=limits,
    )


def both(problem: Problem) -> Callable[[optuna.Trial], tuple[float, float]]:
    """An easy accuracy, the later layers mattering more, and the latency that is known."""
    weights = np.linspace(0.2, 1.0, len(problem.levels))

    def objective(trial: optuna.Trial) -> tuple[float, float]:
        row = suggest(trial, problem)
        return accuracy(row, problem, weights), float(problem.cost("latency", row[None])[0])

    return objective


def accuracy(row: Genomes, problem: Problem, weights: Floats) -> float:
    return -float(weights @ (row / (problem.levels - 1)) ** 2)


def loss(problem: Problem) -> Callable[[optuna.Trial], float]:
    """The sum of the levels, the exact genome being the best."""
    return lambda trial: float(suggest(trial, problem).sum())


def suggest(trial: optuna.Trial, problem: Problem) -> Genomes:
    return problem.array(
        {n: trial.suggest_int(n, d.low, d.high) for n, d in problem.space.distributions().items()}
    )


def study_of(sampler: BaseSampler, single: bool = False, **more: Any) -> optuna.Study:
    minimize, maximize = StudyDirection.MINIMIZE, StudyDirection.MAXIMIZE
    directions = [minimize] if single else [maximize, minimize]
    return optuna.create_study(directions=directions, sampler=sampler, **more)


def run(problem: Problem, trials: int, seed: int = 0, single: bool = False) -> optuna.Study:
    study = study_of(hat.build(problem, seed), single)
    study.optimize((loss if single else both)(problem), n_trials=trials)
    return study


def rows(study: optuna.Study, problem: Problem) -> Genomes:
    return np.array([problem.array(t.params) for t in study.get_trials(deepcopy=False)])


def generation(trial: FrozenTrial) -> int | None:
    found: int | None = trial.system_attrs.get(GENERATION_ATTR)
    return found


def generations(study: optuna.Study) -> list[int | None]:
    return [generation(trial) for trial in study.get_trials(deepcopy=False)]


class TestGenerations:
    def test_the_numbers_are_those_of_the_paper(self) -> None:
        assert (hat.POPULATION, hat.PARENTS, hat.MUTANTS, hat.CROSSOVERS) == (125, 25, 50, 50)
        assert hat.MUTATION == 0.3

    def test_125_members_and_then_100_new_ones_each_time(self) -> None:
        found = generations(run(problem_of(), 330))
        assert found == [0] * 125 + [1] * 100 + [2] * 100 + [3] * 5

    def test_the_warm_start_is_of_generation_0_wherever_it_comes(self) -> None:
        problem = problem_of()
        study = study_of(hat.build(problem, 0))
        for level in range(5):
            study.enqueue_trial(dict.fromkeys(problem.space.exact(), level))
        study.optimize(both(problem), n_trials=130)
        assert generations(study) == [None] * 5 + [0] * 120 + [1] * 5
        study.enqueue_trial({"layer00.heads": 3})
        study.optimize(both(problem), n_trials=100)
        assert generations(study)[130:] == [None] + [1] * 95 + [2] * 4
        assert study.trials[130].params == problem.space.exact() | {"layer00.heads": 3}

    def test_a_warm_start_of_a_whole_population_needs_no_random_ones(self) -> None:
        problem = problem_of()
        study = study_of(hat.build(problem, 0))
        for row in itertools.islice(itertools.product(range(3), repeat=6), 130):
            study.enqueue_trial(problem.genome(row))
        study.optimize(both(problem), n_trials=132)
        assert generations(study) == [None] * 130 + [1] * 2

    def test_failed_and_pruned_trials_end_a_generation_but_are_no_parents(self) -> None:
        problem = problem_of()
        study = study_of(hat.build(problem, 0), single=True)

        def objective(trial: optuna.Trial) -> float:
            found = loss(problem)(trial)
            if trial.number % 3 == 0:
                raise ValueError
            if trial.number % 3 == 1:
                raise optuna.TrialPruned
            return found

        study.optimize(objective, n_trials=230, catch=(ValueError,))
        assert generations(study) == [0] * 125 + [1] * 100 + [2] * 5
        complete = study.get_trials(states=(TrialState.COMPLETE,))
        parents = _parents(problem, study, 2)
        assert {tuple(row) for row in parents} <= {tuple(problem.array(t.params)) for t in complete}

    def test_goes_on_at_random_where_all_failed(self) -> None:
        problem = problem_of()
        study = study_of(hat.build(problem, 0))

        def objective(trial: optuna.Trial) -> float:
            suggest(trial, problem)
            raise ValueError

        study.optimize(objective, n_trials=130, catch=(ValueError,))
        assert len(np.unique(rows(study, problem), axis=0)) == 130

    def test_mutants_and_crossovers_by_turns(self) -> None:
        study, problem = run(problem_of(layers=6), 225), problem_of(layers=6)
        parents = _parents(problem, study, 1)

        def crossed(row: Genomes) -> bool:
            pairs = itertools.combinations(parents, 2)
            return any(((row == a) | (row == b)).all() for a, b in pairs)

        offspring = rows(study, problem)[125:]
        assert all(crossed(row) for row in offspring[1::2])
        assert sum(crossed(row) for row in offspring[::2]) < 25


def _parents(problem: Problem, study: optuna.Study, of: int) -> Genomes:
    return HatSampler(problem, 0)._parents(study, study.get_trials(deepcopy=False), of)


class TestParents:
    def test_the_best_25_of_all_generations_before(self) -> None:
        problem = problem_of(layers=6)
        study = run(problem, 330, single=True)
        for of in (1, 2, 3):
            before = [t for t in study.trials if (generation(t) or 0) < of]
            best = sorted(t.value for t in before if t.value is not None)[:25]
            parents = _parents(problem, study, of)
            assert sorted(parents.sum(axis=1)) == best
        assert generations(study)[-1] == 3

    def test_by_rank_and_then_the_least_crowded(self) -> None:
        problem = problem_of()
        study = study_of(hat.build(problem, 0))
        # 20 on the front and 30 on a line behind it, of which five are less crowded: both ends
        # (first and last), and the three before the last, of which no neighbour is near.
        along = [0.0, *np.linspace(1, 9, 25), 14.0, 19.0, 25.0, 30.0]
        points = [(20.0 - x, float(x)) for x in range(20)] + [(130 - x, 100 + x) for x in along]
        genomes = list(itertools.islice(itertools.product(range(4), repeat=6), 50))
        for row, (damage, latency) in zip(genomes, points, strict=True):
            study.add_trial(
                optuna.create_trial(
                    params=problem.genome(row),
                    distributions={**problem.space.distributions()},
                    values=[-damage, latency],  # the first is maximised
                )
            )
        chosen = set(map(tuple, _parents(problem, study, 1).tolist()))
        assert chosen == {*genomes[:21], *genomes[-4:]}

    def test_trials_that_break_a_constraint_come_last_by_how_far(self) -> None:
        problem = problem_of(layers=6)
        study = study_of(hat.build(problem, 0), single=True)

        def objective(trial: optuna.Trial) -> float:
            found = loss(problem)(trial)
            trial.set_constraint("a", 0.0 if trial.number < 15 else found)
            trial.set_constraint("b", -1000.0)
            return found

        study.optimize(objective, n_trials=125)
        values = [t.values[0] for t in study.trials]
        expected = sorted(values[:15]) + sorted(values[15:])[:10]
        assert sorted(_parents(problem, study, 1).sum(axis=1)) == sorted(expected)

    def test_a_genome_that_was_evaluated_twice_is_one_parent(self) -> None:
        problem = problem_of()
        study = study_of(hat.build(problem, 0), single=True)
        for _ in range(30):
            study.enqueue_trial(problem.space.exact())
        study.optimize(loss(problem), n_trials=125)
        assert len(np.unique(_parents(problem, study, 1), axis=0)) == 25


class TestVariation:
    LEVELS = np.array([5] * 30 + [2] * 30)

    def test_a_gene_is_drawn_again_with_probability_03(self) -> None:
        rng = np.random.default_rng(0)
        parents = rng.integers(self.LEVELS, size=(25, 60))
        found = hat.mutants(rng, parents[:1], self.LEVELS, 4000)
        assert (found >= 0).all()
        assert (found < self.LEVELS).all()
        changed = (found != parents[0]).mean(axis=0)
        # Uniformly, so that it comes out as it was once in as many times as there are levels.
        assert changed[:30].mean() / (1 - 1 / 5) == pytest.approx(0.3, abs=0.005)
        assert changed[30:].mean() / (1 - 1 / 2) == pytest.approx(0.3, abs=0.005)

    def test_crossovers_take_half_of_each_of_two_different_parents(self) -> None:
        rng = np.random.default_rng(0)
        parents = np.arange(25)[:, None].repeat(60, axis=1)
        found = hat.crossovers(rng, parents, 4000)
        assert all(len(set(row)) == 2 for row in found.tolist())
        assert (found == found[:, :1]).mean() == pytest.approx(0.5 + 0.5 / 60, abs=0.01)
        used = Counter(found.ravel().tolist())
        assert len(used) == 25
        assert max(used.values()) < 1.3 * min(used.values())


class TestProposals:
    @pytest.mark.parametrize("limit", [0.7, 0.5, 0.25, 0.15])
    def test_every_one_keeps_the_limit_and_is_new(self, limit: float) -> None:
        problem = problem_of(layers=8, names=None, max_latency_ratio=limit)
        found = rows(run(problem, 240), problem)
        assert problem.feasible(found).all()
        assert len(np.unique(found, axis=0)) == len(found)

    def test_also_where_the_last_levels_are_not_the_cheapest(self) -> None:
        # 16 keys take 0.8 of the time, 8 take 1.2: the cheapest model has 16 in every layer.
        problem = problem_of(
            layers=8, names=("topk",), topk_is_slow=True, max_latency_ratio=0.1 + 0.9 * 0.83
        )
        found = rows(run(problem, 60), problem)
        assert problem.feasible(found).all()

    def test_a_small_space_is_used_up_before_anything_is_repeated(self) -> None:
        problem = problem_of(layers=1, max_latency_ratio=0.55)
        everything = np.array(list(itertools.product(*map(range, problem.levels.tolist()))))
        feasible = problem.feasible(everything).sum()
        assert 0 < feasible < len(everything)
        found = rows(run(problem, feasible + 10), problem)
        assert len(np.unique(found[:feasible], axis=0)) == feasible
        assert problem.feasible(found).all()

    def test_a_limit_that_nothing_keeps_still_gives_new_genomes(self) -> None:
        problem = problem_of(layers=2, max_latency_ratio=0.05)
        assert len(np.unique(rows(run(problem, 140), problem), axis=0)) == 140
        tiny = problem_of(layers=1, names=("heads",), max_latency_ratio=0.05)
        assert len(np.unique(rows(run(tiny, 8), tiny), axis=0)) == 5

    def test_waiting_and_running_ones_are_not_proposed_again(self) -> None:
        problem = problem_of(layers=1)
        everything = list(itertools.product(*map(range, problem.levels.tolist())))
        study = study_of(hat.build(problem, 0))
        running = [study.ask({**problem.space.distributions()}) for _ in range(5)]
        for row in everything[:10]:
            study.enqueue_trial(problem.genome(row))
        space = problem.space.distributions()
        asked = {tuple(t.params.values()) for t in running}
        left = [row for row in everything if row not in asked and row not in everything[:10]]
        for _ in left:
            number = study._storage.create_new_trial(study._study_id)
            trial = study._storage.get_trial(number)
            genome = study.sampler.sample_relative(study, trial, {**space})
            row = tuple(genome.values())
            assert row in left
            for name, level in genome.items():
                study._storage.set_trial_param(number, name, level, space[name])
        assert len(study.get_trials(states=(TrialState.WAITING,))) == 10


class TestDeterminism:
    def test_one_seed_gives_the_same_trials(self) -> None:
        problem = problem_of(max_latency_ratio=0.6)
        first, again, other = (rows(run(problem, 240, seed), problem) for seed in (3, 3, 4))
        assert (first == again).all()
        assert (first != other).any()

    @pytest.mark.parametrize("stops", [(60,), (125,), (130, 131, 230)])
    def test_a_resumed_study_goes_on_as_an_uninterrupted_one(self, stops: tuple[int, ...]) -> None:
        problem = problem_of(max_latency_ratio=0.6)
        storage = optuna.storages.InMemoryStorage()
        begun = 0
        for stop in (*stops, 240):
            study = study_of(
                hat.build(problem, 0), storage=storage, study_name="s", load_if_exists=True
            )
            study.optimize(both(problem), n_trials=stop - begun)
            begun = stop
        assert (rows(study, problem) == rows(run(problem, 240), problem)).all()

    def test_one_sampler_can_serve_two_studies(self) -> None:
        problem = problem_of()
        sampler = hat.build(problem, 0)
        small, large = study_of(sampler, single=True), study_of(sampler, single=True)
        for trials in (125, 5):
            small.optimize(loss(problem), n_trials=trials)
            large.optimize(lambda trial: -loss(problem)(trial), n_trials=trials)
        assert rows(small, problem)[125:].sum() < rows(large, problem)[125:].sum()


def test_better_than_random() -> None:
    problem = problem_of(layers=6)

    def hypervolume(sampler: BaseSampler) -> float:
        study = study_of(sampler)
        study.enqueue_trial(problem.space.exact())
        study.optimize(both(problem), n_trials=425)
        points = sorted((-t.values[0], t.values[1]) for t in study.best_trials)
        worst = float(np.linspace(0.2, 1.0, len(problem.levels)).sum())
        ends = [damage for damage, _ in points[1:]] + [worst]
        areas = [(e - d) * (1 - cost) for (d, cost), e in zip(points, ends, strict=True)]
        return float(sum(areas)) / worst

    ours = [hypervolume(hat.build(problem, seed)) for seed in range(2)]
    random = [hypervolume(optuna.samplers.RandomSampler(seed=seed)) for seed in range(2)]
    assert min(ours) > max(random) + 0.02


def test_a_proposal_is_quick_in_a_study_of_a_thousand_trials() -> None:
    problem = problem_of(layers=12, names=None, max_latency_ratio=0.5)
    study = run(problem, 1000)
    asked = []
    for _ in range(20):
        begun = time.perf_counter()
        trial = study.ask({**problem.space.distributions()})
        asked.append(time.perf_counter() - begun)
        study.tell(trial, [0.0, 0.0])
    assert np.mean(asked) < 0.04
