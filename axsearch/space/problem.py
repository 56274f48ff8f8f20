"""Problem: all that is known before the first trial, as plain numbers for a sampler."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from axsearch.approximations.site import OUTSIDE
from axsearch.space.genome import SearchSpace
from axsearch.space.recipe import EXACT, Recipe

Genomes = NDArray[np.int64]
"""Level indices, (genomes, dimensions), in the order of ``SearchSpace.dimensions``."""

Floats = NDArray[np.float64]

TABULATED = 1 << 16
"""The most combinations of a layer's levels whose costs are all stored in one array."""

LayerCost = Callable[[Recipe, int], float]
"""The cost of one layer of a recipe's model, as a share of the base's whole cost."""


@dataclass(frozen=True)
class Cost:
    """A cost that is known before a model is evaluated: additive over layers.

    The base's cost is 1. ``rest`` is the share that no recipe changes. ``if_last``, where there is
    one, is added for the last layer that stays, in a model whose last layer is narrowed to what the
    head reads.
    """

    rest: float
    layer: LayerCost
    if_last: LayerCost | None = None


@dataclass(frozen=True)
class Problem:
    """The space, what is known of it before a trial, and the user's objectives and limits.

    Attributes:
        space: the genome and its recipes.
        objectives: ``accuracy`` and any of ``latency`` and ``size``, in the study's order. Accuracy
            is maximised, the others are minimised.
        costs: ``latency`` and ``size``, each where it is known.
        damage: for each dimension the damage of each of its levels alone, (levels,) each: mean KL
            divergence from the base's outputs; the exact level has 0.
        neighbours: how the damages of two dimensions add up, by their names, see
            :class:`axsearch.calibration.damage.Damage`.
        limits: ``max_drop`` (of accuracy below the base's), ``max_latency_ratio`` and
            ``max_size_ratio``, each where it was given.
        trivial: accuracy of a constant prediction, below which a model is worth nothing.
        epsilon: the tolerance of AxFormer's speed-focused form; None for the accuracy-driven one.
    """

    space: SearchSpace
    objectives: tuple[str, ...]
    costs: Mapping[str, Cost]
    damage: Mapping[str, Floats] = field(default_factory=dict)
    neighbours: Mapping[tuple[str, str], float] = field(default_factory=dict)
    limits: Mapping[str, float] = field(default_factory=dict)
    trivial: float = 0.0
    epsilon: float | None = None

    @cached_property
    def levels(self) -> NDArray[np.int64]:
        """How many levels each dimension has, (dimensions,)."""
        return np.array([len(d.levels) for d in self.space.dimensions])

    @cached_property
    def layers(self) -> dict[int, list[int]]:
        """The dimensions (columns of a genome) that set each layer, some of them several."""
        columns: dict[int, list[int]] = {}
        for column, dimension in enumerate(self.space.dimensions):
            for layer in dict.fromkeys(site.id.layer for site in dimension.sites):
                columns.setdefault(layer, []).append(column)
        return dict(sorted(columns.items()))

    @cached_property
    def shared(self) -> tuple[int, ...]:
        """The columns of the dimensions that set several layers."""
        found = enumerate(self.space.dimensions)
        return tuple(column for column, one in found if one.approximation.shared)

    @cached_property
    def together(self) -> dict[tuple[int, int], float]:
        """The same as ``neighbours``, by the columns of the genome."""
        column = {d.name: i for i, d in enumerate(self.space.dimensions)}
        return {(column[a], column[b]): c for (a, b), c in self.neighbours.items()}

    def array(self, genome: Mapping[str, int]) -> Genomes:
        """A genome as one row, (dimensions,)."""
        return np.array([genome[d.name] for d in self.space.dimensions])

    def genome(self, row: Sequence[int] | NDArray[np.int64]) -> dict[str, int]:
        """A row as a genome."""
        return {d.name: int(i) for d, i in zip(self.space.dimensions, row, strict=True)}

    def cost(self, name: str, genomes: Genomes) -> Floats:
        """The cost of each genome's model as a ratio to the base's, (genomes,)."""
        total = np.full(len(genomes), self.costs[name].rest + self._fixed_cost(name))
        narrowed, if_last = self.narrows(name, genomes), self.costs[name].if_last
        for layer in sorted({*self.layers, self.highest_fixed}, reverse=True):
            if layer in self.layers:
                own = genomes[:, self.layers[layer]]
                total += self.layer_costs(name, layer, own)
            if layer == OUTSIDE or if_last is None or not narrowed.any():
                continue
            if layer not in self.layers:  # it stays
                total[narrowed] += if_last(EXACT, layer)
                narrowed[:] = False
                continue
            last = narrowed & ~self.lost(layer, own)
            total[last] += self.costs_if_last(name, layer, own[last])
            narrowed &= ~last
        return total

    @cached_property
    def highest_fixed(self) -> int:
        """The last layer that no dimension changes, :data:`OUTSIDE` where there is none: no layer
        below it is the last of a model.
        """
        return max(self._fixed, default=OUTSIDE)

    @cached_property
    def _fixed(self) -> set[int]:
        """The layers that no dimension changes, as those that are frozen."""
        return {site.id.layer for site in self.space.sites} - {*self.layers, OUTSIDE}

    def _fixed_cost(self, name: str) -> float:
        return sum(self.costs[name].layer(EXACT, layer) for layer in self._fixed)

    @cached_property
    def narrowing(self) -> int | None:
        """The column of the dimension that narrows the last layer; None where there is none, or no
        cost that it lowers is known.
        """
        if all(cost.if_last is None for cost in self.costs.values()):
            return None
        columns = enumerate(self.space.dimensions)
        return next((c for c, one in columns if one.approximation.narrows), None)

    def narrows(self, name: str, genomes: Genomes) -> NDArray[np.bool_]:
        """Which genomes' models have a cost that depends on which layer is the last, (genomes,)."""
        if self.narrowing is None or self.costs[name].if_last is None:
            return np.zeros(len(genomes), dtype=bool)
        return np.asarray(genomes[:, self.narrowing] > 0)

    def feasible(self, genomes: Genomes) -> NDArray[np.bool_]:
        """Which genomes keep the limits on the costs that are known, (genomes,)."""
        kept = np.ones(len(genomes), dtype=bool)
        for excess in self.excess(genomes).values():
            kept &= excess <= 0
        return kept

    def excess(self, genomes: Genomes) -> dict[str, Floats]:
        """How far each genome is above each limit on a known cost, (genomes,) each."""
        return {
            limit: self.cost(name, genomes) - self.limits[limit]
            for name in self.costs
            if (limit := f"max_{name}_ratio") in self.limits
        }

    def reference(self, base_accuracy: float) -> float:
        """The accuracy below which a model is worth nothing: trivial, or below the limit."""
        drop = self.limits.get("max_drop")
        return self.trivial if drop is None else max(self.trivial, base_accuracy - drop)

    def damages(self, genomes: Genomes) -> Floats:
        """The damage of each dimension's level alone, (genomes, dimensions)."""
        return self._damage_table[np.arange(len(self.levels)), genomes]

    @cached_property
    def _damage_table(self) -> Floats:
        table = np.full((len(self.levels), self.levels.max()), np.nan)
        for column, dimension in enumerate(self.space.dimensions):
            table[column, : self.levels[column]] = self.damage[dimension.name]
        return table

    def layer_costs(self, name: str, layer: int, parts: Genomes) -> Floats:
        """The cost of a layer for each setting of its dimensions, (settings,).

        ``parts`` are (settings, the layer's dimensions).
        """
        return self._tabulated(name, self.costs[name].layer, layer, parts)

    def costs_if_last(self, name: str, layer: int, parts: Genomes) -> Floats:
        """What each of these settings of a layer costs more, or less, as a narrowed last layer."""
        if_last = self.costs[name].if_last
        assert if_last is not None
        return self._tabulated(f"{name} if last", if_last, layer, parts)

    def lost(self, layer: int, parts: Genomes) -> NDArray[np.bool_]:
        """Whether each of these settings removes the whole layer, (settings,)."""
        own = [s.id for s in self.space.sites if s.id.layer == layer and s.units is not None]

        def removed(recipe: Recipe, _: int) -> float:
            return float(bool(own) and all(recipe.removed(*site) for site in own))

        return np.asarray(self._tabulated("lost", removed, layer, parts) > 0)

    def _tabulated(self, name: str, value: LayerCost, layer: int, parts: Genomes) -> Floats:
        """A value of each setting of a layer, kept under a name."""
        levels = self.levels[self.layers[layer]].tolist()
        if math.prod(levels) > TABULATED:  # as those of a space of masks
            rows, which = np.unique(parts, axis=0, return_inverse=True)
            every = [self._of_row(name, value, layer, tuple(row.tolist())) for row in rows]
            return np.asarray(np.array(every)[which.reshape(-1)], float)
        if (name, layer) not in self._tables:
            self._tables[name, layer] = np.full(math.prod(levels), np.nan)
        table = self._tables[name, layer]
        settings = np.ravel_multi_index(tuple(parts.T), levels)
        for setting in np.unique(settings[np.isnan(table[settings])]):
            row = tuple(int(level) for level in np.unravel_index(setting, levels))
            table[setting] = self._of_row(name, value, layer, row)
        found: Floats = table[settings]
        return found

    def _of_row(self, name: str, value: LayerCost, layer: int, row: tuple[int, ...]) -> float:
        # A layer has far fewer settings than a model, and searches come back to the same ones.
        if (name, layer, row) not in self._known:
            if (layer, row) not in self._recipes:
                space = self._layer_spaces[layer]
                genome = {d.name: level for d, level in zip(space.dimensions, row, strict=True)}
                self._recipes[layer, row] = space.recipe(genome)
            self._known[name, layer, row] = value(self._recipes[layer, row], layer)
        return self._known[name, layer, row]

    @cached_property
    def _tables(self) -> dict[tuple[str, int], Floats]:
        return {}

    @cached_property
    def _known(self) -> dict[tuple[str, int, tuple[int, ...]], float]:
        return {}

    @cached_property
    def _recipes(self) -> dict[tuple[int, tuple[int, ...]], Recipe]:
        return {}

    @cached_property
    def _layer_spaces(self) -> dict[int, SearchSpace]:
        """The space of each layer alone, which builds a recipe faster than the whole one."""
        found = {}
        for layer, columns in self.layers.items():
            found[layer] = copy.copy(self.space)
            found[layer].dimensions = tuple(self.space.dimensions[column] for column in columns)
        return found
