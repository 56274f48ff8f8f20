"""Slow, plain references, made without axsearch's slicing or kernels.

``masked`` runs the untouched base with hooks that blank what a recipe removes; ``topk_rows`` is
top-k attention in float64 with every score in memory.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import PreTrainedModel

from axsearch.approximations.choices import Choice, Kept, Setting
from axsearch.approximations.ffn.choice import FfnNeurons
from axsearch.approximations.ffn_topk.choice import TopKFfn
from axsearch.approximations.heads.choice import Heads
from axsearch.approximations.site import ATTENTION, FFN, SiteId
from axsearch.approximations.topk.choice import TopKAttention
from axsearch.models.architectures import architecture_of
from axsearch.space.recipe import Recipe

Floats = NDArray[np.float64]
HEADS, NEURONS, TOPK, TOPK_FFN = Heads.name, FfnNeurons.name, TopKAttention.name, TopKFfn.name
KNOWN = (HEADS, NEURONS, TOPK, TOPK_FFN)
"""The types of choices that :func:`masked` imitates."""


class Masked(NamedTuple):
    """The outputs of the masked base, by name.

    ``gap`` is the smallest difference between the k-th largest score of any top-k and the next one:
    below about 1e-5, rounding may decide which of the two is kept.
    """

    answer: dict[str, Tensor]
    gap: float

    @property
    def logits(self) -> Tensor:
        """The logits, such as (rows, labels)."""
        return self.answer["logits"]


def topk_rows(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    k: int,
    bias: Tensor | None,
    mode: str,
    scale: float | None = None,
) -> Floats:
    """Top-k attention of (…, queries, width) and (…, keys, width), as (…, queries, width).

    ``bias`` is additive and broadcasts to (…, queries, keys), with -inf where a key is forbidden.
    """
    scores = _scores(query, key, bias, scale)
    kept = _largest(scores, k)
    with np.errstate(invalid="ignore"):  # a query that may attend to nothing
        weights = np.nan_to_num(np.exp(scores - scores.max(-1, keepdims=True)))
    total = np.where(kept if mode == "renormalised" else True, weights, 0).sum(-1, keepdims=True)
    weights = np.where(kept, weights, 0) / np.where(total == 0, 1, total)
    return np.asarray(weights @ value.detach().double().numpy())


def masked(model: PreTrainedModel, recipe: Recipe, batch: dict[str, Tensor]) -> Masked:
    """The outputs of ``model``, of any family, with the recipe's removals blanked out by hooks."""
    family = architecture_of(model.config.model_type)
    gaps = [float("inf")]
    with ExitStack() as hooks, torch.no_grad():
        for number, layer in enumerate(family.layers(model)):
            attention, ffn = recipe.at(number, ATTENTION), recipe.at(number, FFN)
            if recipe.removed(number, ATTENTION) and recipe.removed(number, FFN):
                hooks.enter_context(layer.register_forward_hook(_pass_input))
                continue
            gates = family.gates(model)
            heads_gate, neurons_gate = (gates[SiteId(number, kind)] for kind in (ATTENTION, FFN))
            topk, some = attention.get(TOPK), ffn.get(TOPK_FFN)
            if isinstance(topk, Setting):
                seen: list[Tensor] = []
                for name in family.layout.blocks[ATTENTION].inputs:
                    hooks.enter_context(layer.get_submodule(name).register_forward_hook(_see(seen)))
                attend = _attend(model, number, batch, topk, attention.get(HEADS), seen, gaps)
                hooks.enter_context(heads_gate.register_forward_pre_hook(attend))
            if isinstance(some, Setting):
                before: list[Tensor] = []
                first = layer.get_submodule(family.layout.blocks[FFN].inputs[0])
                hooks.enter_context(first.register_forward_hook(_see(before)))
                keep = _keep_largest(some.value, ffn.get(NEURONS), before, gaps)
                hooks.enter_context(neurons_gate.register_forward_pre_hook(keep))
            for choice, gate in (
                (attention.get(HEADS), heads_gate),
                (ffn.get(NEURONS), neurons_gate),
            ):
                if isinstance(choice, Kept) and not choice.kept:
                    hooks.enter_context(gate.register_forward_hook(_zeros))
                elif isinstance(choice, Kept):
                    hooks.enter_context(gate.register_forward_pre_hook(_blank(choice)))
        answer = model(**batch)
    return Masked({name: t for name, t in answer.items() if isinstance(t, Tensor)}, min(gaps))


def _pass_input(module: nn.Module, inputs: tuple[Tensor, ...], output: Any) -> Any:
    return (inputs[0], *output[1:]) if isinstance(output, tuple) else inputs[0]


def _zeros(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    return torch.zeros_like(output)


def _see(seen: list[Tensor]) -> Callable[..., None]:
    def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        seen.append(output)

    return hook


def _blank(choice: Kept) -> Callable[..., tuple[Tensor, ...]]:
    def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        blanked = inputs[0].clone()
        width = blanked.shape[-1] // choice.of
        for unit in set(range(choice.of)) - set(choice.kept):
            blanked[..., unit * width : (unit + 1) * width] = 0
        return (blanked, *inputs[1:])

    return hook


def _keep_largest(
    k: int, choice: Choice | None, before: list[Tensor], gaps: list[float]
) -> Callable[..., tuple[Tensor, ...]]:
    def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        neurons = inputs[0].shape[-1]
        scores = before.pop()[..., :neurons].double().numpy().copy()  # a gate stands behind them
        if isinstance(choice, Kept):
            scores[..., list(set(range(neurons)) - set(choice.kept))] = -np.inf
        gaps.append(_gap(scores, k))
        return (inputs[0] * torch.from_numpy(_largest(scores, k)), *inputs[1:])

    return hook


def _attend(
    model: PreTrainedModel,
    number: int,
    batch: dict[str, Tensor],
    setting: Setting,
    heads: Choice | None,
    seen: list[Tensor],
    gaps: list[float],
) -> Callable[..., tuple[Tensor, ...]]:
    count = model.config.num_attention_heads

    def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        joint = torch.cat(seen[:3], -1)  # whether they came from one projection or from three
        seen.clear()
        q, k, v = (
            part.unflatten(-1, (count, -1)).transpose(1, 2).double() for part in joint.chunk(3, -1)
        )
        if model.config.model_type == "modernbert":
            q, k = (_rotated(part, model.config, number) for part in (q, k))
        bias = _bias(model, number, batch, q.shape[-2])
        scale = q.shape[-1] ** -0.5
        if getattr(model.config, "scale_attn_by_inverse_layer_idx", False):
            scale /= number + 1
        kept = list(heads.kept) if isinstance(heads, Kept) else list(range(count))
        gaps.append(_gap(_scores(q, k, bias, scale)[:, kept], setting.value))
        rows = topk_rows(q, k, v, setting.value, bias, setting.mode, scale)
        output = torch.from_numpy(rows).to(inputs[0].dtype).transpose(1, 2).flatten(-2)
        return (output, *inputs[1:])

    return hook


def _bias(model: PreTrainedModel, number: int, batch: dict[str, Tensor], length: int) -> Tensor:
    """(batch, heads, queries, keys) or what broadcasts to it: -inf where a key is forbidden."""
    bias = torch.zeros(1, 1, length, length, dtype=torch.float64)
    place = torch.arange(length)
    distance = place[None, :] - place[:, None]
    if model.config.model_type == "gpt2":
        bias = bias.masked_fill(distance > 0, float("-inf"))
    if model.config.model_type == "modernbert":
        local = model.config.layer_types[number] == "sliding_attention"
        outside = distance.abs() > model.config.local_attention // 2
        bias = bias.masked_fill(outside & local, float("-inf"))
    if model.config.model_type == "mpnet":
        encoder: Any = model.base_model.encoder
        bias = bias + encoder.compute_position_bias(torch.empty(1, length)).double()
    if "attention_mask" in batch:
        bias = bias.masked_fill(batch["attention_mask"][:, None, None, :] == 0, float("-inf"))
    return bias


def _rotated(part: Tensor, config: Any, number: int) -> Tensor:
    """Rotary position embedding (arXiv 2104.09864), with the two halves of a head as its pairs."""
    theta = config.rope_parameters[config.layer_types[number]]["rope_theta"]
    size = part.shape[-1]
    turns = theta ** -(torch.arange(0, size, 2, dtype=torch.float64) / size)
    angle = torch.arange(part.shape[-2], dtype=torch.float64)[:, None] * turns
    first, second = part.chunk(2, -1)
    return torch.cat(
        [
            first * angle.cos() - second * angle.sin(),
            second * angle.cos() + first * angle.sin(),
        ],
        -1,
    )


def _scores(query: Tensor, key: Tensor, bias: Tensor | None, scale: float | None) -> Floats:
    q, x = (tensor.detach().double().numpy() for tensor in (query, key))
    scores = q @ np.swapaxes(x, -1, -2) * (q.shape[-1] ** -0.5 if scale is None else scale)
    return np.asarray(scores if bias is None else scores + bias.detach().double().numpy())


def _largest(scores: Floats, k: int) -> NDArray[np.bool_]:
    """Which of each row's allowed scores are among its k largest, the first ones of equal ones."""
    kept = np.zeros(scores.shape, dtype=bool)
    np.put_along_axis(kept, np.argsort(-scores, axis=-1, kind="stable")[..., :k], True, -1)
    return kept & (scores > -np.inf)


def _gap(scores: Floats, k: int) -> float:
    if k >= scores.shape[-1]:
        return float("inf")
    best = -np.sort(-scores, axis=-1)
    border, following = best[..., k - 1], best[..., k]
    both = following > -np.inf  # else there is nothing to choose from
    return float((border[both] - following[both]).min(initial=np.inf))
