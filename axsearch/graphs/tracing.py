"""A model whose graph does not depend on the length of the example that is traced."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.masking_utils import bidirectional_mask_function, sdpa_mask

from axsearch import approximations, discovery

EXPORT_ATTENTION = "axsearch_export"
TRACED_ATTENTION = "traced_attention"
"""The attribute of a module that attends with which ``tracing.py`` of an approximation says how."""


def traceable(small: PreTrainedModel) -> PreTrainedModel:
    """A copy that shares the tensors and has the same outputs, for a tracer with an open length."""
    shared = (*small.parameters(), *small.buffers())
    model: PreTrainedModel = copy.deepcopy(small, {id(tensor): tensor for tensor in shared})
    if model.config._attn_implementation in ("sdpa", *own_attentions()):
        model.config._attn_implementation = EXPORT_ATTENTION
    for tracing in _tracings():
        for module in model.modules():
            tracing.trace(module)
    if getattr(model.config, "use_cache", False):  # of earlier tokens; an export has none
        model.config.use_cache = False
    return model


def own_attentions() -> tuple[str, ...]:
    """The attention implementations that approximations add."""
    return tuple(name for tracing in _tracings() for name in tracing.ATTENTIONS)


def _tracings() -> list[Any]:
    return list(discovery.halves(approximations, "tracing"))


def attention_forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, Any]:
    """Attention as products and a softmax, or an approximation's replacement for it.

    ONNX has an operator for all of it, but ONNX Runtime's tools take that for their own operator of
    the same name, and it is no faster.

    Args:
        module: the layer that attends.
        query: (batch, heads, queries, width); ``key`` and ``value`` have as many heads.
        key: (batch, heads, keys, width).
        value: (batch, heads, keys, width).
        attention_mask: of :func:`attention_mask`, or what a model adds to the scores.
        dropout: as transformers passes it; nothing is dropped in evaluation.
        scaling: of the scores; one over the root of the width if None.
        **kwargs: what transformers passes besides, and no encoder here needs.

    Returns:
        (batch, queries, heads, width) and no attention weights.
    """
    attend = getattr(module, TRACED_ATTENTION, None)
    if attend is None:
        scale = query.shape[-1] ** -0.5 if scaling is None else scaling
        scores = (query * scale) @ key.transpose(-1, -2)
        if attention_mask is not None:
            if attention_mask.dtype == torch.bool:
                # Finite, so that a query that may attend to no key does not become NaN.
                attention_mask = torch.where(attention_mask, 0.0, torch.finfo(query.dtype).min)
            scores = scores + attention_mask
        output = torch.softmax(scores, dim=-1) @ value
    else:
        output = attend(query, key, value, mask=attention_mask, scale=scaling, dropout=dropout)
    return output.transpose(1, 2).contiguous(), None


def attention_mask(
    *, mask_function: Callable[..., Any], attention_mask: Tensor | None, **kwargs: Any
) -> Tensor | None:
    """True where a query may attend, present even if the traced example needs none.

    Returns:
        (batch, 1, 1, keys) where padding alone decides, and (batch, 1, queries, keys) where the
        place of the query does, too.
    """
    if mask_function is bidirectional_mask_function and attention_mask is not None:
        return attention_mask[:, None, None, :]
    kwargs |= {"allow_is_causal_skip": False, "allow_is_bidirectional_skip": False}
    mask: Tensor | None = sdpa_mask(
        mask_function=mask_function, attention_mask=attention_mask, **kwargs
    )
    return mask


AttentionInterface.register(EXPORT_ATTENTION, attention_forward)
AttentionMaskInterface.register(EXPORT_ATTENTION, attention_mask)
