"""Top-k feed-forward layer: each token keeps its k largest pre-activations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear

from axsearch.kernels.native_topk import native_select, runs_natively
from axsearch.kernels.topk_activation import topk_activation
from axsearch.kernels.torch_topk import TORCH_BUDGET, wide

Activation = Callable[[Tensor], Tensor]


def topk_ffn(
    hidden: Tensor,
    w_in: Tensor,
    b_in: Tensor | None,
    w_out: Tensor,
    b_out: Tensor | None,
    k: int,
    activation: Activation,
    *,
    token_chunk: int | None = None,
) -> Tensor:
    """``linear(activation(top k of linear(hidden, w_in, b_in)), w_out, b_out)``.

    The FFN is seen as a memory whose keys are the rows of ``w_in`` and whose values are the columns
    of ``w_out``; a token uses the k keys with the largest scores (Top-k attention, arXiv
    2106.06899, section 2). Tokens are processed in tiles. Only the inputs, the kept pre-activations
    and their positions are saved for the backward pass: 8k bytes per token instead of about 8 d_ff.
    Both products stay dense, so this saves memory, not time. Only a graph that is exported or
    traced computes all pre-activations at once.

    With ReLU it is exact if no token has more than k positive pre-activations.

    Args:
        hidden: (..., width).
        w_in: (d_ff, width), as ``torch.nn.Linear.weight``.
        b_in: (d_ff,) or None.
        w_out: (width out, d_ff).
        b_out: (width out,) or None.
        k: pre-activations that each token keeps, at least 1; d_ff or more is the dense layer.
            Exactly k are kept also if some are equal; which of the equal ones is not defined. NaN
            makes the token's output NaN.
        activation: elementwise, and without parameters of its own.
        token_chunk: tokens per tile; None takes as many as fit the tile's memory.

    Returns:
        (..., width out).

    Raises:
        ValueError: k or token_chunk below 1, or shapes that do not fit.
        RuntimeError: under ``torch.func`` transforms or when differentiated twice.
            ``torch.compile`` breaks the graph here, and refuses with ``fullgraph=True``.
    """
    _check_ffn(hidden, w_in, b_in, w_out, b_out, k, token_chunk)
    device = hidden.device.type
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
        hidden, w_in, w_out = hidden.to(dtype), w_in.to(dtype), w_out.to(dtype)
        b_in = None if b_in is None else b_in.to(dtype)
        b_out = None if b_out is None else b_out.to(dtype)
    with torch.autocast(device, enabled=False):
        exporting = torch.compiler.is_exporting() or torch.jit.is_tracing()  # type: ignore[attr-defined,no-untyped-call]
        if exporting or k >= w_in.shape[0]:
            scores = topk_activation(linear(hidden, w_in, b_in), k, activation)
            return linear(scores, w_out, b_out)
        flat = hidden.reshape(-1, hidden.shape[-1])
        arguments = (flat, w_in, b_in, w_out, b_out, k, activation, token_chunk)
        output: Tensor = _run_ffn(*arguments)
        return output.view(*hidden.shape[:-1], w_out.shape[0])


def _check_ffn(
    hidden: Tensor, w_in: Tensor, b_in: Tensor | None, w_out: Tensor, b_out: Tensor | None, k: int,
    token_chunk: int | None,
) -> None:  # fmt: skip
    if k < 1:
        raise ValueError(f"k must be at least 1, not {k}")
    if token_chunk is not None and token_chunk < 1:
        raise ValueError(f"token_chunk must be at least 1, not {token_chunk}")
    sizes = [None if tensor is None else tuple(tensor.shape) for tensor in (b_in, b_out)]
    if (
        not w_in.dim() == w_out.dim() == 2
        or w_in.shape != (w_out.shape[1], hidden.shape[-1])
        or sizes[0] not in (None, (len(w_in),))
        or sizes[1] not in (None, (len(w_out),))
    ):
        raise ValueError(
            f"w_in {tuple(w_in.shape)}, b_in {sizes[0]}, w_out {tuple(w_out.shape)} and b_out "
            f"{sizes[1]} must be (d_ff, {hidden.shape[-1]}), (d_ff,), (width, d_ff) and (width,)"
        )


@torch.compiler.disable(  # type: ignore[untyped-decorator]
    reason="the top-k feed-forward layer runs in tiles"
)
def _run_ffn(*arguments: Any) -> Tensor:
    output: Tensor = _TopKFFN.apply(*arguments, torch.is_grad_enabled())  # type: ignore[no-untyped-call]
    return output


class _TopKFFN(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, w_in: Tensor, b_in: Tensor | None, w_out: Tensor,
        b_out: Tensor | None, k: int, activation: Activation, chunk: int | None,
        grad_enabled: bool,
    ) -> Tensor:  # fmt: skip
        save = grad_enabled and any(ctx.needs_input_grad)
        tokens, neurons = len(hidden), len(w_in)
        output = hidden.new_empty(tokens, len(w_out))
        kept = hidden.new_empty(tokens, k) if save else None
        index = hidden.new_empty(tokens, k, dtype=torch.int32) if save else None
        for at in _token_tiles(tokens, neurons, chunk):
            scores = linear(hidden[at], w_in, b_in)
            if runs_natively(scores):
                some_kept, some_index = native_select(scores.float(), k)
                some_kept = some_kept.to(scores.dtype)
            else:
                some_kept, some_index = scores.topk(k, dim=-1, sorted=False)
            if kept is not None and index is not None:
                kept[at], index[at] = some_kept, some_index
            dense = scores.zero_().scatter_(-1, some_index.long(), activation(some_kept))
            output[at] = linear(dense, w_out, b_out)
            del scores, dense  # before the next tile's are made
        if save:
            ctx.save_for_backward(hidden, w_in, b_in, w_out, kept, index)
            ctx.settings = activation, chunk
        return output

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():  # that is, with create_graph=True
            raise RuntimeError("the top-k feed-forward layer cannot be differentiated twice")
        hidden, w_in, b_in, w_out, kept, index = ctx.saved_tensors
        activation, chunk = ctx.settings
        needed = ctx.needs_input_grad
        inputs = (hidden, w_in, b_in, w_out)
        grads: list[Tensor | None] = [
            torch.zeros(tensor.shape, dtype=wide(tensor.dtype), device=tensor.device)
            if needs and tensor is not None else None
            for tensor, needs in zip(inputs, needed, strict=False)
        ]  # fmt: skip
        grad_hidden, grad_w_in, grad_b_in, grad_w_out = grads
        with torch.autocast(hidden.device.type, enabled=False):
            for at in _token_tiles(len(hidden), len(w_in), chunk):
                some, places = kept[at].detach(), index[at].long()
                with torch.enable_grad():
                    some.requires_grad_()
                    active = activation(some.clone())  # which may work in place
                dense = grad.new_zeros(len(some), len(w_in))
                if grad_w_out is not None:
                    dense.scatter_(-1, places, active.detach())
                    _add_product(grad_w_out, grad[at].T, dense)
                torch.mm(grad[at], w_out, out=dense)
                (some_grad,) = torch.autograd.grad(active, some, dense.gather(-1, places))
                dense.zero_().scatter_(-1, places, some_grad)
                if grad_b_in is not None:
                    grad_b_in += dense.sum(0, dtype=grad_b_in.dtype)
                if grad_w_in is not None:
                    _add_product(grad_w_in, dense.T, hidden[at])
                if grad_hidden is not None:
                    grad_hidden[at] = torch.mm(dense, w_in).to(grad_hidden.dtype)
                del dense
        found = [
            None if g is None else g.to(tensor.dtype)
            for g, tensor in zip(grads, inputs, strict=True)
        ]
        grad_b_out = grad.sum(0) if needed[4] else None
        return (*found, grad_b_out, None, None, None, None)


def _add_product(to: Tensor, left: Tensor, right: Tensor) -> None:
    if to.dtype == left.dtype:
        to.addmm_(left, right)  # no tensor of the weights' size beside the gradient itself
    else:
        to += torch.mm(left, right)


def _token_tiles(tokens: int, neurons: int, chunk: int | None) -> list[slice]:
    size = chunk or max(16, TORCH_BUDGET // neurons)
    return [slice(first, min(tokens, first + size)) for first in range(0, tokens, size)]
