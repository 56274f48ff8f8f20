"""Costs of genomes against those of their recipes, one by one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from axsearch.approximations.choices import Setting
from axsearch.approximations.site import SiteKind
from axsearch.space import problem as module_under_test
from axsearch.space.genome import SearchSpace
from axsearch.space.problem import Cost, Genomes, Problem
from axsearch.space.recipe import Recipe
from axsearch.testing.problems import shares, sites_of

LAYERS = 3
UNITS: dict[SiteKind, int] = {"attention": 4, "ffn": 16}
SPACES: list[Sequence[str] | None] = [
    None,
    ["heads", "layer"],
    ["heads", "ffn", "layer", "attention_block", "ffn_block"],
    ["topk", "topk_hard", "heads"],
    ["head_mask", "ffn_mask"],
    ["head_mask", "ffn_mask", "heads", "layer"],
]


def space_of(names: Sequence[str] | None) -> SearchSpace:
    sites = sites_of(LAYERS, UNITS)
    draw = np.random.default_rng(0)
    orders = {site.id: draw.permutation(site.units.count).tolist() for site in sites}
    return SearchSpace(sites, orders, names=names)


def size(recipe: Recipe, layer: int) -> float:
    """Is not additive over the blocks of a layer: what is left of a layer without any goes too."""
    kept = shares(recipe, layer)
    return (0.1 * kept[0] + 0.15 * kept[1] + (0.03 if any(kept) else 0.0)) * (1 + layer / 10)


def latency(recipe: Recipe, layer: int) -> float:
    choice = recipe.at(layer, "attention").get("topk")
    return size(recipe, layer) - (1 / choice.value if isinstance(choice, Setting) else 0.0) / 10


def problem_of(names: Sequence[str] | None, limits: dict[str, float] | None = None) -> Problem:
    costs = {"latency": Cost(0.1, latency), "size": Cost(0.2, size)}
    return Problem(space_of(names), ("accuracy", "latency", "size"), costs, limits=limits or {})


def genomes_of(problem: Problem, count: int = 60) -> Genomes:
    draw = np.random.default_rng(1)
    rows = draw.integers(problem.levels, size=(count, len(problem.levels)))
    rows[0] = 0
    rows[1:20] *= draw.random((19, len(problem.levels))) < 0.2
    return rows


@pytest.mark.parametrize("tabulated", [0, 1 << 16], ids=["looked up", "tabulated"])
@pytest.mark.parametrize("names", SPACES, ids=str)
def test_cost_is_that_of_each_recipe(
    names: Sequence[str] | None, tabulated: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module_under_test, "TABULATED", tabulated)
    problem = problem_of(names)
    rows = genomes_of(problem)
    for name, rest, layer_cost in (("latency", 0.1, latency), ("size", 0.2, size)):
        recipes = [problem.space.recipe(problem.genome(row)) for row in rows]
        expected = [rest + sum(layer_cost(r, n) for n in range(LAYERS)) for r in recipes]
        np.testing.assert_allclose(problem.cost(name, rows), expected, rtol=1e-12)
        # The second time everything is known.
        np.testing.assert_array_equal(
            problem.cost(name, rows[::-1])[::-1], problem.cost(name, rows)
        )
        assert problem.cost(name, rows[:0]).shape == (0,)
        assert len(set(expected)) > 5


def test_a_layer_of_many_masks_is_not_tabulated() -> None:
    problem = problem_of(["head_mask", "ffn_mask", "heads", "ffn", "layer"])
    assert np.prod(problem.levels[problem.layers[0]]) > module_under_test.TABULATED
    rows = genomes_of(problem, 30)
    recipes = [problem.space.recipe(problem.genome(row)) for row in rows]
    expected = [0.2 + sum(size(r, n) for n in range(LAYERS)) for r in recipes]
    np.testing.assert_allclose(problem.cost("size", rows), expected, rtol=1e-12)
    assert not problem._tables


def test_the_cost_of_a_layer_is_asked_for_once() -> None:
    asked: list[tuple[str, int]] = []

    def counted(recipe: Recipe, layer: int) -> float:
        asked.append((recipe.hash, layer))
        return size(recipe, layer)

    problem = Problem(space_of(["heads"]), ("accuracy", "size"), {"size": Cost(0.2, counted)})
    rows = genomes_of(problem, 200)
    problem.cost("size", rows)
    assert len(asked) == LAYERS * 5
    problem.cost("size", rows)
    assert len(asked) == len(set(asked)) == LAYERS * 5


def test_feasible_keeps_all_limits_that_were_given() -> None:
    free = problem_of(None)
    rows = genomes_of(free, 300)
    latencies, sizes = (free.cost(name, rows) for name in ("latency", "size"))
    limits = {
        "max_latency_ratio": float(np.median(latencies)),
        "max_size_ratio": float(np.median(sizes)),
    }
    fast, small = latencies <= limits["max_latency_ratio"], sizes <= limits["max_size_ratio"]
    found = problem_of(None, limits={**limits, "max_drop": 0.01}).feasible(rows)
    np.testing.assert_array_equal(found, fast & small)
    assert 0 < (fast & small).sum() < min(fast.sum(), small.sum())
    assert free.feasible(rows).all()
    one = problem_of(None, limits={"max_size_ratio": limits["max_size_ratio"]})
    np.testing.assert_array_equal(one.feasible(rows), small)


def test_a_cost_at_its_limit_is_feasible() -> None:
    problem = problem_of(None)
    row = problem.array(problem.space.exact())[None]
    limit = float(problem.cost("size", row)[0])
    assert problem_of(None, limits={"max_size_ratio": limit}).feasible(row).all()
    assert not problem_of(None, limits={"max_size_ratio": limit - 1e-9}).feasible(row).any()


@pytest.mark.parametrize("names", SPACES, ids=str)
def test_genomes_and_rows_are_the_same(names: Sequence[str] | None) -> None:
    problem = problem_of(names)
    for row in genomes_of(problem):
        genome = problem.genome(row)
        assert set(genome) == set(problem.space.distributions())
        assert all(type(level) is int for level in genome.values())
        np.testing.assert_array_equal(problem.array(dict(reversed(genome.items()))), row)


def test_damage_is_that_of_each_level() -> None:
    space = space_of(None)
    damage = {
        d.name: np.random.default_rng(i).random(len(d.levels))
        for i, d in enumerate(space.dimensions)
    }
    first, last = space.dimensions[0].name, space.dimensions[-1].name
    problem = Problem(space, ("accuracy",), {}, damage, {(first, last): 0.5})
    assert len(set(problem.levels)) > 1  # or a table would have no gaps
    rows = genomes_of(problem)
    found = problem.damages(rows)
    assert found.shape == rows.shape
    for row, damages in zip(rows, found, strict=True):
        for name, level, value in zip(damage, row, damages, strict=True):
            assert value == damage[name][level]
    assert problem.together == {(0, len(problem.levels) - 1): 0.5}


def test_every_dimension_is_of_one_layer() -> None:
    problem = problem_of(["head_mask", "layer"])
    assert sorted(problem.layers) == [0, 1, 2]
    every = [column for columns in problem.layers.values() for column in columns]
    assert sorted(every) == list(range(len(problem.levels)))
    for layer, columns in problem.layers.items():
        for column in columns:
            assert problem.space.dimensions[column].name.startswith(f"layer{layer:02d}.")
