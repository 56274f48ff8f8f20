"""The layers of ViT: pre-norm, no padding."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from axsearch.approximations.modeling import Block, encoder_layout
from axsearch.models.architectures.modeling.blocks import NoAttention, Nothing
from axsearch.models.architectures.modeling.first_token import (
    attend_once,
    folded_scores,
    narrower,
    of_heads,
    parameters,
)


def remove_attention(layer: Any) -> None:
    """Leave the residual alone."""
    layer.attention, layer.layernorm_before = NoAttention(), nn.Identity()


def remove_ffn(layer: Any) -> None:
    """Leave the residual alone."""
    layer.mlp, layer.layernorm_after = Nothing(), nn.Identity()


class FirstTokenVitAttention:
    """Mixed into ViT's attention: only the class token has a query."""

    def forward(
        self, hidden_states: Tensor, attention_mask: Tensor | None = None, **kwargs: Any
    ) -> tuple[Tensor, None]:
        """(batch, 1, hidden) in and out."""
        core: Any = self
        query = of_heads(core.q_proj(hidden_states), core.head_dim) * core.scaling
        keys = folded_scores(parameters(core.k_proj))
        context = attend_once(core, query, keys, parameters(core.v_proj), attention_mask)
        return core.o_proj(context), None


LAYERS = "layers"
ATTENTION = Block(
    ("attention.q_proj", "attention.k_proj", "attention.v_proj"),
    "attention.o_proj",
    remove_attention,
    norm="layernorm_before",
    units="num_attention_heads",
    core="attention",
    counts=("num_attention_heads",),
)
LAYOUT = encoder_layout(
    LAYERS,
    attention=ATTENTION,
    ffn=Block(
        ("mlp.fc1",),
        "mlp.fc2",
        remove_ffn,
        norm="layernorm_after",
        activation="mlp.activation_fn",
    ),
    outside={"stack": Block(narrow=narrower(LAYERS, ATTENTION, FirstTokenVitAttention))},
)
