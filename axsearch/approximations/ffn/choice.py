"""FFN neurons: removed as rows of the first projection and columns of the second."""

from __future__ import annotations

from axsearch.approximations.base import UnitRemoval
from axsearch.approximations.site import Site


class FfnNeurons(UnitRemoval):
    """Remove neurons of the feed-forward block (AxFormer, arXiv 2010.03688; Kwon et al. 2022).

    Each removed neuron saves ``2 * hidden + 1`` parameters. With no neuron left the block is
    removed, its output bias included; its LayerNorm stays.
    """

    name = "ffn"
    kinds = ("ffn",)
    summary = "FFN neurons kept"
    searched = True
    unit = "neurons"
    title = "neurons"
    axis = "neurons kept"
    fractions = (7 / 8, 3 / 4, 5 / 8, 1 / 2, 3 / 8, 1 / 4, 1 / 8)

    def grain(self, site: Site) -> int:
        """Multiples of 32, since odd widths run slower than wider even ones; 1 in toy models."""
        return 32 if site.count >= 256 else 1
