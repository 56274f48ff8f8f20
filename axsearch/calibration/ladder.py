"""The warm start of a study: the exact model and a ladder of ever smaller ones."""

from __future__ import annotations

import numpy as np

from axsearch.approximations import UnitRemoval
from axsearch.calibration.importance import Importance
from axsearch.recipe import SiteId
from axsearch.space import Dimension, SearchSpace

SHARES = (0.1, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.7, 0.8)
"""Share of the removable parameters that each rung removes."""


def ladder(space: SearchSpace, importance: Importance) -> list[dict[str, int]]:
    """The genomes to try first: the exact model, then one rung a share, without repetition.

    All units of the model compete: those with the least importance per parameter go first,
    whatever their layer. Each site then takes the level nearest to what it has left, since a
    genome holds levels. Choices that remove no units stay exact, and of several parameters that
    remove the same units all but the one with the most levels.
    """
    removers = _removers(space)
    if not removers:
        return [space.exact()]
    parts = [(i, site) for i, d in enumerate(removers) for site in d.sites]
    worth = np.concatenate([importance.scores[s.id] / s.unit_parameters for _, s in parts])
    cost = np.concatenate([np.full(s.units.count, s.unit_parameters) for _, s in parts])
    owner = np.concatenate([np.full(s.units.count, i) for i, s in parts])
    cheapest = np.argsort(worth, kind="stable")
    removed = np.cumsum(cost[cheapest]) / cost.sum()
    genomes = [space.exact()]
    for share in SHARES:
        gone = np.bincount(owner[cheapest[removed <= share]], minlength=len(removers))
        genome = space.exact()
        for dimension, count in zip(removers, gone, strict=True):
            units = sum(site.units.count for site in dimension.sites)
            genome[dimension.name] = _nearest(dimension, 1 - int(count) / units)
        if genome not in genomes:
            genomes.append(genome)
    return genomes


def _removers(space: SearchSpace) -> list[Dimension]:
    chosen: list[Dimension] = []
    taken: set[SiteId] = set()
    removing = [d for d in space.dimensions if isinstance(d.approximation, UnitRemoval)]
    for dimension in sorted(removing, key=lambda d: -len(d.levels)):
        sites = {site.id for site in dimension.sites}
        if not sites & taken:
            chosen.append(dimension)
            taken |= sites
    return sorted(chosen, key=space.dimensions.index)


def _nearest(dimension: Dimension, share: float) -> int:
    # A block is removed only where the ladder left it nothing: none is a level of its own kind.
    # One that has but these two levels goes where less than half of it is left.
    full = dimension.levels[0] or 1
    distances = [
        abs((level or 0) / full - share)
        if level or share == 0 or len(dimension.levels) == 2
        else float("inf")
        for level in dimension.levels
    ]
    return int(np.argmin(distances))
