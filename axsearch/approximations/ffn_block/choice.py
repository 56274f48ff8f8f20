"""The whole FFN block of a layer is removed or stays."""

from __future__ import annotations

from axsearch.approximations.base import BlockRemoval
from axsearch.approximations.site import SiteKind


class FfnBlock(BlockRemoval):
    """Remove FFN blocks (AxFormer, arXiv 2010.03688, section on accuracy-driven pruning).

    The last level of ``ffn`` by itself, for a search over blocks. ``LayerNorm(x)`` is left in a
    post-norm layer, the residual alone in a pre-norm one.
    """

    name = "ffn_block"
    kinds = ("ffn",)
    summary = "FFN block kept"

    def recorded(self, kind: SiteKind) -> str:
        """A recipe says that no neuron is kept."""
        return "ffn"
