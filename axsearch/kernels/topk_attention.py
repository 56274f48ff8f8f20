"""Top-k attention: exact, in linear memory, with gradients."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from axsearch.kernels.native_topk import native_backward, native_forward, runs_natively
from axsearch.kernels.torch_topk import attend, torch_backward, torch_forward, wide

TopKMode = Literal["renormalised", "hard"]


def topk_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    k: int,
    *,
    mask: Tensor | None = None,
    causal: bool = False,
    scale: float | None = None,
    mode: TopKMode = "renormalised",
    query_chunk: int | None = None,
    dropout: float = 0.0,
) -> Tensor:
    """Attention in which each query keeps only its k largest scores.

    Scores are computed and selected in tiles of some queries, so memory grows with the length, not
    with its square. Only the inputs, the mask, the kept scores and their keys are saved for the
    backward pass (Top-k attention, arXiv 2106.06899, section 2); the rest is recomputed. Only a
    graph that is exported or traced computes all scores at once, since it cannot loop over a length
    that is left open. ``_TopKAttention`` says when compiled kernels run, and when PyTorch does.

    Args:
        query: (batch, heads, queries, width).
        key: (batch, heads, keys, width).
        value: (batch, heads, keys, value width).
        k: how many keys each query keeps, at least 1. If it is the number of keys or more, this is
            dense attention, by PyTorch's ``scaled_dot_product_attention``. Exactly k keys are kept
            also if scores are equal; which of the equal ones is not defined.
        mask: broadcastable to (batch, heads, queries, keys); boolean (True: may attend) or
            additive, as for ``scaled_dot_product_attention``. An additive one may need a gradient.
        causal: query i attends to the keys 0 to i only.
        scale: factor on the scores; 1/sqrt(width) if None.
        mode: ``renormalised`` takes the softmax over the kept scores (Top-k attention, section 2);
            ``hard`` keeps the k largest probabilities of the full softmax and does not renormalise
            (AxFormer, arXiv 2010.03688, selective hard attention). The gradient of ``hard`` reaches
            every score, through the softmax's sum.
        query_chunk: queries per tile; None takes as many as fit the tile's memory.
        dropout: probability of dropping a kept weight; the backward pass drops the same ones.

    Returns:
        (batch, heads, queries, value width). A query that may attend to fewer than k keys attends
        to those; one that may attend to none returns zeros, and passes no gradient. A score of NaN
        or +infinity makes its query's output NaN; values must be finite, as 0 times NaN is NaN.

    Raises:
        ValueError: k or query_chunk below 1, an unknown mode, a dropout outside [0, 1), or shapes
            that do not fit.
        RuntimeError: under ``torch.func`` transforms or when differentiated twice.
            ``torch.compile`` breaks the graph here, and refuses with ``fullgraph=True``.
    """
    _check(query, key, value, k, mask, mode, query_chunk, dropout)
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    hard, device = mode == "hard", query.device.type
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
        query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
    with torch.autocast(device, enabled=False):
        return _dense_or_topk(query, key, value, mask, k, causal, scale, hard, dropout, query_chunk)


def _dense_or_topk(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, k: int, causal: bool,
    scale: float, hard: bool, dropout: float, chunk: int | None,
) -> Tensor:  # fmt: skip
    # Autocast is off here: the inputs have the type in which they are multiplied.
    if mask is not None:
        mask = mask.reshape(*(1,) * (4 - mask.dim()), *mask.shape)
        mask = mask if mask.dtype == torch.bool else mask.to(wide(query.dtype))
    if key.shape[2] == 0:
        mask = None
    if k >= key.shape[2] and not (causal and mask is not None):
        if mask is not None and mask.dtype != torch.bool:
            mask = mask.to(query.dtype)
        return scaled_dot_product_attention(
            query, key, value, mask, dropout, is_causal=causal, scale=scale
        )
    k = min(k, key.shape[2])
    if torch.compiler.is_exporting() or torch.jit.is_tracing():  # type: ignore[attr-defined,no-untyped-call]
        return attend(
            query, key, value, k, mask, first_query=0 if causal else None, scale=scale,
            hard=hard, dropout=dropout,
        )[0]  # fmt: skip
    output: Tensor = _run(query, key, value, mask, k, causal, scale, hard, dropout, chunk)
    return output


@torch.compiler.disable(  # type: ignore[untyped-decorator]
    reason="top-k attention runs in tiles, and on a CPU in compiled kernels"
)
def _run(*arguments: Any) -> Tensor:
    output: Tensor = _TopKAttention.apply(*arguments, torch.is_grad_enabled())  # type: ignore[no-untyped-call]
    return output


class _TopKAttention(torch.autograd.Function):
    """Top-k attention in tiles, by compiled kernels or by PyTorch.

    On a CPU (Linux with a C++ compiler; float32, bfloat16, float16) compiled kernels select and
    gather, whatever the shape, since none was found for which plain PyTorch is faster
    (``studies/benchmarks``); ``AXSEARCH_NATIVE=0`` turns them off. Their backward pass uses one
    thread per head; that of ``hard``, and of a mask that needs a gradient, is plain PyTorch, as is
    everything on other machines. The kernels compute float32 scores of bfloat16 and float16 inputs;
    PyTorch's product rounds them to the inputs' type, and they are summed in float32.
    """

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, k: int,
        causal: bool, scale: float, hard: bool, dropout: float, chunk: int | None,
        grad_enabled: bool,
    ) -> Tensor:  # fmt: skip
        save = grad_enabled and any(ctx.needs_input_grad)
        forward = native_forward if runs_natively(query) else torch_forward
        output, kept, index = forward(
            query, key, value, k, mask, causal=causal, scale=scale, hard=hard, dropout=dropout,
            chunk=chunk, save=save,
        )  # fmt: skip
        if save:
            ctx.save_for_backward(query, key, value, mask, kept, index)
            ctx.settings = causal, scale, hard, dropout, chunk
        return output

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():  # that is, with create_graph=True
            raise RuntimeError("top-k attention cannot be differentiated twice")
        query, key, value, mask, kept, index = ctx.saved_tensors
        dtype = query.dtype
        causal, scale, hard, dropout, chunk = ctx.settings
        with torch.autocast(query.device.type, enabled=False):
            mask_needs_grad = ctx.needs_input_grad[3]
            if runs_natively(query) and not hard and not mask_needs_grad:
                grad_mask = None
                grads = native_backward(
                    grad, query, key, value, kept, index, scale=scale, dropout=dropout
                )
            else:
                if runs_natively(query):  # the forward pass made its scores in float32
                    grad, query, key, value = (t.float() for t in (grad, query, key, value))
                grads, grad_mask = torch_backward(
                    grad, query, key, value, mask, kept, index, causal=causal, scale=scale,
                    hard=hard, dropout=dropout, chunk=chunk, mask_needs_grad=mask_needs_grad,
                )  # fmt: skip
        return (*(found.to(dtype) for found in grads), grad_mask, *(None,) * 7)


def _check(
    query: Tensor, key: Tensor, value: Tensor, k: int, mask: Tensor | None, mode: str,
    query_chunk: int | None, dropout: float,
) -> None:  # fmt: skip
    if k < 1:
        raise ValueError(f"k must be at least 1, not {k}")
    if query_chunk is not None and query_chunk < 1:
        raise ValueError(f"query_chunk must be at least 1, not {query_chunk}")
    if mode not in ("renormalised", "hard"):
        raise ValueError(f"mode must be 'renormalised' or 'hard', not {mode!r}")
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout must be at least 0 and below 1, not {dropout}")
    shapes = tuple(tuple(tensor.shape) for tensor in (query, key, value))
    if (
        any(len(shape) != 4 for shape in shapes)
        or not shapes[0][:2] == shapes[1][:2] == shapes[2][:2]
        or not shapes[0][3] == shapes[1][3] > 0
        or shapes[1][2] != shapes[2][2]
    ):
        raise ValueError(
            "query, key and value must be (batch, heads, length, width) with the same batch and "
            f"heads, not {shapes[0]}, {shapes[1]} and {shapes[2]}"
        )
    if len({tensor.dtype for tensor in (query, key, value)}) > 1:
        raise ValueError("query, key and value must have one dtype")
    if len({tensor.device for tensor in (query, key, value, mask) if tensor is not None}) > 1:
        raise ValueError("query, key, value and mask must be on one device")
    if mask is None:
        return
    if not (mask.dtype == torch.bool or mask.is_floating_point()):
        raise ValueError(f"mask must be boolean or floating, not {mask.dtype}")
    scores = (*shapes[0][:3], shapes[1][2])
    fits = all(
        size in (1, wanted) for size, wanted in zip(mask.shape[::-1], scores[::-1], strict=False)
    )
    if mask.dim() > 4 or not fits:
        raise ValueError(f"mask {tuple(mask.shape)} does not broadcast to {scores}")
