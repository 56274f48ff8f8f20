"""The multiple-choice knapsack over damage and costs: which level to choose for each layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from axsearch.space.problem import Floats, Genomes, Problem

MOST_OPTIONS = 96
"""Options of a layer that are kept: those on its front of damage against costs, thinned out."""


@dataclass(frozen=True)
class Options:
    """The settings of one layer that no other beats in damage and in all costs.

    Attributes:
        levels: of the layer's dimensions, (options, the layer's dimensions).
        damage: of the layer alone, (options,).
        costs: shares of the base's costs, (options, costs).
        first: square root of the damage at the layer's first site, (options,).
        last: the same at its last.
    """

    levels: Genomes
    damage: Floats
    costs: Floats
    first: Floats
    last: Floats


class Knapsack:
    """Finds the genomes with the least damage for their costs.

    One choice is made for each layer. Damage is that of each layer plus what neighbours add, which
    makes the layers a chain; the least of ``damage + weights . costs`` is then found exactly, layer
    by layer, for any weights (dynamic programming). Sweeping the weights gives the lower convex
    hull of damage against costs. Options of a layer that others beat in damage and all costs are
    dropped first; only where neighbours add much could one of them have been better.

    Args:
        problem: the space, its damage and its costs.
        scale: factors of each dimension's damage, (dimensions,); 1 without evidence from trials.
        together: what neighbouring sites add, as a factor of the product of the roots of their
            damages, by pairs of dimension columns.
    """

    def __init__(
        self,
        problem: Problem,
        scale: Floats | None = None,
        together: Mapping[tuple[int, int], float] | None = None,
    ) -> None:
        self.problem = problem
        self.costs = tuple(problem.costs)
        self.scale = np.ones(len(problem.levels)) if scale is None else scale
        self.together = problem.together if together is None else together
        self.layers = sorted(problem.layers)
        self.options = [self._options(layer) for layer in self.layers]

    def solve(self, weights: Floats) -> Genomes:
        """The best genome for each row of weights of the costs, (weights, dimensions)."""
        count = len(weights)
        best: Floats | None = None
        back: list[NDArray[np.int64]] = []
        for number, own in enumerate(self.options):
            value = own.damage + weights @ own.costs.T  # (weights, options)
            if best is None:
                best = value
                continue
            link = self._link(number)
            before = best[:, :, None] + link * np.outer(self.options[number - 1].last, own.first)
            back.append(before.argmin(axis=1))
            best = value + before.min(axis=1)
        assert best is not None
        found = np.zeros((count, len(self.problem.levels)), np.int64)
        choice = best.argmin(axis=1)
        for number in range(len(self.layers) - 1, -1, -1):
            columns = self.problem.layers[self.layers[number]]
            found[:, columns] = self.options[number].levels[choice]
            if number:
                choice = back[number - 1][np.arange(count), choice]
        return found

    def _link(self, number: int) -> float:
        before, here = (self.problem.layers[self.layers[i]] for i in (number - 1, number))
        return sum(c for (a, b), c in self.together.items() if a in before and b in here)

    def _options(self, layer: int) -> Options:
        problem, columns = self.problem, self.problem.layers[layer]
        rows = np.zeros((1, len(columns)), np.int64)
        for place, column in enumerate(columns):
            # One dimension after the other, so that the number of options stays small on the way.
            rows = np.repeat(rows, problem.levels[column], axis=0)
            rows[:, place] = np.arange(len(rows)) % problem.levels[column]
            rows = rows[_thinned(*self._values(layer, rows)[:2])]
        damage, costs, first, last = self._values(layer, rows)
        return Options(rows, damage, costs, first, last)

    def _values(self, layer: int, rows: Genomes) -> tuple[Floats, Floats, Floats, Floats]:
        problem, columns = self.problem, self.problem.layers[layer]
        alone = np.stack(
            [
                self.scale[c] * problem.damage[problem.space.dimensions[c].name][rows[:, i]]
                for i, c in enumerate(columns)
            ],
            axis=1,
        )
        roots = np.sqrt(alone)
        damage = alone.sum(axis=1)
        for (a, b), factor in self.together.items():
            if a in columns and b in columns:
                damage = damage + factor * roots[:, columns.index(a)] * roots[:, columns.index(b)]
        costs = np.stack([problem.layer_costs(name, layer, rows) for name in self.costs], axis=1)
        edges = [
            [columns.index(pair[side]) for pair in self.together if pair[side] in columns
             and pair[1 - side] not in columns]
            for side in (1, 0)
        ]  # fmt: skip
        first, last = (roots[:, edge[0]] if edge else np.zeros(len(rows)) for edge in edges)
        return np.maximum(damage, 0.0), costs, first, last


def sweep(costs: int, steps: int, least: float, most: float) -> Floats:
    """Weights of the costs, (weights, costs): of each alone and of all equally, even in the log."""
    scales = np.geomspace(least, most, steps)
    directions = [np.ones(costs) / costs]
    if costs > 1:
        directions += list(np.eye(costs) * 0.8 + 0.2 / costs)
    return np.concatenate([scales[:, None] * direction for direction in directions])


def _thinned(damage: Floats, costs: Floats) -> NDArray[np.int64]:
    """Rows on the front of damage against all costs; of many, those evenly spread along it."""
    order = np.lexsort((*costs.T[::-1], damage))
    # Whether the first, of less damage, leaves nothing for the second, (rows, rows).
    beats = np.tri(len(order), k=-1, dtype=bool).T
    for values in np.column_stack((damage, costs))[order].T:
        beats &= values[:, None] <= values[None] + 1e-12
    kept, open_ = np.zeros(len(order), bool), np.ones(len(order), bool)
    while open_.any():  # once, but where rows are as good as equal
        best = open_ & ~beats[open_].any(axis=0)
        kept |= best
        open_ &= ~(best | beats[best].any(axis=0))
    rows = order[kept]
    if len(rows) > MOST_OPTIONS:
        rows = rows[np.linspace(0, len(rows) - 1, MOST_OPTIONS).round().astype(int)]
    return rows
