"""A model whose graph does not depend on the length of the example that is traced."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from axsearch.kernels.attention_interface import ATTENTION_NAME
from axsearch.kernels.torch_topk import attend

EXPORT_ATTENTION = "axsearch_export"


def traceable(small: PreTrainedModel) -> PreTrainedModel:
    """A copy that shares the tensors and answers the same, for a tracer with an open length."""
    shared = (*small.parameters(), *small.buffers())
    model: PreTrainedModel = copy.deepcopy(small, {id(tensor): tensor for tensor in shared})
    if model.config._attn_implementation in ("sdpa", ATTENTION_NAME):
        model.config._attn_implementation = EXPORT_ATTENTION
    module: Any
    for module in model.modules():
        if hasattr(module, "attend"):  # a family with an attention of its own
            module.attend = traceable_topk
    if getattr(model.config, "use_cache", False):  # of earlier tokens, which an export has not
        model.config.use_cache = False
    return model


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
    """Attention as an exporter can trace it: SDPA, or top-k of any length, below k too."""
    layer: Any = module
    if getattr(layer, "topk", None) is None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
    output = traceable_topk(
        query, key, value, layer.topk,
        mask=attention_mask, scale=scaling, mode=layer.topk_mode, dropout=dropout,
    )  # fmt: skip
    return output.transpose(1, 2).contiguous(), None


def traceable_topk(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    k: int,
    *,
    mask: Tensor | None = None,
    scale: float | None = None,
    mode: str = "renormalised",
    dropout: float = 0.0,
) -> Tensor:
    """Top-k attention without a branch on the length, exact below k too.

    Arguments and result as of :func:`axsearch.kernels.topk_attention.topk_attention`. There are k
    more keys, to which no query may attend: so there always are k to choose from.
    """
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    keys = key.shape[2]
    mask = query.new_ones(keys, dtype=torch.bool) if mask is None else mask
    mask = mask.expand(*mask.shape[:-1], keys)
    reaches = None
    if mask.dtype == torch.bool:
        # Finite, as OpenVINO makes NaN of a query that may attend to no key; it gets zeros below.
        reaches = mask.any(-1, keepdim=True)
        mask = torch.where(mask, 0.0, torch.finfo(query.dtype).min)
    key, value = pad(key, (0, 0, 0, k)), pad(value, (0, 0, 0, k))
    output, _, _ = attend(
        query, key, value, k, pad(mask, (0, k), value=float("-inf")), first_query=None,
        scale=scale, hard=mode == "hard", dropout=dropout,
    )  # fmt: skip
    return output if reaches is None else output * reaches


def attention_mask(**kwargs: Any) -> Tensor | None:
    """SDPA's mask, there even if the example that is traced could do without."""
    kwargs |= {"allow_is_causal_skip": False, "allow_is_bidirectional_skip": False}
    mask: Tensor | None = sdpa_mask(**kwargs)
    return mask


AttentionInterface.register(EXPORT_ATTENTION, attention_forward)
AttentionMaskInterface.register(EXPORT_ATTENTION, attention_mask)
