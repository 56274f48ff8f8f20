"""Top-k attention in plain PyTorch."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

TopKMode = Literal["renormalised", "hard"]


def topk_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    k: int,
    *,
    mask: Tensor | None = None,
    scale: float | None = None,
    mode: TopKMode = "renormalised",
    dropout: float = 0.0,
) -> Tensor:
    """Attention in which each query keeps only its k largest scores.

    Args:
        query: (batch, heads, queries, head_dim).
        key: (batch, heads, keys, head_dim).
        value: (batch, heads, keys, head_dim).
        k: how many keys a query keeps, at least 1; more than there are keys means all of them.
            Of equal scores at the border, which are kept is torch.topk's choice.
        mask: broadcastable to (batch, heads, queries, keys); boolean (True: may attend) or
            additive, as for ``scaled_dot_product_attention``.
        scale: factor on the scores; 1/sqrt(head_dim) if None.
        mode: ``renormalised`` takes the softmax over the kept scores (Top-k attention,
            arXiv 2106.06899, section 2); ``hard`` keeps the k largest probabilities of the full
            softmax and does not renormalise (AxFormer, arXiv 2010.03688, selective hard
            attention).
        dropout: probability of dropping a kept weight.

    Returns:
        (batch, heads, queries, head_dim). A query that may attend to no key gets zeros.

    Raises:
        ValueError: k below 1, or an unknown mode.
    """
    if k < 1:
        raise ValueError(f"k must be at least 1, not {k}")
    if mode not in ("renormalised", "hard"):
        raise ValueError(f"mode must be 'renormalised' or 'hard', not {mode!r}")
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    scores = torch.matmul(query * scale, key.transpose(-2, -1))
    if mask is not None:
        if mask.dtype == torch.bool:
            scores = scores.masked_fill(~mask, float("-inf"))
        else:
            scores = scores + mask
    kept, index = scores.topk(min(k, scores.shape[-1]), dim=-1, sorted=False)
    reference = scores if mode == "hard" else kept
    peak = reference.detach().amax(-1, keepdim=True).clamp_min(torch.finfo(scores.dtype).min)
    total = (reference - peak).exp().sum(-1, keepdim=True)
    # A row of -inf has a total of 0: dividing by 1 there keeps its gradient 0 as well.
    weights = (kept - peak).exp() / total.masked_fill(total == 0, 1.0)
    if dropout:
        weights = torch.nn.functional.dropout(weights, dropout)
    dense = torch.zeros_like(scores).scatter(-1, index, weights.to(scores.dtype))
    return torch.matmul(dense, value)
