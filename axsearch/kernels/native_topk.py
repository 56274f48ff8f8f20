"""Top-k attention and top-k selection by the compiled kernels, tile by tile."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from axsearch.kernels.native import NativeBackward, NativeTile, native_library
from axsearch.kernels.tiles import tiles

# 2 MB of scores: what the second-level caches of two cores hold while a tile is selected from.
NATIVE_BUDGET = 1 << 19
NATIVE_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def runs_natively(tensor: Tensor) -> bool:
    """Whether the compiled kernels support this tensor's device and type on this machine."""
    return (
        tensor.device.type == "cpu"
        and tensor.dtype in NATIVE_DTYPES
        and native_library() is not None
    )


def native_forward(
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
    """Output and, with ``save``, kept scores and their keys.

    Shapes as in ``topk_attention``; ``mask`` is bool or float32 and has four dimensions, of which
    some may be 1. Kept scores are float32, keys int32, both (batch * heads, queries, k); the key of
    a weight that was dropped is stored as its complement.
    """
    batch, heads, queries, _ = query.shape
    keys, value_width = value.shape[-2:]
    rows = batch * heads
    q, kt, v = _flat(query), _flat(key).transpose(1, 2), _flat(value)
    # Length first in memory, so that a transformer layer's flattening is a view.
    out = q.new_empty(batch, queries, heads, value_width).transpose(1, 2)
    kept = q.new_empty(rows, queries, k) if save else None
    index = q.new_empty(rows, queries, k, dtype=torch.int32) if save else None
    if mask is not None:
        mask = mask.expand(batch, heads, queries, keys)
    call = _tile(k, mask, heads, hard=hard, causal=causal)
    call.value, call.value_keys, call.width = v.data_ptr(), keys, value_width
    call.out = out.data_ptr()
    call.out_batch, call.out_head, call.out_query, _ = out.stride()
    call.total_queries, call.keep_factor = queries, 1 / (1 - dropout)
    if kept is not None and index is not None:
        call.kept, call.index = kept.data_ptr(), index.data_ptr()
    buffer = q.new_empty(0)
    for at in tiles(rows, queries, keys, causal=causal, chunk=chunk, budget=NATIVE_BUDGET):
        some_q, some_k = q[at.heads, at.queries], kt[at.heads, :, : at.keys]
        shape = (*some_q.shape[:2], at.keys)
        if buffer.numel() < shape[0] * shape[1] * shape[2]:
            buffer = q.new_empty(shape[0] * shape[1] * shape[2])
        scores = buffer[: shape[0] * shape[1] * shape[2]].view(shape)
        torch.baddbmm(scores, some_q, some_k, beta=0, alpha=scale, out=scores)
        dropped = None
        if dropout:
            dropped = q.new_empty(*shape[:2], k, dtype=torch.uint8).bernoulli_(dropout)
            call.dropped = dropped.data_ptr()
        call.scores = scores.data_ptr()
        call.n_heads, call.queries, call.keys = shape
        call.first_head, call.first_query = at.heads.start, at.queries.start
        _library().axsearch_topk(ctypes.byref(call))
    return out.to(query.dtype), kept, index


def native_backward(
    grad: Tensor, query: Tensor, key: Tensor, value: Tensor, kept: Tensor, index: Tensor,
    *, scale: float, dropout: float,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """The gradients of renormalised top-k attention for query, key and value."""
    q, x, v, g = _flat(query), _flat(key), _flat(value), _flat(grad)
    grads = [torch.zeros_like(tensor) for tensor in (q, x, v)]
    inputs = (q, x, v, g, kept, index, *grads)
    call = NativeBackward(
        *(tensor.data_ptr() for tensor in inputs),
        *(len(q), q.shape[1], x.shape[1], q.shape[2], v.shape[2], kept.shape[2]),
        *(torch.get_num_threads(), scale, 1 / (1 - dropout)),
    )
    _library().axsearch_topk_backward(ctypes.byref(call))
    first, second, third = (
        found.view(tensor.shape).to(tensor.dtype)
        for found, tensor in zip(grads, (query, key, value), strict=True)
    )
    return first, second, third


def native_select(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest of each row of contiguous float32 scores (rows, n), and their positions.

    The scores are on a CPU; the positions are int32.
    """
    kept = scores.new_empty(len(scores), k)
    index = scores.new_empty(len(scores), k, dtype=torch.int32)
    call = _tile(k, None, 1, hard=False, causal=False)
    call.scores = scores.data_ptr()
    call.n_heads, call.queries, call.keys = 1, *scores.shape
    call.total_queries, call.kept, call.index = len(scores), kept.data_ptr(), index.data_ptr()
    _library().axsearch_topk(ctypes.byref(call))
    return kept, index


def _tile(k: int, mask: Tensor | None, heads: int, *, hard: bool, causal: bool) -> NativeTile:
    call = NativeTile(
        k=k, heads_per_batch=heads, hard=hard, causal=causal, threads=torch.get_num_threads()
    )
    if mask is not None:
        call.mask, call.mask_kind = mask.data_ptr(), 1 if mask.dtype == torch.bool else 2
        call.mask_batch, call.mask_head, call.mask_query, call.mask_key = mask.stride()
    return call


def _library() -> ctypes.CDLL:
    library = native_library()
    assert library is not None
    return library


def _flat(tensor: Tensor) -> Tensor:
    return tensor.flatten(0, 1).float().contiguous()
