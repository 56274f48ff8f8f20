"""A whole layer is removed or stays."""

from __future__ import annotations

from collections.abc import Sequence

from axsearch.approximations.base import BlockRemoval
from axsearch.approximations.site import ATTENTION, FFN, Site, SiteKind


class Layer(BlockRemoval):
    """Remove all blocks of a layer, and with them the layer: the hidden state passes unchanged.

    A model that has lost whole layers only is exported as a plain checkpoint of its family.
    """

    name = "layer"
    kinds = (ATTENTION, FFN)
    summary = "layer kept"
    portable = True

    def group(self, sites: Sequence[Site]) -> tuple[Site, ...]:
        """All blocks of the layer, those of other kinds too."""
        blocks = tuple(site for site in sites if site.units is not None)
        return blocks if super().group(blocks) else ()

    def recorded(self, kind: SiteKind) -> str:
        """A recipe says that no unit of any block is kept."""
        if kind in self.kinds:
            return {ATTENTION: "heads", FFN: "ffn"}[kind]
        from axsearch.approximations import removal  # which asks every approximation

        found = removal(kind)
        return self.name if found is None else found.name
