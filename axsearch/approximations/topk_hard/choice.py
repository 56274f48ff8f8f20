"""Selective hard attention: the k largest probabilities, the others zero."""

from __future__ import annotations

from axsearch.approximations.site import SiteKind
from axsearch.approximations.topk.choice import TopKAttention


class HardTopKAttention(TopKAttention):
    """Keep each query's k largest probabilities as they are (AxFormer, arXiv 2010.03688).

    The kept probabilities are not renormalised, so a query whose attention is spread out receives
    less of everything: without training this costs more accuracy than ``topk``, so it is tried only
    on request. One of its levels is AxFormer's K of 30.
    """

    name = "topk_hard"
    summary = "keys each query attends to, not renormalised"
    searched = False
    title = ""
    mode = "hard"
    keys = (64, 30, 16, 8)

    def recorded(self, kind: SiteKind) -> str:
        """A recipe says ``topk``, and the mode."""
        return "topk"
