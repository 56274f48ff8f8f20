"""The layers of GPT-2: pre-norm, causal, projections whose weights are (in, out)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from axsearch.approximations.modeling import Block, Position, encoder_layout
from axsearch.models.architectures.modeling.blocks import NoAttention, Nothing
from axsearch.models.architectures.modeling.first_token import (
    attend_once,
    attending,
    folded_scores,
    mix_in,
    of_heads,
    project,
)


def remove_attention(layer: Any) -> None:
    """Leave the residual alone."""
    layer.attn, layer.ln_1 = NoAttention(), nn.Identity()


def remove_ffn(layer: Any) -> None:
    """Leave the residual alone."""
    layer.mlp, layer.ln_2 = Nothing(), nn.Identity()


def finish(layer: Any, position: Position, config: Any) -> None:
    """Keep the scale of the base's layer, and a place in the cache without gaps."""
    if "attention" not in position.removed:
        core = layer.attn
        core.scaling = core.head_dim**-0.5 if config.scale_attn_weights else 1.0
        if config.scale_attn_by_inverse_layer_idx:
            core.scaling /= position.layer + 1
        core.layer_idx = position.below["attention"]


class LastTokenModel:
    """Mixed into GPT-2's model: finds the token that the head reads, and tells the last layer."""

    def forward(self, input_ids: Tensor | None = None, *args: Any, **kwargs: Any) -> Any:
        """As without it; the head's rule is that of transformers' ``GPT2ForSequenceClassification``
        (4.0 to 5): the rightmost token that is no padding.
        """
        model: Any = self
        parent: Any = super()
        last, pad = model.h[-1], model.config.pad_token_id
        last.place = None  # the rightmost
        if input_ids is not None and pad is not None:
            places = torch.arange(input_ids.shape[-1], device=input_ids.device)
            last.place = (places * (input_ids != pad)).argmax(-1)
        try:
            return parent.forward(input_ids, *args, **kwargs)
        finally:
            del last.place


class LastTokenLayer:
    """Mixed into GPT-2's layer: it runs on one token, whose place is in ``place``."""

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        """(batch, length, hidden) in and out, the same for every token."""
        layer: Any = self
        parent: Any = super()
        rows, length = hidden_states.shape[:2]
        place = layer.place
        if place is None:
            place = torch.full((rows,), length - 1, device=hidden_states.device)
        own = hidden_states[torch.arange(rows, device=place.device), place][:, None]
        core = attending(layer, ATTENTION)
        if core is not None:
            core.states, core.place = layer.ln_1(hidden_states), place
        try:
            output = parent.forward(own, *args, **kwargs)
        finally:
            if core is not None:
                del core.states, core.place
        return output.expand(-1, length, -1)


class LastTokenAttention:
    """Mixed into GPT-2's attention: only the token at ``place`` has a query."""

    def forward(
        self,
        hidden_states: Tensor,
        past_key_values: Any = None,
        attention_mask: Tensor | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, None]:
        """(batch, 1, hidden) in and out."""
        core: Any = self
        states, place = core.states, core.place
        weights = core.c_attn.weight.T.split(core.split_size)
        query, key, value = zip(weights, core.c_attn.bias.split(core.split_size), strict=True)
        own = of_heads(project(hidden_states, query), core.head_dim) * core.scaling
        if attention_mask is None:  # as PyTorch's kernels are then called
            tokens = torch.arange(states.shape[1], device=place.device)
            row = (tokens <= place[:, None])[:, None, None]
        else:
            everyone = attention_mask.expand(len(place), *attention_mask.shape[1:])
            row = everyone[torch.arange(len(place), device=place.device), :, place][:, :, None]
        context = attend_once(core, own, folded_scores(core, key), value, row)
        return core.resid_dropout(core.c_proj(context)), None


def narrow(model: Any) -> None:
    """Let the last layer compute only the token that the head reads."""
    body = model.base_model
    if not len(body.h):
        return
    core = attending(body.h[-1], ATTENTION)
    if core is not None:
        mix_in(LastTokenAttention, core)
    mix_in(LastTokenLayer, body.h[-1])
    mix_in(LastTokenModel, body)


ATTENTION = Block(
    ("attn.c_attn",),
    "attn.c_proj",
    remove_attention,
    parts=3,
    norm="ln_1",
    units="num_attention_heads",
    core="attn",
    counts=("num_heads",),
    widths=("split_size", "embed_dim"),
)
LAYOUT = encoder_layout(
    "h",
    attention=ATTENTION,
    ffn=Block(("mlp.c_fc",), "mlp.c_proj", remove_ffn, norm="ln_2", activation="mlp.act"),
    finish=finish,
    outside={"stack": Block(narrow=narrow)},
)
