"""The layers of DeBERTa-v2 and v3: post-norm, disentangled attention."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from axsearch.approximations.modeling import Block, encoder_layout
from axsearch.models.architectures.modeling.blocks import leave_attention_norm, leave_output_norm
from axsearch.models.architectures.modeling.first_token import (
    HANDED,
    attend_once,
    narrower,
    of_heads,
    parameters,
)


class EmptyLayer(nn.Module):
    """Keeps the first layer's place, after which the encoder runs its convolution."""

    def forward(self, hidden_states: Any, *args: Any, **kwargs: Any) -> tuple[Any, None]:
        """(batch, length, hidden) in and out."""
        return hidden_states, None


class FirstTokenDebertaAttention:
    """Mixed into disentangled attention: only the first token has a query.

    A key has a score for its content and one for its position, so each is made.
    """

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor,
        output_attentions: bool = False,
        query_states: Tensor | None = None,
        relative_pos: Tensor | None = None,
        rel_embeddings: Tensor | None = None,
    ) -> tuple[Tensor, None]:
        """(batch, 1, hidden) in, (batch, 1, heads x width) out; relative positions are (1, n, n),
        and their embeddings (positions, hidden).
        """
        core: Any = self
        kinds = core.pos_att_type
        parts = 1 + ("c2p" in kinds) + ("p2c" in kinds)
        query = of_heads(core.query_proj(hidden_states), core.attention_head_size)
        query = query * (query.shape[-1] * parts) ** -0.5

        def heads(projected: Tensor) -> Tensor:
            apart: Tensor = projected.unflatten(-1, (-1, core.attention_head_size))
            return apart.transpose(-2, -3)

        def scores(query: Tensor) -> Tensor:
            keys = heads(core.key_proj(HANDED.states))
            found = (query[:, :, None] @ keys.transpose(-1, -2))[:, :, 0]
            if not core.relative_attention:
                return found
            assert relative_pos is not None
            assert rel_embeddings is not None
            span = core.pos_ebd_size
            table = rel_embeddings[: 2 * span]
            apart = relative_pos.to(torch.long)
            if "c2p" in kinds:
                project = core.key_proj if core.share_att_key else core.pos_key_proj
                every = (query[:, :, None] @ heads(project(table)).transpose(-1, -2))[:, :, 0]
                places = (apart[..., 0, :] + span).clamp(0, 2 * span - 1).flatten()
                found = found + every[..., places]
            if "p2c" in kinds:
                project = core.query_proj if core.share_att_key else core.pos_query_proj
                places = (span - apart[..., :, 0]).clamp(0, 2 * span - 1).flatten()
                scale = (query.shape[-1] * parts) ** -0.5
                found = found + (keys * heads(project(table))[:, places]).sum(-1) * scale
            return found

        # A term of the scores, as here a query that may attend to no key attends to all.
        mask = torch.where(attention_mask.bool(), 0.0, torch.finfo(query.dtype).min)
        return attend_once(core, query, scores, parameters(core.value_proj), mask), None


LAYERS = "encoder.layer"
ATTENTION = Block(
    (
        "attention.self.query_proj",
        "attention.self.key_proj",
        "attention.self.value_proj",
        "attention.self.pos_key_proj",
        "attention.self.pos_query_proj",
    ),
    "attention.output.dense",
    leave_attention_norm,
    units="num_attention_heads",
    core="attention.self",
    counts=("num_attention_heads",),
    widths=("all_head_size",),
)


def narrow(model: Any) -> None:
    """Narrow the last layer, unless the first one is the last: a convolution reads its tokens."""
    encoder = model.base_model.encoder
    if encoder.conv is None or len(encoder.layer) > 1:
        narrower(LAYERS, ATTENTION, FirstTokenDebertaAttention)(model)


LAYOUT = encoder_layout(
    LAYERS,
    attention=ATTENTION,
    ffn=Block(
        ("intermediate.dense",),
        "output.dense",
        leave_output_norm,
        activation="intermediate.intermediate_act_fn",
    ),
    empty_layer=EmptyLayer,
    outside={
        "stack": Block(narrow=narrow),
        "embeddings": Block(("embeddings.word_embeddings",)),
    },
)
