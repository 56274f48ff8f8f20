"""The multiple-choice knapsack over damage and costs: which level to choose for each layer."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from axsearch.approximations.site import OUTSIDE
from axsearch.space.problem import Floats, Genomes, Problem
from axsearch.space.recipe import EXACT

MOST_OPTIONS = 96
"""Options of a layer that are kept: those on its front of damage against costs, thinned out."""


@dataclass(frozen=True)
class Options:
    """The settings of one layer that no other beats in damage and in all costs.

    Attributes:
        levels: of the layer's dimensions, (options, the layer's dimensions).
        damage: of the layer alone, (options,).
        costs: shares of the base's costs, (options, costs).
        if_last: what the costs change by where the layer is the last one that stays, and the last
            layer is narrowed to what the head reads, (options, costs).
        lost: whether the layer is removed as a whole, (options,); also true of all options outside
            of layers, which are not the last layer either.
        first: square root of the damage at the layer's first site, (options,).
        last: the same at its last.
    """

    levels: Genomes
    damage: Floats
    costs: Floats
    if_last: Floats
    lost: NDArray[np.bool_]
    first: Floats
    last: Floats


class Knapsack:
    """Finds the genomes with the least damage for their costs.

    One choice is made for each layer, for each setting of what all layers share. Damage is that of
    each layer plus what neighbours add, which makes the layers a chain; the least of ``damage +
    weights . costs`` is then found exactly, layer by layer, for any weights (dynamic programming).
    Sweeping the weights gives the lower convex hull of damage against costs. Options of a layer
    that others beat in damage and all costs are dropped first; only where neighbours add much could
    one of them have been better.

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
        levels = [range(problem.levels[column]) for column in problem.shared]
        self.settings = {
            setting: [self._options(layer, setting) for layer in self.layers]
            for setting in itertools.product(*levels)
        }
        """The options of each layer, for each setting of what all layers share."""

    def solve(self, weights: Floats) -> Genomes:
        """The best genome for each row of weights of the costs, (weights, dimensions)."""
        solved = [self._solve(weights, *setting) for setting in self.settings.items()]
        genomes, values = (np.stack(found) for found in zip(*solved, strict=True))
        best: Genomes = genomes[values.argmin(axis=0), np.arange(len(weights))]
        return best

    def _solve(
        self, weights: Floats, setting: tuple[int, ...], options: Sequence[Options]
    ) -> tuple[Genomes, Floats]:
        """The best genome with a setting of what all layers share, and its value, (weights,).

        Layers are taken from the last one down. For each option of a layer the least value is known
        with no layer left so far, and with some, (2, weights, options): the first one that stays on
        this way is the last of the model, which may be narrowed.
        """
        own = options[-1]
        value = own.damage + weights @ own.costs.T  # (weights, options)
        none = np.where(own.lost, value, np.inf)
        some = np.where(own.lost, np.inf, value + weights @ own.if_last.T)
        back: list[tuple[NDArray[np.bool_], NDArray[np.int64], NDArray[np.int64]]] = []
        fixed_is_last: dict[int, NDArray[np.bool_]] = {}
        for number in range(len(self.layers) - 2, -1, -1):
            above, own = own, options[number]
            if self.layers[number] < self.problem.highest_fixed < self.layers[number + 1]:
                # Between the two is a layer that stays: the last one, where none stays above it.
                lifted = none + (weights @ self._fixed_if_last())[:, None]
                fixed_is_last[number + 1] = lifted < some
                none, some = np.full_like(none, np.inf), np.minimum(lifted, some)
            value = own.damage + weights @ own.costs.T
            last = value + weights @ own.if_last.T
            link = self._link(number + 1) * np.outer(above.first, own.last)
            came_none, came_some = none[:, :, None] + link, some[:, :, None] + link
            none, some = came_none.min(axis=1), came_some.min(axis=1)
            ends = ~own.lost & (none + last <= some + value)
            back.append((ends, came_none.argmin(axis=1), came_some.argmin(axis=1)))
            none, some = (
                np.where(own.lost, none + value, np.inf),
                np.where(ends, none + last, some + value),
            )
        least = np.minimum(none.min(axis=1), some.min(axis=1))
        for column, level in zip(self.problem.shared, setting, strict=True):
            least = least + self._alone(column, level)
        return self._traced(none, some, options, back[::-1], fixed_is_last), least

    def _fixed_if_last(self) -> Floats:
        """What the last layer that no dimension changes costs more as a narrowed one, (costs,)."""
        problem = self.problem
        every = [problem.costs[name].if_last for name in self.costs]
        narrows = problem.narrowing is not None
        return np.array(
            [one(EXACT, problem.highest_fixed) if one and narrows else 0.0 for one in every]
        )

    def _traced(
        self,
        none: Floats,
        some: Floats,
        options: Sequence[Options],
        back: Sequence[tuple[NDArray[np.bool_], NDArray[np.int64], NDArray[np.int64]]],
        fixed_is_last: Mapping[int, NDArray[np.bool_]],
    ) -> Genomes:
        """The genomes of the least values of the lowest layer.

        ``back`` has for each layer but the last: whether an option is that of the last layer that
        stays, and the option above it where none stays above, and where some do. ``fixed_is_last``
        says of the options of the layer above one that no dimension changes whether that is the
        last that stays.
        """
        rows = np.arange(len(some))
        found = np.zeros((len(some), len(self.problem.levels)), np.int64)
        stays = some.min(axis=1) <= none.min(axis=1)
        choice = np.where(stays, some.argmin(axis=1), none.argmin(axis=1))
        for number, layer in enumerate(self.layers):
            found[:, self.problem.layers[layer]] = options[number].levels[choice]
            if number < len(back):
                ends, without, beside = (one[rows, choice] for one in back[number])
                stays = stays & ~ends
                choice = np.where(stays, beside, without)
                if number + 1 in fixed_is_last:
                    stays = ~fixed_is_last[number + 1][rows, choice]
        if self.problem.narrowing is not None:  # it costs nothing
            found[:, self.problem.narrowing] = 1
        return found

    def _link(self, number: int) -> float:
        before, here = (self.problem.layers[self.layers[i]] for i in (number - 1, number))
        return sum(c for (a, b), c in self.together.items() if a in before and b in here)

    def _alone(self, column: int, levels: Any) -> Any:
        """The damage of levels of a dimension alone."""
        problem = self.problem
        return self.scale[column] * problem.damage[problem.space.dimensions[column].name][levels]

    def _options(self, layer: int, setting: Sequence[int]) -> Options:
        problem, columns = self.problem, self.problem.layers[layer]
        rows = np.zeros((1, len(columns)), np.int64)
        for column, level in zip(problem.shared, setting, strict=True):
            if column in columns:
                rows[:, columns.index(column)] = level
        for place, column in enumerate(columns):
            if column in problem.shared:
                continue
            # One dimension after the other, so that the number of options stays small on the way.
            rows = np.repeat(rows, problem.levels[column], axis=0)
            rows[:, place] = np.arange(len(rows)) % problem.levels[column]
            rows = rows[_thinned(*self._values(layer, rows)[:2])]
        damage, costs, first, last = self._values(layer, rows)
        if_last, lost = np.zeros_like(costs), np.ones(len(rows), bool)
        if layer != OUTSIDE:
            lost = problem.lost(layer, rows)
            for place, name in enumerate(self.costs):
                narrows = problem.narrowing is not None and layer > problem.highest_fixed
                if narrows and problem.costs[name].if_last is not None:
                    if_last[~lost, place] = problem.costs_if_last(name, layer, rows[~lost])
        return Options(rows, damage, costs, if_last, lost, first, last)

    def _values(self, layer: int, rows: Genomes) -> tuple[Floats, Floats, Floats, Floats]:
        problem, columns = self.problem, self.problem.layers[layer]
        alone = np.stack(  # the damage of shared parameters counts once, in _solve
            [self._alone(c, rows[:, i]) * (c not in problem.shared) for i, c in enumerate(columns)],
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
