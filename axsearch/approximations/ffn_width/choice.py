"""The width that the FFNs of all layers share."""

from __future__ import annotations

from axsearch.approximations.choices import Level
from axsearch.approximations.ffn.choice import FfnNeurons
from axsearch.approximations.site import Site, SiteKind


class FfnWidth(FfnNeurons):
    """Keep the same number of neurons in every FFN, each layer its own most important ones.

    The classes of transformers make all layers of one width, so such a model is a plain checkpoint,
    which a search with ``ffn`` rarely leaves. The search has one parameter, ``layers.ffn_width``.
    """

    name = "ffn_width"
    summary = "FFN neurons kept, the same number in every layer"
    searched = False
    portable = True
    shared = True

    def recorded(self, kind: SiteKind) -> str:
        """A recipe says which neurons are kept."""
        return "ffn"

    def levels(self, site: Site, part: int = 0) -> tuple[Level, ...]:
        """Those of ``ffn`` but for none: no class can do without an FFN."""
        return tuple(level for level in super().levels(site, part) if level)
