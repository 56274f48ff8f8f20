"""LatencyTable: what each block takes of the base's time, as plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from axsearch.approximations.choices import Kept, Setting
from axsearch.approximations.site import SiteId, SiteKind
from axsearch.space.recipe import Recipe

KINDS: tuple[SiteKind, SiteKind] = ("attention", "ffn")


@dataclass(frozen=True)
class LatencyTable:
    """Times of blocks in one scenario on one machine, as shares of the base's whole pass.

    Attributes:
        rest: embeddings, pooler and head: what no recipe changes.
        blocks: the share of a block, by what :func:`block_key` calls its shape; its part of what a
            layer takes beside its blocks is in it.
        repeats: how often a forward pass runs each layer, by layer.
        error: mean absolute relative error of the ratios of random whole models that were measured
            with the table but not fitted to.
        rounds: how often each model was timed.
    """

    rest: float
    blocks: Mapping[str, float]
    repeats: Mapping[int, int] = field(default_factory=dict)
    error: float = 0.0
    rounds: int = 0

    def layer(self, recipe: Recipe, layer: int) -> float:
        """The share of one layer of a recipe; nothing where both its blocks are gone.

        Raises KeyError for a setting that was not measured.
        """
        if all(recipe.removed(layer, kind) for kind in KINDS):
            return 0.0
        share = sum(self.block(recipe, SiteId(layer, kind)) for kind in KINDS)
        return share * self.repeats.get(layer, 1)

    def block(self, recipe: Recipe, site: SiteId) -> float:
        """The share of one block.

        Between counts of units that were measured it runs straight. What a setting (a k) changes
        was measured with all units, and each unit has the same part in it: attention is done head
        by head, and the activation neuron by neuron. Raises KeyError for a setting that was not
        measured, and for fewer units than were.
        """
        choices = recipe.at(*site)
        name = next((n for n, c in choices.items() if isinstance(c, Kept)), None)
        kept = choices[name] if name is not None else None
        if isinstance(kept, Kept):
            counts, shares = self._counts(f"{site.kind} {name}=", kept.of, self.blocks[site.kind])
            if len(kept.kept) < counts[0]:
                raise KeyError(block_key(recipe, site))
            share, part = float(np.interp(len(kept.kept), counts, shares)), len(kept.kept) / kept.of
        else:
            share, part = self.blocks[site.kind], 1.0
        for setting, choice in choices.items():
            if isinstance(choice, Setting):
                alone = block_key(Recipe.of({site: {setting: choice}}), site)
                share += part * (self.blocks[alone] - self.blocks[site.kind])
        return max(share, 0.0)

    def _counts(self, start: str, full: int, exact: float) -> tuple[list[int], list[float]]:
        found = {
            int(key.removeprefix(start)): share
            for key, share in self.blocks.items()
            if key.startswith(start)
        }
        found[full] = exact
        counts = sorted(found)
        return counts, [found[count] for count in counts]

    def ratio(self, recipe: Recipe) -> float:
        """A model's time over the base's; raises KeyError for a setting that was not measured."""
        return self.rest + sum(self.layer(recipe, layer) for layer in self.repeats)

    def to_dict(self) -> dict[str, Any]:
        """As plain data."""
        return {
            "rest": self.rest,
            "blocks": dict(self.blocks),
            "repeats": {str(layer): count for layer, count in self.repeats.items()},
            "error": self.error,
            "rounds": self.rounds,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> LatencyTable:
        """Read what :meth:`to_dict` wrote."""
        repeats = {int(layer): count for layer, count in data["repeats"].items()}
        return cls(**{**data, "repeats": repeats})


def block_key(recipe: Recipe, site: SiteId) -> str:
    """What the time of a block depends on: ``attention heads=8 topk=32.renormalised``."""
    parts: list[str] = [site.kind]
    for name, choice in sorted(recipe.at(*site).items()):
        value = len(choice.kept) if isinstance(choice, Kept) else f"{choice.value}.{choice.mode}"
        parts.append(f"{name}={value}")
    return " ".join(parts)
