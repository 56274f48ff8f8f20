"""A whole layer goes or stays."""

from __future__ import annotations

from axsearch.approximations.base import BlockRemoval
from axsearch.approximations.site import SiteKind


class Layer(BlockRemoval):
    """Remove both blocks of a layer, and with them the layer: the hidden state passes unchanged.

    A model that has lost whole layers only is exported as a plain checkpoint of its family.
    """

    name = "layer"
    kinds = ("attention", "ffn")
    summary = "layer kept"

    def recorded(self, kind: SiteKind) -> str:
        """A recipe says that neither heads nor neurons are kept."""
        return "heads" if kind == "attention" else "ffn"
