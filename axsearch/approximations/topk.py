"""Top-k attention: each query attends to its k best keys only."""

from __future__ import annotations

from collections.abc import MutableMapping, Sequence
from typing import TYPE_CHECKING

from axsearch.approximations.base import Approximation, Level, Site
from axsearch.recipe import Choice, Setting

if TYPE_CHECKING:
    from torch import Tensor

MODES = ("renormalised", "hard")


class TopKAttention(Approximation):
    """Each query keeps its k largest scores (Top-k attention, arXiv 2106.06899, section 2).

    The genome searches the paper's ``renormalised`` mode; a recipe made by hand may also ask for
    ``hard``, AxFormer's selective hard attention (arXiv 2010.03688), which zeroes the other
    probabilities without renormalising. No tensor gets smaller.
    """

    name = "topk"
    kind = "attention"
    summary = "keys each query attends to"

    def levels(self, site: Site) -> tuple[Level, ...]:
        """Dense attention, then the k that are below the longest input."""
        return (None, *(k for k in (64, 32, 16, 8) if k < site.length))

    def choice(self, site: Site, level: Level, order: Sequence[int]) -> Choice | None:
        """The k of a level; the importance order plays no part."""
        return None if level is None else Setting(value=level, mode="renormalised")

    def value(self, site: Site, choice: Choice | None) -> Level:
        """k, or None for dense attention."""
        return choice.value if isinstance(choice, Setting) else None

    def misfit(self, site: Site, choice: Choice) -> str | None:
        """Only a setting in one of the two modes fits."""
        if not isinstance(choice, Setting):
            return "takes a k, not units to keep"
        if choice.mode not in MODES:
            return f"has the mode {choice.mode!r}, not one of {', '.join(MODES)}"
        return None

    def cut(self, site: Site, choice: Choice, state: MutableMapping[str, Tensor]) -> None:
        """No tensor changes: k is an attribute of the layer."""
