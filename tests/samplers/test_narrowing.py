"""The last layer narrowed to one token: its cost depends on which layer is the last."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from axsearch.approximations.site import STACK, SiteId
from axsearch.calibration.costs import latency_cost, slower_levels
from axsearch.models.base_model import Base
from axsearch.samplers.knapsack import Knapsack, sweep
from axsearch.samplers.warm_start import uniform, warm_start
from axsearch.space.genome import SearchSpace
from axsearch.space.latency_table import LatencyTable
from axsearch.space.problem import Problem
from axsearch.space.recipe import EXACT
from axsearch.testing.latency import narrowing_table, table_by_units
from axsearch.testing.models import random_model

BASE = Base(random_model("bert", num_hidden_layers=3), 40)


def space_of(*names: str) -> SearchSpace:
    sites = list(BASE.sites.values())
    return SearchSpace(sites, {site.id: range(site.count) for site in sites}, names=names)


def problem_of(space: SearchSpace, table: LatencyTable, **more: object) -> Problem:
    draw = np.random.default_rng(0)
    damage = {
        d.name: np.concatenate(([0.0], np.sort(draw.uniform(0, 0.3, len(d.levels) - 1))))
        for d in space.dimensions
    }
    damage["stack.one_token"][:] = 0.0
    costs = {"latency": latency_cost(table)}
    objectives = ("accuracy", "latency")
    return Problem(space, objectives, costs, damage=damage, **more)  # type: ignore[arg-type]


SPACE = space_of("attention_block", "ffn_block", "one_token")
TABLE = narrowing_table(BASE, SPACE)
PROBLEM = problem_of(SPACE, TABLE)
EVERY = np.array(list(itertools.product(*(range(n) for n in PROBLEM.levels))))


def test_a_genome_costs_what_the_table_says_of_its_recipe() -> None:
    costs = PROBLEM.cost("latency", EVERY)
    recipes = [SPACE.recipe(PROBLEM.genome(row)) for row in EVERY]
    assert costs == pytest.approx([TABLE.ratio(recipe) for recipe in recipes])
    layer = 0.3 + 0.6  # of attention and of FFNs, three of each
    assert TABLE.ratio(recipes[0]) == pytest.approx(1.0)
    assert TABLE.ratio(SPACE.recipe({**SPACE.exact(), "stack.one_token": 1})) == pytest.approx(
        1 - 0.9 * layer / 3
    )


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_a_frozen_layer_costs_what_it_takes_and_stays_the_last(layer: int) -> None:
    sites = list(BASE.sites.values())
    space = SearchSpace(
        sites, {site.id: range(site.count) for site in sites},
        names=["attention_block", "ffn_block", "one_token"],
        frozen=[site.id for site in sites if site.id.layer == layer],
    )  # fmt: skip
    problem = problem_of(space, TABLE)
    every = np.array(list(itertools.product(*(range(n) for n in problem.levels))))
    costs = problem.cost("latency", every)
    recipes = [space.recipe(problem.genome(row)) for row in every]
    assert costs == pytest.approx([TABLE.ratio(recipe) for recipe in recipes])
    weights = sweep(1, 40, 1e-3, 1e2)
    found = Knapsack(problem).solve(weights)
    best = (problem.damages(every).sum(1) + weights * costs).min(axis=1)
    own = problem.damages(found).sum(1) + weights[:, 0] * problem.cost("latency", found)
    assert own == pytest.approx(best)


def test_the_knapsack_finds_the_best_of_all() -> None:
    column = PROBLEM.narrowing
    assert column is not None
    weights = sweep(1, 60, 1e-3, 1e2)
    found = Knapsack(PROBLEM).solve(weights)
    assert (found[:, column] == 1).all()

    def values(genomes: np.ndarray) -> np.ndarray:
        return PROBLEM.damages(genomes).sum(1) + weights * PROBLEM.cost("latency", genomes)

    best = values(EVERY).min(axis=1)
    own = np.diagonal(values(found))
    assert own == pytest.approx(best)
    lost = [PROBLEM.lost(2, row[None, PROBLEM.layers[2]])[0] for row in found]
    assert any(lost)  # the last layer is not always the base's
    assert not all(lost)


def test_the_exact_model_with_a_narrowed_layer_is_tried_first() -> None:
    space = space_of("heads", "ffn", "one_token")
    problem = problem_of(space, narrowing_table(BASE, space))
    genomes = warm_start(problem)
    assert genomes[0] == space.exact()
    assert genomes[1] == {**space.exact(), "stack.one_token": 1}
    assert all(genome["stack.one_token"] == 1 for genome in genomes[1:])
    ladder = [problem.genome(row) for row in uniform(problem)]
    chosen = [g for g in genomes[2:] if {**g, "stack.one_token": 0} not in ladder]
    costs = problem.cost("latency", np.array([problem.array(genome) for genome in chosen]))
    assert (np.diff(costs) < 1e-9).all()
    narrow = problem_of(space, narrowing_table(BASE, space), limits={"max_latency_ratio": 0.5})
    rows = np.array([narrow.array(genome) for genome in warm_start(narrow)[1:]])
    assert narrow.feasible(rows).all()


def test_where_it_saves_no_time_it_is_left_out() -> None:
    space = space_of("heads", "one_token")
    assert slower_levels(space, table_by_units(BASE, space)) == {"stack.one_token": [1]}
    assert slower_levels(space, narrowing_table(BASE, space)) == {}
    assert problem_of(space, table_by_units(BASE, space)).narrowing is None


def test_what_it_saves_is_its_own() -> None:
    recipe = SPACE.recipe({**SPACE.exact(), "stack.one_token": 1})
    saved = TABLE.block(EXACT, SiteId(-1, STACK)) - TABLE.block(recipe, SiteId(-1, STACK))
    assert saved == pytest.approx(0.27)
    assert LatencyTable.from_dict(TABLE.to_dict()) == TABLE
