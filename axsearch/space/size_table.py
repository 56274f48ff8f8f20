"""SizeTable: the share of the base's bytes that each part of a layer has, as plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from axsearch.approximations.choices import Subset
from axsearch.approximations.site import OUTSIDE, SiteId
from axsearch.space.latency_table import block_key
from axsearch.space.recipe import Recipe


@dataclass(frozen=True)
class SizeTable:
    """Bytes as shares of the base's exported file.

    Attributes:
        rest: all that lies in no layer: embeddings, pooler, head, the file's header.
        layers: all of a layer, by layer.
        units: one unit (head, neuron) of a site, or one token of the embeddings.
        whole: what is removed with the last unit of a site: its output's bias, its norm.
        others: what a choice without units saves at a site, by the site and its shape as
            :func:`axsearch.space.latency_table.block_key` writes it; 0 where it is missing.
    """

    rest: float
    layers: Mapping[int, float]
    units: Mapping[SiteId, float]
    whole: Mapping[SiteId, float]
    others: Mapping[tuple[SiteId, str], float] = field(default_factory=dict)

    def layer(self, recipe: Recipe, layer: int) -> float:
        """The share of one layer of a recipe; 0 where all its blocks are removed.

        :data:`axsearch.approximations.site.OUTSIDE` stands for all sites outside of layers: what
        a recipe saves there is below 0, since their bytes are in ``rest``.
        """
        sites = [site for site in self.units if site.layer == layer]
        blocks = [site for site in sites if self.units[site]]
        if layer != OUTSIDE and blocks and all(recipe.removed(*site) for site in blocks):
            return 0.0
        return self.layers.get(layer, 0.0) - sum(self.saved(recipe, site) for site in sites)

    def saved(self, recipe: Recipe, site: SiteId) -> float:
        """The share that a recipe saves in one block."""
        saved = 0.0
        for name, choice in recipe.at(*site).items():
            if isinstance(choice, Subset):
                saved += (choice.of - len(choice.kept)) * self.units[site]
                if not choice.kept:
                    saved += self.whole[site]
            else:
                alone = Recipe.of({site: {name: choice}})
                saved += self.others.get((site, block_key(alone, site)), 0.0)
        return saved

    def to_dict(self) -> dict[str, Any]:
        """As plain data."""
        return {
            "rest": self.rest,
            "layers": {str(layer): share for layer, share in self.layers.items()},
            "units": {str(site): share for site, share in self.units.items()},
            "whole": {str(site): share for site, share in self.whole.items()},
            "others": [[str(site), key, share] for (site, key), share in self.others.items()],
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> SizeTable:
        """Read what :meth:`to_dict` wrote; that of an earlier version has no ``others``."""
        return cls(
            data["rest"],
            {int(layer): share for layer, share in data["layers"].items()},
            {SiteId.parse(site): share for site, share in data["units"].items()},
            {SiteId.parse(site): share for site, share in data["whole"].items()},
            {(SiteId.parse(site), key): share for site, key, share in data.get("others", ())},
        )
