"""LatencyTable: each block's share of the base's time, as plain data."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from axsearch.approximations import recorded, removal
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
        narrowed: the share of a block in a last layer that computes only what the head reads, by
            its shape as in ``blocks``: for few shapes, and only in the group of the base's last
            layer. Empty where no such thing was measured.
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
    narrowed: Mapping[str, float] = field(default_factory=dict)

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
        if layer != OUTSIDE and self.lost(recipe, layer):
            return 0.0
        share = sum(self.block(recipe, SiteId(layer, kind)) for kind in self._there(layer))
        return share * self.repeats.get(layer, 1)

    def lost(self, recipe: Recipe, layer: int) -> bool:
        """Whether all blocks of a layer are removed, and the layer with them."""
        blocks = [kind for kind in self._there(layer) if removal(kind) is not None]
        return bool(blocks) and all(recipe.removed(layer, kind) for kind in blocks)

    def _there(self, layer: int) -> tuple[SiteKind, ...]:
        kinds = self.outside if layer == OUTSIDE else self.kinds
        there = [in_group(kind, self.groups.get(layer, 0)) in self.blocks for kind in kinds]
        return tuple(itertools.compress(kinds, there))  # an export's layer may lack a block

    def block(self, recipe: Recipe, site: SiteId) -> float:
        """The share of one block.

        Between the counts of units that were measured it is interpolated linearly. The effect of a
        setting (a k) was measured with all units and is in proportion to the units kept: attention
        works head by head, and the activation neuron by neuron. Raises KeyError for a setting that
        was not measured, and for fewer units than were.

        A choice that narrows the last layer has the time that it saves there, below 0.
        """
        every = recorded(site.kind)
        choices = {name: c for name, c in recipe.at(*site).items() if every[name].timed}
        if any(every[name].narrows for name in choices):
            last = self._last(recipe)
            return 0.0 if last is None else self.saved_if_last(recipe, last)
        label = in_group(site.kind, self.groups.get(site.layer, 0))
        share, part = self._of_units(self.blocks, recipe, site)
        for setting, choice in choices.items():
            if not isinstance(choice, Kept):
                alone = self.key(Recipe.of({site: {setting: choice}}), site)
                share += part * (self.blocks[alone] - self.blocks[label])
        return max(share, 0.0) if removal(site.kind) is not None else share

    def _of_units(
        self, blocks: Mapping[str, float], recipe: Recipe, site: SiteId
    ) -> tuple[float, float]:
        """The share of a block with the units that it keeps, by ``blocks``, and the part of all
        units that these are.
        """
        label = in_group(site.kind, self.groups.get(site.layer, 0))
        choices = recipe.at(*site)
        name = next((n for n, c in choices.items() if isinstance(c, Kept)), None)
        kept = choices[name] if name is not None else None
        if not isinstance(kept, Kept):
            return blocks[label], 1.0
        start = f"{label} {name}="
        known = {
            int(key.removeprefix(start)): share
            for key, share in blocks.items()
            if key.startswith(start)
        }
        known[kept.of] = blocks[label]
        counts = sorted(known)
        if len(kept.kept) < counts[0]:
            raise KeyError(self.key(recipe, site))
        shares = [known[count] for count in counts]
        return float(np.interp(len(kept.kept), counts, shares)), len(kept.kept) / kept.of

    def saved_if_last(self, recipe: Recipe, layer: int) -> float:
        """What a layer's time changes by, below 0, where it is the last one and is narrowed.

        0 where the table does not know: where nothing was measured, or only layers of other sizes.
        A k makes no difference to the time of one query.
        """
        sites = [SiteId(layer, kind) for kind in self._there(layer)]
        sites = [site for site in sites if removal(site.kind) is not None]
        group = self.groups.get(layer, 0)
        if any(in_group(site.kind, group) not in self.narrowed for site in sites):
            return 0.0
        shares = (self._of_units(self.narrowed, recipe, site)[0] for site in sites)
        return sum(shares) - sum(self.block(recipe, site) for site in sites)

    def _last(self, recipe: Recipe) -> int | None:
        """The last layer that stays."""
        return max((n for n in self.repeats if not self.lost(recipe, n)), default=None)

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
            **({"narrowed": dict(self.narrowed)} if self.narrowed else {}),
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
