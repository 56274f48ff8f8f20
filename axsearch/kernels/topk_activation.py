"""Each token's k largest pre-activations, activated; all others zero."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from axsearch.kernels.native_topk import native_select, runs_natively


def topk_activation(scores: Tensor, k: int, activation: Callable[[Tensor], Tensor]) -> Tensor:
    """``activation`` of each row's k largest scores, zero elsewhere (arXiv 2106.06899, section 2).

    Args:
        scores: (..., neurons), an FFN's pre-activations.
        k: how many each row keeps, at least 1; if it is the number of neurons or more, all.
        activation: elementwise.

    Returns:
        (..., neurons).
    """
    if k >= scores.shape[-1]:
        return activation(scores)
    exporting = torch.compiler.is_exporting() or torch.jit.is_tracing()  # type: ignore[attr-defined,no-untyped-call]
    graph = torch.is_grad_enabled() and scores.requires_grad
    if not exporting and not graph and runs_natively(scores):
        rows = scores.reshape(-1, scores.shape[-1]).float().contiguous()
        kept, places = native_select(rows, k)
        index = places.long().view(*scores.shape[:-1], k)
        kept = kept.to(scores.dtype).view(*scores.shape[:-1], k)
    else:
        kept, index = scores.topk(k, dim=-1, sorted=False)
    return torch.zeros_like(scores).scatter(-1, index, activation(kept))
