"""Slow, plain references, made without axsearch's slicing or kernels.

``masked_logits`` runs the untouched base with hooks that blank what a recipe removes;
``topk_rows`` is top-k attention row by row in float64.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import PreTrainedModel

from axsearch.recipe import Kept, Recipe, Setting


def topk_rows(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    k: int,
    bias: Tensor | None,
    mode: str,
    scale: float | None = None,
) -> NDArray[np.float64]:
    """Top-k attention; ``bias`` is additive and broadcastable, -inf where a key is forbidden."""
    q, x, v = (tensor.detach().double().numpy() for tensor in (query, key, value))
    scores = q @ np.swapaxes(x, -1, -2) * (q.shape[-1] ** -0.5 if scale is None else scale)
    if bias is not None:
        scores = scores + np.broadcast_to(bias.detach().double().numpy(), scores.shape)
    output = np.zeros((*q.shape[:-1], v.shape[-1]))
    for at in np.ndindex(scores.shape[:-1]):
        allowed = [int(i) for i in np.flatnonzero(scores[at] > -np.inf)]
        best = sorted(allowed, key=lambda i: -scores[at][i])[:k]
        if not best:
            continue
        weights = np.exp(scores[at] - scores[at][best[0]])
        total = sum(weights[i] for i in (allowed if mode == "hard" else best))
        for i in best:
            output[at] += weights[i] / total * v[(*at[:-1], i)]
    return output


def masked_logits(model: PreTrainedModel, recipe: Recipe, batch: dict[str, Tensor]) -> Tensor:
    """What the BERT ``model`` answers with the recipe's removals blanked out by hooks."""
    with ExitStack() as hooks, torch.no_grad():
        for number, layer in enumerate(model.bert.encoder.layer):
            attention, ffn = recipe.at(number, "attention"), recipe.at(number, "ffn")
            heads, neurons, topk = attention.get("heads"), ffn.get("ffn"), attention.get("topk")
            if _none_kept(heads) and _none_kept(neurons):
                hooks.enter_context(layer.register_forward_hook(_first_input))
                continue
            for choice, dense in (
                (heads, layer.attention.output.dense),
                (neurons, layer.output.dense),
            ):
                if _none_kept(choice):
                    hooks.enter_context(dense.register_forward_hook(_zeros))
                elif isinstance(choice, Kept):
                    hooks.enter_context(dense.register_forward_pre_hook(_blank(choice)))
            if isinstance(topk, Setting):
                hook = _topk(topk, batch["attention_mask"])
                hooks.enter_context(layer.attention.self.register_forward_hook(hook))
        logits: Tensor = model(**batch).logits
    return logits


def _none_kept(choice: object) -> bool:
    return isinstance(choice, Kept) and not choice.kept


def _first_input(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    return inputs[0]


def _zeros(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    return torch.zeros_like(output)


def _blank(choice: Kept) -> Callable[..., tuple[Tensor, ...]]:
    def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        blanked = inputs[0].clone()
        width = blanked.shape[-1] // choice.of
        for unit in set(range(choice.of)) - set(choice.kept):
            blanked[..., unit * width : (unit + 1) * width] = 0
        return (blanked, *inputs[1:])

    return hook


def _topk(setting: Setting, attention_mask: Tensor) -> Callable[..., tuple[Tensor, None]]:
    def hook(module: Any, inputs: tuple[Tensor, ...], output: Any) -> tuple[Tensor, None]:
        hidden = inputs[0]
        q, k, v = (
            projection(hidden).unflatten(-1, (-1, module.attention_head_size)).transpose(1, 2)
            for projection in (module.query, module.key, module.value)
        )
        bias = torch.zeros(len(hidden), 1, 1, hidden.shape[1])
        bias = bias.masked_fill(attention_mask[:, None, None, :] == 0, float("-inf"))
        rows = topk_rows(q, k, v, setting.value, bias, setting.mode)
        return torch.from_numpy(rows).float().transpose(1, 2).flatten(-2), None

    return hook
