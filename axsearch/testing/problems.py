"""Problems whose costs and damage are known in full, and made-up results of their trials."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from axsearch.approximations.choices import Kept, Setting
from axsearch.approximations.site import ATTENTION, FFN, Axis, Site, SiteId, SiteKind, Units
from axsearch.calibration.damage import neighbours
from axsearch.samplers.surrogate import Observations
from axsearch.space.genome import SearchSpace
from axsearch.space.problem import Cost, Floats, Genomes, Problem
from axsearch.space.recipe import Recipe

UNITS: dict[SiteKind, int] = {ATTENTION: 12, FFN: 3072}


def sites_of(
    layers: int,
    units: Mapping[SiteKind, int],
    length: int = 40,
    lacks: Mapping[str, str] | None = None,
) -> list[Site]:
    """The sites of layers that all have these units; ``length`` is the longest input."""
    return [
        Site(
            SiteId(layer, kind),
            Units(count=count, width=1, axes=(), whole=(), output=Axis("o", 1), bias=None),
            10,
            length,
            lacks=lacks or {},
        )
        for layer in range(layers)
        for kind, count in units.items()
    ]


def shares(recipe: Recipe, layer: int) -> list[float]:
    """The shares of a layer's heads and of its neurons that a recipe keeps."""
    return [
        math.prod(
            len(c.kept) / c.of for c in recipe.at(layer, kind).values() if isinstance(c, Kept)
        )
        for kind in (ATTENTION, FFN)
    ]


def share_of_keys(recipe: Recipe, layer: int, length: int) -> float:
    """The share of ``length`` keys that a layer's queries attend to."""
    choices = recipe.at(layer, ATTENTION).values()
    return next((c.value / length for c in choices if isinstance(c, Setting)), 1.0)


def problem_of(
    layers: int,
    names: Sequence[str] | None = None,
    *,
    units: Mapping[SiteKind, int] = UNITS,
    objectives: tuple[str, ...] = ("accuracy", "latency"),
    limits: Mapping[str, float] | None = None,
    together: float = 0.0,
    seed: int = 0,
) -> Problem:
    """A problem with random damage, which rises from level to level, and the costs of what is kept.

    Args:
        layers: number of layers.
        names: the approximations to try; those that a search tries by default if None.
        units: number of heads and of neurons in each layer.
        objectives: see :class:`Problem`.
        limits: see :class:`Problem`; none if None.
        together: how the damages of each pair of neighbours add up, the same for all pairs; 0 if
            they are independent, see :class:`axsearch.calibration.damage.Damage`.
        seed: of the damage.
    """
    sites = sites_of(layers, units, length=128)
    orders = {site.id: range(site.count) for site in sites}
    space = SearchSpace(sites, orders, names=names)
    draw = np.random.default_rng(seed)
    damage = {
        d.name: np.array([0.0, *draw.exponential(0.1 / layers, len(d.levels) - 1).cumsum()])
        for d in space.dimensions
    }

    def size(recipe: Recipe, layer: int) -> float:
        kept = shares(recipe, layer)
        return (0.27 * kept[0] + 0.54 * kept[1]) / layers

    def latency(recipe: Recipe, layer: int) -> float:
        return size(recipe, layer) + 0.09 * share_of_keys(recipe, layer, 128) / layers

    return Problem(
        space,
        objectives,
        {"latency": Cost(0.1, latency), "size": Cost(0.19, size)},
        damage,
        dict.fromkeys(neighbours(space), together),
        limits or {},
        trivial=0.5,
    )


class Truth:
    """The true damage and accuracy of models, of which a problem has only estimates.

    The true damage of each dimension is the problem's times a random factor. Accuracy falls with
    the total damage, and a little of it is noise.

    Args:
        problem: with the estimates.
        seed: of the factors.
        spread: standard deviation of their logarithms.
    """

    def __init__(self, problem: Problem, seed: int = 0, spread: float = 0.5) -> None:
        draw = np.random.default_rng(seed)
        self.problem = problem
        self.scale = np.exp(draw.normal(0, spread, len(problem.levels)))

    def damage(self, genomes: Genomes) -> Floats:
        """The true damage of each genome's model, (genomes,)."""
        damage: Floats = (self.problem.damages(genomes) * self.scale).sum(axis=1)
        return damage

    def accuracy(self, genomes: Genomes, noise: float = 0.001) -> Floats:
        """The true accuracy of each genome's model, (genomes,); that of the base has no noise."""
        found = 0.5 + 0.4 * np.exp(-((self.damage(genomes) / 0.4) ** 1.3))
        draws = [np.random.default_rng(row).normal() for row in genomes]
        return found + noise * np.array(draws) * genomes.any(axis=1)

    def seen(self, genomes: Genomes, noise: float = 0.05) -> Observations:
        """The results of trials of these genomes, with noise on the divergence."""
        draw = np.random.default_rng(len(genomes))
        factors = np.exp(draw.normal(0, noise, len(genomes)))
        return Observations(genomes, self.accuracy(genomes), self.damage(genomes) * factors)


def genomes_of(problem: Problem, count: int, seed: int = 0) -> Genomes:
    """The exact genome, then random ones that change little or much, (count, dimensions)."""
    draw = np.random.default_rng(seed)
    rows = (draw.random((count, len(problem.levels))) ** 2 * problem.levels).astype(np.int64)
    rows *= draw.random(rows.shape) < draw.random((count, 1))
    rows[:1] = 0
    return rows
