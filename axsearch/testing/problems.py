"""Problems whose costs and damage are known in full, and what trials of them give."""

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
    """What is left of a layer's heads and of its neurons."""
    return [
        math.prod(
            len(c.kept) / c.of for c in recipe.at(layer, kind).values() if isinstance(c, Kept)
        )
        for kind in (ATTENTION, FFN)
    ]


def share_of_keys(recipe: Recipe, layer: int, length: int) -> float:
    """What part of so many keys a layer's queries attend to."""
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
    """Random damage that rises from level to level; costs fall with what is kept."""
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
    """What a genome's model really does: damage by other factors than were measured, a curve.

    A little of the accuracy follows from nothing that is known.
    """

    def __init__(self, problem: Problem, seed: int = 0, spread: float = 0.5) -> None:
        draw = np.random.default_rng(seed)
        self.problem = problem
        self.scale = np.exp(draw.normal(0, spread, len(problem.levels)))

    def damage(self, genomes: Genomes) -> Floats:
        damage: Floats = (self.problem.damages(genomes) * self.scale).sum(axis=1)
        return damage

    def accuracy(self, genomes: Genomes, noise: float = 0.001) -> Floats:
        found = 0.5 + 0.4 * np.exp(-((self.damage(genomes) / 0.4) ** 1.3))
        draws = [np.random.default_rng(row).normal() for row in genomes]
        return found + noise * np.array(draws) * genomes.any(axis=1)

    def seen(self, genomes: Genomes, noise: float = 0.05) -> Observations:
        draw = np.random.default_rng(len(genomes))
        factors = np.exp(draw.normal(0, noise, len(genomes)))
        return Observations(genomes, self.accuracy(genomes), self.damage(genomes) * factors)


def genomes_of(problem: Problem, count: int, seed: int = 0) -> Genomes:
    """The exact genome, then random ones of which some change little and some much."""
    draw = np.random.default_rng(seed)
    rows = (draw.random((count, len(problem.levels))) ** 2 * problem.levels).astype(np.int64)
    rows *= draw.random(rows.shape) < draw.random((count, 1))
    rows[:1] = 0
    return rows
