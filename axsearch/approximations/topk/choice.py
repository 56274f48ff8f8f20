"""Top-k attention: each query attends to its k best keys only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from axsearch.approximations.base import TopK
from axsearch.approximations.choices import Choice, Level, Setting
from axsearch.approximations.site import SELECTABLE_SCORES, Site


class TopKAttention(TopK):
    """Each query keeps its k largest scores (Top-k attention, arXiv 2106.06899, section 2).

    The paper's ``renormalised`` mode: softmax over the kept scores. A recipe may also have
    ``hard`` under this name, see :mod:`axsearch.approximations.topk_hard.choice`.
    """

    name = "topk"
    kernel = True
    kinds = ("attention",)
    summary = "keys each query attends to"
    searched = True
    needs = (SELECTABLE_SCORES,)
    unit = "keys a query"
    short = "k"
    title = "top-k keys"
    axis = "keys attended to"
    hf_note = (
        "Its layers with top-k attention compile C++ on first use, on Linux where there is a "
        "compiler (`CXX`,\nelse `c++` or `g++`); elsewhere, and with `AXSEARCH_NATIVE=0`, they run "
        "in plain PyTorch, slower."
    )
    modes = ("renormalised", "hard")
    mode = "renormalised"
    keys: ClassVar[tuple[int, ...]] = (64, 32, 16, 8)

    def levels(self, site: Site, part: int = 0) -> tuple[Level, ...]:
        """Dense attention, then the k that are below the longest input."""
        return (None, *(k for k in self.keys if k < site.length))

    def probe_length(self, choice: Choice) -> int:
        """More than twice k, since attention to all keys would not show that top-k works."""
        return 2 * (choice.level or 0) + 2

    def remarks(self, choices: Sequence[Choice]) -> tuple[str, ...]:
        """A sentence about the mode where it is hard."""
        if any(isinstance(choice, Setting) and choice.mode == "hard" for choice in choices):
            return ("Its top-k attention is hard: probabilities are not renormalised.",)
        return ()
