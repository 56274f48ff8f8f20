"""The layers of GPT-2: pre-norm, causal, projections whose weights are (in, out)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from axsearch.approximations.modeling import Block, Position, encoder_layout
from axsearch.models.architectures.modeling.blocks import NoAttention, Nothing
from axsearch.models.architectures.modeling.first_token import (
    HANDED,
    attend_once,
    attending,
    folded_scores,
    handing,
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
    """Mixed into GPT-2's model: finds the token that the head reads, for the last layer."""

    def forward(self, input_ids: Tensor | None = None, *args: Any, **kwargs: Any) -> Any:
        """As without it; which token it is follows transformers' ``GPT2ForSequenceClassification``:
        the rightmost one that is no padding.
        """
        model: Any = self
        parent: Any = super()
        place, pad = None, model.config.pad_token_id
        if input_ids is not None and pad is not None:
            places = torch.arange(input_ids.shape[-1], device=input_ids.device)
            place = (places * (input_ids != pad)).argmax(-1)
        with handing(place=place):
            return parent.forward(input_ids, *args, **kwargs)


class LastTokenLayer:
    """Mixed into GPT-2's layer: it runs on the token at ``HANDED.place``, or the rightmost one."""

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        """(batch, length, hidden) in and out, the same for every token."""
        layer: Any = self
        parent: Any = super()
        rows, length = hidden_states.shape[:2]
        place = getattr(HANDED, "place", None)
        if place is None:
            place = torch.full((rows,), length - 1, device=hidden_states.device)
        own = hidden_states[torch.arange(rows, device=place.device), place][:, None]
        attends = attending(layer, ATTENTION) is not None
        states = layer.ln_1(hidden_states) if attends else hidden_states
        with handing(states=states, place=place):
            output = parent.forward(own, *args, **kwargs)
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
        states, place = HANDED.states, HANDED.place
        weights = core.c_attn.weight.T.split(core.split_size)
        query, key, value = zip(weights, core.c_attn.bias.split(core.split_size), strict=True)
        own = of_heads(project(hidden_states, query), core.head_dim) * core.scaling
        if attention_mask is None or attention_mask.dim() == 2:  # the kernel knows the order
            tokens = torch.arange(states.shape[1], device=place.device)
            row = tokens <= place[:, None]
            row = row if attention_mask is None else row & attention_mask.bool()
        else:
            rows = states.shape[0]
            everyone = attention_mask.expand(rows, *attention_mask.shape[1:])
            row = everyone[torch.arange(rows, device=place.device), :, place][:, :, None]
        context = attend_once(core, own, folded_scores(key), value, row)
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
    outside={
        "stack": Block(narrow=narrow),
        "embeddings": Block(("wte",)),
    },
)
