"""Top-k attention as an attention implementation of transformers.

A layer whose self-attention module carries ``topk`` (and ``topk_mode``) runs top-k attention;
every other layer of the same model runs PyTorch's SDPA.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import bidirectional_mask_function, sdpa_mask

from axsearch.kernels.topk_attention import topk_attention

ATTENTION_NAME = "axsearch_topk"


def attention_forward(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Called by transformers in each layer: (batch, heads, length, d) in, length first out."""
    layer: Any = module
    if getattr(layer, "topk", None) is None or layer.topk >= key.shape[-2]:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
    # As in transformers' sdpa: without a mask a decoder's prompt is causal, a single token is not.
    causal = kwargs.get("is_causal")
    causal = getattr(layer, "is_causal", False) if causal is None else causal
    output = topk_attention(
        query, key, value, layer.topk,
        mask=attention_mask, causal=causal and attention_mask is None and query.shape[2] > 1,
        scale=scaling, mode=layer.topk_mode, dropout=dropout,
    )  # fmt: skip
    return output.transpose(1, 2).contiguous(), None


def attention_mask(**kwargs: Any) -> torch.Tensor | None:
    """The mask of PyTorch's SDPA; one that is for padding only has a single query.

    That is (batch, 1, 1, keys) instead of (batch, 1, queries, keys), which is as large as the
    scores that top-k attention avoids storing.
    """
    if kwargs["mask_function"] is bidirectional_mask_function:
        kwargs["q_length"] = 1
    mask: torch.Tensor | None = sdpa_mask(**kwargs)
    return mask


AttentionInterface.register(ATTENTION_NAME, attention_forward)
AttentionMaskInterface.register(ATTENTION_NAME, attention_mask)
