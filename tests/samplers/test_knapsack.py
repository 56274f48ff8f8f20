"""The knapsack against every genome there is."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from axsearch.approximations.site import SiteKind
from axsearch.calibration.damage import neighbours
from axsearch.samplers import knapsack as module_under_test
from axsearch.samplers.knapsack import Knapsack, sweep
from axsearch.space.genome import SearchSpace
from axsearch.space.problem import Cost, Floats, Genomes, Problem
from axsearch.space.recipe import Recipe
from axsearch.testing.problems import shares, sites_of

LAYERS = 3


def problem_of(names: Sequence[str], units: Mapping[SiteKind, int], seed: int = 0) -> Problem:
    """Random damage, rising from level to level or not; each layer costs differently."""
    draw = np.random.default_rng(seed)
    sites = sites_of(LAYERS, units)
    space = SearchSpace(sites, {s.id: range(s.units.count) for s in sites}, names=names)
    damage = {}
    for dimension in space.dimensions:
        steps = draw.exponential(0.05, len(dimension.levels) - 1)
        damage[dimension.name] = np.array([0.0, *(steps.cumsum() if seed % 2 else steps)])
    weights = draw.uniform(0.05, 0.2, (2, LAYERS, 2))

    def cost_of(number: int) -> Cost:
        def of_layer(recipe: Recipe, layer: int) -> float:
            kept = shares(recipe, layer)
            whole = 0.02 if any(kept) else 0.0
            return float(weights[number, layer] @ kept) + whole

        return Cost(0.1, of_layer)

    costs = {"latency": cost_of(0), "size": cost_of(1)}
    return Problem(space, ("accuracy", "latency", "size"), costs, damage)


SPACES: dict[str, tuple[list[str], dict[SiteKind, int]]] = {
    "heads ffn": (["heads", "ffn"], {"attention": 3, "ffn": 3}),
    "heads ffn layer": (["heads", "ffn", "layer"], {"attention": 2, "ffn": 2}),
    "masks": (["head_mask", "ffn_mask"], {"attention": 2, "ffn": 2}),
    "heads": (["heads"], {"attention": 12, "ffn": 2}),
    "layer width": (["layer", "ffn_width"], {"attention": 2, "ffn": 8}),
    "heads width": (["heads", "ffn_width"], {"attention": 3, "ffn": 4}),
}


def every_genome(problem: Problem) -> Genomes:
    return np.array(list(itertools.product(*(range(n) for n in problem.levels))))


def damage_of(problem: Problem, genomes: Genomes, scale: Floats) -> Floats:
    alone = problem.damages(genomes) * scale
    total: Floats = alone.sum(axis=1)
    for (a, b), factor in problem.together.items():
        total = total + factor * np.sqrt(alone[:, a] * alone[:, b])
    return total


def excess(problem: Problem, scale: Floats | None = None, seed: int = 0) -> Floats:
    """By what share the knapsack's value is above the least of all genomes, for random weights."""
    draw = np.random.default_rng(seed)
    weights = np.exp(draw.uniform(np.log(1e-3), np.log(10), (150, 1))) * draw.dirichlet([1, 1], 150)
    factors = np.ones(len(problem.levels)) if scale is None else scale

    def values(genomes: Genomes) -> tuple[Floats, Floats]:
        costs = np.stack([problem.cost(name, genomes) for name in problem.costs], axis=1)
        return damage_of(problem, genomes, factors), costs

    found = Knapsack(problem, scale).solve(weights)
    assert ((found >= 0) & (found < problem.levels)).all()
    damage, costs = values(found)
    reached = damage + (weights * costs).sum(axis=1)
    damage, costs = values(every_genome(problem))
    least = (damage[None] + weights @ costs.T).min(axis=1)
    assert (reached >= least - 1e-12).all()
    assert len(np.unique(found, axis=0)) > 3
    return reached / least - 1


def with_neighbours(problem: Problem, factor: float | None, seed: int = 0) -> Problem:
    draw = np.random.default_rng(seed)
    pairs = neighbours(problem.space)
    assert pairs
    return replace(
        problem,
        neighbours={pair: draw.uniform(-1.5, 1.5) if factor is None else factor for pair in pairs},
    )


@pytest.mark.parametrize("name", SPACES)
@pytest.mark.parametrize("seed", range(4))
class TestAgainstEveryGenome:
    def test_without_neighbours(self, name: str, seed: int) -> None:
        problem = problem_of(*SPACES[name], seed)
        np.testing.assert_allclose(excess(problem, seed=seed), 0, atol=1e-9)
        scale = np.exp(np.random.default_rng(seed).normal(0, 0.7, len(problem.levels)))
        np.testing.assert_allclose(excess(problem, scale, seed), 0, atol=1e-9)

    @pytest.mark.parametrize("factor", [0.5, -0.5, None], ids=["all", "none", "any"])
    def test_with_neighbours_the_chain_is_exact(
        self, name: str, seed: int, factor: float | None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def every(damage: Floats, costs: Floats) -> NDArray[np.int64]:
            return np.arange(len(damage))

        monkeypatch.setattr(module_under_test, "_thinned", every)
        problem = with_neighbours(problem_of(*SPACES[name], seed), factor, seed)
        scale = np.exp(np.random.default_rng(seed).normal(0, 0.7, len(problem.levels)))
        np.testing.assert_allclose(excess(problem, scale, seed), 0, atol=1e-9)

    def test_with_neighbours_what_is_left_out_costs_little(self, name: str, seed: int) -> None:
        for factor in (0.3, -0.3):
            problem = with_neighbours(problem_of(*SPACES[name], seed), factor)
            assert excess(problem, seed=seed).mean() < 0.005
            assert excess(problem, seed=seed).max() < 0.05


def test_neighbours_given_take_the_place_of_the_problems() -> None:
    problem = with_neighbours(problem_of(*SPACES["heads ffn"]), 1.5)
    weights = sweep(2, 40, 1e-3, 10)
    plain = Knapsack(replace(problem, neighbours={})).solve(weights)
    np.testing.assert_array_equal(Knapsack(problem, together={}).solve(weights), plain)
    assert not np.array_equal(Knapsack(problem).solve(weights), plain)


def test_no_weight_gives_the_exact_model_and_much_weight_the_cheapest() -> None:
    problem = problem_of(*SPACES["heads ffn"])
    found = Knapsack(problem).solve(np.array([[0.0, 0.0], [1e6, 1e6]]))
    assert not found[0].any()
    np.testing.assert_array_equal(found[1], problem.levels - 1)


@pytest.mark.parametrize("costs", [1, 2, 3])
def test_sweep_has_each_cost_alone_and_all_alike(costs: int) -> None:
    found = sweep(costs, 30, 1e-3, 1e2)
    directions = 1 if costs == 1 else 1 + costs
    assert found.shape == (30 * directions, costs)
    scales = found.sum(axis=1).reshape(directions, 30)
    np.testing.assert_allclose(scales, np.broadcast_to(np.geomspace(1e-3, 1e2, 30), scales.shape))
    shares = (found / found.sum(axis=1, keepdims=True)).reshape(directions, 30, costs)
    np.testing.assert_allclose(shares, np.broadcast_to(shares[:, :1], shares.shape))
    np.testing.assert_allclose(shares[0], 1 / costs)
    for number in range(directions - 1):
        assert (shares[1 + number].argmax(axis=1) == number).all()
        assert (shares[1 + number] > 0).all()


class TestThinned:
    def slow(self, damage: Floats, costs: Floats) -> list[int]:
        """One row after the other, by damage; none that an earlier one leaves nothing to."""
        points = np.column_stack((damage, costs))
        kept: list[int] = []
        for row in np.lexsort((*costs.T[::-1], damage)):
            if not any((points[other] <= points[row] + 1e-12).all() for other in kept):
                kept.append(int(row))
        return kept

    @pytest.mark.parametrize("seed", range(30))
    def test_is_what_no_row_beats(self, seed: int) -> None:
        draw = np.random.default_rng(seed)
        rows = draw.integers(1, 60)
        # Few distinct values, some of which differ by less than what counts as equal.
        damage = draw.integers(0, 6, rows) * draw.choice([1.0, 4e-13], rows)
        costs = draw.integers(0, 6, (rows, draw.integers(1, 3))) * draw.choice([0.1, 6e-13])
        found = module_under_test._thinned(damage, costs)
        assert found.tolist() == self.slow(damage, costs)

    def test_of_too_many_those_spread_along_the_front_with_both_ends(self) -> None:
        damage = np.linspace(0, 1, 1000)
        costs = (1 - damage**2)[:, None]
        found = module_under_test._thinned(damage, costs)
        assert len(found) == module_under_test.MOST_OPTIONS
        assert found[0] == 0
        assert found[-1] == 999
        assert np.diff(found).max() <= 2 * 1000 / len(found)

    def test_a_layer_of_many_options_keeps_the_best(self) -> None:
        problem = problem_of(["heads", "ffn", "layer"], {"attention": 40, "ffn": 60}, 1)
        layer = Knapsack(problem).settings[()][0]
        assert len(layer.damage) <= module_under_test.MOST_OPTIONS
        assert not layer.levels[0].any()  # the exact one
        assert layer.damage[0] == 0
        assert layer.costs.min() == pytest.approx(0)  # the layer gone
