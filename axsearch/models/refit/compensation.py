"""Compensation: the weights that are left make up for the units that were removed.

A block's output is ``W x + b``, x being the outputs of its heads or neurons. Without the units R,
keeping the units S, it becomes ``W' x_S + b'``. All three ways leave the shapes as they are, so
they cost no latency:

- ``none``: ``W' = W_S``, ``b' = b``.
- ``bias``: ``b' = b + W_R mean(x_R)``, the mean output of what was removed.
- ``least_squares``: the W' and b' with the least mean squared error of the block's output on the
  calibration examples, weighted as :mod:`axsearch.models.refit.moments` says. With the covariance C
  of x, ``W' = W_S + W_R C_RS (C_SS + a I)^-1`` and
  ``b' = b + W_R mean(x_R) - (W' - W_S) mean(x_S)``. Kwon et al. 2022 (arXiv 2204.09656, section on
  mask tuning) refit one scale a unit in the same sense; here every weight is free, which needs no
  more data passes, since C is measured once for all recipes.

A projection without bias keeps none: ``bias`` then changes nothing, ``least_squares`` uses the
second moments about zero in place of C. A block that was removed as a whole has no weights to
refit.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from axsearch.approximations.choices import Kept
from axsearch.approximations.site import Axis, Site, SiteId, Units
from axsearch.space.recipe import Compensation, Recipe
from axsearch.system.memory import TensorCache

DAMPING = 1e-2
"""The ridge a, as a share of the mean variance of the units kept."""

SMALLEST_RIDGE = 1e-8
"""For units that never vary on the calibration examples: above the rounding of their moments."""


class Refit(NamedTuple):
    """The output weights and bias of a block after compensation; None where unchanged."""

    weight: Tensor | None
    bias: Tensor | None


@dataclass(frozen=True)
class Moments:
    """Moments of the inputs x of every block's output projection on calibration examples.

    ``mean`` is (n,), float64, and ``covariance`` (n, n), float32, n being heads times head size, or
    neurons. They are weighted, see :func:`axsearch.models.refit.moments.measure_moments`.
    ``sensitivity``, (hidden, hidden), float32, is the sum over tokens of ``g g^T``, g being the
    gradient of the loss by the block's output at the token.
    """

    mean: Mapping[SiteId, Tensor]
    covariance: Mapping[SiteId, Tensor]
    sensitivity: Mapping[SiteId, Tensor] = field(default_factory=dict)


def compensate(
    base: Mapping[str, Tensor],
    state: MutableMapping[str, Tensor],
    sites: Mapping[SiteId, Site],
    recipe: Recipe,
    moments: Moments,
    refits: TensorCache[tuple[Hashable, ...], Refit],
) -> None:
    """Put the compensated output weights and biases of a recipe into ``state``.

    It is computed in float64 on the CPU, as not every device has it.

    ``base`` and ``state`` are state dicts of the base and, already cut, of the smaller model, with
    the base's names. A block that also has a k is refitted as its dense form is. ``refits`` holds
    weights that were refitted before: a search comes back to the same choices.
    """
    for site_id, _, choice in recipe.choices():
        if not isinstance(choice, Kept) or not choice.kept:
            continue
        units = sites[site_id].units
        assert units is not None
        weight = base[units.output.tensor]
        key = (site_id, choice, recipe.compensation, weight.dtype, weight.device)
        refit = refits.get(key)
        if refit is None:
            refit = _refit(base, units, choice, recipe.compensation, site_id, moments)
            refits[key] = refit
        if refit.weight is not None:
            state[units.output.tensor] = refit.weight
        if refit.bias is not None and units.bias is not None:
            state[units.bias] = refit.bias


def _refit(
    base: Mapping[str, Tensor],
    units: Units,
    choice: Kept,
    way: Compensation,
    site_id: SiteId,
    moments: Moments,
) -> Refit:
    weight = _rows_out(base[units.output.tensor], units.output)
    kept, gone = _places(choice, units.width)
    bias = None if units.bias is None else base[units.bias]
    mean = moments.mean[site_id]
    shift = weight[:, gone] @ mean[gone]
    new = None
    if way == "least_squares":
        second = moments.covariance[site_id][kept].double()
        if bias is None:
            second += torch.outer(mean[kept], mean)
        within, across = second[:, kept], second[:, gone] @ weight[:, gone].T
        ridge = max(DAMPING * within.diagonal().mean().item(), SMALLEST_RIDGE)
        within.diagonal().add_(ridge)
        change = torch.linalg.solve(within, across).T
        shift = shift - change @ mean[kept]
        new = _stored(weight[:, kept] + change, base[units.output.tensor], units.output)
    return Refit(new, None if bias is None else (bias.cpu().double() + shift).to(bias))


def _rows_out(weight: Tensor, axis: Axis) -> Tensor:
    wide = weight.cpu().double()
    return wide if axis.dim == 1 else wide.T


def _stored(weight: Tensor, like: Tensor, axis: Axis) -> Tensor:
    return (weight if axis.dim == 1 else weight.T).to(like).contiguous()


def _places(choice: Kept, width: int) -> tuple[Tensor, Tensor]:
    stays = torch.zeros(choice.of, dtype=torch.bool)
    stays[list(choice.kept)] = True
    stays = stays.repeat_interleave(width)
    return stays.nonzero()[:, 0], (~stays).nonzero()[:, 0]
