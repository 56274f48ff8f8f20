"""Top-k attention: each query attends to its k best keys only."""

from __future__ import annotations

from typing import ClassVar

from axsearch.approximations.base import Level, TopK
from axsearch.approximations.site import Site


class TopKAttention(TopK):
    """Each query keeps its k largest scores (Top-k attention, arXiv 2106.06899, section 2).

    The paper's ``renormalised`` mode: softmax over the kept scores. A recipe may also have
    ``hard`` under this name, see :class:`axsearch.approximations.topk_hard.HardTopKAttention`.
    """

    name = "topk"
    kinds = ("attention",)
    summary = "keys each query attends to"
    modes = ("renormalised", "hard")
    mode = "renormalised"
    keys: ClassVar[tuple[int, ...]] = (64, 32, 16, 8)

    def levels(self, site: Site, part: int = 0) -> tuple[Level, ...]:
        """Dense attention, then the k that are below the longest input."""
        return (None, *(k for k in self.keys if k < site.length))
