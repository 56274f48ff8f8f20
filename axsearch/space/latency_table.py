"""LatencyTable: each block's share of the base's time, as plain data."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from axsearch.approximations import removal
from axsearch.approximations.choices import Kept
from axsearch.approximations.site import OUTSIDE, SiteId, SiteKind
from axsearch.space.recipe import Recipe

LEAST = 1e-3
"""A model's predicted time over the base's, at least: no noise makes it nothing."""


@dataclass(frozen=True)
class LatencyTable:
    """Times of blocks in one scenario on one machine, as shares of the base's whole pass.

    Attributes:
        rest: of embeddings, pooler and head, which lie in no layer.
        blocks: the share of a block, by its shape as :func:`block_key` writes it; it includes the
            block's part of the time that a layer takes beside its blocks. Of a site that cannot be
            removed, or lies outside of layers, the time that its shape adds to the base's pass;
            below 0 where it saves time.
        repeats: how often a forward pass runs each layer, by layer.
        error: mean absolute relative error of the ratios of random whole models that were measured
            with the table but not fitted to.
        rounds: how often each model was timed.
        outside: the kinds of the sites that lie outside of layers.
        error_of_one_size: as ``error``, of models in which one kind of block has one size in all
            layers. Errors of blocks add up in these, and partly cancel in random ones.
        errors: the standard error of the difference between a block in a shape and the exact block,
            as a share of the base's whole pass; empty in a table of version 0.1.
        groups: of a base whose layers have blocks of different sizes, which is an export: the group
            of each layer that is not in group 0. Layers of a group have the same blocks, and in the
            keys of group 1 a kind is written ``attention@1``.
    """

    rest: float
    blocks: Mapping[str, float]
    repeats: Mapping[int, int] = field(default_factory=dict)
    error: float = 0.0
    rounds: int = 0
    outside: tuple[SiteKind, ...] = ()
    error_of_one_size: float = 0.0
    errors: Mapping[str, float] = field(default_factory=dict)
    groups: Mapping[int, int] = field(default_factory=dict)

    @property
    def kinds(self) -> tuple[SiteKind, ...]:
        """The kinds of the layers' blocks."""
        exact = (key.partition("@")[0] for key in self.blocks if " " not in key)
        return tuple(dict.fromkeys(kind for kind in exact if kind not in self.outside))

    def key(self, recipe: Recipe, site: SiteId) -> str:
        """The key of a site's block in a recipe's shape, see :attr:`blocks` and :attr:`groups`."""
        return in_group(block_key(recipe, site), self.groups.get(site.layer, 0))

    def layer(self, recipe: Recipe, layer: int) -> float:
        """The share of one layer of a recipe; 0 where all its blocks are removed.

        :data:`axsearch.approximations.site.OUTSIDE` stands for all sites outside of layers. Raises
        KeyError for a setting that was not measured.
        """
        kinds = self.outside if layer == OUTSIDE else self.kinds
        there = [in_group(kind, self.groups.get(layer, 0)) in self.blocks for kind in kinds]
        kinds = tuple(itertools.compress(kinds, there))  # an export's layer may lack a block
        blocks = [kind for kind in kinds if removal(kind) is not None]
        if layer != OUTSIDE and blocks and all(recipe.removed(layer, k) for k in blocks):
            return 0.0
        share = sum(self.block(recipe, SiteId(layer, kind)) for kind in kinds)
        return share * self.repeats.get(layer, 1)

    def block(self, recipe: Recipe, site: SiteId) -> float:
        """The share of one block.

        Between the counts of units that were measured it is interpolated linearly. The effect of a
        setting (a k) was measured with all units and is in proportion to the units kept: attention
        works head by head, and the activation neuron by neuron. Raises KeyError for a setting that
        was not measured, and for fewer units than were.
        """
        choices = recipe.at(*site)
        name = next((n for n, c in choices.items() if isinstance(c, Kept)), None)
        kept = choices[name] if name is not None else None
        label = in_group(site.kind, self.groups.get(site.layer, 0))
        exact = self.blocks[label]
        if isinstance(kept, Kept):
            counts, shares = self._counts(f"{label} {name}=", kept.of, exact)
            if len(kept.kept) < counts[0]:
                raise KeyError(self.key(recipe, site))
            share, part = float(np.interp(len(kept.kept), counts, shares)), len(kept.kept) / kept.of
        else:
            share, part = exact, 1.0
        for setting, choice in choices.items():
            if not isinstance(choice, Kept):
                alone = self.key(Recipe.of({site: {setting: choice}}), site)
                share += part * (self.blocks[alone] - exact)
        return max(share, 0.0) if removal(site.kind) is not None else share

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
        layers = sum(self.layer(recipe, layer) for layer in self.repeats)
        return max(self.rest + layers + self.layer(recipe, OUTSIDE), LEAST)

    def to_dict(self) -> dict[str, Any]:
        """As plain data."""
        return {
            "rest": self.rest,
            "blocks": dict(self.blocks),
            "repeats": {str(layer): count for layer, count in self.repeats.items()},
            "error": self.error,
            "rounds": self.rounds,
            "error_of_one_size": self.error_of_one_size,
            "errors": dict(self.errors),
            **({"outside": list(self.outside)} if self.outside else {}),
            **({"groups": {str(n): own for n, own in self.groups.items()}} if self.groups else {}),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> LatencyTable:
        """Read what :meth:`to_dict` wrote."""
        repeats = {int(layer): count for layer, count in data["repeats"].items()}
        outside = tuple(data.get("outside", ()))
        groups = {int(layer): group for layer, group in data.get("groups", {}).items()}
        return cls(**{**data, "repeats": repeats, "outside": outside, "groups": groups})


def in_group(key: str, group: int) -> str:
    """The key of a block in a layer of a group, ``attention@1 heads=8``."""
    kind, blank, shape = key.partition(" ")
    return f"{kind}@{group}{blank}{shape}" if group else key


def block_key(recipe: Recipe, site: SiteId) -> str:
    """The shape that a block's time depends on: ``attention heads=8 topk=32.renormalised``."""
    choices = sorted(recipe.at(*site).items())
    return " ".join([site.kind, *(f"{name}={choice.shape}" for name, choice in choices)])
