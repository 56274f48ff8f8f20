"""Least squares over tokens, from sums that are added up batch by batch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.pytorch_utils import Conv1D

from axsearch.models.refit.compensation import SMALLEST_RIDGE, Refit


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
