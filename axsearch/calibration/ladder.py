"""The warm start of a study: the exact model and a ladder of ever smaller ones."""

from __future__ import annotations

import numpy as np

from axsearch.calibration.importance import Importance
from axsearch.space import Dimension, SearchSpace

SHARES = (0.1, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.7, 0.8)
"""Share of the removable parameters that each rung removes."""


def ladder(space: SearchSpace, importance: Importance) -> list[dict[str, int]]:
    """The genomes to try first: the exact model, then one rung a share, without repetition.

    All units of the model compete: those with the least importance per parameter go first,
    whatever their layer. Each site then takes the level nearest to what it has left, since a
    genome holds levels. Choices that remove no units stay exact.
    """
    removers = [d for d in space.dimensions if isinstance(d.levels[0], int)]
    worth = np.concatenate(
        [importance.scores[d.site.id] / d.site.unit_parameters for d in removers]
    )
    cost = np.concatenate([np.full(d.site.units.count, d.site.unit_parameters) for d in removers])
    owner = np.concatenate([np.full(d.site.units.count, i) for i, d in enumerate(removers)])
    cheapest = np.argsort(worth, kind="stable")
    removed = np.cumsum(cost[cheapest]) / cost.sum()
    genomes = [space.exact()]
    for share in SHARES:
        gone = np.bincount(owner[cheapest[removed <= share]], minlength=len(removers))
        genome = space.exact()
        for dimension, count in zip(removers, gone, strict=True):
            genome[dimension.name] = _nearest(dimension, dimension.site.units.count - int(count))
        if genome not in genomes:
            genomes.append(genome)
    return genomes


def _nearest(dimension: Dimension, units: int) -> int:
    # A block is removed only where the ladder left it nothing: none is a level of its own kind.
    distances = [
        abs((level or 0) - units) if level or units == 0 else float("inf")
        for level in dimension.levels
    ]
    return int(np.argmin(distances))
