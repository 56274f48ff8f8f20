"""The first trials: the base, genomes of the knapsack all along the way, even rungs."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import pytest

from axsearch.approximations import Level
from axsearch.approximations.site import SiteKind
from axsearch.samplers.warm_start import CHOICES, RUNGS, hull, uniform, warm_start
from axsearch.space.genome import SearchSpace
from axsearch.space.problem import Cost, Problem
from axsearch.space.recipe import Recipe
from axsearch.testing.problems import shares, sites_of

LAYERS = 4
UNITS: dict[SiteKind, int] = {"attention": 12, "ffn": 64}


def cost(recipe: Recipe, layer: int) -> float:
    kept = shares(recipe, layer)
    return 0.08 * kept[0] + 0.12 * kept[1]


def problem_of(
    names: Sequence[str] | None = None,
    *,
    limits: Mapping[str, float] | None = None,
    dropped: Mapping[str, Collection[Level]] | None = None,
) -> Problem:
    sites = sites_of(LAYERS, UNITS)
    orders = {site.id: range(site.units.count) for site in sites}
    space = SearchSpace(sites, orders, names=names, dropped=dropped or {})
    draw = np.random.default_rng(0)
    damage = {
        d.name: np.array([0.0, *draw.exponential(0.02, len(d.levels) - 1).cumsum()])
        for d in space.dimensions
    }
    costs = {"latency": Cost(0.2, cost), "size": Cost(0.2, cost)}
    return Problem(space, ("accuracy", "latency"), costs, damage, limits=limits or {})


def costs_of(problem: Problem, genomes: Sequence[Mapping[str, int]]) -> list[float]:
    rows = np.array([problem.array(genome) for genome in genomes])
    return problem.cost("latency", rows).tolist()


def test_the_exact_model_is_first_and_none_is_there_twice() -> None:
    problem = problem_of()
    found = warm_start(problem)
    assert found[0] == problem.space.exact()
    assert len({tuple(genome.values()) for genome in found}) == len(found)
    assert CHOICES <= len(found) <= 1 + CHOICES + len(RUNGS)
    assert all(type(level) is int for genome in found for level in genome.values())


def test_costs_are_spread_from_the_exact_model_to_the_cheapest() -> None:
    problem = problem_of()
    rungs = [problem.genome(row) for row in uniform(problem)]
    found = [g for g in warm_start(problem) if g not in rungs]
    costs = costs_of(problem, found)
    assert costs == sorted(costs, reverse=True)
    assert costs[0] == pytest.approx(1)
    assert costs[-1] < 0.3
    assert max(np.diff(costs)) < 0
    assert min(np.diff(costs)) > -2.5 * 0.8 / (CHOICES + 1)


def test_the_knapsacks_genomes_have_the_least_damage_for_their_cost() -> None:
    problem = problem_of()
    rows = hull(problem)
    assert len(np.unique(rows, axis=0)) == len(rows) > CHOICES
    draw = np.random.default_rng(1)
    other = draw.integers(problem.levels, size=(4000, len(problem.levels)))
    costs, damage = problem.cost("latency", other), problem.damages(other).sum(axis=1)
    for own, hurt in zip(problem.cost("latency", rows), problem.damages(rows).sum(1), strict=True):
        assert not ((costs <= own) & (damage < hurt - 1e-12)).any()


@pytest.mark.parametrize("limit", [0.9, 0.5])
def test_infeasible_ones_are_left_out_but_for_the_base(limit: float) -> None:
    problem = problem_of(limits={"max_latency_ratio": limit})
    found = warm_start(problem)
    assert found[0] == problem.space.exact()
    costs = costs_of(problem, found[1:])
    assert len(costs) >= 3
    assert max(costs) <= limit


def test_where_nothing_is_feasible_the_base_is_left() -> None:
    problem = problem_of(limits={"max_size_ratio": 0.1})
    assert warm_start(problem) == [problem.space.exact()]


def test_rungs_keep_their_share_everywhere() -> None:
    problem = problem_of()
    rows = uniform(problem)
    assert len(rows) == len(RUNGS)
    for row, share in zip(rows, sorted(RUNGS, reverse=True), strict=True):
        for dimension, level in zip(problem.space.dimensions, row, strict=True):
            if dimension.approximation.name == "topk":
                assert level == 0
                continue
            levels = [float(value or 0) / (dimension.levels[0] or 1) for value in dimension.levels]
            nearest = min(abs(value - share) for value in levels if value)
            assert abs(levels[level] - share) == pytest.approx(nearest)
            assert nearest < 0.1


def test_parts_of_a_mask_and_whole_blocks_stay() -> None:
    every = ["head_mask", "ffn_mask", "layer", "attention_block", "ffn_block", "heads"]
    problem = problem_of(every)
    for row in uniform(problem):
        genome = problem.genome(row)
        assert all(level == 0 for name, level in genome.items() if not name.endswith(".heads"))
        assert all(level > 0 for name, level in genome.items() if name.endswith(".heads"))
    assert not uniform(problem_of(["head_mask", "ffn_mask"])).any()


def test_no_block_goes_where_the_levels_between_were_dropped() -> None:
    heads = problem_of(["heads"]).space.to_dict()["layer00.heads"]
    dropped = {f"layer0{n}.heads": heads[1:-1] for n in range(LAYERS)}
    problem = problem_of(["heads", "ffn"], dropped=dropped)
    assert problem.space.to_dict()["layer00.heads"] == [12, 0]
    for row in uniform(problem):
        genome = problem.genome(row)
        assert all(level == 0 for name, level in genome.items() if name.endswith(".heads"))
