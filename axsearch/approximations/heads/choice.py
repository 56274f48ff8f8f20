"""Attention heads: query, key and value rows and output columns go; no head, no block."""

from __future__ import annotations

from axsearch.approximations.base import UnitRemoval
from axsearch.approximations.site import Site


class Heads(UnitRemoval):
    """Remove attention heads (AxFormer, arXiv 2010.03688, section on accuracy-driven pruning).

    A removed head takes ``3 * (d * hidden + d) + d * hidden`` parameters with it, d being the
    head size. With no head left the attention block is gone, its output bias included.
    """

    name = "heads"
    kinds = ("attention",)
    summary = "attention heads kept"
    unit = "heads"
    title = "heads"
    axis = "heads kept"
    fractions = (5 / 6, 2 / 3, 1 / 2, 1 / 3, 1 / 6)

    def grain(self, site: Site) -> int:
        """Single heads: a head is already as wide as the hardware likes."""
        return 1
