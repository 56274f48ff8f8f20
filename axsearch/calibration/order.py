"""The order in which units go: those first whose loss the refit of the others can best make up for.

Optimal brain surgeon (Hassibi and Stork 1993) on the output projection of a block. With W its
weight, H the second moments of its inputs x, and M the loss's sensitivity to its outputs, the
removal of a unit j (the columns of a neuron or a head), after the other columns are refitted by
least squares, costs the squared error of the outputs, weighted by M,

    tr(M W_j ((H^-1)_jj)^-1 W_j^T).

The unit with the least goes, W is refitted, H^-1 becomes that of the units left, and so on. M is
the second moment of the gradient of the loss by the block's outputs: with the weights of tokens in
H, M and H are the two factors of a Kronecker-factored Fisher information (Martens and Grosse 2015,
arXiv 1503.05671). With M left out, the order is worse than that by Fisher information alone where
few units go, see ``docs/compensation.md``.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from axsearch.approximations.site import Site, SiteId
from axsearch.models.base_model import Base
from axsearch.models.refit.compensation import DAMPING, SMALLEST_RIDGE, Moments

STEPS = 64
"""At most about so many times units are removed at a site: several neurons of a wide FFN at once.

Each step costs the square of the units left.
"""


def orders_after_refit(base: Base, moments: Moments) -> dict[SiteId, tuple[int, ...]]:
    """The units of each site of a base with units, those that go first first."""
    state = base.state
    return {
        site.id: _order(site, state, moments)
        for site in base.sites.values()
        if site.units is not None and site.id in moments.sensitivity
    }


def _order(site: Site, state: Mapping[str, Tensor], moments: Moments) -> tuple[int, ...]:
    units = site.units
    assert units is not None
    weight = state[units.output.tensor].detach().cpu().double()
    weight = weight if units.output.dim == 1 else weight.T
    second = moments.covariance[site.id].double()
    if units.bias is None:  # nothing makes up for a mean
        mean = moments.mean[site.id]
        second = second + torch.outer(mean, mean)
    ridge = max(DAMPING * second.diagonal().mean().item(), SMALLEST_RIDGE)
    inverse = torch.linalg.inv(second + ridge * torch.eye(len(second), dtype=torch.float64))
    weight = _root(moments.sensitivity[site.id]) @ weight
    return surgeon(weight, inverse, units.width, max(1, units.count // STEPS))


def surgeon(weight: Tensor, inverse: Tensor, width: int, at_once: int = 1) -> tuple[int, ...]:
    """The order in which units are removed.

    Args:
        weight: (outputs, units * width), times the square root of M.
        inverse: of H, (units * width, units * width).
        width: columns of a unit.
        at_once: units that are removed before the others are refitted.
    """
    left = torch.arange(weight.shape[1] // width)
    gone: list[int] = []
    while len(left):
        loss = _losses(weight, inverse, width)
        chosen = torch.argsort(loss, stable=True)[:at_once]
        gone += left[chosen].tolist()
        stays = torch.ones(len(left), dtype=torch.bool)
        stays[chosen] = False
        columns = stays.repeat_interleave(width)
        across = inverse[~columns][:, columns]
        change = torch.linalg.solve(inverse[~columns][:, ~columns], across)
        weight = weight[:, columns] - weight[:, ~columns] @ change
        inverse = inverse[columns][:, columns] - across.T @ change
        left = left[stays]
    return tuple(gone)


def _losses(weight: Tensor, inverse: Tensor, width: int) -> Tensor:
    """What the removal of each unit alone costs, (units,)."""
    if width == 1:
        alone: Tensor = weight.square().sum(0) / inverse.diagonal()
        return alone
    units = torch.arange(weight.shape[1] // width)
    blocks = inverse.unflatten(0, (-1, width)).unflatten(2, (-1, width))[units, :, units]
    own = weight.T.unflatten(0, (-1, width))  # (units, width, outputs)
    together: Tensor = (own * torch.linalg.solve(blocks, own)).sum((1, 2))
    return together


def _root(matrix: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(matrix.double())
    root: Tensor = (vectors * values.clamp_min(0).sqrt()) @ vectors.T
    return root
