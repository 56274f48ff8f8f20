"""Attention heads: removed as query, key and value rows and as output columns."""

from __future__ import annotations

from axsearch.approximations.base import UnitRemoval
from axsearch.approximations.site import Site


class Heads(UnitRemoval):
    """Remove attention heads (AxFormer, arXiv 2010.03688, section on accuracy-driven pruning).

    Each removed head saves ``3 * (d * hidden + d) + d * hidden`` parameters, d being the head size.
    With no head left the attention block is removed, its output bias included.
    """

    name = "heads"
    kinds = ("attention",)
    summary = "attention heads kept"
    searched = True
    unit = "heads"
    title = "heads"
    axis = "heads kept"
    fractions = (5 / 6, 2 / 3, 1 / 2, 1 / 3, 1 / 6)

    def grain(self, site: Site) -> int:
        """Single heads: one is already wide enough for the hardware."""
        return 1
