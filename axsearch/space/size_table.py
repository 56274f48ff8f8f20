"""SizeTable: what each part of a layer takes of the base's bytes, as plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from axsearch.approximations.choices import Kept
from axsearch.approximations.site import SiteId
from axsearch.space.latency_table import KINDS
from axsearch.space.recipe import Recipe


@dataclass(frozen=True)
class SizeTable:
    """Bytes as shares of the base's exported file.

    Attributes:
        rest: what no recipe changes: embeddings, pooler, head, the file's header.
        layers: all of a layer, by layer.
        units: one unit (head, neuron) of a site.
        whole: what goes with the last unit of a site: its output's bias, its norm.
    """

    rest: float
    layers: Mapping[int, float]
    units: Mapping[SiteId, float]
    whole: Mapping[SiteId, float]

    def layer(self, recipe: Recipe, layer: int) -> float:
        """The share of one layer of a recipe; nothing where both its blocks are gone."""
        if all(recipe.removed(layer, kind) for kind in KINDS):
            return 0.0
        return self.layers[layer] - sum(self.saved(recipe, SiteId(layer, kind)) for kind in KINDS)

    def saved(self, recipe: Recipe, site: SiteId) -> float:
        """The share that a recipe takes from one block."""
        gone = 0.0
        for choice in recipe.at(*site).values():
            if isinstance(choice, Kept):
                gone += (choice.of - len(choice.kept)) * self.units[site]
                if not choice.kept:
                    gone += self.whole[site]
        return gone

    def to_dict(self) -> dict[str, Any]:
        """As plain data."""
        return {
            "rest": self.rest,
            "layers": {str(layer): share for layer, share in self.layers.items()},
            "units": {str(site): share for site, share in self.units.items()},
            "whole": {str(site): share for site, share in self.whole.items()},
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> SizeTable:
        """Read what :meth:`to_dict` wrote."""
        return cls(
            data["rest"],
            {int(layer): share for layer, share in data["layers"].items()},
            {SiteId.parse(site): share for site, share in data["units"].items()},
            {SiteId.parse(site): share for site, share in data["whole"].items()},
        )
