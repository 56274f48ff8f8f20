"""A model whose graph does not depend on the length of the example that is traced."""

from __future__ import annotations

import copy
from typing import Any

from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

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
    """Attention as an exporter can trace it: SDPA, or an approximation's replacement for it."""
    attend = getattr(module, TRACED_ATTENTION, None)
    if attend is None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
    output = attend(query, key, value, mask=attention_mask, scale=scaling, dropout=dropout)
    return output.transpose(1, 2).contiguous(), None


def attention_mask(**kwargs: Any) -> Tensor | None:
    """SDPA's mask, present even if the traced example needs none."""
    kwargs |= {"allow_is_causal_skip": False, "allow_is_bidirectional_skip": False}
    mask: Tensor | None = sdpa_mask(**kwargs)
    return mask


AttentionInterface.register(EXPORT_ATTENTION, attention_forward)
AttentionMaskInterface.register(EXPORT_ATTENTION, attention_mask)
