"""Top-k attention as an exporter can trace it, for an input of any length."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from axsearch.approximations.topk.attention_interface import ATTENTION_NAME
from axsearch.kernels.torch_topk import attend

ATTENTIONS = (ATTENTION_NAME,)
"""The attention implementations of transformers that must not be traced as they are."""


def trace(module: nn.Module) -> None:
    """Let a module of a copied model attend in a way that a tracer can follow."""
    layer: Any = module
    if hasattr(layer, "attend"):  # a family with an attention of its own
        layer.attend = traceable_topk
    elif getattr(layer, "topk", None) is not None:
        layer.traced_attention = partial(traceable_topk, k=layer.topk, mode=layer.topk_mode)


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
