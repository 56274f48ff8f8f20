"""SearchSpace: the genome of a study, and the way from a genome to a recipe and back."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from optuna.distributions import IntDistribution

from axsearch.approximations import Approximation, Level, Site, approximations
from axsearch.recipe import Choice, Recipe, SiteId


@dataclass(frozen=True)
class Dimension:
    """One parameter of the genome: an approximation at a site, as a level index.

    ``levels[0]`` is exact; ``order`` lists the site's units, least important first.
    """

    site: Site
    approximation: Approximation
    levels: tuple[Level, ...]
    order: tuple[int, ...]

    @property
    def name(self) -> str:
        """The Optuna parameter: ``layer03.heads``."""
        return f"layer{self.site.id.layer:02d}.{self.approximation.name}"

    def choice(self, index: int) -> Choice | None:
        """The choice of level ``index``; None where exact."""
        return self.approximation.choice(self.site, self.levels[index], self.order)


class SearchSpace:
    """Which levels each site may take.

    A genome has one ordered integer for each layer and approximation, 0 being exact; the
    importance order says which heads and neurons a level keeps.
    """

    def __init__(self, sites: Sequence[Site], orders: Mapping[SiteId, Sequence[int]]) -> None:
        self.dimensions = tuple(
            Dimension(site, approximation, levels, tuple(orders[site.id]))
            for site in sites
            for approximation in approximations().values()
            if approximation.kind == site.id.kind and len(levels := approximation.levels(site)) > 1
        )

    def distributions(self) -> dict[str, IntDistribution]:
        """The Optuna distribution of each parameter."""
        return {d.name: IntDistribution(0, len(d.levels) - 1) for d in self.dimensions}

    def exact(self) -> dict[str, int]:
        """The genome of the base model."""
        return {d.name: 0 for d in self.dimensions}

    def recipe(self, genome: Mapping[str, int]) -> Recipe:
        """The recipe of a genome (all of its parameters must be given)."""
        sites: dict[SiteId, dict[str, Choice]] = {}
        for dimension in self.dimensions:
            choice = dimension.choice(genome[dimension.name])
            if choice is not None:
                sites.setdefault(dimension.site.id, {})[dimension.approximation.name] = choice
        return Recipe.of(sites)

    def to_dict(self) -> dict[str, list[Level]]:
        """Parameter to levels: what a study records to recognise its space."""
        return {d.name: list(d.levels) for d in self.dimensions}

    @property
    def fingerprint(self) -> str:
        """SHA-256 of levels and orders: equal spaces turn a genome into equal recipes."""
        data: Any = [(d.name, d.levels, d.order) for d in self.dimensions]
        return hashlib.sha256(json.dumps(data).encode()).hexdigest()
