"""The layers of ViT: pre-norm, no padding."""

from __future__ import annotations

from typing import Any

from torch import nn

from axsearch.approximations.modeling import Block, encoder_layout
from axsearch.models.architectures.modeling.blocks import NoAttention, Nothing


def remove_attention(layer: Any) -> None:
    """Leave the residual alone."""
    layer.attention, layer.layernorm_before = NoAttention(), nn.Identity()


def remove_ffn(layer: Any) -> None:
    """Leave the residual alone."""
    layer.mlp, layer.layernorm_after = Nothing(), nn.Identity()


LAYOUT = encoder_layout(
    "layers",
    attention=Block(
        ("attention.q_proj", "attention.k_proj", "attention.v_proj"),
        "attention.o_proj",
        remove_attention,
        norm="layernorm_before",
        units="num_attention_heads",
        core="attention",
        counts=("num_attention_heads",),
    ),
    ffn=Block(
        ("mlp.fc1",),
        "mlp.fc2",
        remove_ffn,
        norm="layernorm_after",
        activation="mlp.activation_fn",
    ),
)
