"""Sequential refit: each block is fitted, from the bottom up, to what it receives in the smaller
model.

A block adds ``W x + b`` to the residual stream, x being the outputs of its heads or neurons. In a
model that lost something below, neither x nor the stream are what they are in the base. So each
block in turn, in the smaller model as refitted so far, is fitted twice, by least squares over the
tokens of calibration examples:

1. What it receives, z, is brought closest to what it receives in the base, z', by the affine map
   ``z + D z + d``. Its input projections take the map up: V and c become V + V D and c + V d. This
   costs no latency, and makes up for whole blocks that are missing below.
2. Its output projection brings the residual stream after it closest to the base's: W and b change
   by the D and d with the least

       sum of  w |s - (r + W x + b) - (D x + d)|^2  +  a |D|^2

   with r the stream before the block, s the base's stream after it (in a post-norm layer before the
   norm), and w the weight of the token, as in :mod:`axsearch.models.refit.moments`.

The ridge a, the same in both, draws the solution towards the weights that the block has: without
it, a few hundred examples are fitted too closely. K-prune (Park et al. 2024, arXiv 2308.03449)
reconstructs pruned sublayers one after the other, too: output projections only, without weights of
tokens and without a ridge.

Blocks below the first change stay as they are, bit by bit, and so do those above it that lost
nothing themselves, unless a whole block is missing below: see :meth:`SequentialRefit.fits`. A
layer's weights depend on the choices in it and below it alone, so recipes with the same lower
layers share what was computed for them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.pytorch_utils import Conv1D

from axsearch.approximations.site import OUTSIDE, SiteId
from axsearch.models.base_model import Base
from axsearch.models.partial import hidden_of, prefixes_of
from axsearch.models.refit.compensation import Refit
from axsearch.models.refit.sample import Sample, tokens_of
from axsearch.models.refit.sums import Sums, refit_by
from axsearch.models.refit.walk import SeenLayer, Walk
from axsearch.space.recipe import Recipe
from axsearch.system.memory import TensorCache, budget

Fitted = dict[str, Tensor]
"""New tensors of a layer, by their names inside it."""

RIDGE = 1e-2
"""The ridge a, as a share of the mean variance of x, or of z."""

MOST = 2 << 30
"""Bytes of all caches of one :class:`SequentialRefit`; an eighth of the free memory if less."""


class SequentialRefit:
    """Refits the smaller models of one base, on one sample.

    What the base's layers compute, and what refitted lower layers of earlier recipes were and
    computed, is kept in :data:`MOST` bytes. Beyond these it holds the states of two layers of the
    base and of one of the smaller model, never of all.

    Args:
        base: whose layers do not share weights (:attr:`axsearch.models.base_model.Base.repeats`).
            Where one set of weights serves several layers, what a block receives depends on the
            very weights that are sought.
        sample: calibration examples, or a function that makes them when they are first needed.
        memory: bytes for the caches.
        ridge: see :data:`RIDGE`.
    """

    inputs = True
    """Whether input projections are fitted, too."""

    def __init__(
        self,
        base: Base,
        sample: Callable[[], Sample],
        memory: int | None = None,
        ridge: float = RIDGE,
    ) -> None:
        self.base = base
        self.ridge = ridge
        self._measure = sample
        self._sample: Sample | None = None
        room = budget(share=1 / 8, most=MOST) if memory is None else memory
        self._base_layers: TensorCache[int, SeenLayer] = TensorCache(5 * room // 8)
        self._last: dict[int, SeenLayer] = {}
        self._outputs: TensorCache[str, tuple[Any, ...]] = TensorCache(room // 8)
        self._refits: TensorCache[str, dict[SiteId, Fitted]] = TensorCache(room // 8)
        self._room = room // 8
        self._blocks = dict(base.family.layout.blocks)

    @property
    def sample(self) -> Sample:
        """The calibration examples."""
        if self._sample is None:
            self._sample = self._measure()
        return self._sample

    def release(self) -> None:
        """Free the caches; what was in them is computed again where it is needed."""
        self._last = {}
        for cache in (self._base_layers, self._outputs, self._refits):
            cache.clear()

    def fits(self, recipe: Recipe, site: SiteId) -> bool:
        """Whether a block is refitted: it has units left, and a reason.

        Either a choice of its own, or a block below that is gone as a whole, or a choice outside of
        layers: nothing else can make up for these. Where only units went below, the blocks there
        have made up for most of it themselves, and a fit of this one gains nothing more.
        """
        known = self.base.sites.get(site)  # an export may lack a block
        if known is None or known.units is None or recipe.removed(*site):
            return False
        if recipe.at(*site):
            return True
        return any(
            other.layer == OUTSIDE
            or (recipe.removed(*other) and self._place(other) < self._place(site))
            for other, _, _ in recipe.choices()
        )

    def _place(self, site: SiteId) -> tuple[int, int]:
        """In the order of a forward pass."""
        return site.layer, -1 if site.layer == OUTSIDE else list(self._blocks).index(site.kind)

    def refits(self, recipe: Recipe, state: Mapping[str, Tensor]) -> dict[SiteId, Fitted]:
        """The new tensors of every block that is refitted, on the model's device.

        ``state`` are the tensors of the recipe's model before, as :meth:`Base.cut` returns them.
        """
        _ = self.sample  # measured by passes of its own
        stays = self.base.plan(recipe).layers
        fitted = [
            [site for kind in self._blocks if self.fits(recipe, site := SiteId(layer, kind))]
            for layer in stays
        ]
        keys = prefixes_of(self.base, recipe, "float32") or [""] * len(stays)  # or nothing to share
        first = min(self._place(site) for site, _, _ in recipe.choices())
        exact = sum(layer < first[0] for layer in stays)
        small = self.base.shrink(recipe, state)
        found: dict[SiteId, Fitted] = {}
        with torch.no_grad():
            walk = Walk(self.base, small, self.sample, self._room)
            for number, sites in enumerate(fitted):
                known = self._refits.get(keys[number]) if sites else {}
                if known is None:
                    given = self._given(walk, stays, keys, exact, number)
                    known = self._refitted(walk, number, given, sites, first)
                    if keys[number]:
                        self._refits[keys[number]] = known
                else:
                    for tensors in known.values():
                        walk.put(number, tensors)
                found |= known
        return found

    def _given(
        self,
        walk: Walk,
        stays: Sequence[int],
        keys: Sequence[str],
        exact: int,
        number: int,
    ) -> tuple[Any, ...] | None:
        """The outputs of the layer below one, whose own weights and those below are in place.

        The lowest ``exact`` layers are as in the base.
        """
        if number <= exact:
            return self._base_layer(stays[number - 1]).outputs if number else None
        below = keys[number - 1]
        known = walk.outputs.get(number - 1) or self._outputs.get(below)
        if known is None:
            known = walk.run(number - 1, self._given(walk, stays, keys, exact, number - 1))
            if below:
                self._outputs[below] = known
        walk.outputs = {number - 1: known}
        return known

    def _refitted(
        self,
        walk: Walk,
        number: int,
        given: tuple[Any, ...] | None,
        sites: Sequence[SiteId],
        first: tuple[int, int],
    ) -> dict[SiteId, Fitted]:
        """Refit the blocks of one layer, each with those below it in place.

        ``first`` is the place of the first change: that block's inputs are those of the base.
        """
        found = {}
        for site in sites:
            seen = self._base_layer(site.layer).blocks[site.kind]
            block, new = self._blocks[site.kind], {}
            if self.inputs and first < self._place(site):
                wanted = seen.received or self._outputs_of_base(site.layer - 1)
                received = walk.sums_received(number, given, block, wanted, site)
                new = self._take_up(received, {n: walk.module(number, n) for n in seen.readers})
                walk.put(number, new)
            assert block.output is not None
            sums = walk.sums(number, given, block, seen.stream, site)
            refit = self.solve(sums, walk.module(number, block.output), site)
            fitted = _named(block.output, refit)
            walk.put(number, fitted)
            found[site] = new | fitted
        return found

    def _outputs_of_base(self, layer: int) -> Iterator[Tensor]:
        """The hidden states after a layer of the base, (tokens, hidden) a batch."""
        outputs = self._base_layer(layer).outputs
        for output, mask in zip(outputs, self.sample.masks, strict=True):
            yield tokens_of(hidden_of(output), mask)

    def _take_up(self, sums: Sums, readers: Mapping[str, Any]) -> Fitted:
        """The tensors of projections that take up the best affine map of their inputs.

        It is a linear one where one of them has no bias.
        """
        shifted = all(module.bias is not None for module in readers.values())
        change, shift = sums.solution(self.ridge, shifted)
        found: Fitted = {}
        for name, module in readers.items():
            weight = module.weight.detach().cpu().double()
            weight = weight if isinstance(module, Conv1D) else weight.T
            refit = refit_by(module, change @ weight, shift @ weight, self.base.dtype)
            found |= _named(name, refit if shifted else refit._replace(bias=None))
        return found

    def solve(self, sums: Sums, module: Any, site: SiteId) -> Refit:
        """The new weight and bias of the output projection of the block at a site."""
        change, shift = sums.solution(self.ridge, module.bias is not None)
        return refit_by(module, change, shift, self.base.dtype)

    def _base_layer(self, number: int) -> SeenLayer:
        known = self._base_layers.get(number) or self._last.get(number)
        if known is None:
            below = self._base_layer(number - 1) if number else None
            self._last = {} if below is None else {number - 1: below}
            with torch.no_grad():
                walk = Walk(self.base, self.base.model, self.sample)
                known = walk.seen(number, None if below is None else below.outputs)
            room = self._base_layers.maxsize - self._base_layers.currsize
            if TensorCache.getsizeof(known) <= room:  # a refit needs all, so none is evicted
                self._base_layers[number] = known
            self._last[number] = known
        return known


def _named(module: str, refit: Refit) -> Fitted:
    return {f"{module}.{name}": new for name, new in refit._asdict().items() if new is not None}
