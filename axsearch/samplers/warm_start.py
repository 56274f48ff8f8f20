"""The first trials of a study: the exact model, a uniform ladder and the knapsack's choices."""

from __future__ import annotations

import numpy as np

from axsearch.approximations import UnitRemoval
from axsearch.samplers.knapsack import Knapsack, sweep
from axsearch.space.problem import Genomes, Problem

RUNGS = (0.75, 0.5, 0.25)
"""The share of its units that every site keeps, rung by rung."""

CHOICES = 12
"""Genomes of the knapsack's sweep."""

WEIGHTS = 240


def warm_start(problem: Problem) -> list[dict[str, int]]:
    """The genomes to try first, without repetition; infeasible ones except the base are left out.

    Those of the knapsack lie evenly between the exact model and the cheapest, by their cost.
    """
    exact = problem.array(problem.space.exact())[None]
    whole = _narrowed(problem, exact)  # as accurate as the exact one, and faster
    rows = [*exact, *whole[problem.feasible(whole)]]
    found = hull(problem)
    costs, most = (
        np.mean([problem.cost(name, these) for name in problem.costs], axis=0)
        for these in (found, whole)
    )
    feasible = problem.feasible(found)
    found, costs = found[feasible], costs[feasible]
    if len(found):
        targets = np.linspace(most[0], costs.min(), CHOICES + 2)[1:-1]
        rows += [found[np.argmin(np.abs(costs - target))] for target in targets]
    ladder = _narrowed(problem, uniform(problem))
    rows += list(ladder[problem.feasible(ladder)])
    return [problem.genome(row) for row in dict.fromkeys(map(tuple, rows))]


def _narrowed(problem: Problem, rows: Genomes) -> Genomes:
    """The same genomes with the last layer narrowed, where the space can do that."""
    found = rows.copy()
    if problem.narrowing is not None:
        found[..., problem.narrowing] = 1
    return found


def hull(problem: Problem, knapsack: Knapsack | None = None) -> Genomes:
    """The knapsack's genomes for weights from almost only damage to almost only costs."""
    solved = (knapsack or Knapsack(problem)).solve(sweep(len(problem.costs), WEIGHTS, 1e-4, 1e3))
    return np.unique(solved, axis=0)


def uniform(problem: Problem) -> Genomes:
    """Every dimension that removes units at the level nearest to each rung's share.

    No block is removed as a whole. Parts of a mask stay exact: each alone is nearest at its
    removal.
    """
    rows = []
    for share in RUNGS:
        row = np.zeros(len(problem.levels), np.int64)
        for column, dimension in enumerate(problem.space.dimensions):
            approximation, levels = dimension.approximation, dimension.levels
            if (
                isinstance(approximation, UnitRemoval)
                and approximation.parts(dimension.sites[0]) == 1
            ):
                kept = np.array([level or np.inf for level in levels]) / (levels[0] or 1)
                row[column] = int(np.argmin(np.abs(kept - share)))
        rows.append(row)
    return np.unique(rows, axis=0)
