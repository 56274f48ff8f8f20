"""Single attention heads: each one is kept or removed by itself."""

from __future__ import annotations

from axsearch.approximations.base import UnitMask
from axsearch.approximations.site import Site, SiteKind


class HeadMask(UnitMask):
    """Remove any heads (AxFormer, arXiv 2010.03688, section on accuracy-driven pruning).

    The genome has one parameter a head, ``layer03.head_mask.05``. Unlike ``heads`` it does not
    remove heads in the order of their importance.
    """

    name = "head_mask"
    kinds = ("attention",)
    summary = "single attention heads kept"

    def recorded(self, kind: SiteKind) -> str:
        """A recipe says which heads are kept."""
        return "heads"

    def parts(self, site: Site) -> int:
        """Every head."""
        return site.count
