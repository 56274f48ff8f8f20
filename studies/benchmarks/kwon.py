"""The alternative to a search: Kwon et al. 2022, one mask for each budget.

"A Fast Post-Training Pruning Framework for Transformers" (arXiv 2204.09656), implemented from the
paper without its authors' code. Its three stages:

1. Fisher-based mask search: the heads and neurons that a budget of multiply-adds buys, by the
   importance of each unit alone (the diagonal of the Fisher information).
2. Fisher-based mask rearrangement: the number of units in a block stays, but the units are chosen
   again, considering pairs of them too (the block's part of the Fisher information).
3. Mask tuning: one scale per unit by least squares, from the bottom up, so that the block's output
   in the smaller model comes near the base's: :class:`UnitScales`. A caller may choose a recipe's
   compensation instead, which refits every weight of the projections.

It returns one model for a budget, not a front; :func:`shares` lists the budgets to try.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers.pytorch_utils import Conv1D

from axsearch.approximations.choices import Kept
from axsearch.approximations.site import Site, SiteId
from axsearch.models.refit.compensation import Refit
from axsearch.models.refit.sequential import Fitted, SequentialRefit
from axsearch.models.refit.sums import Sums, refit_by
from axsearch.space.recipe import Compensation, Recipe

LEAST = 0.05
"""The smallest budget, as a share of the base's multiply-adds."""

TOLERANCE = 1e-6
"""The least gain of a swap, as a share of the sum of the removed units' own importance: smaller
gains are rounding errors of single precision."""

LARGEST = 10.0
"""The largest size of a scale; from a block with a larger one on, all stay as they were."""

NAMES = {"attention": "heads", "ffn": "ffn"}


class UnitScales(SequentialRefit):
    """Mask tuning: the output weights of each head and neuron that stays, times one number.

    Every block that is left is tuned, from the first that was cut on.
    """

    inputs = False

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self._failed = False

    def refits(self, recipe: Recipe, state: Mapping[str, Tensor]) -> dict[SiteId, Fitted]:
        """The scaled output weights of the blocks, on the model's device."""
        self._failed = False
        for cache in (self._refits, self._outputs):  # which may rest on another block's failure
            cache.clear()
        return super().refits(recipe, state)

    def fits(self, recipe: Recipe, site: SiteId) -> bool:
        """Whether a block is tuned."""
        known = self.base.sites.get(site)
        if known is None or known.units is None or recipe.removed(*site):
            return False
        return site >= min(other for other, _, _ in recipe.choices())  # attention before ffn

    def solve(self, sums: Sums, module: Any, site: SiteId) -> Refit:
        """The scaled weights of a block; its bias is as it was.

        With the outputs x_u of unit u, W_u its output weights and e what the block lacks, scales
        1 + s have the least mean of ``|e - sum_u s_u x_u W_u|^2 + a |s|^2``, a being ``ridge``
        times the mean square of the ``x_u W_u``.
        """
        _, _, second, cross = sums.moments(shifted=False)
        own = module.weight.detach().double().cpu()
        weight = own if isinstance(module, Conv1D) else own.T
        width = self.base.sites[site].units.width
        between = (weight @ weight.T * second).unflatten(0, (-1, width)).unflatten(2, (-1, width))
        between, along = between.sum((1, 3)), (weight * cross).sum(1).unflatten(0, (-1, width))
        between.diagonal().add_(self.ridge * between.diagonal().mean())
        factors, failed = torch.linalg.solve_ex(between, along.sum(1))
        self._failed |= bool(failed) or not ((1 + factors).abs() <= LARGEST).all()
        if self._failed:
            factors = torch.zeros_like(factors)
        change = weight * factors.repeat_interleave(width)[:, None]
        return refit_by(module, change, torch.zeros(weight.shape[1]), self.base.dtype)


def shares(count: int) -> list[float]:
    """Budgets between nearly 1 and :data:`LEAST`, coarse to fine.

    Van der Corput's sequence in base 2, from its second term on: a half, a quarter, three quarters,
    ...; so the first n of them cover the range evenly for any n, and a run may be stopped at any
    time.
    """
    found = []
    for number in range(1, count + 1):
        digits = format(number, "b")[::-1]
        found.append(LEAST + (1 - LEAST) * int(digits, 2) / 2 ** len(digits))
    return found


def multiply_adds(site: Site, length: float) -> float:
    """The multiply-adds of one head or neuron, for a token of an input of ``length`` tokens.

    Each weight is one; scores and the weighted sum of values are two per token and column of a
    head. Biases multiply nothing.
    """
    units = site.units
    biases = sum(a.parts * units.width for a in units.axes if a.tensor.endswith(".bias"))
    products = 2 * length * units.width if site.id.kind == "attention" else 0
    return (site.unit_parameters - biases + products) * site.repeats


def fisher_blocks(slopes: Mapping[SiteId, NDArray[Any]]) -> dict[SiteId, NDArray[np.float32]]:
    """Each block's part of the empirical Fisher information, (units, units), single precision.

    They do not depend on the budget: compute them once, if their 455 MB (BERT-base) fit.
    """
    return {site_id: own.T @ own for site_id, own in slopes.items()}


def allocate(
    sites: Mapping[SiteId, Site],
    slopes: Mapping[SiteId, NDArray[Any]],
    share: float,
    length: float,
    compensation: Compensation,
    *,
    blocks: Mapping[SiteId, NDArray[Any]] | None = None,
) -> Recipe:
    """The recipe of a budget: mask search, then rearrangement.

    ``slopes`` are those of :func:`axsearch.calibration.importance.gate_slopes` of the base,
    (examples, units) per site. The budget is ``share`` of the multiply-adds of the base's layers
    for inputs of ``length`` tokens. ``blocks`` are those of :func:`fisher_blocks`; without them
    each is computed here when it is needed.
    """
    removed = search(sites, slopes, share, length)
    choices = {}
    for site_id, mask in removed.items():
        if mask.any() and not mask.all():
            block = slopes[site_id].T @ slopes[site_id] if blocks is None else blocks[site_id]
            mask = rearranged(block, mask)
        kept = tuple(int(unit) for unit in np.flatnonzero(~mask))
        choices[site_id] = {NAMES[site_id.kind]: Kept(of=len(mask), kept=kept)}
    return Recipe.of(choices, compensation)


def search(
    sites: Mapping[SiteId, Site],
    slopes: Mapping[SiteId, NDArray[Any]],
    share: float,
    length: float,
) -> dict[SiteId, NDArray[np.bool_]]:
    """The mask of removed units of each site, (units,), by the diagonal of the Fisher information.

    All heads of all layers are sorted by importance, and so are all neurons. For every number of
    heads kept, the rest of the budget buys neurons; the number with the least importance removed is
    taken. If units of a kind cost the same, any other choice of units within the budget removes as
    much importance or more.
    """
    pools = [
        _pool([s for s in sites.values() if s.id.kind == kind], slopes, length)
        for kind in ("attention", "ffn")
    ]
    (_, head_scores, head_costs), (_, neuron_scores, neuron_costs) = pools
    budget = share * (head_costs[-1] + neuron_costs[-1])
    left = budget - head_costs
    # The slack is for rounding only: a share of 1 must buy everything.
    bought = np.searchsorted(neuron_costs, left + 1e-9 * budget, side="right") - 1
    worth = np.where(bought >= 0, head_scores + neuron_scores[bought], -np.inf)
    heads = int(np.argmax(worth))
    removed = {i: np.ones(site.count, dtype=bool) for i, site in sites.items() if site.units}
    for (units, _, _), count in zip(pools, (heads, int(bought[heads])), strict=True):
        for site_id, unit in units[:count]:
            removed[site_id][unit] = False
    return removed


def rearranged(block: NDArray[Any], removed: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Another mask, (units,), of as many removed units R, with a lower ``1_R^T F 1_R``.

    ``block`` is F, (units, units). Half of that form estimates the loss caused by removing R; its
    diagonal alone ignores that two units may do the same, or opposite things. Each removed unit is
    visited once, first those whose return lowers the form the most, and is swapped with the kept
    unit that lowers it the most, if any does; so there are at most as many swaps as removed units.
    """
    removed = removed.copy()
    own = np.diagonal(block).astype(np.float64)
    row_sums = block[removed].sum(0, dtype=np.float64)  # F 1_R
    least = TOLERANCE * own[removed].sum()
    waiting = removed.copy()
    while waiting.any():
        unit = int(np.argmin(np.where(waiting, own - 2 * row_sums, np.inf)))
        waiting[unit] = False
        back = own[unit] - 2 * row_sums[unit]
        change = back + own + 2 * (row_sums - block[unit])
        other = int(np.argmin(np.where(removed, np.inf, change)))
        if change[other] < -least:
            removed[unit], removed[other] = False, True
            row_sums += block[other].astype(np.float64) - block[unit]
    return removed


def _pool(
    sites: list[Site], slopes: Mapping[SiteId, NDArray[Any]], length: float
) -> tuple[list[tuple[SiteId, int]], NDArray[np.float64], NDArray[np.float64]]:
    """All units of these sites, most important first, and cumulative sums over them.

    The sums are importance and multiply-adds of the first 0, 1, ... all units, (units + 1,) each.
    """
    units = [(site.id, unit) for site in sites for unit in range(site.units.count)]
    scores = np.concatenate([np.square(slopes[site.id], dtype=np.float64).sum(0) for site in sites])
    costs = np.repeat([multiply_adds(s, length) for s in sites], [s.units.count for s in sites])
    order = np.argsort(-scores, kind="stable")
    first = np.zeros(1)
    return (
        [units[i] for i in order],
        np.concatenate([first, np.cumsum(scores[order])]),
        np.concatenate([first, np.cumsum(costs[order])]),
    )
