"""Top-k attention in plain PyTorch, tile by tile: for GPUs, and if nothing can be compiled."""

from __future__ import annotations

import torch
from torch import Tensor

from axsearch.kernels.tiles import Tile, tiles

# 32 MB of float32 scores per tile, of which a few tensors exist at once.
TORCH_BUDGET = 1 << 23


def torch_forward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    k: int,
    mask: Tensor | None,
    *,
    causal: bool,
    scale: float,
    hard: bool,
    dropout: float,
    chunk: int | None,
    save: bool,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Output and, with ``save``, kept scores and their keys, as ``native_forward`` returns them."""
    q, x, v = (tensor.flatten(0, 1) for tensor in (query, key, value))
    output = v.new_empty(*q.shape[:2], v.shape[2])
    kept = q.new_empty(*q.shape[:2], k, dtype=wide(q.dtype)) if save else None
    index = q.new_empty(*q.shape[:2], k, dtype=torch.int32) if save else None
    for at in tiles(
        len(q), q.shape[1], x.shape[1], causal=causal, chunk=chunk, budget=TORCH_BUDGET
    ):
        some, some_kept, some_index = attend(
            q[at.heads, at.queries], x[at.heads, : at.keys], v[at.heads, : at.keys], k,
            _mask_of(mask, at, query.shape[1]),
            first_query=at.queries.start if causal else None, scale=scale, hard=hard,
            dropout=dropout,
        )  # fmt: skip
        output[at.heads, at.queries] = some
        if kept is not None and index is not None:
            # A causal tile may have fewer keys than k: the rest are keys that nobody may attend to.
            missing = range(some_kept.shape[2], k)
            kept[at.heads, at.queries] = torch.nn.functional.pad(
                some_kept, (0, len(missing)), value=float("-inf")
            )
            index[at.heads, at.queries, : missing.start] = some_index
            index[at.heads, at.queries, missing.start :] = torch.arange(
                missing.start, missing.stop, dtype=torch.int32, device=index.device
            )
    return output.view(*query.shape[:3], v.shape[2]), kept, index


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    k: int,
    mask: Tensor | None,
    *,
    first_query: int | None,
    scale: float,
    hard: bool,
    dropout: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """One tile: output, kept scores and their keys, of shapes (..., queries, width or k).

    ``first_query`` is the position of the tile's first query if attention is causal.
    """
    scores = _scores(query, key, mask, first_query, scale)
    kept, index = scores.topk(min(k, scores.shape[-1]), dim=-1, sorted=False)
    peak, total = _peak_and_total(scores if hard else kept)
    weights = (kept - peak).exp() / total
    index_kept = index
    if dropout:
        dropped = torch.rand_like(weights) < dropout
        weights = weights.masked_fill(dropped, 0.0) / (1 - dropout)
        index_kept = torch.where(dropped, ~index, index)
    dense = torch.zeros_like(scores).scatter(-1, index, weights)
    return torch.matmul(dense.to(value.dtype), value), kept, index_kept


def torch_backward(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    kept: Tensor,
    index: Tensor,
    *,
    causal: bool,
    scale: float,
    hard: bool,
    dropout: float,
    chunk: int | None,
    mask_needs_grad: bool,
) -> tuple[tuple[Tensor, Tensor, Tensor], Tensor | None]:
    """The gradients of query, key and value, and of an additive mask that needs one."""
    q, x, v, g = (tensor.flatten(0, 1) for tensor in (query, key, value, grad))
    grad_q, grad_x, grad_v = (
        torch.zeros(tensor.shape, dtype=wide(tensor.dtype), device=tensor.device)
        for tensor in (q, x, v)
    )
    grad_mask = None
    if mask is not None and mask_needs_grad:
        grad_mask = torch.zeros(mask.shape, dtype=wide(mask.dtype), device=mask.device)
    for at in tiles(
        len(q), q.shape[1], x.shape[1], causal=causal, chunk=chunk, budget=TORCH_BUDGET
    ):
        some_q, some_g = q[at.heads, at.queries], g[at.heads, at.queries]
        some_x, some_v = x[at.heads, : at.keys], v[at.heads, : at.keys]
        some_kept = kept[at.heads, at.queries, : at.keys]
        code = index[at.heads, at.queries, : at.keys].long()
        dropped = code < 0
        code = torch.where(dropped, ~code, code)
        scores = None
        if hard:
            first = at.queries.start if causal else None
            scores = _scores(some_q, some_x, _mask_of(mask, at, query.shape[1]), first, scale)
        peak, total = _peak_and_total(some_kept if scores is None else scores)
        weights = (some_kept - peak).exp() / total
        factor = (~dropped).to(weights.dtype) / (1 - dropout)
        dense = weights.new_zeros(*weights.shape[:2], at.keys).scatter_(-1, code, weights * factor)
        grad_v[at.heads, : at.keys] += torch.matmul(dense.to(g.dtype).transpose(1, 2), some_g)
        grads = torch.matmul(some_g, some_v.transpose(1, 2)).gather(-1, code)
        grads = grads.to(weights.dtype) * factor
        _back_through_softmax(dense.zero_(), weights, grads, code, scores, peak, total)
        if grad_mask is not None:
            _add_to_mask(grad_mask, dense, at, query.shape[1])
        dense = dense.to(q.dtype)
        grad_q[at.heads, at.queries] = torch.matmul(dense, some_x).to(grad_q.dtype) * scale
        grad_x[at.heads, : at.keys] += torch.matmul(dense.transpose(1, 2), some_q) * scale
    found = (
        grad_q.view(query.shape).to(query.dtype),
        grad_x.view(key.shape).to(key.dtype),
        grad_v.view(value.shape).to(value.dtype),
    )
    return found, None if grad_mask is None or mask is None else grad_mask.to(mask.dtype)


def _back_through_softmax(
    to: Tensor, weights: Tensor, grads: Tensor, code: Tensor, scores: Tensor | None, peak: Tensor,
    total: Tensor,
) -> None:  # fmt: skip
    # From the gradients of the kept weights to those of a tile's scores. If the softmax was that of
    # the kept scores, these alone have a gradient; otherwise its sum passes one to all ``scores``.
    inner = (weights * grads).sum(-1, keepdim=True)
    if scores is None:
        to.scatter_(-1, code, weights * (grads - inner))
    else:
        to.scatter_(-1, code, weights * grads).sub_((scores - peak).exp_().mul_(inner / total))


def wide(dtype: torch.dtype) -> torch.dtype:
    """The type in which scores are compared and summed: float32, or float64 for float64 inputs."""
    return torch.promote_types(dtype, torch.float32)


def _scores(
    query: Tensor, key: Tensor, mask: Tensor | None, first_query: int | None, scale: float
) -> Tensor:
    scores = torch.matmul(query * scale, key.transpose(-2, -1)).to(wide(query.dtype))
    if mask is not None and mask.dtype == torch.bool:
        scores = scores.masked_fill(~mask, float("-inf"))
    elif mask is not None:
        scores = scores + mask
    if first_query is not None:
        queries, keys = scores.shape[-2:]
        rows = torch.arange(first_query, first_query + queries, device=scores.device)
        later = torch.arange(keys, device=scores.device) > rows[:, None]
        scores = scores.masked_fill(later, float("-inf"))
    return scores


def _peak_and_total(scores: Tensor) -> tuple[Tensor, Tensor]:
    # Softmax is exp(x - peak) / total. One logarithm for both would be rounded as the peak is, and
    # the weights of a row whose scores are -1e4 would no longer sum to 1. A row of -inf only gets
    # 0 and 1: its weights and their gradients are then zeros and not NaN.
    peak = scores.detach().amax(-1, keepdim=True)
    forbidden = peak == float("-inf")
    peak = peak.masked_fill(forbidden, 0.0)
    total = (scores - peak).exp().sum(-1, keepdim=True)
    return peak, total.masked_fill(forbidden, 1.0)


def _mask_of(mask: Tensor | None, at: Tile, heads: int) -> Tensor | None:
    # A mask that is broadcast over the heads has no flat view: pick the tile's batches and heads.
    if mask is None:
        return None
    numbers = torch.arange(at.heads.start, at.heads.stop, device=mask.device)
    queries = at.queries if mask.shape[2] > 1 else slice(None)
    keys = slice(at.keys) if mask.shape[3] > 1 else slice(None)
    batches, heads_of = numbers // heads % mask.shape[0], numbers % heads % mask.shape[1]
    return mask[:, :, queries, keys][batches, heads_of]


def _add_to_mask(grad_mask: Tensor, dense: Tensor, at: Tile, heads: int) -> None:
    # Summed over what the mask was broadcast to, one head at a time.
    for number, grads in zip(range(at.heads.start, at.heads.stop), dense, strict=True):
        batch, head = divmod(number, heads)
        target = grad_mask[batch % grad_mask.shape[0], head % grad_mask.shape[1]]
        target = target[at.queries if target.shape[0] > 1 else slice(None)]
        target = target[:, : at.keys] if target.shape[1] > 1 else target
        target += grads.sum_to_size(target.shape)
