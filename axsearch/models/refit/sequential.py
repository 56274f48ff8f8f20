"""Sequential refit: each block is fitted, from the bottom up, to what it receives in the smaller
model.

A block adds ``W x + b`` to the residual stream, x being the outputs of its heads or neurons. In a
model that lost something below, neither x nor the stream are what they are in the base. So for each
block in turn, in the smaller model as refitted so far, W and b change by the D and d that bring the
stream after the block closest to the base's, by least squares over the tokens of calibration
examples:

    sum of  w |s - (r + W x + b) - (D x + d)|^2  +  a |D|^2

with r the stream before the block, s the base's stream after it (in a post-norm layer before the
norm), and w the weight of the token, as in :mod:`axsearch.models.refit.moments`. The ridge a draws
the solution towards the weights that the block has: without it, a few hundred examples are fitted
too closely. K-prune (Park et al. 2024, arXiv 2308.03449) reconstructs pruned sublayers one after
the other, too, without weights of tokens and without a ridge.

Blocks below the first change stay as they are, bit by bit, and so do those above it that lost
nothing themselves, unless a whole block is missing below: see :meth:`SequentialRefit.fits`. A
layer's weights depend on the choices in it and below it alone, so recipes with the same lower
layers share what was computed for them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from axsearch.approximations.modeling import Block
from axsearch.approximations.site import OUTSIDE, SiteId
from axsearch.models.base_model import Base
from axsearch.models.partial import Reached, prefixes_of, run_until_reached, starting
from axsearch.models.refit.compensation import SMALLEST_RIDGE, Refit
from axsearch.models.refit.sample import Sample, tokens_of
from axsearch.space.recipe import Recipe
from axsearch.system.memory import TensorCache, budget

RIDGE = 1e-2
"""The ridge a, as a share of the mean variance of x."""

MOST = 2 << 30
"""Bytes of all caches of one :class:`SequentialRefit`; an eighth of the free memory if less."""


class _Layer(NamedTuple):
    """A layer of the base on the sample, batch by batch.

    ``streams`` has for each of its blocks the residual stream after it, (tokens, hidden) a batch.
    """

    outputs: tuple[Any, ...]
    streams: tuple[tuple[Tensor, ...], ...]


class SequentialRefit:
    """Refits the smaller models of one base, on one sample.

    What the base's layers compute, and what refitted lower layers of earlier recipes were and
    computed, is kept in :data:`MOST` bytes. Beyond these it holds the states of one layer, never
    of all: of the base and of the smaller model.

    Args:
        base: whose layers do not share weights (:attr:`axsearch.models.base_model.Base.repeats`).
            Where one set of weights serves several layers, what a block receives depends on the
            very weights that are sought.
        sample: calibration examples, or a function that makes them when they are first needed.
        memory: bytes for the caches.
        ridge: see :data:`RIDGE`.
    """

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
        self._base_layers: TensorCache[int, _Layer] = TensorCache(3 * room // 4)
        self._last: tuple[int, _Layer] | None = None
        self._outputs: TensorCache[str, tuple[Any, ...]] = TensorCache(room // 8)
        self._refits: TensorCache[str, dict[SiteId, Refit]] = TensorCache(room // 8)
        self._blocks = dict(base.family.layout.blocks)

    @property
    def sample(self) -> Sample:
        """The calibration examples."""
        if self._sample is None:
            self._sample = self._measure()
        return self._sample

    def release(self) -> None:
        """Free the caches; what was in them is computed again where it is needed."""
        self._last = None
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
        kinds = list(self._blocks)
        place = (site.layer, kinds.index(site.kind))
        return any(
            other.layer == OUTSIDE
            or (recipe.removed(*other) and (other.layer, kinds.index(other.kind)) < place)
            for other, _, _ in recipe.choices()
        )

    def refits(self, recipe: Recipe, state: Mapping[str, Tensor]) -> dict[SiteId, Refit]:
        """The output weights and biases of every block that is refitted, on the model's device.

        ``state`` are the tensors of the recipe's model before, as :meth:`Base.cut` returns them.
        """
        _ = self.sample  # measured by passes of its own
        stays = self.base.plan(recipe).layers
        fitted = [
            [site for kind in self._blocks if self.fits(recipe, site := SiteId(layer, kind))]
            for layer in stays
        ]
        keys = prefixes_of(self.base, recipe, "float32") or [""] * len(stays)  # or nothing to share
        changed = min(site.layer for site, _, _ in recipe.choices())
        exact = sum(layer < changed for layer in stays)
        small = self.base.shrink(recipe, state)
        found: dict[SiteId, Refit] = {}
        with torch.no_grad():
            walk = _Walk(self.base, small, self.sample)
            for number, sites in enumerate(fitted):
                known = self._refits.get(keys[number]) if sites else {}
                if known is None:
                    given = self._given(walk, stays, keys, exact, number)
                    known = self._refitted(walk, number, given, sites)
                    if keys[number]:
                        self._refits[keys[number]] = known
                walk.put(number, known)
                found |= known
        return found

    def _given(
        self,
        walk: _Walk,
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
        self, walk: _Walk, number: int, given: tuple[Any, ...] | None, sites: Sequence[SiteId]
    ) -> dict[SiteId, Refit]:
        """Refit the blocks of one layer, each with those below it in place."""
        found = {}
        for site in sites:
            streams = self._base_layer(site.layer).streams[list(self._blocks).index(site.kind)]
            sums = walk.sums(number, given, self._blocks[site.kind], streams, site)
            module = walk.projection(number, site.kind)
            refit = self.solve(sums, module, site)
            walk.put(number, {site: refit})
            found[site] = refit
        return found

    def solve(self, sums: Sums, module: Any, site: SiteId) -> Refit:
        """The new weight and bias of a block's output projection."""
        change, shift = sums.solution(self.ridge, module.bias is not None)
        return refit_by(module, change, shift, self.base.dtype)

    def _base_layer(self, number: int) -> _Layer:
        known = self._base_layers.get(number)
        if known is None and self._last is not None and self._last[0] == number:
            known = self._last[1]
        if known is None:
            given = self._base_layer(number - 1).outputs if number else None
            with torch.no_grad():
                known = _Walk(self.base, self.base.model, self.sample).seen(number, given)
            self._base_layers[number] = known
        self._last = (number, known)
        return known


class _Walk:
    """One model on the sample, layer by layer.

    Attributes:
        outputs: those of a layer by its number, kept until the next one was run.
    """

    def __init__(self, base: Base, model: PreTrainedModel, sample: Sample) -> None:
        self.outputs: dict[int, tuple[Any, ...]] = {}
        self._base, self._blocks = base, base.family.layout.blocks
        self._model, self._sample = model, sample
        self._layers = base.layers(model)

    def projection(self, number: int, kind: str) -> Any:
        """The output projection of a block."""
        output = self._blocks[kind].output
        assert output is not None
        return self._layers[number].get_submodule(output)

    def put(self, number: int, refits: Mapping[SiteId, Refit]) -> None:
        """Put refitted weights into a layer; its module is the model's own, its tensors may not."""
        for site, refit in refits.items():
            module = self.projection(number, site.kind)
            for name, tensor in refit._asdict().items():
                if tensor is not None:
                    setattr(module, name, nn.Parameter(tensor, requires_grad=False))

    def run(self, number: int, given: tuple[Any, ...] | None) -> tuple[Any, ...]:
        """The outputs of a layer, batch by batch, from those of the layer below."""
        outputs: list[Any] = []

        def end(_: nn.Module, inputs: Any, output: Any) -> None:
            outputs.append(output)
            raise Reached

        hook = self._layers[number].register_forward_hook(end)
        try:
            for place, batch in enumerate(self._sample.batches):
                own = given[place] if given else None
                with starting(self._base, self._model, number, own):
                    run_until_reached(self._model, batch)
        finally:
            hook.remove()
        return tuple(outputs)

    def seen(self, number: int, given: tuple[Any, ...] | None) -> _Layer:
        """The outputs of a layer, and the residual stream after each of its blocks."""
        streams: dict[str, list[Tensor]] = {kind: [] for kind in self._blocks}

        def see(kind: str, residual: Tensor, _: Tensor, output: Tensor) -> None:
            mask = self._sample.masks[len(streams[kind])]
            streams[kind].append(tokens_of(residual + output, mask))

        with ExitStack() as stack:
            for kind, block in self._blocks.items():
                if SiteId(number, kind) in self._base.sites and block.output is not None:
                    stack.enter_context(_watched(self._layers[number], block, partial(see, kind)))
            outputs = self.run(number, given)
        return _Layer(outputs, tuple(tuple(own) for own in streams.values()))

    def sums(
        self,
        number: int,
        given: tuple[Any, ...] | None,
        block: Block,
        streams: Sequence[Tensor],
        site: SiteId,
    ) -> Sums:
        """The sums of a block's fit to ``streams``, those of the base after it."""
        sums = Sums()
        feed = iter(zip(streams, self._sample.masks, self._sample.weights[site], strict=True))

        def see(residual: Tensor, inputs: Tensor, output: Tensor) -> None:
            stream, mask, weights = next(feed)
            errors = stream - tokens_of(residual + output, mask)
            sums.add(tokens_of(inputs, mask), errors, weights)
            raise Reached

        with _watched(self._layers[number], block, see):
            self.run(number, given)
        return sums


@contextmanager
def _watched(
    layer: nn.Module, block: Block, see: Callable[[Tensor, Tensor, Tensor], None]
) -> Iterator[None]:
    """While open, ``see`` receives what each pass through a block computes.

    The residual stream before it, the inputs of its output projection, and what that returns.
    The stream is what goes into the norm of a pre-norm block, and into the first projection of a
    post-norm one.
    """
    there = dict(layer.named_modules())
    names = block.inputs if block.norm is None else (block.norm,)
    first = next(there[name] for name in names if name in there)
    residual: list[Tensor] = []

    def before(_: nn.Module, inputs: Any) -> None:
        residual[:] = inputs[:1]

    def after(_: nn.Module, inputs: Any, output: Tensor) -> None:
        see(residual[0], inputs[0], output)

    assert block.output is not None
    hooks = (
        first.register_forward_pre_hook(before),
        there[block.output].register_forward_hook(after),
    )
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


class Sums:
    """Weighted sums over tokens: of x, of the errors e, and of their products, in float64.

    They are of x less the mean of the first batch: the products are added up in float32 within a
    batch, where the variance of units that hardly vary would otherwise be lost.
    """

    def __init__(self) -> None:
        self._total = 0.0
        self._origin: Tensor | None = None
        self._parts: list[Tensor] = []

    def add(self, inputs: Tensor, errors: Tensor, weights: Tensor) -> None:
        """Add a batch: inputs (tokens, width), errors (tokens, hidden), weights (tokens,)."""
        if self._origin is None:
            self._origin = weights @ inputs / weights.sum()
        inputs = inputs - self._origin
        weighted = weights[:, None] * inputs
        sums = weighted.sum(0), weights @ errors, weighted.T @ inputs, weighted.T @ errors
        self._total += float(weights.sum())
        if not self._parts:
            self._parts = [torch.zeros(part.shape, dtype=torch.float64) for part in sums]
        for part, own in zip(self._parts, sums, strict=True):
            part += own.cpu()  # which adds up in float64 without a copy in it

    def moments(self, shifted: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The means of x, (width,), and of e, (hidden,), the second moments of x, and those of x
        with e, (width, hidden): about the means where a ``shifted`` bias can make up for these,
        otherwise about zero. In float64.
        """
        assert self._origin is not None
        mean, error, second, cross = (part / self._total for part in self._parts)
        second = second - torch.outer(mean, mean)
        cross = cross - torch.outer(mean, error)
        mean = mean + self._origin.cpu()
        if not shifted:
            second += torch.outer(mean, mean)
            cross += torch.outer(mean, error)
        return mean, error, second, cross

    def solution(self, ridge: float, shifted: bool) -> tuple[Tensor, Tensor]:
        """D, (width, hidden), and d, (hidden,), which a projection without bias has no use for.

        Both are zero where numbers of the model are not finite, which its evaluation will show.
        """
        mean, error, second, cross = self.moments(shifted)
        if not (torch.isfinite(second).all() and torch.isfinite(cross).all()):
            return torch.zeros_like(cross), torch.zeros_like(error)
        least = max(ridge * second.diagonal().mean().item(), SMALLEST_RIDGE)
        second.diagonal().add_(least)
        factor, failed = torch.linalg.cholesky_ex(second)
        if failed:  # by the rounding of float32, which left it not quite positive
            change = torch.linalg.solve(second, cross)
        else:
            change = torch.cholesky_solve(cross, factor)
        return change, error - mean @ change


def refit_by(module: Any, change: Tensor, shift: Tensor, dtype: torch.dtype) -> Refit:
    """The weight and bias of a projection after a change, as a file of ``dtype`` will keep them.

    ``change`` is (width, hidden), ``shift`` (hidden,).
    """

    def new(tensor: Tensor, by: Tensor) -> Tensor:
        total = (tensor.detach().cpu().double() + by).to(tensor)
        return total.to(dtype).to(tensor.dtype).contiguous()

    weight = new(module.weight, change if isinstance(module, Conv1D) else change.T)
    return Refit(weight, None if module.bias is None else new(module.bias, shift))
