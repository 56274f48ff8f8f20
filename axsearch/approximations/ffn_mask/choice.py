"""Groups of FFN neurons: each one is kept or removed by itself."""

from __future__ import annotations

from axsearch.approximations.base import UnitMask
from axsearch.approximations.site import Site, SiteKind

GROUPS = 12


class FfnMask(UnitMask):
    """Remove any neuron groups (AxFormer, arXiv 2010.03688, section on accuracy-driven pruning).

    The neurons of a layer, in their own order, are split into 12 groups, and the genome has one
    parameter a group, ``layer03.ffn_mask.05``. Unlike ``ffn`` it does not remove neurons in the
    order of their importance.
    """

    name = "ffn_mask"
    kinds = ("ffn",)
    summary = "groups of FFN neurons kept"

    def recorded(self, kind: SiteKind) -> str:
        """A recipe says which neurons are kept."""
        return "ffn"

    def parts(self, site: Site) -> int:
        """Twelve groups; a neuron each where there are fewer."""
        return min(GROUPS, site.count)
