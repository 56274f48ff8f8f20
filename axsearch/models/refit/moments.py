"""First and second moments of what the heads and neurons of the base give out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from axsearch.approximations.site import SiteId
from axsearch.models.base_model import Base
from axsearch.models.refit.compensation import Moments

if TYPE_CHECKING:
    from axsearch.tasks.kinds import TaskKind
    from axsearch.tasks.split import Batch, Split

BATCH_SIZE = 32
TOKENS = 32_768
"""Enough for the covariance of a few thousand neurons; more changes the fit little."""

FEWEST = 64
"""Examples, however long they are: half of an example's weight may rest on a few of its tokens."""

SENSITIVE = 0.9
"""The part of an example's weight that its tokens share by how much the loss depends on them."""


def measure_moments(
    base: Base,
    split: Split,
    kind: TaskKind[Any, Any],
    *,
    device: str = "cpu",
    on_batch: Callable[[int, int], None] | None = None,
) -> Moments:
    """Weighted mean and covariance of the inputs of every attention's and FFN's output projection.

    They are taken in the base, over the tokens of examples of the split, drawn until they have
    32,768 tokens, and of 64 examples at least. Every example weighs the same. A tenth of its weight
    is spread evenly over its tokens (padding has none), the rest in proportion to the squared
    gradient of the loss by the block's output at the token: in the last layers of a classifier the
    answer rests on one token, and a fit that weighs all tokens equally serves the others. It is the
    empirical Fisher information again (Kwon et al. 2022, arXiv 2204.09656), here of tokens, not of
    gates.

    ``on_batch`` receives the number of examples so far and in all. The result is on the CPU.
    """
    examples, sums = drawn(split, TOKENS, fewest=FEWEST), _Sums()
    for _, batch, sites in felt(base, split, kind, examples, device, on_batch):
        for site, inputs, slope in sites:
            sums.add(site, inputs, token_weights(slope, batch.get("attention_mask")), slope)
    return sums.moments()


def felt(
    base: Base,
    split: Split,
    kind: TaskKind[Any, Any],
    examples: NDArray[np.int64],
    device: str,
    on_batch: Callable[[int, int], None] | None = None,
) -> Iterator[tuple[NDArray[np.int64], Batch, list[tuple[SiteId, Tensor, Tensor]]]]:
    """Run examples of a split forward and backward through the base, batch by batch.

    Each batch comes with its examples, its tensors on ``device``, and for each block, in the order
    in which blocks run, its site, the inputs of its output projection, (examples, length, width),
    and the gradient of the loss by its outputs, (examples, length, hidden). A site whose layers
    share their parameters comes once for each of them. ``on_batch`` receives the number of
    examples so far and in all.
    """
    model, modules = base.model, base.gates(base.model)
    seen: list[tuple[SiteId, Tensor, Tensor]] = []

    def see(site: SiteId, _: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        seen.append((site, inputs[0].detach(), output))

    hooks = [module.register_forward_hook(partial(see, site)) for site, module in modules.items()]
    frozen = [parameter for parameter in model.parameters() if not parameter.requires_grad]
    try:
        for parameter in frozen:
            parameter.requires_grad_(True)  # or the first layer's outputs have no gradient
        done = 0
        for rows in split.groups(examples, BATCH_SIZE):
            batch = {key: tensor.to(device) for key, tensor in split.collate(rows).items()}
            seen.clear()
            loss = kind.loss(model(**batch), split.collate_targets(rows).to(device))
            slopes = torch.autograd.grad(loss, [output for _, _, output in seen])
            found = [(site, x, slope) for (site, x, _), slope in zip(seen, slopes, strict=True)]
            yield rows, batch, found
            if on_batch is not None:
                done += len(rows)
                on_batch(done, len(examples))
    finally:
        for hook in hooks:
            hook.remove()
        for parameter in frozen:
            parameter.requires_grad_(False)


def drawn(
    split: Split, tokens: int, examples: int | None = None, fewest: int = 1
) -> NDArray[np.int64]:
    """Features of a split, always the same ones, of at most so many tokens in all.

    There are at least ``fewest`` of them, if the split has as many.
    """
    # Data may be in the order of their labels.
    found = np.random.default_rng(0).permutation(len(split))[:examples]
    within = int((np.cumsum(split.lengths[found]) <= tokens).sum())
    return found[: max(fewest, within)]


class _Sums:
    """Weighted sums over tokens, from which each site's moments follow."""

    def __init__(self) -> None:
        self.totals: dict[SiteId, float] = {}
        self.first: dict[SiteId, Tensor] = {}
        self.second: dict[SiteId, Tensor] = {}
        self.sensitivity: dict[SiteId, Tensor] = {}

    def add(self, site: SiteId, inputs: Tensor, weights: Tensor, slopes: Tensor) -> None:
        """Add a batch: inputs and slopes (examples, length, …), and weights (examples, length)."""
        counts = weights > 0  # padding would only cost time
        values, flat = inputs[counts], weights[counts][:, None]
        own = slopes[counts]
        if site not in self.totals:
            width = values.shape[1]
            self.totals[site] = 0.0
            self.first[site] = torch.zeros(width, dtype=torch.float64)
            self.second[site] = torch.zeros(width, width)  # a float64 of 3,072 neurons is 75 MB
            self.sensitivity[site] = torch.zeros(slopes.shape[-1], slopes.shape[-1])
        self.totals[site] += float(weights.sum())
        self.first[site] += (flat * values).sum(0).cpu().double()
        self.second[site] += (values.T @ (flat * values)).cpu()
        self.sensitivity[site] += (own.T @ own).cpu()

    def moments(self) -> Moments:
        mean = {site: total / self.totals[site] for site, total in self.first.items()}
        covariance = {
            site: square / self.totals[site] - torch.outer(mean[site], mean[site]).float()
            for site, square in self.second.items()
        }
        return Moments(mean, covariance, self.sensitivity)


def token_weights(slope: Tensor, mask: Tensor | None, sensitive: float = SENSITIVE) -> Tensor:
    """How much each token counts, (examples, length), from the gradients at it.

    Those of an example add up to one; an example that the loss does not feel is spread evenly.
    ``sensitive`` is the part that tokens share by how much the loss depends on them.
    """
    tiny = torch.finfo(slope.dtype).tiny
    slope = slope / slope.abs().amax((1, 2), keepdim=True).clamp_min(tiny)  # squares may vanish
    sizes = slope.square().sum(-1)
    even = torch.ones_like(sizes) if mask is None else mask.to(sizes.dtype)
    even = even / even.sum(1, keepdim=True)
    felt = sizes * (even > 0)
    total = felt.sum(1, keepdim=True)
    share = torch.where(total > 0, felt / total.clamp_min(tiny), even)
    return sensitive * share + (1 - sensitive) * even
